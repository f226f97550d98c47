"""Defines the settings of a running fake upstream: limits, manners and faults; an unknown name is an
error.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from devstack.fake_upstream.answers import Answer, error

type Limit = Annotated[int, Meta(ge=1)]
type Seconds = Annotated[float, Meta(ge=0)]
type ErrorStatus = Annotated[int, Meta(ge=400, le=599)]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Describes a fault: for one account or app or all, so often or always, surely or by chance."""

    site_id: str | None = None
    count: Annotated[int, Meta(ge=1)] | None = None
    probability: Annotated[float, Meta(gt=0, le=1)] = 1.0

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    def instead(self, now: float) -> Answer | None:  # noqa: ARG002
        """Returns the answer given in place of handling the request; None handles it."""
        return None

    def alter(self, answer: Answer) -> Answer:
        """Changes the answer on its way out."""
        return answer


class Latency(Fault, frozen=True, tag="latency"):
    """Handles the request and answers late."""

    seconds: Seconds

    def alter(self, answer: Answer) -> Answer:
        return replace(answer, delay=answer.delay + self.seconds)


class Throttle(Fault, frozen=True, tag="throttle"):
    """Answers 429 without cause, its Retry-After in seconds, as an HTTP date, or absent."""

    retry_after: Annotated[int, Meta(ge=0)] = 1
    retry_after_as: Literal["seconds", "date", "absent"] = "seconds"

    def instead(self, now: float) -> Answer:
        values = {"seconds": str(self.retry_after), "date": formatdate(now + self.retry_after, usegmt=True)}
        value = values.get(self.retry_after_as)
        return throttled(self.retry_after, {} if value is None else {"Retry-After": value})


class JsonError(Fault, frozen=True, tag="json"):
    """Answers with an error in the JSON:API envelope that points at nothing but `/data`."""

    status: ErrorStatus

    def instead(self, now: float) -> Answer:  # noqa: ARG002
        return error(self.status, "A fault that was switched on at the fake upstream.")


class HtmlError(Fault, frozen=True, tag="html"):
    """Answers with an error page, as a proxy or a content network in between does."""

    status: ErrorStatus

    def instead(self, now: float) -> Answer:  # noqa: ARG002
        page = f"<!DOCTYPE html><html><title>{self.status}</title><body>Just a moment...</body></html>"
        return Answer(self.status, {"Content-Type": "text/html; charset=UTF-8"}, page.encode())


class LargeError(Fault, frozen=True, tag="large"):
    """Answers with an error in the JSON:API envelope that is larger than anybody reads."""

    status: ErrorStatus
    bytes: Annotated[int, Meta(ge=1, le=16 * 2**20)] = 5 * 10**6

    def instead(self, now: float) -> Answer:  # noqa: ARG002
        return error(self.status, "x" * self.bytes)


class Reset(Fault, frozen=True, tag="reset"):
    """Resets the connection without an answer, before or after the job is taken."""

    taken: bool = False

    def instead(self, now: float) -> Answer | None:  # noqa: ARG002
        return None if self.taken else Answer(0)

    def alter(self, answer: Answer) -> Answer:
        return replace(answer, ending="reset")


class Hang(Fault, frozen=True, tag="hang"):
    """Gives no answer, with the job taken or not, until the caller hangs up."""

    taken: bool = True

    def instead(self, now: float) -> Answer | None:  # noqa: ARG002
        return None if self.taken else Answer(0)

    def alter(self, answer: Answer) -> Answer:
        return replace(answer, ending="hung")


type _Common = Latency | Throttle | JsonError | HtmlError | LargeError | Reset | Hang


class PartialFailure(Fault, frozen=True, tag="partial_failure"):
    """Answers with a success that announces an ignored field."""

    field: str = "phone_number"

    def alter(self, answer: Answer) -> Answer:
        if answer.status != 202:
            return answer
        return replace(answer, headers={**answer.headers, "X-Klaviyo-Partial-Failure": self.field})


class Poison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuses entries whose e-mail, and events whose metric name, contain a text, although they are valid."""

    contains: Annotated[str, Meta(min_length=1)]
    attributed: bool = True


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Holds all settings and their defaults, which are the upstream's documented behaviour."""

    burst_limit: Limit | None = 10
    steady_limit: Limit | None = 150
    rate_limit_headers: Literal["steady", "binding", "none"] = "steady"
    attribution: Literal["all", "first", "none", "entry", "events", "parameter"] = "all"
    duplicates: Literal["fail", "ignore"] = "fail"
    duplicate_scope: Literal["metric", "profile", "account"] = "metric"
    duplicate_pointer: Literal["unique_id", "event", "entry", "events", "none"] = "unique_id"
    unreal_phone_numbers: Literal["take", "ignore", "refuse"] = "take"
    nulls: Literal["take", "refuse"] = "take"
    unknown_fields: Literal["take", "refuse"] = "refuse"
    gzipped_bodies: Literal["take", "refuse"] = "refuse"
    refused_fields: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    dropped: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    poison: tuple[Poison, ...] = ()
    faults: tuple[
        Latency | Throttle | JsonError | HtmlError | LargeError | Reset | Hang | PartialFailure, ...
    ] = ()
    seed: int = 0

    @classmethod
    def unlimited(cls) -> "Settings":
        """Returns the defaults without rate limits."""
        return cls(burst_limit=None, steady_limit=None)


class PipelessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Holds the settings of the fake Pipeless and their defaults; Pipeless states no limit.

    `poison`: events with an id that contains one of these are refused although they are valid.
    """

    limit: Limit | None = None
    poison: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    faults: tuple[_Common, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Strike:
    """Holds the faults that strike one request, and the answer that replaces its handling, if there is
    one.
    """

    faults: tuple[Fault, ...]
    instead: Answer | None

    def alter(self, answer: Answer) -> Answer:
        for fault in self.faults:
            answer = fault.alter(answer)
        return answer


class FaultDeck:
    """Deals the faults that strike a request; the same seed and requests give the same faults."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self._faults = faults
        self._left = [fault.count for fault in faults]
        self._random = random.Random(seed)

    def strike(self, site_id: str, now: float) -> Strike:
        """Returns the faults for this request in their order, up to the first that replaces its handling."""
        struck: list[Fault] = []
        instead: Answer | None = None
        for index, fault in enumerate(self._faults):
            if instead is None and self._fires(index, fault, site_id):
                struck.append(fault)
                instead = fault.instead(now)
        return Strike(tuple(struck), instead)

    def _fires(self, index: int, fault: Fault, site_id: str) -> bool:
        left = self._left[index]
        if left == 0 or fault.site_id not in {None, site_id}:
            return False
        if self._random.random() >= fault.probability:
            return False
        if left is not None:
            self._left[index] = left - 1
        return True


def throttled(seconds: int, headers: dict[str, str]) -> Answer:
    """Returns a 429 that says when to come back."""
    detail = f"Request was throttled. Expected available in {seconds} second(s)."
    return error(429, detail, source={"pointer": "/data/"}, headers=headers)
