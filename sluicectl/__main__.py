"""Runs `sluicectl`, also as `python -m sluicectl`."""

import io
import sys

from sluicectl.cli import sluicectl


def main() -> None:
    """Runs the command line on this process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not have all that is shown
    sluicectl(prog_name="sluicectl")


if __name__ == "__main__":
    main()
