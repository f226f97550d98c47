"""Tests that a recording shows what a terminal would, when it would."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tools.recording.drawing import LONGEST_SECONDS, draw, lines_shown, shorten
from tools.recording.terminal import Terminal, screens

SVG = "{http://www.w3.org/2000/svg}"


def visible(svg: str, at: float) -> list[str]:
    """Returns the lines that are shown at a time, as a viewer that plays it does."""
    shown = []
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        state = text.get("visibility", "visible")
        for change in text.iter(f"{SVG}set"):
            begin, end = (float(change.attrib[name].rstrip("s")) for name in ("begin", "end"))
            if begin <= at < end:
                state = change.attrib["to"]
        if state == "visible":
            shown.append("".join(text.itertext()))
    return shown


def test_a_line_that_is_cleared_and_written_anew_has_the_new_text_only() -> None:
    terminal = Terminal()

    terminal.write("one\r\ntwo\r\n\x1b[1A\x1b[2K\x1b[1A\x1b[2K\x1b[32mONE\x1b[0m\r\nTWO\r\n\x1b[?25h")

    assert terminal.lines == ["\x1b[32mONE\x1b[0m", "TWO", ""]


def test_each_screen_is_shown_at_its_time_and_the_last_one_stays() -> None:
    written = iter([(0.0, "$ make demo\n"), (0.5, "one"), (1.0, "\x1b[2Ktwo"), (90.0, "\nthree <&>\n")])

    svg = draw(list(screens(written)), "make demo")

    assert visible(svg, 0.1) == ["$ make demo"]
    assert visible(svg, 0.7) == ["$ make demo", "one"]
    assert visible(svg, 1.2) == ["$ make demo", "two"]
    assert visible(svg, 1_000) == ["$ make demo", "two", "three <&>"]


def test_without_animation_the_last_screen_is_seen() -> None:
    svg = draw([(0.0, ("one",)), (1.0, ("two",))], "title")

    static = [each for each in ElementTree.fromstring(svg).iter(f"{SVG}text") if not each.get("visibility")]
    assert ["".join(each.itertext()) for each in static] == ["two"]


def test_colours_are_kept() -> None:
    svg = draw([(0.0, ("\x1b[1;31mFAILED\x1b[0m: all",))], "title")

    [first, second] = ElementTree.fromstring(svg).iter(f"{SVG}tspan")
    assert (first.text, first.get("font-weight"), first.get("fill")) == ("FAILED", "bold", "#800000")
    assert (second.text, second.get("fill")) == (": all", None)


def test_a_line_longer_than_the_terminal_is_wide_is_seen_whole() -> None:
    width = float(ElementTree.fromstring(draw([(0.0, ("x" * 100,))], "title")).attrib["viewBox"].split()[2])

    assert width > 100 * 8.4


def test_it_is_no_longer_than_one_watches() -> None:
    played = shorten([(10.0 * n, (str(n),)) for n in range(100)])

    assert (round(played[-1][0], 6), played[-1][1]) == (LONGEST_SECONDS, ("99",))
    assert [line.line for line in lines_shown(played)][:2] == ["0", "1"]


def test_the_readmes_recording_is_of_a_run_that_passed() -> None:
    last = visible(Path("docs/demo.svg").read_text(), 1_000)

    assert last[0] == "$ make demo"
    assert any(line.startswith("PASSED: ") for line in last)
    assert re.fullmatch(
        r"demo: accepted=6922 delivered=6919 rejected=3 lost=0 duplicated=0 jobs=7 fill=99%.*", last[-1]
    )
    assert "](docs/demo.svg)" in Path("README.md").read_text()
