"""Tests that the fake upstream takes all that ingest accepts, as dispatch sends it: two readings of one
contract.

Documents are made from the very types that ingest decodes into, of values that are at the limits or a little
past them. So a new field is tried without a change here. Refused documents are of no interest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import inspect

from devstack.fake_upstream import Klaviyo
from sluice import contract
from sluice.contract import BULK_CREATE_JOBS_PATH, UPSTREAM_REVISION, Surface
from sluice.errors import Refused
from sluice.klaviyo import packing, parser
from sluice.klaviyo.parser import ParsedRequest
from sluice.klaviyo.schemas import BulkDocument, ClientBulkDocument, SingleDocument
from tests.support.factories import NEWEST, NOON, SITE_ID, at, encoded, flat, nested, replaced
from tests.support.parsing import refusal, stored
from tools.openapi.document import description

UPSTREAM_KEY = "pk_upstream"
HEADERS = {
    "authorization": f"Klaviyo-API-Key {UPSTREAM_KEY}",
    "revision": UPSTREAM_REVISION,
    "content-type": "application/vnd.api+json",
}
DOCUMENTS: dict[Surface, Any] = {
    Surface.BULK: BulkDocument[Any],
    Surface.CLIENT_BULK: ClientBulkDocument[Any],
    Surface.EVENT: SingleDocument[Any],
    Surface.CLIENT_EVENT: SingleDocument[Any],
}
REVISIONS = ["2024-10-15", "2025-04-15", NEWEST]
YEAR = contract.LATEST_TIME_AHEAD


@dataclass(frozen=True)
class Values:
    """Draws values of a field: one that is taken, some that mostly are, and all at its limits or a little
    past.
    """

    sure: Any
    good: st.SearchStrategy[Any]
    odd: list[Any]

    def any(self) -> st.SearchStrategy[Any]:
        """Draws something odd only seldom: few documents with much of it would be accepted."""
        odd = st.sampled_from(self.odd)
        return st.integers(0, 9).flatmap(lambda chance: odd if chance == 9 else self.good)


TEXT = Values(
    "a", st.text(max_size=4), ["", " ", "\x00", "\x7f", "0", "null", "é" * 51_200, "é" * 51_200 + "!"]
)
NUMBERS = Values(
    1,
    st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False),
    [0, contract.MIN_INTEGER, contract.MIN_INTEGER - 1, contract.MAX_INTEGER, 2**63, 2**64, 1e308, -0.0],
)
SCALARS = TEXT.any() | NUMBERS.any() | st.none() | st.booleans()
FREE = Values(
    {"p": 1},
    st.dictionaries(TEXT.any(), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2)), max_size=2),
    [
        {},
        *(nested(levels) for levels in (10, 11)),
        *({"p": text} for text in TEXT.odd),
        *({"p": number} for number in NUMBERS.odd),
        *({"p": [0] * length} for length in (4_000, 4_001)),
        *({str(n): n for n in range(count)} for count in (300, 301, 400, 401)),
    ],
)
TIMES = Values(
    "2026-01-31T12:00:00Z",
    st.datetimes(datetime(2000, 1, 1), (NOON + YEAR).replace(tzinfo=None)).map(datetime.isoformat),  # noqa: DTZ001
    [
        "1990-01-01T00:00:00Z",
        "1989-12-31T23:59:59Z",
        "1999-12-31T23:59:59.999999",
        "2000-01-01T00:00:00+00:00",
        "2026-01-31T12:00:00.123+23:59",
        "2026-01-31t12:00:00z",
        "2026-01-31 12:00:00-00:00",
        "2016-12-31T23:59:60Z",
        "2026-01-31T24:00:00Z",
        (NOON + YEAR).isoformat(),
        (NOON + YEAR + timedelta(microseconds=1)).isoformat(),
    ],
)
WORD = st.text(min_size=1, max_size=3)
# Fields whose text has a form; others take any.
FORMS: dict[str, Values] = {
    "email": Values(
        "ann@example.com",
        st.sampled_from(["ann@example.com", "é@ü.example"]) | st.builds("{}@{}.{}".format, WORD, WORD, WORD),
        [
            *(f"{'x' * length}@abc.de" for length in (92, 93)),
            *("a@b", "a@b.c", "a@b.co.", "a b@c.de", "'@a.bc", "a@b.co\n"),
        ],
    ),
    "phone_number": Values(
        "+15005550006",
        st.just("+15005550006"),
        [
            *("+123456789012345", "+1234567890123456", "5", "+05005550006"),
            *("+1500555\u0660", "+15\n"),
        ],
    ),
    "value_currency": Values("USD", st.just("USD"), ["usd", "EUROS", "ÜÖÄ", "USD\n"]),
    "unique_id": Values(
        "<u>",
        st.text("abc é", min_size=1, max_size=3).map(lambda text: f"<{text}>"),
        ["x" * 255, "é" * 255, "x" * 256, "", "a ", "\u2003a", "a\x00b", "a\x7f"],
    ),
    "name": Values("m", WORD, ["n" * 127, "é" * 127, "n" * 128, ""]),
    "properties": FREE,
    "append": FREE,
    "unappend": FREE,
}


def values_of(kind: inspect.Type, field: str = "") -> Values:
    """Returns the values that a field with no other fields in it may hold."""
    match kind:
        case _ if field in FORMS:
            return FORMS[field]
        case inspect.NoneType():
            return Values(None, st.none(), [None])
        case inspect.LiteralType(values=values):
            return Values(values[0], st.sampled_from(values), [*values])
        case inspect.DateTimeType():
            return TIMES
        case inspect.BoolType():
            return Values(True, st.booleans(), [True, False])
        case inspect.StrType():
            return TEXT
        case _:
            assert isinstance(kind, inspect.IntType | inspect.FloatType)
            return NUMBERS


def of(kind: inspect.Type, field: str = "") -> st.SearchStrategy[Any]:
    """Draws values that fit a type, or nearly."""
    match kind:
        case inspect.UnionType(types):
            return st.one_of([of(each, field) for each in types])
        case inspect.StructType(fields=fields):
            values = {each.encode_name: of(each.type, each.encode_name) for each in fields}
            required = {each.encode_name: values.pop(each.encode_name) for each in fields if each.required}
            return st.fixed_dictionaries(required, optional=values)
        case inspect.ListType(item_type=item):
            return st.lists(of(item), min_size=1, max_size=2)
        case _:
            return values_of(kind, field).any()


def but_one_meta(fields: tuple[inspect.Field, ...]) -> list[tuple[str, inspect.Type]]:
    """Returns the names and types of fields; of a profile's attributes without the `meta` that stands
    beside them.
    """
    types = {each.encode_name: each.type for each in fields}
    return [(name, each) for name, each in types.items() if name != "meta" or "email" not in types]


def surely(kind: inspect.Type, field: str = "") -> Any:
    """Returns a value that is taken, with every field in it."""
    match kind:
        case inspect.UnionType(types):
            *_, last = (each for each in types if not isinstance(each, inspect.NoneType))
            return surely(last, field)
        case inspect.StructType(fields=fields):
            return {name: surely(each, name) for name, each in but_one_meta(fields)}
        case inspect.ListType(item_type=item):
            return [surely(item)]
        case _:
            return values_of(kind, field).sure


def oddities(kind: inspect.Type, field: str = "", where: str = "") -> Iterator[tuple[str, Any]]:
    """Yields everything odd that may stand in a value of this type, and where."""
    match kind:
        case inspect.UnionType(types):
            for each in types:
                yield from oddities(each, field, where)
        case inspect.StructType(fields=fields):
            for name, each in but_one_meta(fields):
                yield from oddities(each, name, f"{where}/{name}")
        case inspect.ListType(item_type=item):
            yield where, []
            yield from oddities(item, "", f"{where}/0")
        case _:
            yield from ((where, value) for value in values_of(kind, field).odd)


FLAT = st.builds(
    lambda known, rest, properties, time: flat(
        {**{name: value for name, value in rest.items() if name != "data"}, **known},
        properties=properties,
        time=time,
    ),
    st.fixed_dictionaries({}, optional={"$email": FORMS["email"].any(), "$id": TEXT.any()}),
    FREE.any(),
    FREE.any(),
    TIMES.any(),
)
REQUESTS = st.sampled_from(list(DOCUMENTS)).flatmap(
    lambda surface: st.tuples(st.just(surface), of(inspect.type_info(DOCUMENTS[surface])))
) | st.tuples(st.just(Surface.EVENT), FLAT)


def accepted(surface: Surface, document: Any, revision: str) -> ParsedRequest | None:
    body = encoded(document)
    try:
        if surface is Surface.BULK:
            return parser.read_leniently(body, revision, NOON)
        return parser.read(surface, body, revision, NOON)
    except Refused:
        return None


def are_taken(requests: list[tuple[Surface, Any, str]]) -> bool:
    """Tells whether anything of these is accepted; the upstream must then take it."""
    waiting = []
    for number, (surface, document, revision) in enumerate(requests):
        if (read := accepted(surface, document, revision)) is not None:
            waiting.append((number, stored(read, surface)))
    packed = packing.pack(waiting)
    for job in packed.jobs:
        # To one that knows nothing yet: an event of another job again is a duplicate, which is no refusal.
        upstream = Klaviyo({SITE_ID: UPSTREAM_KEY}, clock=NOON.timestamp)
        answer = upstream.handle("POST", BULK_CREATE_JOBS_PATH, HEADERS, job.body())
        assert (answer.status, answer.body) == (202, b"")
    assert packed.oversized == []
    return bool(waiting)


@pytest.mark.parametrize("surface", DOCUMENTS)
def test_nothing_odd_is_stored_that_the_upstream_refuses(surface: Surface) -> None:
    kind = inspect.type_info(DOCUMENTS[surface])
    whole = surely(kind)
    assert are_taken([(surface, whole, NEWEST)])

    for where, value in oddities(kind):
        document = replaced(whole, where, value)
        are_taken([(surface, document, revision) for revision in REVISIONS])
        if where.endswith(tuple(f"/{name}" for name in contract.IDENTIFIERS)):
            are_taken([(surface, alone(document, where), NEWEST)])


@pytest.mark.parametrize("surface", DOCUMENTS)
def test_nothing_odd_is_accepted_that_is_not_described(surface: Surface) -> None:
    kind = inspect.type_info(DOCUMENTS[surface])
    name = DOCUMENTS[surface].__origin__.__name__
    components = description()["components"]
    described = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})
    whole = surely(kind)

    for where, value in oddities(kind):
        document = replaced(whole, where, value)
        if refusal(surface, document) == []:
            assert list(described.iter_errors(document)) == []


def alone(document: Any, where: str) -> Any:
    """Returns a document whose profile has no other identifier than the one there."""
    profile = at(document, where.rpartition("/data")[0] + "/data")
    for holder in (profile, profile["attributes"]):
        for name in set(contract.IDENTIFIERS) & holder.keys():
            if not where.endswith(f"/{name}"):
                del holder[name]
    return document


@given(st.lists(st.tuples(REQUESTS, st.sampled_from(REVISIONS)), min_size=1, max_size=3))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_nothing_is_stored_that_the_upstream_refuses(
    requests: list[tuple[tuple[Surface, Any], str]],
) -> None:
    are_taken([(surface, document, revision) for (surface, document), revision in requests])
