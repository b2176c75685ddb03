"""Which addresses are this host's: a capture does not say so, but most knocks go there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from doorward.explain.connections import Standing
from doorward.explain.follow import Seen
from doorward.explain.house import House


def hosts_of(seen: Iterable[Seen], house: House, own: Collection[bytes] = ()) -> frozenset[bytes]:
    """Give, of each family, the destination to which most different sources and ports of the doors go.

    Where some of the destinations are in `own`, the addresses of the machine that asks, those are it.
    """
    numbers, found = house.numbers, defaultdict[bytes, set[tuple[bytes, int]]](set)
    for flow in (packet.flow for packet in seen if packet.standing is Standing.NEW):
        if flow.port is not None and flow.port.number in numbers and flow.destination not in house.targets:
            found[flow.destination].add((flow.source, flow.port.number))
    if ours := found.keys() & set(own):
        return frozenset(ours)
    best: dict[int, bytes] = {}
    for address, visitors in found.items():
        before = best.get(len(address))
        if before is None or len(visitors) > len(found[before]):
            best[len(address)] = address
    return frozenset(best.values())
