"""The table of current openings. Pure: times are arguments, in seconds of one monotonic clock."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from doorward.model import Element, Opening, Place


class OpeningTable:
    """Current openings, one per door and address; opening a door again extends the opening."""

    def __init__(self) -> None:
        self._by_source: dict[Place, dict[str, Opening]] = {}
        self._ends: list[tuple[float, int, str, Place]] = []  # a heap by the end
        self._serial = itertools.count()  # breaks ties between equal ends: addresses of two families do not compare
        self._counts: Counter[str] = Counter()  # openings, by the key or operator that opened them
        self._wide: Counter[str] = Counter()  # set elements of openings to networks, likewise

    def __iter__(self) -> Iterator[Opening]:
        for doors in self._by_source.values():
            yield from doors.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_source.values()))

    def get(self, door: str, address: Place) -> Opening | None:
        """Return the current opening, or None."""
        return self._by_source.get(address, {}).get(door)

    def count(self, by: str) -> int:
        """Return the number of openings made by `by`."""
        return self._counts[by]

    def wide_count(self, by: str) -> int:
        """Return the number of set elements in openings to networks made by `by`."""
        return self._wide[by]

    def enclosing(self, place: Place) -> Iterator[Opening]:
        """Yield the openings to networks that contain a network."""
        if isinstance(place, IPv4Network | IPv6Network):
            for bits in range(place.prefixlen):
                yield from self._by_source.get(place.supernet(new_prefix=bits), {}).values()

    def open(self, new: Opening) -> Opening:
        """Add an opening, or extend the current one, never shortening it; return the result."""
        old = self.get(new.door, new.address)
        if old is not None:
            ports = tuple(dict.fromkeys((*old.ports, *new.ports)))
            new = old._replace(ports=ports, until_s=max(old.until_s, new.until_s))
            self._count(old, -1)
        self._count(new, 1)
        self._by_source.setdefault(new.address, {})[new.door] = new
        heapq.heappush(self._ends, (new.until_s, next(self._serial), new.door, new.address))
        return new

    def restore(self, door: str, address: Place, previous: Opening | None) -> None:
        """Restore the previous opening, or none, after a change that failed."""
        self.close(door, address)
        if previous is not None:
            self.open(previous)

    def close(self, door: str, address: Place) -> Opening | None:
        """Remove an opening and return it; return None if there was none."""
        doors = self._by_source.get(address, {})
        opening = doors.pop(door, None)
        if not doors:
            self._by_source.pop(address, None)
        if opening is not None:
            self._count(opening, -1)
        return opening

    def _count(self, opening: Opening, sign: int) -> None:
        is_wide = isinstance(opening.address, IPv4Network | IPv6Network)
        for counts, amount in (self._counts, 1), (self._wide, len(opening.ports) if is_wide else 0):
            counts[opening.by] += sign * amount
            if not counts[opening.by]:
                del counts[opening.by]  # names of keys come and go

    def expire(self, now_s: float) -> list[Opening]:
        """Remove and return the openings that end at or before `now_s`."""
        ended: list[Opening] = []
        while (due := self.next_end()) is not None and due.until_s <= now_s:
            heapq.heappop(self._ends)
            self.close(due.door, due.address)
            ended.append(due)
        return ended

    def next_end(self) -> Opening | None:
        """Return the opening that ends first, or None."""
        while self._ends:
            until_s, _, door, address = self._ends[0]
            opening = self.get(door, address)
            if opening is not None and opening.until_s == until_s:
                return opening
            heapq.heappop(self._ends)  # closed or extended since
        return None

    def wanted_until(self, elements: Iterable[Element]) -> dict[Element, float]:
        """Return the latest end of the openings that need each element; elements that none needs are left out."""
        until: dict[Element, float] = {}
        for element in elements:
            ends = [o.until_s for o in self._by_source.get(element.address, {}).values() if element.port in o.ports]
            if ends:
                until[element] = max(ends)
        return until
