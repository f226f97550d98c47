"""Defines what a command of operators is: its name, who may call it, its arguments and its result."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sluice.errors import SluiceError
from sluice.operate.ports import Ports
from sluice.settings import OperateSettings
from sluice.telemetry import Log

type AccountId = Annotated[str, Field(min_length=1, max_length=100)]
type Name = Annotated[str, Field(min_length=1, max_length=200)]


class Access(StrEnum):
    """Names what a caller may do, after the alias of the function that was invoked.

    `READ` changes nothing. `ADMIN` may do everything.
    """

    READ = "read"
    ADMIN = "admin"

    def allows(self, needed: "Access") -> bool:
        """Tells whether a caller with this access may call a command that needs another."""
        return self is needed or self is Access.ADMIN


class Arguments(BaseModel):
    """Holds the arguments of a command. A name that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def reveals(self) -> bool:
        """Tells whether the result shows personal data unmasked, so that the call is audited."""
        return False


class Result(BaseModel):
    """Holds the result of a command. Clients pass over what a newer function adds to it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def counts(self) -> dict[str, int]:
        """Returns the numbers that the audit keeps. None of them is personal data."""
        return {}


@dataclass(frozen=True)
class Context:
    """Holds what a command works with: who calls it, with which access, when, and what it reaches."""

    who: str
    access: Access
    now: datetime
    settings: OperateSettings
    ports: Ports
    log: Log


@dataclass(frozen=True)
class Command[A: Arguments, R: Result]:
    """Describes one command; clients call it by this description too."""

    name: str
    access: Access
    arguments: type[A]
    result: type[R]
    run: Callable[[A, Context], R]


type AnyCommand = Command[Any, Any]


class Failed(SluiceError):
    """Says that a command cannot be done. `code` is for programs, the text is one sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
