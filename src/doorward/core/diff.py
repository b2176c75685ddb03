"""The gate is told a goal, not a history: what is wanted and what stands give what to change. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from doorward.model import Element

Remaining = Mapping[Element, float]  # for how many seconds more each entry stands
TOLERANCE_S = 0.25  # the kernel's clock ticks, and telling it takes time


@dataclass(frozen=True, slots=True)
class SetChanges:
    """Entries to write with a new remaining time, in seconds, and entries to take away."""

    put: Remaining
    remove: frozenset[Element]

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


def plan(touched: Iterable[Element], want: Remaining, have: Remaining) -> SetChanges:
    """Compare wanted and standing entries, of those in `touched` only: others may be the kernel's newest."""
    put: dict[Element, float] = {}
    remove: set[Element] = set()
    for element in touched:
        wanted_s = want.get(element, 0.0)
        if wanted_s <= 0:
            if element in have:
                remove.add(element)
        elif abs(have.get(element, 0.0) - wanted_s) > TOLERANCE_S:
            put[element] = wanted_s
    return SetChanges(put, frozenset(remove))
