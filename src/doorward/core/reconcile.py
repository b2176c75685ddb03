"""Compare the opening table with the kernel's open sets, which are right: the kernel opens doors itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from doorward.core.diff import TOLERANCE_S, Remaining
from doorward.model import Door, Element, Opening, SetPort, Source, set_port


@dataclass(frozen=True, slots=True)
class Differences:
    """Openings that the kernel has and the table lacks (or has shorter), and openings that the kernel lost."""

    found: tuple[Opening, ...]
    lost: tuple[Opening, ...]


def differences(openings: Iterable[Opening], have: Remaining, doors: Sequence[Door], now_s: float) -> Differences:
    """Compare the opening table with the kernel's elements `have`, at `now_s` of the table's clock.

    Elements with a port that no door opens are ignored; their timeout removes them.
    """
    lost: list[Opening] = []
    covered: dict[Element, float] = {}
    for opening in openings:
        if not opening.ports or any(element in have for element in opening.elements()):
            for element in opening.elements():
                covered[element] = max(covered.get(element, 0.0), opening.until_s - now_s)
        else:
            lost.append(opening)
    missing: dict[Source, dict[SetPort, float]] = {}
    for (address, port), left_s in have.items():
        if left_s > covered.get(Element(address, port), 0.0) + TOLERANCE_S:
            missing.setdefault(address, {})[port] = left_s
    by_port: dict[SetPort, list[Door]] = {}
    for door in doors:
        for opened in door.all_opens:
            by_port.setdefault(set_port(opened), []).append(door)
    found = [o for address, ports in missing.items() for o in _attribute(address, ports, by_port, now_s)]
    return Differences(tuple(found), tuple(lost))


def _attribute(
    address: Source, left_s: Mapping[SetPort, float], by_port: Mapping[SetPort, Sequence[Door]], now_s: float
) -> Iterator[Opening]:
    """Yield the openings that account for these elements: doors with all their ports first, in file order."""
    remaining = dict(left_s)
    for needs_all in (True, False):
        for first in left_s:
            doors = by_port.get(first, ()) if first in remaining else ()
            reached = ((door, {set_port(port): port for port in door.opens_to(address)}) for door in doors)
            fitting = (
                each for each in reached if first in each[1] and (not needs_all or remaining.keys() >= each[1].keys())
            )
            door, opened = next(fitting, (None, {}))
            if door is not None:
                keys = [key for key in opened if key in remaining]
                until_s = now_s + max(remaining.pop(key) for key in keys)
                ports = tuple(opened[key] for key in keys)
                yield Opening(door.name, address, ports, now_s, until_s, "knock")


def restored_openings(recorded: Iterable[Opening], wall_offset_s: float, now_s: float) -> list[Opening]:
    """Return the recorded openings in times of the opening table's clock, for a daemon that starts at `now_s`.

    None lasts longer than it was opened for, even if the wall clock was set back before a boot.
    """
    openings = []
    for opening in shifted(recorded, -wall_offset_s):
        until_s = min(opening.until_s, now_s + opening.until_s - opening.since_s)
        shares = tuple(share._replace(until_s=min(share.until_s, until_s)) for share in opening.shares)
        openings.append(opening._replace(until_s=until_s, shares=shares))
    return openings


def shifted(openings: Iterable[Opening], by_s: float) -> list[Opening]:
    """Convert the times of openings to another clock, for example from wall time to monotonic time."""
    return [
        o._replace(
            since_s=o.since_s + by_s,
            until_s=o.until_s + by_s,
            shares=tuple(share._replace(until_s=share.until_s + by_s) for share in o.shares),
        )
        for o in openings
    ]
