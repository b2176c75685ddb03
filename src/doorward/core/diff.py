"""Compare wanted and present set elements: the result is what to change in the kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from doorward.model import Element

Remaining = Mapping[Element, float]  # seconds until each element expires
TOLERANCE_S = 0.25  # the resolution of the kernel's timeouts, and the time that an update takes


@dataclass(frozen=True, slots=True)
class SetChanges:
    """Elements to write with a new timeout in seconds, and elements to delete."""

    put: Remaining
    remove: frozenset[Element]

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


def diff(touched: Iterable[Element], want: Remaining, have: Remaining) -> SetChanges:
    """Return the changes that turn `have` into `want`, for elements in `touched` only.

    Others may have been added by the kernel since `have` was read.
    """
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
