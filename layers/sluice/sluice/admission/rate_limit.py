"""Limits the requests of a caller: optional inbound limits in fixed windows (contract: limits).

An item of the state table for each caller, kind of route and minute counts the minute and each of its
seconds, so one write decides both windows. A refused request is not counted.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from sluice import contract
from sluice.aws import clients, state_table
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.receipts import SURFACES as BULK_SURFACES

WINDOW_SECONDS: Final = 60
_MINUTE: Final = "minute"


class RemainingQuota(msgspec.Struct, frozen=True):
    """Holds the rest of the minute for a caller whose request has been counted."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> Mapping[str, str]:
        """Returns it in the headers that Klaviyo uses."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset),
        }


def consume(table: str, caller: str, surface: Surface, now: datetime) -> RemainingQuota:
    """Counts a request; `Refused` (429) where it is one too many.

    `caller` is any text that is another for another caller.
    """
    is_bulk = surface in BULK_SURFACES
    burst = contract.BURST_LIMIT if is_bulk else contract.EVENT_BURST_LIMIT
    steady = contract.STEADY_LIMIT if is_bulk else contract.EVENT_STEADY_LIMIT
    minute, second = divmod(int(now.timestamp()), WINDOW_SECONDS)
    reset = math.ceil((minute + 1) * WINDOW_SECONDS - now.timestamp())
    update: Any = {
        "Key": state_table.INBOUND.key(f"{caller}#{'bulk' if is_bulk else 'event'}#{minute}"),
        "UpdateExpression": "SET expires_at = :expiry ADD #minute :one, #second :one",
        "ConditionExpression": (
            "(attribute_not_exists(#minute) OR #minute < :steady)"
            " AND (attribute_not_exists(#second) OR #second < :burst)"
        ),
        "ExpressionAttributeNames": {"#minute": _MINUTE, "#second": f"second_{second}"},
        "ExpressionAttributeValues": {
            ":one": {"N": "1"},
            ":burst": {"N": str(burst)},
            ":steady": {"N": str(steady)},
            ":expiry": state_table.INBOUND.expiry((minute + 1) * WINDOW_SECONDS),
        },
        "ReturnValues": "UPDATED_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be written") as client:
        try:
            answer = clients.retrying_closed_connection(lambda: client.update_item(TableName=table, **update))
        except client.exceptions.ConditionalCheckFailedException as error:
            spent = _minute(error.response.get("Item", {})) >= steady
            raise _throttled(reset if spent else 1) from None
    return RemainingQuota(steady, steady - _minute(answer["Attributes"]), reset)


def _minute(item: Any) -> int:
    return int(item.get(_MINUTE, {}).get("N", 0))


def _throttled(seconds: int) -> Refused:
    detail = f"Request was throttled. Expected available in {seconds} second{'s' * (seconds != 1)}."
    return Refused(429, [Problem("throttled", detail, "/data/")], {"Retry-After": str(seconds)})
