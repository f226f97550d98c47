"""Tests the answers to browsers: on client routes only, to allowed pages only, and never about keys."""

import pytest

from sluice.admission import cors

SHOP, OTHER = "https://shop.example", "https://other.example"
CLIENT = ["/client/events", "/client/event-bulk-create/"]


@pytest.mark.parametrize("path", CLIENT)
@pytest.mark.parametrize("origin", [SHOP, None, "null"])
def test_any_page_may_call_where_all_are_allowed(path: str, origin: str | None) -> None:
    told = cors.headers(path, origin, "*")

    assert told["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in told


@pytest.mark.parametrize("path", CLIENT)
@pytest.mark.parametrize("allowed", [SHOP, f"{OTHER},{SHOP}"])
def test_an_allowed_page_is_named_and_caches_are_told(path: str, allowed: str) -> None:
    told = cors.headers(path, SHOP, allowed)

    assert (told["Access-Control-Allow-Origin"], told["Vary"]) == (SHOP, "Origin")
    assert "Retry-After" in told["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", [None, "null", "", "https://shop.example.evil", "http://shop.example", "*"]
)
def test_no_other_page_is(origin: str | None) -> None:
    assert cors.headers(CLIENT[0], origin, f"{SHOP},{OTHER}") == {"Vary": "Origin"}
    assert cors.preflight(CLIENT[0], origin, f"{SHOP},{OTHER}") == {}


@pytest.mark.parametrize(
    "path", ["/api/events", "/api/event-bulk-create-jobs/client/events", "/", "/clients"]
)
@pytest.mark.parametrize("allowed", ["*", SHOP])
def test_server_routes_have_none(path: str, allowed: str) -> None:
    assert cors.headers(path, SHOP, allowed) == cors.preflight(path, SHOP, allowed) == {}


@pytest.mark.rule
def test_a_preflight_allows_what_a_client_sends_and_no_key() -> None:
    told = cors.preflight(CLIENT[0], SHOP, SHOP)

    named = told["Access-Control-Allow-Headers"].split(", ")
    assert {"revision", "content-type"} <= set(named)
    assert "authorization" not in named
    assert told["Access-Control-Allow-Methods"] == "POST"
    assert int(told["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Allow-Credentials" not in {**told, **cors.headers(CLIENT[0], SHOP, SHOP)}
