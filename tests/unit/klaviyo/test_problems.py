"""Tests refusals: everything wrong at once, whatever else is wrong, in a bounded answer to a body of any
size.
"""

import msgspec
import pytest

from sluice.contract import Surface
from sluice.jsonapi import MAX_PROBLEMS_COUNTED, MAX_PROBLEMS_LISTED
from tests.support.factories import bulk, client_bulk, encoded, entry, event, flat, profile, single
from tests.support.parsing import pointers, refusal

FIRST = "/data/attributes/events-bulk-create/data/0/attributes"


@pytest.mark.rule
def test_every_problem_is_named_at_once() -> None:
    document = bulk(
        entry(event(value="x"), event(), event(time="1980-01-01T00:00:00Z"), of=profile(email="ann")),
        entry(),
        entry(event(properties={"p": 2**70}), of=profile(first_name="Ann"), extra=1),
    )
    entries = "/data/attributes/events-bulk-create/data"

    assert sorted(str(where) for where in pointers(Surface.BULK, document)) == [
        f"{entries}/0/attributes/events/data/0/attributes/value",
        f"{entries}/0/attributes/events/data/2/attributes/time",
        f"{entries}/0/attributes/profile/data/attributes/email",
        f"{entries}/2/attributes/events/data/0/attributes/properties/p",
        f"{entries}/2/attributes/extra",
        f"{entries}/2/attributes/profile/data/attributes",
    ]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The body is empty."),
        (b" \n", "The body is empty."),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"data": "\xff"}', "not UTF-8"),
        (b'{"data": "\xed\xa0\x80"}', "not UTF-8"),
        (b"{'data': 1}", "cannot be read"),
        (b'{"data": 1', "cannot be read"),
        (b'{"data": 1} {}', "cannot be read"),
        (b'{"data": NaN}', "cannot be read"),
        (b'{"data": Infinity}', "cannot be read"),
        (b'{"data": -Infinity}', "cannot be read"),
        (b'{"data": 1e400}', "too large to be represented"),
        (b'{"data": ' + b"9" * 5_000 + b"}", "too large to be represented"),
        (b'{"data": "a\x00b"}', "cannot be read"),
        (b"[" * 11_500 + b"]" * 11_500, "nested too deeply"),
        ('{"data": 1}'.encode("utf-16"), "UTF-16"),
        ('{"data": 1}'.encode("utf-16-le"), "UTF-16"),
        ('{"data": 1}'.encode("utf-32-le"), "UTF-16 or UTF-32"),
        (b"token=abc&data=%7B%22data%22%3A+1%7D", "is a form"),
        (b"data[attributes][metric]=Placed+Order", "is a form"),
        (b'{"data": "ab\xe9"}', "byte 0xe9 at 12"),
        (encoded(bulk()).replace(b'"Desk lamp"', b'"x", "product": "y"'), "'product' stands more than once"),
    ],
)
def test_what_cannot_be_read_is_a_parse_error(body: bytes, detail: str) -> None:
    [problem] = refusal(Surface.BULK, body)

    assert (problem.code, problem.pointer) == ("parse_error", "/")
    assert detail in problem.detail


@pytest.mark.parametrize("body", [b"null", b"[]", b'"data"', b"5"])
def test_json_that_is_no_object_is_invalid(body: bytes) -> None:
    [problem] = refusal(Surface.BULK, body)

    assert (problem.code, problem.detail) == ("invalid", "The body must be an object.")


@pytest.mark.rule
@pytest.mark.parametrize(
    "document",
    [
        bulk(*[entry(event(value="x"))] * 12_000),
        {"data": {f"x{number}": 1 for number in range(12_000)}},
        bulk(entry(event(properties={"p": [2**64] * 12_000}))),
    ],
)
def test_a_body_of_bad_things_is_answered_with_a_bounded_list(document: dict[str, object]) -> None:
    found = refusal(Surface.BULK, document)

    assert len(found) == MAX_PROBLEMS_LISTED + 1
    assert (
        found[-1].detail
        == f"More than {MAX_PROBLEMS_COUNTED} further problems were found and are not listed."
    )


HALVES = [
    "\\ud83c",
    "gift \\ud83c",
    "\\udf89",
    "\\udf89\\ud83c",
    "\\ud83c\\ud83c\\udf89",
    "\\\\\\ud83c",
    "\\uD83C!",
]


@pytest.mark.rule
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    ("surface", "document", "where"),
    [
        (
            Surface.BULK,
            bulk(entry(event(), event(properties={"note": "HALF"}))),
            f"{FIRST}/events/data/1/attributes/properties/note",
        ),
        (
            Surface.BULK,
            bulk(entry(event(properties={"a": [{"b": "HALF"}]}))),
            f"{FIRST}/events/data/0/attributes/properties/a/0/b",
        ),
        (Surface.BULK, bulk(entry(event(unique_id="HALF"))), f"{FIRST}/events/data/0/attributes/unique_id"),
        (
            Surface.BULK,
            bulk(entry(of=profile(external_id="HALF"))),
            f"{FIRST}/profile/data/attributes/external_id",
        ),
        (
            Surface.CLIENT_BULK,
            client_bulk(event(properties={"note": "HALF"})),
            "/data/attributes/events/data/0/attributes/properties/note",
        ),
        (Surface.EVENT, single(properties={"note": "HALF"}), "/data/attributes/properties/note"),
        (Surface.EVENT, flat({"$email": "a@shop.example", "plan": "HALF"}), "/data/attributes/profile/plan"),
        (
            Surface.CLIENT_EVENT,
            single(properties={"note": "HALF", **{f"p{n}": n for n in range(50)}}),
            "/data/attributes/properties/note",
        ),
    ],
)
def test_half_of_a_surrogate_pair_is_named_with_its_place(
    surface: Surface, document: dict[str, object], where: str, half: str
) -> None:
    body = encoded(document).replace(b"HALF", half.encode())

    [problem, *more] = refusal(surface, body)

    assert not more
    assert (problem.code, problem.pointer) == ("parse_error", where)
    assert "half of a surrogate pair (U+D" in problem.detail


@pytest.mark.parametrize(
    "text", ["\\ud83c\\udf89", "\\\\ud83c", "\\uD83C\\uDF89 \\ud83c\\udf89", "\\ufffd", "🎉"]
)
def test_whole_characters_are_taken_however_they_are_written(text: str) -> None:
    body = encoded(single(properties={"note": "TEXT"})).replace(b"TEXT", text.encode())

    assert refusal(Surface.EVENT, body) == []


def test_only_a_wrong_identifier_is_wrong_with_a_profile_that_has_one() -> None:
    found = refusal(Surface.BULK, bulk(entry(of=profile(email=5))))

    assert [problem.detail for problem in found] == ["'email' must be a string."]


def test_work_on_types_does_not_grow_with_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[type[msgspec.Struct]] = []
    monkeypatch.setattr(msgspec.structs, "fields", looks.append)

    found = refusal(Surface.BULK, bulk(*[entry()] * 1_001))

    assert "holds 1001" in found[0].detail
    assert looks == []
