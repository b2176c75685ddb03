"""The table of current openings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from doorward.core.deadlines import Deadlines
from doorward.core.signed_rules import Holders
from doorward.model import Element, Opening, Source, set_port

Key = tuple[str, Source]  # of an opening: a door and an address


class OpeningTable:
    """Current openings, one per door and address; opening a door again extends the opening."""

    def __init__(self) -> None:
        self._by_source: dict[Source, dict[str, Opening]] = {}
        self._ends: Deadlines[Key] = Deadlines()
        self._counts: Counter[str] = Counter()  # openings, by holder
        self._wide: Counter[str] = Counter()  # set elements of openings to networks, likewise

    def __iter__(self) -> Iterator[Opening]:
        for doors in self._by_source.values():
            yield from doors.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_source.values()))

    def get(self, door: str, address: Source) -> Opening | None:
        """Return the current opening, or None."""
        return self._by_source.get(address, {}).get(door)

    def count(self, by: str) -> int:
        """Return the number of openings that `by` holds."""
        return self._counts[by]

    def wide_count(self, by: str) -> int:
        """Return the number of set elements in openings to networks that `by` holds."""
        return self._wide[by]

    def enclosing(self, source: Source) -> Iterator[Opening]:
        """Yield the openings to networks that contain a network."""
        if isinstance(source, IPv4Network | IPv6Network):
            for bits in range(source.prefixlen):
                yield from self._by_source.get(source.supernet(new_prefix=bits), {}).values()

    def open(self, new: Opening) -> Opening:
        """Add an opening, or extend the current one and its shares, never shortening them; return the result."""
        old = self.get(new.door, new.address)
        if old is not None:
            ports = tuple(dict.fromkeys((*old.ports, *new.ports)))
            holders = Holders.of(old).expire(new.since_s)
            for share in Holders.of(new).shares:
                holders = holders.hold(share) or holders
            is_for_one = any(share.once for share in holders.shares)  # its newest knock may shorten it
            until_s = holders.until_s if is_for_one else max(old.until_s, holders.until_s)
            new = old._replace(ports=ports, until_s=until_s, shares=holders.shares)
            self._count(old, -1)
        self._count(new, 1)
        self._by_source.setdefault(new.address, {})[new.door] = new
        self._ends.set(new.key, new.until_s)
        return new

    def replace(self, door: str, address: Source, opening: Opening | None) -> None:
        """Replace the current opening by another, or by none."""
        self.close(door, address)
        if opening is not None:
            self.open(opening)

    def close(self, door: str, address: Source) -> Opening | None:
        """Remove an opening and return it; return None if there was none."""
        doors = self._by_source.get(address, {})
        opening = doors.pop(door, None)
        if not doors:
            self._by_source.pop(address, None)
        if opening is not None:
            self._count(opening, -1)
            self._ends.discard(opening.key)
        return opening

    def _count(self, opening: Opening, sign: int) -> None:
        is_wide = isinstance(opening.address, IPv4Network | IPv6Network)
        for by in {share.by for share in Holders.of(opening).shares}:
            for counts, amount in (self._counts, 1), (self._wide, len(opening.ports) if is_wide else 0):
                counts[by] += sign * amount
                if not counts[by]:
                    del counts[by]  # keys come and go

    def expire(self, now_s: float) -> list[Opening]:
        """Remove and return the openings that end at or before `now_s`."""
        ended: list[Opening] = []
        while (due := self.next_end()) is not None and due.until_s <= now_s:
            self.close(*due.key)
            ended.append(due)
        return ended

    def next_end(self) -> Opening | None:
        """Return the opening that ends first, or None."""
        first = self._ends.first()
        return None if first is None else self.get(*first[1])

    def wanted_until(self, elements: Iterable[Element]) -> dict[Element, float]:
        """Return the latest end of the openings that need each element; elements that none needs are left out."""
        until: dict[Element, float] = {}
        for element in elements:
            own = self._by_source.get(element.address, {}).values()
            openings = [o for o in own if element.port in map(set_port, o.ports)]
            if ends := [end_s for o in openings for once, end_s in o.ends().items() if once == element.once]:
                until[element] = max(ends)
        return until

    def for_one(self, source: Source) -> list[Opening]:
        """Return the openings to a source for one connection."""
        return [opening for opening in self._by_source.get(source, {}).values() if True in opening.ends()]
