"""Tests the files of the page: nothing from elsewhere, nothing inline, no markup from text, and contrast."""

import re
from itertools import product

import pytest

from sluicectl.console import server

PAPERS = ("paper", "raised")
TEXTS = ("ink", "quiet", "accent", "good", "warn", "bad")


def test_the_page_asks_for_its_own_files_only_and_has_nothing_inline() -> None:
    files = {name: content.decode() for name, content in server.files().items()}
    index = files["index.html"]

    assert set(re.findall(r'(?:src|href)="([^"#]+)"', index)) == {
        *("/", "/page/icon.svg", "/page/style.css", "/page/app.js")
    }
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src=)| on\w+=", index)
    for name, text in files.items():
        elsewhere = re.findall(r"https?://[^\s\"'`]+", text)
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|srcdoc|@import", text
        ), name


def scheme(name: str) -> dict[str, str]:
    """Returns the colours of a scheme by name."""
    light, dark, *_ = re.findall(r":root \{(.*?)\}", server.files()["style.css"].decode(), re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", {"light": light, "dark": dark}[name]))


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_text_has_the_contrast_of_aa(name: str) -> None:
    colours = scheme(name)
    pairs = [*product(TEXTS, PAPERS), ("ink", "bad-back"), ("on-accent", "accent")]

    assert {
        pair: found for pair in pairs if (found := contrast(*(colours[each] for each in pair))) < 4.5
    } == {}
    assert contrast(colours["edge"], colours["paper"]) >= 3
