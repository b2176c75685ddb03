"""What `doorward check` finds in a good file: a weakness, or something to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from doorward.config.toml_positions import Keys

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A weakness (`warning`), or something to know (`note`): where, what, and what to do about it.

    `file` None: the configuration itself.
    """

    level: Level
    line: int
    what: str
    remedy: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.line}: {self.level}: {self.what}; {self.remedy}"


class LocatedFinding(NamedTuple):
    """A finding whose place is still a path of keys."""

    level: Level
    path: Keys
    what: str
    remedy: str
