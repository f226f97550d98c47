"""Whatever the front accepts, the stand-in takes as dispatch sends it: two readings of the same rules.

Documents are made up from the very types that ingest decodes into, of values that are at the limits or a
little past them, so that a new field is tried without a word here. What is refused is of no interest.
"""

from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from local.standin import Klaviyo
from sluice import contract, message
from sluice.contract import BULK_CREATE_JOBS_PATH, UPSTREAM_REVISION, Surface
from sluice.delivering import packing
from sluice.errors import Refused
from sluice.message import Message
from sluice.reading import intake
from sluice.reading.documents import BulkDocument, ClientBulkDocument, SingleDocument
from sluice.reading.intake import Intake
from tests.bodies import NEWEST, NOON, SITE_ID, encoded, flat, nested

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


def mostly(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Seldom something odd: few documents with much of it would be accepted."""
    return st.integers(0, 9).flatmap(lambda chance: odd if chance == 9 else good)


TEXT = mostly(st.text(max_size=4), st.sampled_from(["", " ", "\x00", "\x7f", "0", "null"]))
NUMBERS = mostly(
    st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([contract.MIN_INTEGER, contract.MAX_INTEGER, contract.MAX_INTEGER + 1, 1e308, -0.0]),
)
SCALARS = TEXT | NUMBERS | st.none() | st.booleans()
FREE = mostly(
    st.dictionaries(TEXT, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2)), max_size=2),
    st.sampled_from(
        [
            *(nested(levels) for levels in (contract.MAX_NESTING, contract.MAX_NESTING + 1)),
            *({"p": "é" * (contract.MAX_STRING_BYTES // 2) + end} for end in ("", "!")),
            *({"p": [0] * (contract.MAX_ARRAY_LENGTH + more)} for more in (0, 1)),
            *({str(n): n for n in range(count)} for count in (300, 301, 400, 401)),
        ]
    ),
)
TIMES = mostly(
    st.datetimes(datetime(2000, 1, 1), (NOON + YEAR).replace(tzinfo=None)).map(datetime.isoformat),  # noqa: DTZ001
    st.sampled_from(
        [
            "1990-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999999",
            "2000-01-01T00:00:00+00:00",
            "2026-01-31T12:00:00.123+23:59",
            "2026-01-31t12:00:00z",
            "2026-01-31 12:00:00-00:00",
            "2016-12-31T23:59:60Z",
            "2026-01-31T24:00:00Z",
            (NOON + YEAR).isoformat(),
            (NOON + YEAR + timedelta(microseconds=1)).isoformat(),
        ]
    ),
)
WORD = st.text(min_size=1, max_size=3)
# Fields whose text has a form; others take any.
FORMS: dict[str, st.SearchStrategy[Any]] = {
    "email": mostly(
        st.sampled_from(
            ["ann@example.com", "é@ü.example", *(f"{'x' * length}@abc.de" for length in (92, 93))]
        ),
        st.sampled_from(["a@b", "a@b.c", "a@b.co.", "a b@c.de", "'@a.bc"])
        | st.builds("{}@{}.{}".format, WORD, WORD, WORD),
    ),
    "phone_number": st.sampled_from(
        [
            "+15005550006",
            "+123456789012345",
            "5",
            "+05005550006",
            "+1234567890123456",
            "+1500555\u0660",
            "+15\n",
        ]
    ),
    "value_currency": mostly(st.just("USD"), st.sampled_from(["usd", "EUROS", "ÜÖÄ", "USD\n"])),
    "unique_id": mostly(
        st.text("abc é", min_size=1, max_size=3).map(lambda text: f"<{text}>"),
        st.sampled_from(["x" * 255, "é" * 255, "x" * 256, "a "]) | WORD,
    ),
    "name": mostly(WORD, st.sampled_from(["n" * 127, "é" * 127, "n" * 128])),
    "properties": FREE,
    "append": FREE,
    "unappend": FREE,
}


def structure(fields: tuple[inspect.Field, ...]) -> st.SearchStrategy[Any]:
    values = {each.encode_name: of(each.type, each.encode_name) for each in fields}
    required = {each.encode_name: values.pop(each.encode_name) for each in fields if each.required}
    return st.fixed_dictionaries(required, optional=values)


def of(kind: inspect.Type, field: str = "") -> st.SearchStrategy[Any]:
    """Values that fit a type, or nearly."""
    match kind:
        case inspect.UnionType(types):
            return st.one_of([of(each, field) for each in types])
        case inspect.NoneType():
            return st.none()
        case _ if field in FORMS:
            return FORMS[field]
        case inspect.StructType(fields=fields):
            return structure(fields)
        case inspect.ListType(item_type=item):
            return st.lists(of(item), min_size=1, max_size=2)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.DateTimeType():
            return TIMES
        case inspect.BoolType():
            return st.booleans()
        case inspect.StrType():
            return TEXT
        case _:
            assert isinstance(kind, inspect.IntType | inspect.FloatType)
            return NUMBERS


FLAT = st.builds(
    lambda known, rest, properties, time: flat(
        {**{name: value for name, value in rest.items() if name != "data"}, **known},
        properties=properties,
        time=time,
    ),
    st.fixed_dictionaries({}, optional={"$email": FORMS["email"], "$id": TEXT, "$city": TEXT}),
    FREE,
    FREE,
    TIMES,
)
REQUESTS = st.sampled_from(list(DOCUMENTS)).flatmap(
    lambda surface: st.tuples(st.just(surface), of(inspect.type_info(DOCUMENTS[surface])))
) | st.tuples(st.just(Surface.EVENT), FLAT)


def accepted(surface: Surface, document: Any, revision: str) -> Intake | None:
    body = encoded(document)
    try:
        if surface is Surface.BULK:
            return intake.read_leniently(body, revision, NOON)
        return intake.read(surface, body, revision, NOON)
    except Refused:
        return None


@given(st.lists(st.tuples(REQUESTS, st.sampled_from(REVISIONS)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_is_stored_that_the_upstream_refuses(
    requests: list[tuple[tuple[Surface, Any], str]],
) -> None:
    stored = []
    for number, ((surface, document), revision) in enumerate(requests):
        read = accepted(surface, document, revision)
        if read is not None:
            sent = message.encode(Message(str(number), SITE_ID, surface, NOON, read.entries, flat=read.flat))
            stored.append((number, message.decode(sent.text, lambda _, sent=sent: sent.claim_bytes)))
    assume(stored)

    packed = packing.pack(stored)

    for job in packed.jobs:
        # To one that knows nothing yet: an event of another job again is a duplicate, which is no refusal.
        upstream = Klaviyo({SITE_ID: UPSTREAM_KEY}, clock=NOON.timestamp)
        answer = upstream.handle("POST", BULK_CREATE_JOBS_PATH, HEADERS, job.body())
        assert (answer.status, answer.body) == (202, b"")
    assert packed.oversized == []
