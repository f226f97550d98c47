"""Why a command ends early. The exit codes are documented in `sluicectl --help`."""

from typing import Final

FAULTY: Final = 1  # what was given, or what is stored, has problems
UNREACHABLE: Final = 3  # the deployment: no credentials, no such stack, no permission, no network


class Failure(Exception):
    """A command cannot do what it is for; the text says why and what to do, in a sentence or two."""

    exit_code = FAULTY


class Unreachable(Failure):
    """The deployment cannot be found, reached or used."""

    exit_code = UNREACHABLE
