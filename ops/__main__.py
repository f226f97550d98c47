"""`python -m ops` is `sluicectl`."""

from ops.cli import sluicectl

sluicectl(prog_name="sluicectl")
