"""Classifies an upstream's response, whichever vendor's it is: taken, refused, limited or failing.

Status and media type decide, never the text of an error.
"""

import contextlib
import email.utils
import math
from collections.abc import Mapping
from datetime import UTC
from typing import Final

import msgspec

from sluice import runtime
from sluice.validation.json_text import NOT_DECODED


class Response(msgspec.Struct, frozen=True):
    """Holds an upstream's answer; `status` is None if none came, and `failure` then says what happened."""

    status: int | None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    failure: str = ""


class Fault(msgspec.Struct, frozen=True):
    """Holds what the upstream says of one bad item; `tail` points within the entry or event."""

    code: str
    detail: str
    tail: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """Says that the job is recorded upstream; `ignored` are fields that it says it left out."""

    ignored: str = ""


class JobRejected(msgspec.Struct, frozen=True):
    """Says that nothing was taken because of something in the job, which nobody names.

    If a job of one event `is_named`, the upstream did name its entry.
    """

    fault: Fault
    status: int = 400
    is_named: bool = False


class RateLimited(msgspec.Struct, frozen=True):
    """Says that the account had too many requests, ours or others': nobody sends before `after` seconds."""

    after: float | None


class Transient(msgspec.Struct, frozen=True):
    """Describes a transient fault; `status` is None if no answer came.

    The job may have been taken: its unique_ids make sending it again safe.
    """

    status: int | None
    after: float | None = None


class AccountRejected(msgspec.Struct, frozen=True):
    """Says that every job of this account would be answered so until somebody acts, as far as the answer
    tells.
    """

    status: int
    fault: Fault

    @property
    def is_certain(self) -> bool:
        """Tells whether nothing in a job can be the cause."""
        return self.status in _BODY_INDEPENDENT_STATUSES


_TRANSIENT_STATUSES: Final = frozenset({408, 425})
CONTENT_STATUSES: Final = frozenset({400, 409, 413, 422})  # any other 4xx is not about the content of the job
_BODY_INDEPENDENT_STATUSES: Final = frozenset(
    {401, 410}
)  # the key or the revision, looked at before any body is
_STATUSES_EVEN_AS_HTML: Final = frozenset(
    {401, 404, 410, 413}
)  # it is true of the next job as well, whoever answers


def retry_after(answer: Response) -> float | None:
    """Returns the seconds that the answer asks to wait: Retry-After as seconds or as an HTTP date; else
    None.
    """
    text = header(answer, "retry-after").strip()
    with contextlib.suppress(ValueError):
        return parse_seconds(text)
    with contextlib.suppress(ValueError, OverflowError):
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - runtime.time())
    return None


def parse_seconds(text: str) -> float:
    """Parses seconds, none of them negative; raises ValueError if this is no finite number."""
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError("not a finite number")
    return max(0.0, seconds)


def is_success(answer: Response) -> bool:
    """Tells whether the request is taken; a page of HTML never says so, whatever its status."""
    return answer.status is not None and 200 <= answer.status < 300 and not _is_html(answer)


def is_transient(answer: Response, status: int) -> bool:
    """Tells whether an answer that takes nothing says more of the moment than of the request or its
    account.
    """
    if status >= 500 or status in _TRANSIENT_STATUSES or status < 400:
        return True
    # An answer that is not the upstream's own comes from something in between, such as a CDN's challenge.
    is_page = _is_html(answer) and status not in _STATUSES_EVEN_AS_HTML
    return is_page or (status == 403 and not _is_object(answer))


def _is_object(answer: Response) -> bool:
    with contextlib.suppress(*NOT_DECODED):
        return isinstance(msgspec.json.decode(answer.body), dict)
    return False


def _is_html(answer: Response) -> bool:
    start = answer.body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return "html" in header(answer, "content-type").lower() or start.startswith(b"<")


def header(answer: Response, name: str) -> str:
    return answer.headers.get(name, "")
