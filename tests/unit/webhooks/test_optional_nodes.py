"""Tests that every node of every sample is optional.

No event is lost because a node is missing or nonsense, unless the node decides the person, the metric, the
time, or whether it is an event at all.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.webhooks import presets
from tests.support.webhook_deliveries import NoRecords, Receiver, metric
from tests.support.webhook_samples import Sample, document, samples, source

type Node = tuple[str | int, ...]

IDENTIFIERS = ("id", "email", "phone_number", "external_id", "anonymous_id")
GONE = object()
NONSENSE: list[Any] = ["", "text", 5, -1.5, True, False, [], {}, ["text"], {"a": 1}, [None], [[]], "\ufffd"]
SOURCES = {preset: source(document(preset=preset)) for preset in presets.names()}
# A word of a preset is a node it may read.
READ = {
    preset: set(re.findall(r"\w+", Path(f"layers/sluice/sluice/webhooks/presets/{preset}.toml").read_text()))
    for preset in presets.names()
}
EVERY = "|".join(
    event["metric"] for preset in presets.names() for event in presets.load(preset)["events"].values()
)
# Nodes that may cost events, by a pattern of their path, with the metrics that depend on them. A preset
# that is not listed may lose them for any node that says whose or when an event is, which, and whether.
DECISIVE = {
    "shopify": {
        # identity
        r"email|contact_email|customer|customer/email": EVERY,
        # time
        r"created_at": "Placed Order|Ordered Product|Checkout Started|Customer Created|Refunded Order",
        r"updated_at": "Fulfilled Order",
        r"fulfillments.*": "Fulfilled Order",
        r"refunds/\d+/created_at": "Refunded Order",
        # state, and the lists of which each element is an event
        r"cancelled_at": "Cancelled Order",
        r"line_items(/\d+)?": "Ordered Product",
        r"refunds(/\d+)?": "Refunded Order",
        r"order_id": "Refunded Order",  # says whose a refund is
    },
    "stripe": {
        r"data|data/object|type": EVERY,
        r"data/object/(customer|customer_details|customer_email|billing_details|receipt_email).*": EVERY,
        r"created|data/object/(created|ended_at|canceled_at)": EVERY,
        r"data/object/captured": "Successfully Paid|Refunded Payment",
    },
    "woocommerce": {
        r"billing|billing/email": EVERY,
        r"date_created_gmt": "Placed Order|Ordered Product",
        r"date_(modified|completed)_gmt": "Fulfilled Order|Cancelled Order|Refunded Order",
        r"status": "Fulfilled Order|Cancelled Order|Refunded Order",
        r"date_paid_gmt": "Placed Order|Ordered Product",
        r"line_items(/\d+)?": "Ordered Product",
        r"refunds(/\d+)?": "Refunded Order",
    },
}


def decisive(preset: str) -> dict[str, str]:
    """Returns the nodes that may cost events of a preset: what says whose, when, which and whether."""
    if preset in DECISIVE:
        return DECISIVE[preset]
    written = presets.load(preset)
    fields = ("when", "each", "time", "object_id", "unique_id")
    texts = [str(event.get(field, "")) for event in written["events"].values() for field in fields]
    texts += [written.get("topic", ""), *(str(written["profile"].get(name, "")) for name in IDENTIFIERS)]
    words = "|".join(sorted({word for text in texts for word in re.findall(r"[a-z_]\w*", text)}))
    return {rf"(.*/)?({words})(/\d+)?": EVERY}


def nodes(value: object, path: Node = ()) -> Iterator[Node]:
    """Gives every node of a payload but its root; of a list, the first and the last element stand for all."""
    if isinstance(value, dict):
        items: list[tuple[str | int, Any]] = list(value.items())
    elif isinstance(value, list):
        items = [(index, value[index]) for index in sorted({0, len(value) - 1}) if value]
    else:
        return
    for name, child in items:
        yield (*path, name)
        yield from nodes(child, (*path, name))


def changed(payload: Any, path: Node, value: object) -> Any:
    """Changes a value of a payload, or removes it."""
    result = copy.deepcopy(payload)
    holder = result
    for name in path[:-1]:
        holder = holder[name]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return result


def counted(of: Sample, payload: object) -> tuple[Counter[str], Receiver]:
    """Counts the events of each metric that a delivery becomes."""
    to = Receiver(SOURCES[of.preset], NoRecords())
    to.deliver(payload, of.headers)
    return Counter(map(metric, to.events)), to


def check(of: Sample, path: Node, value: object) -> None:
    before, _ = counted(of, of.payload)
    after, to = counted(of, changed(of.payload, path, value))
    text = "/".join(map(str, path))
    allowed = {
        name
        for pattern, names in decisive(of.preset).items()
        if re.fullmatch(pattern, text)
        for name in names.split("|")
    }

    assert set(before - after) <= allowed, text
    for event in to.events:
        assert event["unique_id"], text


every_sample = pytest.mark.parametrize("of", samples(), ids=lambda of: f"{of.preset}-{of.name}")


@every_sample
def test_no_node_that_is_missing_or_null_costs_an_event(of: Sample) -> None:
    for path in nodes(of.payload):
        if path[-1] in READ[of.preset]:
            check(of, path, GONE)
            check(of, path, None)


@every_sample
@settings(max_examples=60)
@given(data=st.data())
def test_no_nonsense_in_a_node_costs_an_event(of: Sample, data: st.DataObject) -> None:
    read = [path for path in nodes(of.payload) if path[-1] in READ[of.preset] or isinstance(path[-1], int)]
    path = data.draw(st.sampled_from(read))

    check(of, path, data.draw(st.sampled_from(NONSENSE)))


@every_sample
def test_a_node_that_no_expression_reads_changes_nothing(of: Sample) -> None:
    unread = [
        path
        for path in nodes(of.payload)
        if not READ[of.preset] & {name for name in path if isinstance(name, str)}
    ]
    everything = copy.deepcopy(of.payload)
    for path in unread:
        everything = changed(everything, path[:1], "\U0001f381 half: \ud83c")

    before, _ = counted(of, of.payload)
    after, to = counted(of, json.dumps(everything).encode())
    assert (after, to.rejections) == (before, [])
