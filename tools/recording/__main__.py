"""Records a command: `python -m tools.recording docs/demo.svg "make demo" -- COMMAND …`.

The second argument is the command as it is shown. Nothing is written if the command fails.
"""

import codecs
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from tools.recording import drawing
from tools.recording.terminal import screens

ROWS = 50


def main() -> int:
    target, shown, _, *command = sys.argv[1:]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, drawing.COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": ""}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        seen = list(screens(written(ours, f"$ {shown}\n")))
    if running.returncode == 0:
        Path(target).write_text(drawing.draw(seen, shown))
    else:
        print("\n".join(seen[-1][1]), file=sys.stderr)
    return running.returncode


def written(terminal: int, prompt: str) -> Iterator[tuple[float, str]]:
    """Yields what is written to a terminal until it is closed, with the time in seconds."""
    began = time.monotonic()
    yield 0.0, prompt
    decoder, held = codecs.getincrementaldecoder("utf-8")(), ""
    while piece := _read(terminal):
        text = held + decoder.decode(piece)
        # A control sequence may be cut: its rest comes with the next piece.
        cut = text.rfind("\x1b")
        whole = cut < 0 or any(character.isalpha() for character in text[cut:])
        text, held = (text, "") if whole else (text[:cut], text[cut:])
        yield time.monotonic() - began, text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the last program that had it open has ended
        return b""


if __name__ == "__main__":
    sys.exit(main())
