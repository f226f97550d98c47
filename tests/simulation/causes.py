"""Holds that nothing is done without a cause: that no circuit opens, and no message is parked or waits.

The ledger knows where events are. This knows what each invocation of dispatch heard from the upstreams, and
what it did. It reads an answer by the contract's table, with code of its own.
"""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum

from tests.simulation.aws.expressions import Item
from tests.simulation.aws.sqs import Message
from tests.simulation.ledger import Ledger
from tests.simulation.scheduler import START, Process, Scheduler

FAST_SECONDS = 4.0  # a message's wait after its first receive; it doubles with each of three more
FAST_RECEIVES, SLOW_GROWTH = 4, 1.1
MOST_SECONDS = 900.0
SLOT_SECONDS = 90.0  # until the next slot is free at the latest, if nothing pauses the account
SLOT_WAIT_SECONDS = 5.0  # into its invocation, a check of the account may find no slot
CROWD, CROWD_SECONDS = 10, 15.0  # requests of an account in a time, after which there may be none either
SLOW_FAILURE_SECONDS, FAIL_FAST_SECONDS = 0.4, 5.0
#: What a process keeps beside the state of deliveries, and asks for each time.
_ASKED_EACH_TIME = ("object#",)


class Meaning(StrEnum):
    """Names what an answer says, by the contract's table."""

    TAKEN = "taken"
    NAMED = "items are refused"
    UNEXPLAINED = "refused without naming anything"
    FAILED = "the upstream fails"
    LIMITED = "too many requests"
    ACCOUNT = "the account is refused"
    PERHAPS_ACCOUNT = "a job or its account is refused"


def meaning_of(status: int | None, headers: Mapping[str, str], body: bytes) -> Meaning:
    """Returns what an answer says; a `status` of None is no answer."""
    is_page = any("html" in value for name, value in headers.items() if name.lower() == "content-type")
    if status is None or status >= 500 or status < 200 or 300 <= status < 400 or status in {408, 425}:
        return Meaning.FAILED
    if status < 300:
        return Meaning.FAILED if is_page else Meaning.TAKEN
    if status == 429:
        return Meaning.LIMITED
    if status in {401, 410}:
        return Meaning.ACCOUNT
    if is_page and status in {400, 403}:
        return Meaning.FAILED
    if status not in {400, 409, 413, 422} or b'"parameter"' in body:
        return Meaning.PERHAPS_ACCOUNT
    return Meaning.NAMED if b"/events-bulk-create/data/" in body else Meaning.UNEXPLAINED


@dataclass(slots=True)
class Heard:
    """Holds one answer to a request, or that none came."""

    meaning: Meaning
    marks: frozenset[int]


@dataclass(slots=True)
class Doing:
    """Holds what an invocation that began at some moment heard and did."""

    began: float
    heard: dict[str, list[Heard]] = field(default_factory=lambda: defaultdict(list))  # by account
    taken: set[int] = field(default_factory=set)
    parked: set[int] = field(default_factory=set)
    faulty: set[str] = field(default_factory=set)  # services of AWS that failed it


class Causes:
    """Knows what each invocation does, and holds the invariants about it."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, *, skew: float) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._skew = skew  # by which a clock is off at most
        self._doing: dict[Process, Doing] = {}
        self._asked: dict[str, float] = defaultdict(lambda: -math.inf)  # to wait until then, by account
        self._open_until: dict[str, float] = defaultdict(lambda: -math.inf)  # circuits; infinity: still
        self._sent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=CROWD))  # when, by account
        self._failing: dict[tuple[Process, str], float] = {}  # until when calls to a service fail at once

    def answered(
        self,
        process: Process,
        account: str,
        status: int | None,
        headers: Mapping[str, str],
        body: bytes,
        marks: Collection[int],
    ) -> None:
        """Hears an answer that gets to the process, or that none will."""
        found = Heard(meaning_of(status, headers, body), frozenset(marks))
        doing = self._of(process)
        self._sent[account].append(self._scheduler.now)
        doing.heard[account].append(found)
        if found.meaning is Meaning.TAKEN:
            doing.taken |= found.marks
        named = [value for name, value in headers.items() if name.lower() == "retry-after"]
        if named or found.meaning is Meaning.LIMITED:
            until = self._until(named[0]) if named else self._scheduler.now
            self._asked[account] = max(self._asked[account], until, self._scheduler.now + 10.0)

    def faulty(self, process: Process, operation: str) -> None:
        """Hears that a call of a process to AWS meets a fault."""
        self._of(process).faulty.add(operation.partition(".")[0])

    def begins(self, process: Process, operation: str, to: str) -> None:
        """Hears of a call to AWS that begins: none goes to a service that has just failed slowly."""
        service = operation.partition(".")[0]
        is_asked = process.name.startswith("dispatch") and not to.startswith(_ASKED_EACH_TIME)
        if (
            service == "dynamodb"
            and is_asked
            and self._scheduler.now < self._failing.get((process, service), 0)
        ):
            self._ledger.break_("fails fast", f"{process.name} waits for {service} again, by {operation}")

    def ends(self, process: Process, operation: str, to: str, began: float, *, failed: bool) -> None:
        """Hears of a call to AWS that ends."""
        now = self._scheduler.now
        if failed and now - began >= SLOW_FAILURE_SECONDS and not to.startswith(_ASKED_EACH_TIME):
            self._failing[process, operation.partition(".")[0]] = now + FAIL_FAST_SECONDS

    def item_changed(self, before: Item | None, after: Item | None) -> None:
        """Hears of a write to the state table."""
        if (item := after or before) is None:
            return
        kind, _, account = item["pk"]["S"].partition("#")
        if kind != "circuit":
            return
        self._open_until[account] = math.inf if after is not None else self._scheduler.now
        if after is not None and before is None:
            self._check_opened(account, int(after["status"]["N"]))
        elif after is None:
            self._check_closed(account)

    def parked(self, account: str, marks: Collection[int], *, is_known: bool) -> None:
        """Hears that a process parks messages."""
        process = self._process()
        if process is None or not process.name.startswith("dispatch"):
            return
        doing = self._of(process)
        doing.parked |= set(marks)
        is_open = self._open_until[account] >= process.began
        if is_known and not is_open and not self._failed(process, "dynamodb"):
            self._ledger.break_("a cause", f"{process.name} parks {account}, whose circuit is closed")

    def kept(self, process: Process, message: Message, visible_in: float) -> None:
        """Hears of a message that stays on the queue as its invocation ends: it is not done, and waits."""
        marks = self._ledger.marks_of(message.body)
        if not marks or message.body.startswith('{"Records":'):
            return
        events = [self._ledger.events[mark] for mark in marks]
        doing = self._of(process)
        is_copied = any(event.copied for event in events)
        if set(marks) <= doing.taken and not is_copied:
            self._ledger.break_("a cause", f"message {message.id} is kept, and done", marks[0])
        if set(marks) & doing.parked and not is_copied and not self._failed(process, "s3"):
            self._ledger.break_("a cause", f"message {message.id} is kept, and parked", marks[0])
        if self._failed(process, "sqs") or is_copied:
            return
        asked = max(self._asked[event.account] for event in events) - self._scheduler.now
        most = max(_longest_wait(message.receives), SLOT_SECONDS, asked + 1.0) + 2 * self._skew
        if visible_in > min(most, MOST_SECONDS) + 2.0:
            self._ledger.break_(
                "waits", f"message {message.id} waits {visible_in:.0f} s, received {message.receives} times"
            )

    def _check_opened(self, account: str, status: int) -> None:
        """Checks that a circuit is opened for what concerns the account, and not one message of it."""
        process = self._process()
        assert process is not None
        doing = self._of(process)
        heard = doing.heard[account]
        meanings = {each.meaning for each in heard}
        if meanings & {Meaning.ACCOUNT, Meaning.UNEXPLAINED}:
            return
        if status == 429:
            has_cause = self._asked[account] > -math.inf
        elif Meaning.PERHAPS_ACCOUNT in meanings and account.startswith("pipeless-"):
            has_cause = True  # nothing is compared there
        elif Meaning.PERHAPS_ACCOUNT in meanings:
            # A job is compared with one of its events, if there are several and there is a slot in time.
            asked = [each for each in heard if each.meaning in {Meaning.PERHAPS_ACCOUNT, Meaning.FAILED}]
            has_time = self._scheduler.now - process.began < SLOT_WAIT_SECONDS
            has_time &= not self._is_crowded(account)
            could_ask = has_time and not self._failed(process, "dynamodb")
            has_cause = len(asked) > 1 or len(asked[0].marks) == 1 or not could_ask
            has_cause |= Meaning.LIMITED in meanings or self._asked[account] > self._scheduler.now
        else:
            failing = {
                self._ledger.message_of[mark]
                for each in heard
                for mark in each.marks
                if each.meaning is Meaning.FAILED
            }
            is_copied = any(self._ledger.events[mark].copied for each in heard for mark in each.marks)
            has_cause = len(failing) > 1 or is_copied or Meaning.LIMITED in meanings
        if not has_cause:
            self._ledger.break_("a cause", f"the circuit of {account} opens ({status}) after {heard}")

    def _check_closed(self, account: str) -> None:
        """Checks that the upstream looked at something before a circuit is closed."""
        process = self._process()
        assert process is not None
        processed = {Meaning.TAKEN, Meaning.NAMED, Meaning.UNEXPLAINED}
        heard = self._of(process).heard[account]
        if not any(each.meaning in processed for each in heard):
            self._ledger.break_("a cause", f"the circuit of {account} closes after {heard}")

    def _is_crowded(self, account: str) -> bool:
        """Tells whether so much is sent for an account that slots may be far away."""
        since = self._scheduler.now - CROWD_SECONDS
        return sum(each > since for each in self._sent[account]) >= CROWD

    def _failed(self, process: Process, service: str) -> bool:
        """Tells whether a fault of a service met an invocation, or the process remembers one."""
        remembered = self._failing.get((process, service), -math.inf) >= process.began
        return remembered or service in self._of(process).faulty

    def _of(self, process: Process) -> Doing:
        """Returns what the invocation of a process does."""
        doing = self._doing.get(process)
        if doing is None or doing.began != process.began:
            doing = self._doing[process] = Doing(process.began)
        return doing

    def _process(self) -> Process | None:
        current = self._scheduler.current
        return None if current is None else current.process

    def _until(self, retry_after: str) -> float:
        if retry_after.isdecimal():
            return self._scheduler.now + float(retry_after)
        return parsedate_to_datetime(retry_after).timestamp() - START


def _longest_wait(receives: int) -> float:
    """Returns how long a message waits at most that was received so often, as architecture.md says."""
    doubled = FAST_SECONDS * 2.0 ** (min(receives, FAST_RECEIVES) - 1)
    return min(MOST_SECONDS, doubled * SLOW_GROWTH ** min(max(0, receives - FAST_RECEIVES), 100))
