"""Defines why a command ends early. `sluicectl --help` documents the exit codes."""

from typing import Final

FAULTY: Final = 1  # what was given, or what is stored, has problems
UNREACHABLE: Final = 3  # the deployment: no credentials, no such stack, no permission, no network


class Failure(Exception):
    """Says that a command failed; the text says why and what to do, in a sentence or two."""

    exit_code = FAULTY


class Unreachable(Failure):
    """Says that the deployment cannot be found, reached or used."""

    exit_code = UNREACHABLE
