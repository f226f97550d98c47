"""`python -m ops` is `sluicectl`."""

import io
import sys

from ops.cli import sluicectl

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a terminal may not have all that is shown
sluicectl(prog_name="sluicectl")
