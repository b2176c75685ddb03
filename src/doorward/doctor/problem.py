"""What the doctor says: how bad, what, where, and what to do."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # it locks out, or keeps a door from opening
    WARNING = "warning"  # it may, or will some day
    OK = "ok"


class Problem(NamedTuple):
    """One thing that was looked at. `where` is a file, a rule or a unit; `commands` do what `remedy` says."""

    level: Level
    where: str
    what: str
    remedy: str = ""
    commands: tuple[str, ...] = ()
