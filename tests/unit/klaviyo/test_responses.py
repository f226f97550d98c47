"""Tests the classification of answers: the contract's table row by row, whatever shape an answer has."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.fake_upstream import answers as standin
from devstack.fake_upstream.rules import ENTRIES
from sluice.delivery.responses import (
    Accepted,
    AccountRejected,
    Fault,
    JobRejected,
    RateLimited,
    Response,
    Transient,
    retry_after,
)
from sluice.klaviyo.packing import JobEntry, Origin, PackedEvent, job_of
from sluice.klaviyo.responses import Classification, ItemsRejected, classify, rate_left

JSON_API = {"content-type": "application/vnd.api+json"}
HTML = {"content-type": "text/html; charset=UTF-8"}
PAGE = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"
UNEXPLAINED = JobRejected(Fault("", "HTTP 400 without an explanation."))


def entry(*unique_ids: str) -> JobEntry:
    events = [PackedEvent("ann", each, b"{}", b"{}", False, [Origin(0, 0, 0)]) for each in unique_ids]
    return JobEntry("ann", b"{}", False, events)


JOB = job_of(0, [entry("1", "2", "3"), entry("4"), entry(*map(str, range(12)))])


def error(
    pointer: str | None = None, *, code: object = "invalid", detail: str = "Invalid input.", **source: object
) -> dict[str, Any]:
    if pointer is not None:
        source["pointer"] = pointer
    return {"id": "1", "status": 400, "code": code, "title": "Bad", "detail": detail, "source": source}


def refused(*errors: object, status: int = 400, headers: Mapping[str, str] = JSON_API) -> Response:
    return Response(status, headers, msgspec.json.encode({"errors": errors}))


def judged(*errors: object, **kwargs: Any) -> Classification:
    return classify(refused(*errors, **kwargs), JOB)


def at(entry: object, event: object = None, tail: str = "", spelling: str = "/attributes/events") -> str:
    place = f"{ENTRIES}/{entry}"
    return f"{place}{tail}" if event is None else f"{place}{spelling}/data/{event}{tail}"


def refusal(verdict: Classification) -> ItemsRejected:
    assert isinstance(verdict, ItemsRejected)
    return verdict


def items(verdict: Classification) -> tuple[set[tuple[int, int | None]], set[tuple[int, int]]]:
    named = refusal(verdict)
    return set(named.faults), set(named.duplicates)


class TestTaken:
    @pytest.mark.parametrize("status", [200, 201, 202, 204])
    @pytest.mark.parametrize("body", [b"", b'{"data": null}', b"not JSON"])
    def test_any_success_is(self, status: int, body: bytes) -> None:
        assert classify(Response(status, {}, body), JOB) == Accepted()

    @pytest.mark.parametrize("status", [200, 202])
    def test_but_a_page_comes_from_something_else(self, status: int) -> None:
        assert isinstance(classify(Response(status, HTML, PAGE), JOB), Transient)

    def test_and_what_was_ignored_is_said(self) -> None:
        answer = Response(202, {"x-klaviyo-partial-failure": "phone_number"})

        assert classify(answer, JOB) == Accepted("phone_number")


class TestAttributed:
    @pytest.mark.parametrize("spelling", ["/attributes/events", "/events"])
    def test_an_event_in_both_spellings_of_the_pointer(self, spelling: str) -> None:
        tail = "/attributes/metric/data/attributes/name"

        verdict = judged(error(at(0, 2, tail, spelling), detail="Too long."))

        assert verdict == ItemsRejected({(0, 2): Fault("invalid", "Too long.", tail)})

    @pytest.mark.parametrize(
        "tail",
        [
            "",
            "/attributes/profile/data/attributes/email",
            "/attributes/profile",
            "/attributes/events",
            "/attributes/events/data",
            "/attributes/events/data/",
            "/attributes/backfill",
            "/type",
        ],
    )
    def test_an_entry(self, tail: str) -> None:
        verdict = judged(error(at(1, tail=tail)))

        assert verdict == ItemsRejected({(1, None): Fault("invalid", "Invalid input.", tail)})

    def test_every_item_that_is_named(self) -> None:
        verdict = judged(error(at(0, 0)), error(at(0, 2, "/attributes/time")), error(at(1)))

        assert items(verdict) == ({(0, 0), (0, 2), (1, None)}, set())

    def test_the_only_one_that_is_named(self) -> None:
        assert items(judged(error(at(2, 11)))) == ({(2, 11)}, set())

    def test_the_first_error_of_an_item_is_kept(self) -> None:
        verdict = judged(error(at(0, 1, "/a"), detail="First."), error(at(0, 1, "/b"), detail="Second."))

        assert refusal(verdict).faults == {(0, 1): Fault("invalid", "First.", "/a")}

    def test_beside_errors_that_name_nothing(self) -> None:
        verdict = judged(error("/data"), error(), error(at(0, 1)), error(at(99)), error(parameter="page"))

        assert items(verdict) == ({(0, 1)}, set())

    @pytest.mark.parametrize("status", [400, 409, 413, 422])
    def test_whatever_the_status_is_called(self, status: int) -> None:
        assert items(judged(error(at(1)), status=status)) == ({(1, None)}, set())

    def test_with_pieces_of_pointers_that_the_upstream_escapes_or_breaks_into_lines(self) -> None:
        tail = "/attributes/properties/a~1b\n%20c"

        assert refusal(judged(error(at(0, 1, tail)))).faults[0, 1].tail == tail

    def test_what_the_stand_in_answers(self) -> None:
        problems = [
            standin.Problem(at(0, 1, "/attributes/time"), "Not a valid datetime."),
            standin.Problem(at(1, None, "/attributes/profile/data"), "No identifier."),
        ]
        given_answer = standin.invalid(problems)
        assert isinstance(given_answer.body, bytes)

        verdict = classify(Response(given_answer.status, given_answer.headers, given_answer.body), JOB)

        assert refusal(verdict).faults == {
            (0, 1): Fault("invalid", "Not a valid datetime.", "/attributes/time"),
            (1, None): Fault("invalid", "No identifier.", "/attributes/profile/data"),
        }

    @pytest.mark.parametrize("order", [1, -1])
    def test_an_entry_waits_until_its_named_events_are_seen_to(self, order: int) -> None:
        errors = [
            error(at(0)),
            error(at(0, 1)),
            error(at(1)),
            error(at(2, 3, "/attributes/unique_id")),
            error(at(2)),
        ]

        verdict = judged(*errors[::order])

        assert items(verdict) == ({(0, 1), (1, None)}, {(2, 3)})


class TestDuplicates:
    @pytest.mark.parametrize("spelling", ["/attributes/events", "/events"])
    @pytest.mark.parametrize("tail", ["/attributes/unique_id", "/unique_id"])
    def test_are_told_by_the_pointer(self, spelling: str, tail: str) -> None:
        assert items(judged(error(at(0, 1, tail, spelling)))) == (set(), {(0, 1)})

    def test_beside_faults(self) -> None:
        verdict = judged(error(at(0, 1, "/attributes/unique_id")), error(at(0, 0)), error(at(1)))

        assert items(verdict) == ({(0, 0), (1, None)}, {(0, 1)})

    @pytest.mark.rule
    @pytest.mark.parametrize("order", [1, -1])
    def test_count_as_delivered_whatever_else_is_said_of_them(self, order: int) -> None:
        errors = [error(at(0, 1, "/attributes/unique_id")), error(at(0, 1, "/attributes/time"))]

        assert items(judged(*errors[::order])) == (set(), {(0, 1)})

    @pytest.mark.parametrize(
        "tail", ["/attributes/properties/unique_id", "/attributes/unique_id/0", "/attributes/not_unique_id"]
    )
    def test_are_not_other_things_of_that_name(self, tail: str) -> None:
        assert items(judged(error(at(0, 1, tail)))) == ({(0, 1)}, set())

    def test_are_events_never_entries(self) -> None:
        assert items(judged(error(at(1, tail="/attributes/unique_id")))) == ({(1, None)}, set())


class TestUnattributed:
    @pytest.mark.parametrize(
        "pointer",
        [
            "/data",
            "/data/",
            "/",
            "",
            "data",
            "/data/attributes/events-bulk-create/data",
            "/data/attributes/events-bulk-create/data/",
            at(0)[1:],
            f"/errors{at(0)}",
            at(3),  # the job has no such entry
            at(0, 3),  # nor such an event
            at(2, 12),
            at(0, 10_000),
            at(0, 10**30),
            at(10**5),
            at("1" * 5_000),
            at(-1),
            at(0, -1),
            at("00"),
            at(0, "01"),
            at("\u0660"),
            at(0, "x"),
            at(0, " 1"),
            at("0x0"),
        ],
    )
    def test_where_no_pointer_leads_into_the_job(self, pointer: str) -> None:
        verdict = judged(error(pointer, code="oops", detail="Something is wrong."))

        assert verdict == JobRejected(Fault("oops", "Something is wrong."))

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not JSON",
            b"{",
            b"null",
            b"[]",
            b"{}",
            b'"errors"',
            b'{"errors": {}}',
            b'{"errors": null}',
            b'{"errors": []}',
            b'{"errors": ["Bad."]}',
            b'{"errors": [null, 7, [[]]]}',
            b'{"errors": "\xff"}',
            b"\x00" * 100,
            b'{"errors": ' * 50_000,
            b"[" * 200_000,
        ],
    )
    def test_where_nothing_is_explained(self, body: bytes) -> None:
        assert classify(Response(400, JSON_API, body), JOB) == UNEXPLAINED

    @pytest.mark.parametrize("headers", [JSON_API, HTML, {}])
    @pytest.mark.parametrize("body", [b"", PAGE, b"Request Entity Too Large"])
    def test_a_body_too_large_in_any_words(self, headers: Mapping[str, str], body: bytes) -> None:
        assert isinstance(classify(Response(413, headers, body), JOB), JobRejected)

    def test_with_the_first_error_in_short(self) -> None:
        verdict = judged(error("/data", detail="x" * 10_000), error("/data", detail="y"))

        assert verdict == JobRejected(Fault("invalid", "x" * 500))


class TestOddErrors:
    """Tests that an oddity in an error, or in another one, does not keep its pointer from being used."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"status": "400"},
            {"status": None},
            {"code": 42},
            {"code": None},
            {"code": {"a": "b"}},
            {"detail": None},
            {"detail": ["Bad."]},
            {"title": 7, "links": "no", "meta": [], "id": None, "more": {}},
            {"source": {"pointer": at(0, 1), "parameter": "revision"}},
            {"source": {"pointer": at(0, 1), "parameter": 7}},
        ],
    )
    def test_in_the_same_error(self, changes: dict[str, Any]) -> None:
        assert items(judged({**error(at(0, 1)), **changes})) == ({(0, 1)}, set())

    @pytest.mark.parametrize(
        "other",
        [
            {},
            None,
            "Bad.",
            [],
            {"source": None},
            {"source": "/data"},
            {"source": []},
            {"source": {"pointer": None}},
            {"source": {"pointer": ["/data"]}},
            {"source": {"pointer": 5}},
        ],
    )
    def test_in_another(self, other: object) -> None:
        assert items(judged(other, error(at(0, 1)), other)) == ({(0, 1)}, set())

    @pytest.mark.parametrize("code", [42, "42"])
    def test_a_code_may_be_a_number(self, code: object) -> None:
        assert refusal(judged(error(at(0, 1), code=code))).faults[0, 1].code == "42"

    def test_nothing_long_is_kept(self) -> None:
        verdict = judged(error(at(0, 1, "/" + "x" * 10**6), code="c" * 10**6, detail="d" * 10**6))

        assert refusal(verdict).faults == {(0, 1): Fault("c" * 500, "d" * 500, "")}

    def test_a_flood_of_errors_is_read_in_time(self) -> None:
        bombs = ["/" * 50_000, at(0, 1, "/events/data/1" * 5_000), at("0" * 50_000), "/data" * 10_000]
        flood = [error(bomb) for bomb in bombs * 10] + [error(at(2, 5))] * 20_000

        began = time.perf_counter()
        verdict = judged(*flood)

        assert (2, 5) in refusal(verdict).faults
        assert time.perf_counter() - began < 5

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["/data", at(0, 1), at(1), ""]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["errors", "source", "pointer", "parameter", "code"]), inner, max_size=4
            ),
        ),
        st.sampled_from([400, 401, 403, 404, 409, 413, 418, 422]),
    )  # fmt: skip
    def test_no_json_is_too_strange(self, document: object, status: int) -> None:
        for body in (document, {"errors": document}, {"errors": [document]}):
            verdict = classify(Response(status, JSON_API, msgspec.json.encode(body)), JOB)

            if isinstance(verdict, ItemsRejected):
                assert verdict.faults or verdict.duplicates
                assert set(verdict.faults) <= {(0, 1), (1, None)}


class TestAccountFault:
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_by_status(self, status: int) -> None:
        verdict = judged(error("/data/", code="not_authenticated", detail="No."), status=status)

        assert verdict == AccountRejected(status, Fault("not_authenticated", "No."))
        assert verdict.is_certain == (status in {401, 410})

    @pytest.mark.parametrize("status", [401, 404, 410])
    @pytest.mark.parametrize(("headers", "body"), [({}, b""), (HTML, PAGE), ({}, b"gone")])
    def test_whoever_says_so(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        assert isinstance(classify(Response(status, headers, body), JOB), AccountRejected)

    @pytest.mark.parametrize("body", [b"{}", b'{"errors":[]}', b'{"message":"Forbidden"}'])
    def test_a_403_as_json_whoever_says_so(self, body: bytes) -> None:
        assert isinstance(classify(Response(403, JSON_API, body), JOB), AccountRejected)
        assert isinstance(classify(Response(403, {}, body), JOB), AccountRejected)

    @pytest.mark.parametrize("status", [402, 405, 406, 415, 418, 451])
    def test_where_it_cannot_be_about_an_event(self, status: int) -> None:
        assert isinstance(judged(error("/data"), status=status), AccountRejected)

    @pytest.mark.parametrize("source", ["parameter", "header"])
    def test_where_the_request_is_at_fault_and_not_its_body(self, source: str) -> None:
        verdict = judged(error(detail="Unknown revision.", **{source: "revision"}))

        assert verdict == AccountRejected(400, Fault("invalid", "Unknown revision."))

    def test_even_if_an_event_is_named(self) -> None:
        assert isinstance(judged(error(at(0, 1)), status=403), AccountRejected)

    def test_tells_little(self) -> None:
        verdict = judged(error("/data", detail="x" * 10_000), status=401)

        assert verdict == AccountRejected(401, Fault("invalid", "x" * 500))


class TestTransient:
    @pytest.mark.parametrize("status", [400, 402, 403, 405, 409, 422, 500, 502, 503, 504, 520, 524])
    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            (HTML, PAGE),
            ({}, PAGE),
            ({"content-type": "TEXT/HTML"}, b""),
            ({}, b"\xef\xbb\xbf\r\n \t<html>"),
            (JSON_API, b"<html>"),
        ],
    )
    def test_a_page_of_something_in_between(
        self, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        assert classify(Response(status, headers, body), JOB) == Transient(status)

    @pytest.mark.parametrize("body", [b"", b"error code: 1020", b"1020", b'["no"]', b'"{}"', b"{"])
    def test_a_403_that_is_no_json_object(self, body: bytes) -> None:
        assert classify(Response(403, {"content-type": "text/plain"}, body), JOB) == Transient(403)

    @pytest.mark.parametrize(
        "status", [301, 302, 304, 307, 308, 408, 425, 500, 501, 502, 503, 504, 520, 524, 599]
    )
    def test_by_status_even_if_an_event_is_named(self, status: int) -> None:
        assert judged(error(at(0, 1)), status=status) == Transient(status)

    def test_no_answer(self) -> None:
        assert classify(Response(None, failure="ReadTimeout"), JOB) == Transient(None)

    def test_with_the_time_it_asks_for(self) -> None:
        assert classify(Response(503, {"retry-after": "7"}), JOB) == Transient(503, 7.0)


class TestThrottled:
    @pytest.mark.parametrize(("headers", "body"), [(JSON_API, b"{}"), (HTML, PAGE), ({}, b"")])
    def test_in_any_form(self, headers: Mapping[str, str], body: bytes) -> None:
        assert classify(Response(429, {**headers, "retry-after": "3"}, body), JOB) == RateLimited(3.0)

    def test_without_a_time(self) -> None:
        assert classify(Response(429), JOB) == RateLimited(None)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("0", 0), ("7", 7), (" 7 ", 7), ("1.5", 1.5), ("-3", 0), ("99999999", 99999999)],
    )
    def test_in_seconds(self, text: str, seconds: float) -> None:
        assert retry_after(Response(429, {"retry-after": text})) == seconds

    @pytest.mark.parametrize("ahead", [30, 3_600])
    def test_as_a_date(self, ahead: int) -> None:
        text = formatdate(time.time() + ahead, usegmt=True)

        seconds = retry_after(Response(429, {"retry-after": text}))

        assert seconds is not None
        assert ahead - 2 < seconds <= ahead

    def test_as_a_date_without_a_zone_in_utc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            text = formatdate(time.time() + 30)  # "-0000" says: UTC, place unknown
            seconds = retry_after(Response(429, {"retry-after": text}))
            assert seconds is not None
            assert 28 < seconds <= 30
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_as_a_date_gone_by(self) -> None:
        assert retry_after(Response(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0

    @pytest.mark.parametrize(
        "text", ["", " ", "soon", "nan", "inf", "-inf", "1e999", "Wed, 21 Oct 99999 07:28:00 GMT", "1,2"]
    )
    def test_as_nothing_of_use(self, text: str) -> None:
        assert retry_after(Response(429, {"retry-after": text})) is None

    @given(st.text())
    def test_as_anything(self, text: str) -> None:
        seconds = retry_after(Response(429, {"retry-after": text}))

        assert seconds is None or 0 <= seconds < float("inf")


class TestRateLeft:
    @pytest.mark.parametrize(
        ("remaining", "reset", "expected"),
        [
            ("149", "60", (149, 60.0)),
            ("0", "0.5", (0, 0.5)),
            ("-1", "-1", (0, 0.0)),
            ("", "60", None),
            ("12", "", None),
            ("many", "60", None),
            ("1.5", "60", None),
            ("12", "nan", None),
            ("12", "inf", None),
        ],
    )
    def test_is_told_by_two_numbers(
        self, remaining: str, reset: str, expected: tuple[int, float] | None
    ) -> None:
        headers = {"ratelimit-remaining": remaining, "ratelimit-reset": reset}

        assert rate_left(Response(202, headers)) == expected

    def test_is_not_always_told(self) -> None:
        assert rate_left(Response(202)) is None


WORDS = st.text() | st.sampled_from(
    ["duplicate unique_id", "throttled", "too large", "not authenticated", f"see {at(0, 0)}", "<html>"]
)


@pytest.mark.trust("The words of an upstream's answer decide nothing.")
@given(WORDS, WORDS, WORDS)
def test_words_decide_nothing(code: str, detail: str, title: str) -> None:
    cases = [(None, 400), (at(0, 1), 400), (at(0, 1, "/attributes/unique_id"), 400), (None, 401), (None, 413)]

    for pointer, status in cases:
        plain = judged(error(pointer), status=status)
        worded = judged({**error(pointer, code=code, detail=detail), "title": title}, status=status)
        assert type(worded) is type(plain)
        if isinstance(plain, ItemsRejected):
            assert items(worded) == items(plain)


def test_every_status_is_judged() -> None:
    by_verdict: dict[type, list[int]] = {}
    for status in range(200, 600):
        verdict = classify(Response(status, JSON_API, b'{"errors": [{}]}'), JOB)
        by_verdict.setdefault(type(verdict), []).append(status)

    assert by_verdict.pop(Accepted) == list(range(200, 300))
    assert by_verdict.pop(RateLimited) == [429]
    assert by_verdict.pop(Transient) == [*range(300, 400), 408, 425, *range(500, 600)]
    assert by_verdict.pop(JobRejected) == [400, 409, 413, 422]
    assert list(by_verdict) == [AccountRejected]


class TestRateLeftInItsForms:
    @pytest.mark.parametrize(
        ("limit", "remaining", "reset", "left"),
        [
            ("150", "40", "12", (40, 12.0)),
            ("", "40", "12", (40, 12.0)),
            ("150, 10;w=1, 150;w=60", "4", "31", (4, 31.0)),
            ("150,10;w=1,150;w=60", "0", "1", (0, 1.0)),
            ('150, 150;w=60;comment="steady"', "7", "2", (7, 2.0)),
            ("10, 10;w=1, 150;w=60", "3", "1", None),  # of a second, which is over at once
            ("150", "", "12", None),
            ("150", "many", "12", None),
            ("150", "40", "soon", None),
        ],
    )
    def test_is_read_in_both_forms(
        self, limit: str, remaining: str, reset: str, left: tuple[int, float] | None
    ) -> None:
        headers = {"ratelimit-limit": limit, "ratelimit-remaining": remaining, "ratelimit-reset": reset}

        assert rate_left(Response(202, headers)) == left
