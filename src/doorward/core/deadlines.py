"""The times at which things end, the earliest first. Pure, and bounded by the number of things."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")
_SPARE = 1000  # outdated entries that are kept in any case: it costs less than to sort them out


class Deadlines(Generic[T]):
    """A heap with one deadline per item."""

    def __init__(self) -> None:
        self._current: dict[T, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, T]] = []  # with outdated entries
        self._serial = itertools.count()  # breaks ties between equal deadlines: items need not compare

    def set(self, item: T, at_s: float) -> None:
        """Set or change the deadline of an item."""
        entry = self._current[item] = at_s, next(self._serial)
        heapq.heappush(self._heap, (*entry, item))
        if len(self._heap) > 2 * len(self._current) + _SPARE:
            self._heap = [(*entry, item) for item, entry in self._current.items()]
            heapq.heapify(self._heap)

    def discard(self, item: T) -> None:
        """Remove an item, if it is there."""
        self._current.pop(item, None)

    def first(self) -> tuple[float, T] | None:
        """Return the earliest deadline and its item; None without any."""
        while self._heap:
            at_s, serial, item = self._heap[0]
            if self._current.get(item) == (at_s, serial):
                return at_s, item
            heapq.heappop(self._heap)
        return None
