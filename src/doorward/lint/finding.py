"""The findings that `doorward check` reports for a valid file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from doorward.config.toml_positions import Keys

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A weakness (`warning`) or a remark (`note`), with its line and the remedy.

    `file` None: the configuration file.
    """

    code: str
    level: Level
    line: int
    what: str
    remedy: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.line}: {self.level}: {self.what}; {self.remedy}"


class LocatedFinding(NamedTuple):
    """A finding located by a path of keys instead of a line."""

    code: str
    level: Level
    path: Keys
    what: str
    remedy: str
