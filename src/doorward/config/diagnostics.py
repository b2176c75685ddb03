"""Collect every fault of one file, so that the operator can fix them all at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from doorward.config.toml_positions import Keys, find_lines, line_of
from doorward.errors import ConfigFault, InvalidValueError
from doorward.model import NAME

_LONGEST_SHOWN = 60
_MOST_COMPARED = 1000  # words, in 12 ms; a search among 100,000 doors would block the daemon for seconds


@dataclass
class ErrorCollector:
    """The faults found so far in `text`, each with the line of the setting that it concerns."""

    file: str
    text: str
    faults: list[ConfigFault] = field(default_factory=list)

    @cached_property
    def _lines(self) -> dict[Keys, int]:  # not needed for a valid file
        return find_lines(self.text)

    def line(self, path: Keys) -> int:
        """Return the line of a path of keys, or of the table or list that contains it."""
        return line_of(self._lines, path)

    def add(self, code: str, path: Keys, fault: str, remedy: str) -> None:
        """Add one fault."""
        self.faults.append(ConfigFault(code, self.file, self.line(path), fault, remedy))

    def add_error(self, path: Keys, subject: str, error: InvalidValueError) -> None:
        """Add the fault that a converter raised as `fault; remedy`."""
        fault, _, remedy = str(error).rpartition("; ")
        self.add(error.code, path, f"{subject}: {fault}", remedy)


def shown(value: object) -> str:
    """Return a value as messages show it: short, on one line, without control characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
    if isinstance(value, int) and value.bit_length() > 64:  # str() rejects integers of thousands of digits
        return "a huge number"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return str(value)


def header(path: Keys) -> str:
    """Return the header of a table, with quotes around parts that need them."""
    return f"[{'.'.join(part if NAME.fullmatch(part) else shown(part) for part in path)}]"


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known word closest to `word`, or None; also if too many are known."""
    if len(known) > _MOST_COMPARED:
        return None
    import difflib  # only for a fault

    return next(iter(difflib.get_close_matches(word[:_LONGEST_SHOWN], known, n=1)), None)
