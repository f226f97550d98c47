"""Runs the Python peers, each from a caller's bytes to the bytes it would send, without their sockets."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def klaviyo_sdk() -> Callable[[bytes], list[bytes]]:
    """Runs `klaviyo-api`: its models from the request's JSON, its client to the request that it hands to
    urllib3.
    """
    from klaviyo_api import KlaviyoAPI  # noqa: PLC0415
    from openapi_client.models.events_bulk_create_job import EventsBulkCreateJob  # noqa: PLC0415

    klaviyo = KlaviyoAPI("pk_benchmark", max_retries=0)
    sent: list[bytes] = []

    def request(*_: Any, body: str, **__: Any) -> Any:
        sent.append(body.encode())
        return SimpleNamespace(status=202, reason="Accepted", headers={}, data=b"", getheaders=dict)

    klaviyo.Events.api_client.rest_client.pool_manager.request = request

    def run(body: bytes) -> list[bytes]:
        sent.clear()
        klaviyo.Events.bulk_create_events(EventsBulkCreateJob.from_json(body.decode()))
        return list(sent)

    return run


def dtex() -> Callable[[bytes], list[bytes]]:
    """Runs `dtex`: its Klaviyo destination's requests from JSON lines of its record contract."""
    from dtex.destinations.klaviyo.client import prepare_requests  # noqa: PLC0415

    def run(lines: bytes) -> list[bytes]:
        prepared: list[bytes] = prepare_requests(
            [json.loads(line) for line in lines.splitlines()], backfill=False
        )
        return prepared

    return run
