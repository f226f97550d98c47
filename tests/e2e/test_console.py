"""Tests the console as an operator uses it: in a browser, with a stack that enforces the one permission."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from sluice.operate.command import Access
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_operate import Operator, operating
from tests.support.factories import bulk, entry, event, metric, profile

# Playwright would download a browser of its own; the system's will do.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 60_000  # milliseconds; a machine may be busy
HOSTILE = "<img src=x onerror=window.stolen=1> in the console"
EMAIL = "console@mail.example"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")


@contextlib.contextmanager
def served(operator: Operator) -> Iterator[str]:
    """Runs a console with an operator's credentials; yields its address with the token."""
    found = operator.session.get_credentials()
    assert found is not None
    key = found.get_frozen_credentials()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ENDPOINT_URL": operator.stack.aws,
        "AWS_REGION": operator.stack.region,
        "AWS_ACCESS_KEY_ID": str(key.access_key),
        "AWS_SECRET_ACCESS_KEY": str(key.secret_key),
    }
    program = str(Path(sys.executable).with_name("sluicectl"))
    command = [program, "console", "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as console:
        assert console.stdout is not None
        try:
            lines = itertools.takewhile(lambda line: line != "}\n", console.stdout)
            yield json.loads("".join(lines) + "}")["url"]
        finally:
            console.terminate()


@contextlib.contextmanager
def browsing(url: str) -> Iterator[Page]:
    """Opens a page in a browser; whatever goes wrong in it fails the test."""
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work as root, which containers run tests as.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(url)
        yield page
        browser.close()
    assert faults == []


def refuse(stack: Stack) -> None:
    """Sends two events, one of which is refused."""
    entries = [
        entry(
            event(
                metric=metric(HOSTILE), value_currency=currency, value=1.0, unique_id=f"console-{currency}"
            ),
            of=profile(email=EMAIL if currency == "EURO" else f"other-{EMAIL}"),
        )
        for currency in ("EUR", "EURO")
    ]
    headers = {
        "authorization": f"Klaviyo-API-Key {stack.key}",
        "content-type": "application/vnd.api+json",
        "revision": "2026-07-15",
        "prefer": "handling=lenient",
    }
    answer = httpx2.post(
        f"{stack.api}/api/event-bulk-create-jobs", json=bulk(*entries), timeout=60, headers=headers
    )
    assert answer.status_code == 202


def test_an_event_is_found_in_its_group_mended_planned_replayed_and_arrives_once(stack: Stack) -> None:
    refuse(stack)
    with operating(stack, Access.ADMIN) as operator, served(operator) as url, browsing(url) as page:
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        assert "token" not in page.url

        def group_is_shown() -> bool:
            page.get_by_role("link", name="Rejections", exact=True).first.click()
            expect(page.get_by_role("heading", name="Rejections by cause")).to_be_visible()
            return page.get_by_text(HOSTILE[:12]).count() > 0

        assert eventually(group_is_shown, 60)
        page.locator("li", has_text=HOSTILE[:12]).get_by_role("link").click()
        expect(page.get_by_role("heading", name="Records of one cause")).to_be_visible()
        page.locator("li", has_text=HOSTILE[:12]).get_by_role("link").first.click()

        payload = page.get_by_label("Payload, as JSON")
        expect(page.locator(".line.bad")).to_contain_text('"value_currency": "EURO"')
        expect(page.get_by_text("It would still be refused")).to_be_visible()
        assert EMAIL not in payload.input_value()
        payload.fill(payload.input_value().replace('"EURO"', ""))
        expect(page.get_by_text("This is no JSON")).to_be_visible()
        payload.fill(payload.input_value().replace('"value_currency": ', '"value_currency": "EUR"'))
        expect(page.get_by_text("It passes now: 1 event can be sent.")).to_be_visible()
        page.get_by_role("button", name="Plan to send it").click()

        expect(page.locator("ins")).to_have_text('"EUR"')
        assert stack.taken_of(EMAIL) == []
        page.get_by_role("button", name="Send 1 event again").click()
        expect(page.locator("h1 .state")).to_have_text("done")
        expect(page.locator(".counts .delivered")).to_contain_text("1")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert page.evaluate("window.stolen") is None
    taken = [each["event"] for each in stack.taken_of(EMAIL)]
    assert [(each["unique_id"], each["value_currency"]) for each in taken] == [("console-EURO", "EUR")]


def test_who_may_only_look_is_told_so_and_a_stranger_is_told_nothing(stack: Stack) -> None:
    with operating(stack, Access.READ) as operator, served(operator) as url, browsing(url) as page:
        expect(page.get_by_text("You may look, and change nothing")).to_be_visible()
        page.get_by_role("link", name="Accounts", exact=True).click()
        page.get_by_role("button", name="Pause").first.press("Enter")
        expect(page.get_by_text("You may look and not change")).to_be_visible()
        stranger = httpx2.get(url.partition("?")[0], timeout=10)
        assert stranger.status_code == 403
        assert stack.site_id not in stranger.text
