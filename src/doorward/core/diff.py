"""Compare wanted and present set elements: the result is what to change in the kernel. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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


def diff(touched: Iterable[Element], want: Remaining, have: Remaining, opened: Collection[Element] = ()) -> SetChanges:
    """Return the changes that turn `have` into `want`, for elements in `touched` only.

    Others may have been added by the kernel since `have` was read. An element for one connection is written only if it
    is in `opened`, for a new knock: the connection may have come since then, and must not come again.
    """
    put: dict[Element, float] = {}
    remove: set[Element] = set()
    for element in touched:
        wanted_s = want.get(element, 0.0)
        if wanted_s <= 0:
            if element in have:
                remove.add(element)
        elif element.once:
            if element in opened:
                put[element] = wanted_s
        elif abs(have.get(element, 0.0) - wanted_s) > TOLERANCE_S:
            put[element] = wanted_s
    return SetChanges(put, frozenset(remove))
