"""The one line that people look for."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One reason: a word for programs, what happened, and what to do."""

    kind: str
    what: str
    remedy: str = ""


class Conclusion(NamedTuple):
    """What came of it. `door` is the one that was meant in the last try, `opened` whether any try opened a door."""

    fault: Fault
    door: str | None = None
    opened: bool = False
    also: tuple[Fault, ...] = ()
