"""Calls the commands of operate, the function of a deployment that does what operators ask for.

It is invoked by one of two aliases. A command that only looks goes through `read`; where that is not allowed,
`admin` is tried, so that either permission is enough.
"""

import getpass
import json
import re
from typing import Any, Final

import httpx2
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import ValidationError

from sluice import __version__
from sluice.aws.sts import FUNCTION_HEADER
from sluice.operate.command import Access, Arguments, Command, Result
from sluice.operate.door import ENVELOPE_BYTES, INVOCATION_BYTES, VERSION, Answer
from sluice.operate.transfers import UPLOAD, UploadArguments
from sluicectl.deployment import Deployment, reaching
from sluicectl.errors import Failure, Unreachable

# Longer than the function may take. A call is not repeated: the first one may be at work still.
_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=910, tcp_keepalive=True, retries={"total_max_attempts": 1}
)
_PROOF_SECONDS: Final = 60  # for which the function can ask STS who this is
_TRANSFER_SECONDS: Final = 60.0
_NOT_REACHED: Final = frozenset({"unavailable", "forbidden", "other_version", "unknown_command"})
_DENIED: Final = frozenset({"AccessDeniedException", "AccessDenied"})
_RESOURCE: Final = re.compile(r"\barn:\S+:function:[\w$:-]+")


class Denied(Unreachable):
    """Says that one alias may not be invoked."""


class OperateClient:
    """Calls the commands of one deployment. It raises `Failure` with one clear sentence."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._lambda = deployment.client("lambda", _CONFIG)
        self._sts = deployment.client("sts")
        self._sts.meta.events.register("before-sign.sts.GetCallerIdentity", self._name_function)
        self._aliases_to_look = [Access.READ, Access.ADMIN]  # until one is known to be allowed

    def call[A: Arguments, R: Result](self, command: Command[A, R], arguments: A) -> R:
        """Runs a command, and returns its result."""
        request = {
            "version": VERSION,
            "command": command.name,
            "arguments": arguments.model_dump(mode="json", exclude_defaults=True),
            "who": {"name": _user(), "url": self._proof()},
        }
        if len(json.dumps(request)) > INVOCATION_BYTES - ENVELOPE_BYTES:
            request["arguments_key"] = self._upload(json.dumps(request.pop("arguments")).encode())
        answer = _read(self._invoke(command, json.dumps(request).encode()))
        if answer.error is not None:
            kind = Unreachable if answer.error.code in _NOT_REACHED else Failure
            raise kind(answer.error.message)
        found = answer.result if answer.result_at is None else _download(answer.result_at.url)
        try:
            return command.result.model_validate(found)
        except ValidationError:
            raise _other_version(answer.sluice) from None

    def may_change(self) -> bool:
        """Tells whether commands that change something are allowed. Nothing is invoked for it."""
        where = f"{self._deployment.function}:{Access.ADMIN}"
        with reaching():
            try:
                self._lambda.invoke(FunctionName=where, InvocationType="DryRun")
            except ClientError as error:
                refusal = self._refusal(error, where)
                if isinstance(refusal, Denied):
                    return False
                raise refusal from None
        return True

    def _invoke(self, command: Command[Any, Any], payload: bytes) -> bytes:
        looks = command.access is Access.READ
        denials: list[Denied] = []
        for alias in self._aliases_to_look if looks else [Access.ADMIN]:
            try:
                said = self._invoke_alias(alias, payload)
            except Denied as denied:
                denials.append(denied)
            else:
                if looks:
                    self._aliases_to_look = [alias]
                return said
        raise denials[0]

    def _invoke_alias(self, alias: Access, payload: bytes) -> bytes:
        where = f"{self._deployment.function}:{alias}"
        with reaching():
            try:
                answer = self._lambda.invoke(FunctionName=where, Payload=payload)
            except ClientError as error:
                raise self._refusal(error, where) from None
            said: bytes = answer["Payload"].read()
        if "FunctionError" in answer:
            raise Unreachable(f"{where} ended without an answer: {_why(said)}. Its log says more.")
        return said

    def _refusal(self, error: ClientError, where: str) -> Exception:
        """Returns what a refusal of Lambda's means to who runs a command."""
        said = error.response["Error"]
        code, message = said["Code"], said.get("Message", "")
        if code == "ResourceNotFoundException":
            return Unreachable(
                f"There is no function {where} in {self._lambda.meta.region_name}: deploy this version of "
                "the template first, or give another --stack, --region or --profile."
            )
        if code in _DENIED:
            found = _RESOURCE.search(message)
            resource = found[0] if found else f"the function {where}"
            return Denied(f"You lack a permission: lambda:InvokeFunction on {resource}.")
        if code == "TooManyRequestsException":
            return Unreachable(f"Lambda has no room for another invocation of {where} now. Try again.")
        return error

    def _proof(self) -> str:
        """Returns a presigned `GetCallerIdentity` by which the function learns from STS who this is."""
        with reaching():
            url: str = self._sts.generate_presigned_url(
                "get_caller_identity", ExpiresIn=_PROOF_SECONDS, HttpMethod="GET"
            )
        return url

    def _name_function(self, request: Any, **_: Any) -> None:
        request.headers[FUNCTION_HEADER] = self._deployment.function

    def _upload(self, arguments: bytes) -> str:
        link = self.call(UPLOAD, UploadArguments(size=len(arguments)))
        try:
            httpx2.put(link.url, content=arguments, timeout=_TRANSFER_SECONDS).raise_for_status()
        except httpx2.HTTPError as error:
            raise Unreachable(f"The request cannot be uploaded: {_cause(error)}. Try again.") from None
        return link.key


def _read(said: bytes) -> Answer:
    try:
        answer = Answer.model_validate_json(said)
    except ValidationError:
        raise _other_version(None) from None
    if answer.version != VERSION:
        raise _other_version(answer.sluice)
    return answer


def _download(url: str) -> Any:
    try:
        return httpx2.get(url, timeout=_TRANSFER_SECONDS).raise_for_status().json()
    except (httpx2.HTTPError, ValueError) as error:
        raise Unreachable(f"The answer cannot be downloaded: {_cause(error)}. Try again.") from None


def _cause(error: Exception) -> str:
    """Returns an error's cause without its URL, which lets anybody read or write the object."""
    if isinstance(error, httpx2.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__


def _other_version(deployed: str | None) -> Unreachable:
    what = f"is of Sluice {deployed}" if deployed else "is of another version"
    return Unreachable(
        f"The deployment {what}, and sluicectl {__version__} does not understand its answer. "
        "Deploy this version of the template, or install the command line of that one."
    )


def _why(payload: bytes) -> str:
    """Returns what Lambda says of an invocation that failed."""
    try:
        return str(json.loads(payload)["errorMessage"]).rstrip(".")
    except (ValueError, LookupError, TypeError):
        return "Lambda gives no reason"


def _user() -> str:
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):
        return "unknown"
