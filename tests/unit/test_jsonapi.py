"""Tests error envelopes and pointers."""

import msgspec
import pytest

from sluice import errors, jsonapi
from sluice.jsonapi import MAX_POINTER, Problem


@pytest.mark.rule
def test_an_envelope_has_the_shape_of_the_contract() -> None:
    problems = [
        Problem("invalid", "Too small.", "/data/attributes/value"),
        Problem("invalid", "Missing.", parameter="revision"),
        Problem("not_found", "Nothing here."),
    ]

    document = msgspec.json.decode(jsonapi.envelope(400, problems))

    ids = [error.pop("id") for error in document["errors"]]
    assert len(set(ids)) == 3
    assert document == {
        "errors": [
            {
                "status": 400,
                "code": code,
                "title": title,
                "detail": detail,
                "source": source,
                "links": {},
                "meta": {},
            }
            for code, title, detail, source in [
                ("invalid", "Invalid input.", "Too small.", {"pointer": "/data/attributes/value"}),
                ("invalid", "Invalid input.", "Missing.", {"parameter": "revision"}),
                ("not_found", "Not found.", "Nothing here.", {}),
            ]
        ]
    }


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ((), ""),
        (("data", 0), "/data/0"),
        (("a/b", "~c", "~1"), "/a~1b/~0c/~01"),
        (("",), "/"),
        (("é", '"'), '/é/"'),
    ],
)
def test_a_pointer_is_written_as_rfc_6901_says(parts: tuple[str | int, ...], pointer: str) -> None:
    assert jsonapi.pointer(*parts) == pointer


def test_a_pointer_leads_as_far_as_its_length_allows() -> None:
    longest = "x" * (MAX_POINTER - len("/data/"))

    assert jsonapi.pointer("data", longest) == f"/data/{longest}"
    assert jsonapi.pointer("data", longest + "x", 0) == "/data"


@pytest.mark.rule
@pytest.mark.parametrize(
    ("count", "more"),
    [
        (0, None),
        (100, None),
        (101, "1 further problems were found and are not listed."),
        (107, "7 further problems were found and are not listed."),
        (500, "400 further problems"),
        (501, "More than 400 further problems"),
        (10**9, "More than 400 further problems"),
    ],
)
def test_the_list_is_capped_and_says_so(count: int, more: str | None) -> None:
    listed = jsonapi.listed(Problem("invalid", f"{number}") for number in range(count))

    assert [problem.detail for problem in listed[:100]] == [f"{number}" for number in range(min(count, 100))]
    rest = [problem.detail for problem in listed[100:]]
    assert rest == [] if more is None else rest[0].startswith(more)
    assert len(rest) <= 1


def test_a_refusals_own_text_tells_nothing_of_the_body() -> None:
    refused = errors.Refused(400, [Problem("invalid", "secret", "/secret")])

    assert str(refused) == "400: 1 problem(s)"
