"""The doctor's findings: code, severity, location, message, remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """The severity of a finding."""

    ERROR = "error"  # locks out, or keeps a door from opening
    WARNING = "warning"  # may do so, now or later
    OK = "ok"


ERROR, WARNING, OK = Level


class Problem(NamedTuple):
    """The result of one check. `where` is a file, a rule or a unit; `commands` perform the remedy."""

    code: str
    level: Level
    where: str
    what: str
    remedy: str = ""
    commands: tuple[str, ...] = ()
