"""Draws timed screens as an SVG that plays them once and then shows the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from typing import Final

from rich.ansi import AnsiDecoder
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME as THEME
from rich.text import Text

COLUMNS: Final = 88
CHARACTER: Final = (8.4, 19)  # width and height of one
MARGIN: Final = 16
FONTS: Final = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace'
BACKGROUND, FOREGROUND = "#1b1f27", "#d5d9e0"
# Nothing is waited for longer than the pause when it is played, and all of it takes no longer than the whole.
LONGEST_PAUSE_SECONDS: Final = 0.6
LONGEST_SECONDS: Final = 20.0
# Screens that follow faster than this are left out.
FASTEST_SECONDS: Final = 0.1

type Screen = tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """Holds a line of a row, and when it is shown; `until` is None if it still is at the end."""

    row: int
    line: str
    since: float
    until: float | None


def shorten(screens: Sequence[tuple[float, Screen]]) -> list[tuple[float, Screen]]:
    """Returns the screens that differ from the one before, at times that are worth watching."""
    changes = [screens[0], *(after for before, after in pairwise(screens) if after[1] != before[1])]
    pauses = [min(after - before, LONGEST_PAUSE_SECONDS) for (before, _), (after, _) in pairwise(changes)]
    scale = min(1.0, LONGEST_SECONDS / (sum(pauses) or 1.0))
    times = accumulate((pause * scale for pause in pauses), initial=0.0)
    played = [(time, screen) for time, (_, screen) in zip(times, changes, strict=True)]
    kept = [played[0]]
    for now, following in pairwise([*played[1:], None]):
        if now and (following is None or following[0] - kept[-1][0] >= FASTEST_SECONDS):
            kept.append(now)
    return kept


def lines_shown(screens: Sequence[tuple[float, Screen]]) -> Iterator[Shown]:
    """Yields each line of each row, for as long as it stays the same."""
    for row in range(max(len(screen) for _, screen in screens)):
        contents = [(time, screen[row] if row < len(screen) else "") for time, screen in screens]
        changes = [contents[0], *(after for before, after in pairwise(contents) if after[1] != before[1])]
        for (since, line), following in zip(changes, [*changes[1:], None], strict=True):
            if line.strip():
                yield Shown(row, line, since, following[0] if following else None)


def draw(screens: Sequence[tuple[float, Screen]], title: str) -> str:
    """Returns the SVG of screens and their times in seconds."""
    played = shorten(screens)
    rows = max(len(screen) for _, screen in played)
    # A program may write lines that are longer than the terminal is wide.
    columns = max(COLUMNS, *(len(Text.from_ansi(each.line)) for each in lines_shown(played)))
    width, height = columns * CHARACTER[0] + 2 * MARGIN, rows * CHARACTER[1] + 2 * MARGIN
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>text {{ font: 14px {FONTS}; white-space: pre; }}</style>",
            f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
            f'<g fill="{FOREGROUND}">',
            *map(_line, lines_shown(played)),
            "</g>\n</svg>\n",
        )
    )


def _line(shown: Shown) -> str:
    x, y = MARGIN, MARGIN + (shown.row + 0.75) * CHARACTER[1]
    if shown.until is None:
        when = f'<set attributeName="visibility" to="hidden" begin="0s" end="{shown.since:.2f}s"/>'
        state = ""
    else:
        span = f'begin="{shown.since:.2f}s" end="{shown.until:.2f}s"'
        when = f'<set attributeName="visibility" to="visible" {span}/>'
        state = ' visibility="hidden"'
    if not shown.since and shown.until is None:
        when = ""
    [text] = AnsiDecoder().decode(shown.line)
    return f'<text x="{x}" y="{y:.1f}" xml:space="preserve"{state}>{when}{"".join(_spans(text))}</text>'


def _spans(text: Text) -> Iterator[str]:
    """Yields the pieces of a line, each in one style and at its column."""
    column = 0
    for piece in text.divide(sorted({edge for span in text.spans for edge in (span.start, span.end)})):
        style = sum((each.style for each in piece.spans if isinstance(each.style, Style)), Style.null())
        if shown := piece.plain.rstrip():
            x, length = MARGIN + column * CHARACTER[0], len(shown) * CHARACTER[0]
            yield f'<tspan x="{x:.1f}" textLength="{length:.1f}"{_paint(style)}>{escape(shown)}</tspan>'
        column += len(piece.plain)


def _paint(style: Style) -> str:
    colour = f' fill="{style.color.get_truecolor(THEME).hex}"' if style.color else ""
    return colour + ' font-weight="bold"' * bool(style.bold) + ' opacity="0.7"' * bool(style.dim)
