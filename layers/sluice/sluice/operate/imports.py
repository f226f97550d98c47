"""Implements the commands of an import: it begins, and its parts are uploaded and sent one after the other.

A client reads a file, makes events of its rows and writes them in parts. The parts lie in the claim bucket,
and dispatch reads each as it reads any S3 object. The state of an import says how far its file is sent. It is
written after a part is announced, so a part may be announced twice, but dispatch reads it once.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from sluice import rejection
from sluice.contract import Surface
from sluice.errors import Undeliverable
from sluice.operate import jobs
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Result
from sluice.operate.jobs import JobState
from sluice.operate.ports import Conflict
from sluice.producers.s3_objects import IMPORT_PREFIX
from sluice.rejection import Reason, Rejection

KIND: Final = "import"
MAX_PART_BYTES: Final = 64 * 2**20  # compressed

type Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
type ImportId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{6}-[0-9a-f]{32}$")]
type PartNumber = Annotated[int, Field(ge=1, le=99_999)]


class BeginArguments(Arguments):
    """Says what is imported: the digest of a file's content and mapping, and the name of the file.

    `account` is a site id. It may be left out where there is only one account.
    """

    digest: Digest
    file: Annotated[str, Field(min_length=1, max_length=300)]
    account: str | None = None


class State(Result):
    """Says how far an import is: `next_line` is the first line of its file that is not sent yet.

    Events that have no time of their own get the time at which it was `started`. The `job` shows it to
    others, who may cancel it. A cancelled import goes on as another job when it is begun again.
    """

    id: str
    job: str = ""
    account: str
    file: str
    started: datetime
    next_line: int = 1
    parts: int = 0
    events: int = 0
    bad_lines: int = 0
    finished: datetime | None = None

    def counts(self) -> dict[str, int]:
        return {"parts": self.parts, "events": self.events, "bad_lines": self.bad_lines}


class PartArguments(Arguments):
    """Describes a part that is to be uploaded: its number, and the digest and the size of its bytes."""

    id: ImportId
    number: PartNumber
    digest: Digest
    size: Annotated[int, Field(ge=1, le=MAX_PART_BYTES)]


class PartResult(Result):
    """Says where to PUT a part, and with which headers; there is no URL for a part that is there."""

    url: str | None
    headers: dict[str, str]


class BadEvent(Arguments):
    """Describes one event that cannot be sent, or a row that became none: `text` is it, as JSON or as read.

    With `surface` the text is the body of an event, and `pointer` leads into it.
    """

    line: PositiveInt
    text: str
    reason: Literal[Reason.INVALID, Reason.MALFORMED, Reason.OVERSIZED]
    detail: str
    pointer: str | None = None
    surface: Literal[Surface.EVENT] | None = None


class SendArguments(Arguments):
    """Says that a part is to be sent, with the bad events of the same lines of the file.

    `digest` is that of the uploaded part, None if those lines hold no good event. `next_line` is where the
    next part begins, and `is_last` says that there is none.
    """

    id: ImportId
    number: PartNumber
    digest: Digest | None
    events: NonNegativeInt
    bad: list[BadEvent]
    next_line: PositiveInt
    is_last: bool


def _begin(arguments: BeginArguments, context: Context) -> State:
    account = _account(arguments.account, context)
    id = f"{account}-{arguments.digest}"
    stored = context.ports.imports.read(id=id)
    if stored is None:
        state, etag = State(id=id, account=account, file=arguments.file, started=context.now), None
    else:
        state, etag = _decoded(stored.content), stored.etag
    if state.finished or _is_open(state, context):
        return state
    wish = {"account": account, "file": arguments.file}
    job = jobs.create(context.ports.jobs, KIND, context.who, msgspec.json.encode(wish).decode())
    state = state.model_copy(update={"job": job.id})
    _store(state, etag, context)
    _follow(state, context)
    return state


def _is_open(state: State, context: Context) -> bool:
    """Tells whether an import has a job that nobody has cancelled."""
    job = context.ports.jobs.find(job_id=state.job) if state.job else None
    return job is not None and not job.state.is_over


def _follow(state: State, context: Context) -> None:
    """Writes into its job how far an import is."""
    now = JobState.DONE if state.finished else JobState.RUNNING
    jobs.follow(context.ports.jobs, state.job, now, state.counts())


def _account(named: str | None, context: Context) -> str:
    """Returns the account that an import is for, which the accounts document has to name."""
    known = sorted(account.site_id for account in context.ports.secrets.accounts().accounts)
    if named in known:
        return named
    if named is None and len(known) == 1:
        return known[0]
    if named is not None:
        problem = f"The accounts document names no account {named[:100]}."
    else:
        problem = "Say which account the events are for."
    raise Failed("invalid_arguments", f"{problem} There are {', '.join(known) or 'none'}.")


def _offer_part(arguments: PartArguments, context: Context) -> PartResult:
    key = _key(arguments.id, arguments.number, arguments.digest)
    account = _found(arguments.id, context)[0].account
    if context.ports.imports.has_part(key=key):
        return PartResult(url=None, headers={})
    # Dispatch reads them as it does those of any object.
    said = {"account": account, "surface": Surface.EVENT.value}
    link = context.ports.imports.offer_part(key=key, size=arguments.size, metadata=said)
    return PartResult(url=link.url, headers={f"x-amz-meta-{name}": value for name, value in said.items()})


def _send(arguments: SendArguments, context: Context) -> State:
    state, etag = _found(arguments.id, context)
    if state.finished or arguments.number != state.parts + 1:
        raise _overtaken()
    if not _is_open(state, context):
        raise Failed(
            "conflict", f"The job {state.job} is cancelled. Run the import again: it goes on as another job."
        )
    key = _key(arguments.id, arguments.number, arguments.digest) if arguments.digest else None
    if key and not context.ports.imports.has_part(key=key):
        raise Failed("conflict", f"Part {arguments.number} of the import is not uploaded. Run it again.")
    numbers: dict[int, int] = {}
    rejections = []
    for bad in arguments.bad:
        numbers[bad.line] = numbers.get(bad.line, 0) + 1
        rejections.append(_rejection(state, bad, numbers[bad.line], context.now))
    context.ports.imports.reject(rejections=rejections)
    if key:
        context.ports.imports.announce(key=key, written=state.started)
    sent = state.model_copy(
        update={
            "next_line": arguments.next_line,
            "parts": arguments.number,
            "events": state.events + arguments.events,
            "bad_lines": state.bad_lines + len(numbers),
            "finished": context.now if arguments.is_last else None,
        }
    )
    _store(sent, etag, context)
    _follow(sent, context)
    return sent


def _rejection(state: State, bad: BadEvent, number: int, now: datetime) -> Rejection:
    """Returns the rejection of a bad event; each time it is made, it has the same id."""
    return rejection.for_undeliverable_body(
        bad.text,
        Undeliverable(bad.reason, bad.detail, bad.pointer),
        account=state.account,
        surface=bad.surface,
        accepted=state.started,
        now=now,
        name=f"{state.id}:{bad.line}:{number}",
        line=f"{state.file}:{bad.line}",
    )


def _key(id: str, number: int, digest: str) -> str:
    # Its digest is in its name, so that a part is never overwritten by another one.
    return f"{IMPORT_PREFIX}{id}/part-{number:05}-{digest}.jsonl.gz"


def _found(id: str, context: Context) -> tuple[State, str]:
    stored = context.ports.imports.read(id=id)
    if stored is None:
        raise Failed("not_found", f"There is no import {id} (any more). Run it again from the beginning.")
    return _decoded(stored.content), stored.etag


def _decoded(content: bytes) -> State:
    try:
        return State.model_validate_json(content)
    except ValidationError:
        raise Failed("misconfigured", "The state of this import is damaged.") from None


def _store(state: State, etag: str | None, context: Context) -> None:
    try:
        context.ports.imports.write(id=state.id, content=state.model_dump_json().encode(), etag=etag)
    except Conflict:
        raise _overtaken() from None


def _overtaken() -> Failed:
    return Failed("conflict", "Somebody else runs this import, too. Run it again later: it goes on.")


BEGIN: Final = Command("import begin", Access.ADMIN, BeginArguments, State, _begin)
PART: Final = Command("import part", Access.ADMIN, PartArguments, PartResult, _offer_part)
SEND: Final = Command("import send", Access.ADMIN, SendArguments, State, _send)
