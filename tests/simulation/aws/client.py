"""Plays boto3's clients over the models: each call takes time, may fail in every way, and may be the last."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from tests.simulation.aws.errors import EXCEPTIONS, error
from tests.simulation.faults import Fault
from tests.simulation.outside import Call, Outside
from tests.simulation.scheduler import Process

_ENDPOINT = "https://aws.test"
_THROTTLED = {
    "dynamodb": "ThrottlingException",
    "s3": "SlowDown",
    "sqs": "RequestThrottled",
    "secretsmanager": "ThrottlingException",
}
_DEFAULT = SimpleNamespace(connect_timeout=60, read_timeout=60, retries=None)


class Client:
    """Plays a client of one service, for one process."""

    exceptions = EXCEPTIONS

    def __init__(self, service: str, model: Any, process: Process, outside: Outside, config: Any) -> None:
        self._service = service
        self._model = model
        self._process = process
        self._outside = outside
        self._config = config or _DEFAULT

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        effect = getattr(self._model, operation)

        def call(**given: Any) -> Any:
            name = f"{self._service}.{operation}"
            with self._outside.call(self._process, name, _summary(given), (self._service,)) as each:
                return self._answer(each, operation, effect, given)

        self.__dict__[operation] = call
        return call

    def _answer(self, call: Call, operation: str, effect: Callable[..., Any], given: dict[str, Any]) -> Any:
        call.take_time()
        match call.fault:
            case None:
                return effect(**given)
            case Fault.SLOW:
                call.wait(call.chance.uniform(0.2, 0.9) * self._config.read_timeout)
                return effect(**given)
            case Fault.REFUSED:
                raise error("ServiceUnavailable", operation, status=503)
            case Fault.THROTTLED:
                raise error(_THROTTLED[self._service], operation)
            case Fault.LOST:
                effect(**given)
                raise ConnectionClosedError(endpoint_url=_ENDPOINT)
            case Fault.REPEATED:  # by botocore, as the first answer got lost
                effect(**given)
                call.take_time()
                return effect(**given)
            case Fault.PARTIAL:
                return _in_part(call, operation, effect, given)
            case Fault.TORN:
                return {**effect(**given), "Body": _Torn()}
        if call.fault is Fault.HUNG_DONE:
            effect(**given)
        self._hang(call)
        raise AssertionError("a call that hangs ends with an error")

    def _hang(self, call: Call) -> None:
        """Waits as botocore does, for each of its attempts, and then gives up."""
        connects = call.fault is Fault.HUNG and call.chance.random() < 0.5
        seconds = self._config.connect_timeout if connects else self._config.read_timeout
        attempts = (self._config.retries or {}).get("total_max_attempts", 1)
        for attempt in range(attempts):
            call.wait(seconds)
            if attempt + 1 < attempts:
                call.wait(call.chance.uniform(0, min(20.0, 2.0**attempt)))
        kind = ConnectTimeoutError if connects else ReadTimeoutError
        raise kind(endpoint_url=_ENDPOINT)


class _Torn(io.RawIOBase):
    """Plays a body whose connection ends while it is read."""

    def read(self, size: int = -1) -> bytes:
        raise ResponseStreamingError(error="the connection was reset")


def _in_part(call: Call, operation: str, effect: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Does some entries of a batch; the others fail, or are said to be unprocessed."""
    if operation == "batch_get_item":
        [(table, wanted)] = given["RequestItems"].items()
        chosen = [call.chance.random() < 0.5 for _ in wanted["Keys"]]
        now = [key for key, is_chosen in zip(wanted["Keys"], chosen, strict=True) if is_chosen]
        later = [key for key, is_chosen in zip(wanted["Keys"], chosen, strict=True) if not is_chosen]
        answer = effect(RequestItems={table: {**wanted, "Keys": now}}) if now else {"Responses": {}}
        left = {table: {**wanted, "Keys": later}} if later else {}
        return {**answer, "UnprocessedKeys": left}
    if operation == "batch_write_item":
        [(table, wanted)] = given["RequestItems"].items()
        later = [each for each in wanted if call.chance.random() < 0.5]
        now = [each for each in wanted if each not in later]
        answer = effect(RequestItems={table: now}) if now else {}
        return {**answer, "UnprocessedItems": {table: later} if later else {}}
    failing = [entry for entry in given["Entries"] if call.chance.random() < 0.5]
    done = [entry for entry in given["Entries"] if entry not in failing]
    answer = effect(**{**given, "Entries": done}) if done else {}
    failed = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failing]
    return {**answer, **({"Failed": [*answer.get("Failed", []), *failed]} if failed else {})}


def _summary(given: dict[str, Any]) -> str:
    """Says in short what a call is about."""
    match given:
        case {"Key": {"pk": {"S": key}}} | {"Item": {"pk": {"S": key}}}:
            return str(key)
        case {"Bucket": bucket, "Key": key}:
            return f"{bucket}/{key}"
        case {"Bucket": bucket, "Prefix": prefix}:
            return f"{bucket}/{prefix}*"
        case {"QueueUrl": url, "Entries": entries}:
            return f"{url.rpartition('/')[2]} x{len(entries)}"
        case {"QueueUrl": url}:
            return str(url.rpartition("/")[2])
        case {"SecretId": name}:
            return str(name)
        case {"RequestItems": items}:
            return f"x{sum(len(each['Keys']) if 'Keys' in each else len(each) for each in items.values())}"
    return ""
