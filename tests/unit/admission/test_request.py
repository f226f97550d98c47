"""Tests who is let in, and which bodies can be read at all: status, code and source of every answer."""

import gzip
import zlib
from datetime import datetime, timedelta
from hashlib import sha256

import pytest

from sluice.accounts import Accounts, IngestKey, KlaviyoAccount
from sluice.admission import request
from sluice.contract import SCOPE_EVENTS_WRITE, Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from tests.support.factories import KEY, NOON, SITE_ID
from tests.support.stored_accounts import REFERENCE

SERVER = [Surface.BULK, Surface.EVENT]
CLIENT = [Surface.CLIENT_BULK, Surface.CLIENT_EVENT]
READ_ONLY_KEY = "pk_readonly"


def key(text: str, *scopes: str) -> IngestKey:
    return IngestKey(sha256(text.encode()).hexdigest(), frozenset(scopes))


OTHER = KlaviyoAccount("XyZ789", REFERENCE, keys=(key("pk_other", SCOPE_EVENTS_WRITE),))
OURS = KlaviyoAccount(
    SITE_ID,
    REFERENCE,
    keys=(key(READ_ONLY_KEY, "profiles:read"), key(KEY, SCOPE_EVENTS_WRITE)),
)
ACCOUNTS = Accounts((OTHER, OURS))


def refusal(raised: pytest.ExceptionInfo[Refused]) -> tuple[int, Problem]:
    [problem] = raised.value.problems
    return raised.value.status, problem


@pytest.mark.rule
@pytest.mark.parametrize("surface", SERVER)
@pytest.mark.parametrize(
    "authorization",
    [
        f"Klaviyo-API-Key {KEY}",
        f"Bearer {KEY}",
        f"bearer {KEY}",
        f"KLAVIYO-API-KEY  {KEY}",
        f" Bearer {KEY} ",
    ],
)
def test_a_key_names_its_account(surface: Surface, authorization: str) -> None:
    assert request.admit(surface, {"authorization": authorization}, {}, ACCOUNTS) is OURS


@pytest.mark.trust("A key sends and asks for its own account only, within its scopes.")
@pytest.mark.rule
@pytest.mark.parametrize("surface", SERVER)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "not_authenticated"),
        ({"authorization": ""}, 401, "not_authenticated"),
        ({"authorization": KEY}, 401, "not_authenticated"),
        ({"authorization": f"Basic {KEY}"}, 401, "not_authenticated"),
        ({"authorization": "Klaviyo-API-Key"}, 401, "not_authenticated"),
        ({"authorization": f"Klaviyo-API-Key {KEY} {KEY}"}, 401, "not_authenticated"),
        ({"authorization": "Klaviyo-API-Key pk_unknown"}, 401, "authentication_failed"),
        ({"authorization": f"Klaviyo-API-Key {KEY[:-1]}"}, 401, "authentication_failed"),
        ({"authorization": "Klaviyo-API-Key \udc80"}, 401, "authentication_failed"),
        ({"authorization": f"Klaviyo-API-Key {READ_ONLY_KEY}"}, 403, "permission_denied"),
    ],
)
def test_who_cannot_show_a_key_with_the_scope_is_refused(
    surface: Surface, headers: dict[str, str], status: int, code: str
) -> None:
    with pytest.raises(Refused) as raised:
        request.admit(surface, headers, {"company_id": SITE_ID}, ACCOUNTS)

    answer, problem = refusal(raised)
    assert (answer, problem.code, problem.pointer) == (status, code, "/data/")
    assert KEY[:-1] not in problem.detail


@pytest.mark.rule
def test_a_missing_key_is_answered_in_the_words_of_the_contract() -> None:
    with pytest.raises(Refused) as raised:
        request.admit(Surface.BULK, {}, {}, ACCOUNTS)

    assert refusal(raised)[1].detail == "Missing or invalid authorization scheme. Please use Klaviyo-API-Key."


@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
def test_a_site_id_names_its_account(surface: Surface) -> None:
    assert request.admit(surface, {}, {"company_id": SITE_ID}, ACCOUNTS) is OURS


@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
@pytest.mark.parametrize(
    "query", [{}, {"company_id": ""}, {"company_id": "Nobody"}, {"company_id": "abc123"}]
)
def test_an_unknown_site_id_is_refused(surface: Surface, query: dict[str, str]) -> None:
    with pytest.raises(Refused) as raised:
        request.admit(surface, {}, query, ACCOUNTS)

    status, problem = refusal(raised)
    assert (status, problem.code, problem.parameter) == (400, "invalid", "company_id")


@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, {"company_id": KEY}),
        ({"authorization": f"Klaviyo-API-Key {KEY}"}, {"company_id": SITE_ID}),
        ({"authorization": "anything"}, {}),
    ],
)
def test_a_private_key_on_a_client_route_is_refused_with_a_warning(
    surface: Surface, headers: dict[str, str], query: dict[str, str]
) -> None:
    with pytest.raises(Refused) as raised:
        request.admit(surface, headers, query, ACCOUNTS)

    status, problem = refusal(raised)
    assert (status, problem.parameter) == (400, "company_id")
    assert "readable by everybody" in problem.detail
    assert KEY not in problem.detail


@pytest.mark.rule
@pytest.mark.parametrize(
    ("given", "date"),
    [
        ("2026-07-15", "2026-07-15"),
        ("2024-10-15.pre", "2024-10-15"),
        ("2026-07-20", "2026-07-20"),
        ("2022-10-17", "2022-10-17"),
    ],
)
def test_a_revision_is_a_date_with_or_without_a_suffix(given: str, date: str) -> None:
    assert request.revision({"revision": given}, NOON) == date


@pytest.mark.rule
@pytest.mark.parametrize(
    "given",
    [
        "",
        "latest",
        "2026-7-15",
        "2026-02-30",
        "2026-07-15.",
        "2026-07-15 ",
        "20260715",
        "2026-07-21",
        "\u0662026-07-15",
    ],
)
def test_a_wrong_or_future_revision_is_refused(given: str) -> None:
    with pytest.raises(Refused) as raised:
        request.revision({"revision": given} if given else {}, NOON)

    status, problem = refusal(raised)
    assert (status, problem.code, problem.parameter) == (400, "invalid", "revision")


@pytest.mark.rule
@pytest.mark.parametrize(
    ("age", "opted_out", "gone"),
    [(730, "1", False), (731, "1", True), (731, "0", False), (731, None, False), (2_000, "1", True)],
)
def test_a_retired_revision_is_gone_only_for_who_opted_out(
    age: int, opted_out: str | None, gone: bool
) -> None:
    headers = {"revision": f"{NOON - timedelta(days=age):%Y-%m-%d}"}
    if opted_out is not None:
        headers["x-klaviyo-revision-fall-forward-opt-out"] = opted_out

    if not gone:
        assert request.revision(headers, NOON) == headers["revision"]
        return
    with pytest.raises(Refused) as raised:
        request.revision(headers, NOON)
    status, problem = refusal(raised)
    assert (status, problem.code, problem.parameter) == (410, "gone", "revision")


def test_a_leap_day_is_a_day_like_any_other() -> None:
    assert request.revision({"revision": "2026-07-15"}, datetime(2028, 2, 29, tzinfo=NOON.tzinfo))


@pytest.mark.rule
@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/vnd.api+json",
        "Application/JSON; charset=UTF-8",
        'application/vnd.api+json;charset="utf-8"',
        "application/json ; charset=utf8; profile=x",
    ],
)
def test_both_media_types_are_read_with_their_parameters(media_type: str) -> None:
    assert request.decode_body({"content-type": media_type}, b"{}") == b"{}"


@pytest.mark.rule
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=iso-8859-1"},
        {"content-type": "application/json", "content-encoding": "br"},
        {"content-type": "application/json", "content-encoding": "gzip, gzip"},
    ],
)
def test_another_media_type_or_encoding_is_unsupported(headers: dict[str, str]) -> None:
    with pytest.raises(Refused) as raised:
        request.decode_body(headers, b"{}")

    status, problem = refusal(raised)
    assert (status, problem.code) == (415, "unsupported_media_type")


def compressed(encoding: str, body: bytes) -> tuple[dict[str, str], bytes]:
    compress = {"deflate": zlib.compress}.get(encoding.lower(), gzip.compress)
    return {"content-type": "application/json", "content-encoding": encoding}, compress(body)


@pytest.mark.rule
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", " gzip "])
def test_a_compressed_body_is_read(encoding: str) -> None:
    assert request.decode_body(*compressed(encoding.strip(), b"{}")) == b"{}"


@pytest.mark.rule
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"{}", b' \r\n\t{"data": 1}', b"{"])
def test_a_body_the_gateway_decompressed_is_read_whatever_the_header_says(encoding: str, body: bytes) -> None:
    assert (
        request.decode_body({"content-type": "application/json", "content-encoding": encoding}, body) == body
    )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("level", range(10))
def test_nothing_compressed_is_taken_for_json(encoding: str, level: int) -> None:
    plain = b'{"data": 1}'
    packed = gzip.compress(plain, level) if encoding == "gzip" else zlib.compress(plain, level)

    assert (
        request.decode_body({"content-type": "application/json", "content-encoding": encoding}, packed)
        == plain
    )


def test_an_identity_body_is_read_as_it_is() -> None:
    headers = {"content-type": "application/json", "content-encoding": "identity"}

    assert request.decode_body(headers, b"{}") == b"{}"


@pytest.mark.rule
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
def test_the_size_limit_holds_for_what_comes_out(encoding: str) -> None:
    def sized(size: int) -> tuple[dict[str, str], bytes]:
        if encoding == "identity":
            return {"content-type": "application/json"}, b"x" * size
        return compressed(encoding, b"x" * size)

    assert len(request.decode_body(*sized(5_242_880))) == 5_242_880
    with pytest.raises(Refused) as raised:
        request.decode_body(*sized(5_242_881))
    status, problem = refusal(raised)
    assert (status, problem.code) == (413, "payload_too_large")


@pytest.mark.rule
def test_a_body_that_would_unpack_to_gigabytes_is_refused_at_the_limit() -> None:
    headers, bomb = compressed("gzip", b"\0" * 200_000_000)

    with pytest.raises(Refused) as raised:
        request.decode_body(headers, bomb)

    assert refusal(raised)[0] == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("spoil", ["cut", "plain", "more", "empty"])
def test_a_damaged_body_is_a_parse_error(encoding: str, spoil: str) -> None:
    headers, body = compressed(encoding, b"{}" * 100)
    spoilt = {"cut": body[:-3], "plain": b"plain", "more": body + body, "empty": b""}[spoil]

    with pytest.raises(Refused) as raised:
        request.decode_body(headers, spoilt)

    status, problem = refusal(raised)
    assert (status, problem.code, problem.pointer) == (400, "parse_error", "/")


@pytest.mark.parametrize(
    ("given", "preferences"),
    [
        ("return=minimal", {"return=minimal"}),
        ('Return = "Minimal"; foo=1, handling=lenient', {"return=minimal", "handling=lenient"}),
        ("return=representation", {"return=representation"}),
    ],
)
def test_preferences_are_told_apart(given: str, preferences: set[str]) -> None:
    assert request.preferences({"prefer": given}) == preferences
