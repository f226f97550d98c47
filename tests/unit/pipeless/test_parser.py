"""Tests Pipeless's batches: those accepted, and every problem of the others."""

import bisect
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.fake_upstream import Pipeless
from sluice.accounts import PipelessApp
from sluice.errors import Refused
from sluice.pipeless import parser
from sluice.pipeless.schemas import BatchDocument
from tests.support.factories import APP_ID, NOON, batch, encoded, happening
from tests.support.stored_accounts import APP_REFERENCE

PLAIN = PipelessApp(APP_ID, APP_REFERENCE)
OBJECTS = (
    "user product image comment article post video content tag category app book person skill job company"
    " account card country state film cart"
)
RELATIONSHIPS = (
    "posted followed liked favorited saved disliked purchased commentedOn created viewed reported blocked"
    " deleted authored used dismissed loggedIn taggedWith categorizedIn interestedIn locatedIn readQuarter"
    " readHalf readAll subscribedTo subscribedFrom addedTo madeBy pausedOn"
)


def read(document: Any, app: PipelessApp = PLAIN) -> BatchDocument:
    return parser.read(document if isinstance(document, bytes) else encoded(document), app)


def refusal(document: Any) -> list[tuple[str | None, str]]:
    with pytest.raises(Refused) as caught:
        read(document)
    assert caught.value.status == 400
    return [(problem.pointer, problem.detail) for problem in caught.value.problems]


def with_part(name: str, /, **fields: Any) -> dict[str, Any]:
    event = happening()
    return batch(event | {name: event[name] | fields})


def without(name: str, field: str) -> dict[str, Any]:
    event = happening()
    return batch(event | {name: {key: value for key, value in event[name].items() if key != field}})


def test_a_batch_is_taken_as_it_is() -> None:
    dates = {"created_on": "2026-01-01T00:00:00", "modified_on": "2026-02-28T23:59:59"}
    sent = batch(
        happening(dates=dates),
        happening(of="viewed", single=False, created_on="1999-12-31T00:00:00"),
        synchronous=True,
    )

    assert json.loads(msgspec.json.encode(read(sent))) == sent


@pytest.mark.rule
@pytest.mark.parametrize("type_", OBJECTS.split())
def test_every_documented_object_is_taken(type_: str) -> None:
    read(batch({**happening(), "start_object": {"id": "1", "type": type_}}))


@pytest.mark.rule
@pytest.mark.parametrize("type_", RELATIONSHIPS.split())
def test_every_documented_relationship_is_taken(type_: str) -> None:
    read(batch(happening(of=type_)))


@pytest.mark.rule
def test_an_app_may_have_names_of_its_own() -> None:
    app = PipelessApp(
        APP_ID, APP_REFERENCE, object_types=frozenset({"planet"}), relationship_types=frozenset({"orbits"})
    )
    sent = batch({**happening(of="orbits"), "end_object": {"id": "1", "type": "planet"}})

    read(sent, app)
    assert [pointer for pointer, _ in refusal(sent)] == [
        "/events/0/end_object/type",
        "/events/0/relationship/type",
    ]


BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "most events": (batch(*[happening()] * 10), batch(*[happening()] * 11), "/events"),
    "fewest events": (batch(happening()), {"events": []}, "/events"),
    "longest id": (
        with_part("start_object", id="é" * 40),
        with_part("start_object", id="é" * 41),
        "/events/0/start_object/id",
    ),
    "shortest id": (
        with_part("end_object", id=" "),
        with_part("end_object", id=""),
        "/events/0/end_object/id",
    ),
    "last second": (
        with_part("start_object", created_on="2024-02-29T23:59:59"),
        with_part("start_object", created_on="2024-02-29T23:59:60"),
        "/events/0/start_object/created_on",
    ),
    "leap day": (
        with_part("end_object", modified_on="2024-02-29T00:00:00"),
        with_part("end_object", modified_on="2025-02-29T00:00:00"),
        "/events/0/end_object/modified_on",
    ),
}


@pytest.mark.rule
@pytest.mark.parametrize(("taken", "refused", "pointer"), BOUNDS.values(), ids=BOUNDS.keys())
def test_a_limit_is_kept_and_not_one_less(taken: Any, refused: Any, pointer: str) -> None:
    read(taken)
    assert [where for where, _ in refusal(refused)] == [pointer]


WRONG: dict[str, tuple[Any, str, str]] = {
    "no document": ([], "/", "object"),
    "no events": ({}, "/events", "'events' is a required field"),
    "events that are no array": ({"events": {}}, "/events", "array"),
    "an event that is no object": ({"events": ["x"]}, "/events/0", "object"),
    "an unknown field": (batch(wait=True), "/wait", "not a valid field"),
    "an unknown field of an event": (batch({**happening(), "at": 1}), "/events/0/at", "not a valid field"),
    "a property": (
        with_part("end_object", name="Ann"),
        "/events/0/end_object/name",
        "not a valid field",
    ),
    "no start object": (
        batch({key: value for key, value in happening().items() if key != "start_object"}),
        "/events/0/start_object",
        "'start_object' is a required field",
    ),
    "no id": (without("start_object", "id"), "/events/0/start_object/id", "'id' is a required field"),
    "no type": (without("end_object", "type"), "/events/0/end_object/type", "'type' is a required field"),
    "no relationship": (
        without("relationship", "type"),
        "/events/0/relationship/type",
        "'type' is a required field",
    ),
    "an id that is a number": (with_part("start_object", id=1), "/events/0/start_object/id", "string"),
    "an id that is null": (with_part("start_object", id=None), "/events/0/start_object/id", "string"),
    "a type in another case": (
        with_part("start_object", type="User"),
        "/events/0/start_object/type",
        "one of account, app",
    ),
    "an object's type as a relationship": (
        with_part("relationship", type="user"),
        "/events/0/relationship/type",
        "one of addedTo",
    ),
    "a date that is null": (
        with_part("relationship", created_on=None),
        "/events/0/relationship/created_on",
        "string",
    ),
    "single that is null": (
        with_part("relationship", single=None),
        "/events/0/relationship/single",
        "true or false",
    ),
    "single as text": (
        with_part("relationship", single="true"),
        "/events/0/relationship/single",
        "true or false",
    ),
    "a relationship modified": (
        with_part("relationship", modified_on="2026-01-01T00:00:00"),
        "/events/0/relationship/modified_on",
        "not a valid field",
    ),
    "synchronous as a number": (batch(synchronous=1), "/synchronous", "true or false"),
}
for text in (
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00+00:00",
    "2026-01-01T00:00:00.000",
    "2026-01-01 00:00:00",
    "2026-01-01",
    "2026-01-01T00:00:00\n",
    "\uff12\uff10\uff12\uff16-01-01T00:00:00",
    "0000-01-01T00:00:00",
    "2026-13-01T00:00:00",
    "",
):
    WRONG[f"the date {text!r}"] = (
        with_part("relationship", created_on=text),
        "/events/0/relationship/created_on",
        "YYYY-MM-DDTHH:MM:SS",
    )


@pytest.mark.parametrize(("document", "pointer", "detail"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused_where_it_is(document: Any, pointer: str, detail: str) -> None:
    [(where, what)] = refusal(document)

    assert where == pointer
    assert detail in what


@pytest.mark.rule
def test_all_problems_are_listed_at_once() -> None:
    bad = happening("", of="hated", created_on="today") | {"more": 1}

    found = refusal({"events": [happening(), bad, "x"], "synchronous": "no"})

    assert {pointer for pointer, _ in found} == {
        "/synchronous",
        "/events/1/more",
        "/events/1/start_object/id",
        "/events/1/relationship/type",
        "/events/1/relationship/created_on",
        "/events/2",
    }


def test_very_many_problems_are_counted() -> None:
    found = refusal({"events": ["x"] * 200})

    assert len(found) == 101
    assert "101 further problems" in found[-1][1]


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"events": [',
    "not UTF-8": b'{"events": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a lone surrogate": b'{"events": "\\ud800"}',
    "NaN": b'{"events": NaN}',
    "a repeated key": encoded(batch()).replace(b'"relationship"', b'"relationship": {}, "relationship"'),
    "very deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    assert [pointer for pointer, _ in refusal(body)] == ["/"]


def test_no_depth_is_too_much_for_what_looks_for_repeated_keys() -> None:
    """Checks the search for repeated keys, which uses another decoder with another limit."""

    def nested(depth: int) -> bytes:
        return rb'{"events": [], "\u0022": ' + b"[" * depth + b"]" * depth + b"}"

    def is_readable(depth: int) -> bool:
        try:
            msgspec.json.decode(nested(depth))
        except RecursionError:
            return False
        return True

    deepest = bisect.bisect(range(100_000), False, key=lambda depth: not is_readable(depth))

    for depth in range(deepest - 20, deepest + 20):
        assert refusal(nested(depth))


def test_a_detail_never_repeats_a_value() -> None:
    document = batch(happening("s3cret" * 9, of="s3cret", created_on="s3cret"))

    assert all("s3cret" not in what for _, what in refusal(document))


@pytest.mark.rule
def test_stamping_dates_a_relationship_but_no_object() -> None:
    accepted = datetime(2026, 7, 20, 14, 0, 0, 999_999, timezone(timedelta(hours=2)))
    events = read(batch(happening(), happening(created_on="2001-01-01T00:00:00"))).events

    stamped = json.loads(msgspec.json.encode(parser.stamped(events, accepted)))

    assert stamped == [
        happening(created_on="2026-07-20T12:00:00"),
        happening(created_on="2001-01-01T00:00:00"),
    ]


@pytest.mark.parametrize(
    ("document", "expected"),
    [(batch(), True), ({"events": 1}, True), ({"data": {}, "events": []}, False), ({}, False), ([], False)],
)
def test_a_batch_is_told_by_its_events(document: Any, expected: bool) -> None:
    assert parser.is_batch(document) is expected


texts = st.text(max_size=42) | st.sampled_from(["user", "liked", "2026-01-01T00:00:00"])
values = texts | st.booleans() | st.none() | st.integers()
objects = st.fixed_dictionaries(
    {"id": texts, "type": st.sampled_from(["user", "tag", "planet"])},
    optional={"created_on": values, "modified_on": values, "other": values},
)
relationships = st.fixed_dictionaries(
    {"type": st.sampled_from(["liked", "hated"])}, optional={"created_on": values, "single": values}
)
events = st.fixed_dictionaries(
    {"start_object": objects | values, "relationship": relationships, "end_object": objects}
)


@given(st.fixed_dictionaries({"events": st.lists(events, max_size=11)}, optional={"synchronous": values}))
def test_whatever_is_accepted_pipeless_takes(document: Any) -> None:
    body = json.dumps(document).encode()
    try:
        accepted = parser.read(body, PLAIN)
    except Refused:
        return
    call = msgspec.json.encode({"events": parser.stamped(accepted.events, NOON)})
    headers = {"authorization": "pl_upstream", "content-type": "application/json"}

    answer = Pipeless({APP_ID: "pl_upstream"}).handle("POST", "/v1/apps/123/events/batch", headers, call)

    assert answer.status == 202
