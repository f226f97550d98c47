"""Calls the gateway with whichever version of Klaviyo's Python SDK this interpreter has.

Standard input holds calls by name, each {"api", "key", "way": "bulk" | "single", "document"}; standard output
gets what came of each: {"returned"}, or {"raised", "status", ...} as the SDK's exception has it.
"""

import json
import sys
from datetime import datetime
from typing import Any

from klaviyo_api import KlaviyoAPI
from openapi_client.exceptions import ApiException

METHODS = {"bulk": "bulk_create_events", "single": "create_event"}


def outcome(call: dict[str, Any]) -> dict[str, Any]:
    """Returns what the SDK returns or raises."""
    events = KlaviyoAPI(call["key"], test_host=call["api"]).Events
    try:
        returned = getattr(events, METHODS[call["way"]])(call["document"])
    except ApiException as error:
        typed = getattr(error, "data", None)
        return {
            "raised": type(error).__name__,
            "status": error.status,
            "errors": json.loads(error.body or "")["errors"],
            "pointers": None if typed is None else [each.source.pointer for each in typed.errors],
        }
    return {"returned": returned}


def with_datetimes(value: dict[str, Any]) -> dict[str, Any]:
    """Returns an object as a Python caller has it: its time, if it has one, is a `datetime`."""
    return {**value, "time": datetime.fromisoformat(value["time"])} if "time" in value else value


if __name__ == "__main__":
    calls = json.load(sys.stdin, object_hook=with_datetimes)
    json.dump({name: outcome(call) for name, call in calls.items()}, sys.stdout)
