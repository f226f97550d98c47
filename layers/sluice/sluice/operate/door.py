"""Answers one request of an operator: checks it, finds out who asks, runs the command, keeps the audit.

A request is `{"version": 1, "command": "sources show", "arguments": {…}, "who": {…}}`. An answer has
`result`, or `result_at` with a presigned URL if the result exceeds an invocation, or `error`.
"""

import json
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice import __version__, runtime
from sluice.errors import Misconfigured, Retryable, place_of
from sluice.operate.command import Access, AnyCommand, Arguments, Context, Failed, Result
from sluice.operate.commands import COMMANDS
from sluice.operate.ports import Ports
from sluice.operate.transfers import REQUEST_PREFIX
from sluice.settings import OperateSettings
from sluice.telemetry import Log

VERSION: Final = 1  # of requests and answers
INVOCATION_BYTES: Final = 6_291_456  # of a request or an answer; Lambda's limit
ENVELOPE_BYTES: Final = 4_096  # more than an answer has around its result


class Who(BaseModel):
    """Says who asks: by a presigned `GetCallerIdentity`, or by a name alone."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=100)] = "unknown"
    url: Annotated[str, Field(max_length=8_192)] | None = None


class Request(BaseModel):
    """Holds one request. Arguments that exceed an invocation are uploaded, and `arguments_key` names them."""

    model_config = ConfigDict(extra="forbid")

    version: int
    command: str
    arguments: dict[str, Any] = {}
    arguments_key: Annotated[str, Field(pattern=rf"^{REQUEST_PREFIX}[0-9a-f]{{32}}$")] | None = None
    who: Who = Who()


class Error(BaseModel):
    """Says why a request was not done: a `code` for programs, and one sentence for people."""

    code: str
    message: str


class ResultLink(BaseModel):
    """Says where a result is that exceeds an invocation."""

    url: str
    expires_at: datetime


class Answer(BaseModel):
    """Holds one answer: exactly one of `result`, `result_at` and `error`, and the version of Sluice."""

    version: int = VERSION
    sluice: str = __version__
    result: dict[str, Any] | None = None
    result_at: ResultLink | None = None
    error: Error | None = None


def access_of(invoked_arn: str) -> Access | None:
    """Returns the access that the invoked alias stands for; None if no alias of ours was invoked."""
    alias = invoked_arn.split(":")[7:]
    return next((each for each in Access if alias == [each.value]), None)


def answer(
    request: object, access: Access | None, settings: OperateSettings, ports: Ports, log: Log
) -> dict[str, Any]:
    """Returns the answer to a request, as JSON values."""
    try:
        said = _answer(request, access, settings, ports, log)
    except Failed as failed:
        said = Answer(error=Error(code=failed.code, message=str(failed)))
    except Retryable as error:
        log.warning("command not done", cause=str(error.__cause__ or error))
        said = Answer(error=Error(code="unavailable", message=f"{_sentence(error)} Try again."))
    return said.model_dump(mode="json", exclude_none=True)


def _answer(raw: object, access: Access | None, settings: OperateSettings, ports: Ports, log: Log) -> Answer:
    if access is None:
        raise Failed("forbidden", "Invoke the alias read or admin of this function, not the function itself.")
    request = _request(raw)
    command = COMMANDS.get(request.command)
    if command is None:
        raise Failed(
            "unknown_command",
            f"This deployment of Sluice {__version__} has no command '{request.command[:100]}'. "
            "Deploy the version of your command line.",
        )
    if not access.allows(command.access):
        raise Failed(
            "forbidden",
            f"The command '{command.name}' changes something: it needs lambda:InvokeFunction on the alias "
            f"{command.access}, and you invoked the alias {access}.",
        )
    arguments = _arguments(command, _raw_arguments(request, ports))
    context = Context(_who(request.who, ports), access, runtime.now(), settings, ports, log)
    return _packed(_run(command, arguments, context), ports)


def _request(raw: object) -> Request:
    """Reads a request. Its version is looked at first, because another one may have another form."""
    version = raw.get("version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version != VERSION:
        upgrade = (
            "Deploy this command line's version of the template."
            if version > VERSION
            else (f"Install the command line of Sluice {__version__}.")
        )
        raise Failed(
            "other_version",
            f"The request has version {version}, and this deployment of Sluice {__version__} understands "
            f"version {VERSION}. {upgrade}",
        )
    try:
        return Request.model_validate(raw)
    except ValidationError as error:
        raise Failed("invalid_request", f"The request is not valid: {first_mistake(error)}") from None


def _raw_arguments(request: Request, ports: Ports) -> Any:
    if request.arguments_key is None:
        return request.arguments
    uploaded = ports.transfers.fetch_request(key=request.arguments_key)
    if uploaded is None:
        raise Failed(
            "invalid_request", "The uploaded arguments are not there, or no longer. Send them again."
        )
    try:
        return json.loads(uploaded)
    except (ValueError, RecursionError):
        raise Failed("invalid_request", "The uploaded arguments are not JSON.") from None


def _arguments(command: AnyCommand, raw: Any) -> Arguments:
    try:
        read: Arguments = command.arguments.model_validate(raw)
    except ValidationError as error:
        raise Failed(
            "invalid_arguments", f"The arguments of '{command.name}' are not valid: {first_mistake(error)}"
        ) from None
    return read


def first_mistake(error: ValidationError) -> str:
    """Returns a sentence with the first mistake and its place. It does not quote what was given."""
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(map(str, first["loc"]))
    more = f" ({len(others)} more)" if others else ""
    return f"{place}: {first['msg']}{more}." if place else f"{first['msg']}{more}."


def _who(who: Who, ports: Ports) -> str:
    """Returns the ARN that STS gives for who asks, or the name that is only claimed."""
    proven = ports.identities.whose(url=who.url) if who.url else None
    return proven or f"claimed:{who.name}"


def _run(command: AnyCommand, arguments: Arguments, context: Context) -> Result:
    """Runs a command, and writes an audit line before and after one that changes or reveals something."""
    is_audited = command.access is Access.ADMIN or arguments.reveals
    if is_audited:
        context.log.info("command started", command=command.name, who=context.who, access=context.access)
    outcome, counts = "failed", {}
    try:
        result: Result = command.run(arguments, context)
        outcome, counts = "done", result.counts()
    except Failed as failed:
        outcome = failed.code
        raise
    except Retryable:
        outcome = "unavailable"
        raise
    except Misconfigured as error:
        outcome = "misconfigured"
        raise Failed(outcome, _sentence(error)) from error
    except Exception as error:
        context.log.error(
            "command failed unexpectedly",
            command=command.name,
            error=type(error).__name__,
            at=place_of(error),
        )
        raise Failed(
            outcome,
            f"The command '{command.name}' failed unexpectedly ({type(error).__name__}). The log of operate "
            "says where.",
        ) from error
    finally:
        if is_audited:
            context.log.info(
                "command ended", command=command.name, who=context.who, outcome=outcome, counts=counts
            )
    return result


def _packed(result: Result, ports: Ports) -> Answer:
    """Returns a result as an answer, stored elsewhere if it exceeds an invocation."""
    document = result.model_dump(mode="json")
    encoded = json.dumps(document).encode()  # all ASCII: the longest form that the runtime may give it
    if len(encoded) <= INVOCATION_BYTES - ENVELOPE_BYTES:
        return Answer(result=document)
    link = ports.transfers.store_answer(content=encoded)
    return Answer(result_at=ResultLink(url=link.url, expires_at=link.expires_at))


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
