"""Compare the opening table with the kernel's open sets, which are right: the kernel opens doors itself. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from doorward.core.diff import TOLERANCE_S, Remaining
from doorward.model import Door, Element, Opening, SetPort, Share, Source, set_port


@dataclass(frozen=True, slots=True)
class Differences:
    """Openings that the kernel has and the table lacks (or has shorter), and openings that the kernel lost.

    `used`: openings for one connection that the kernel no longer has in full, so the connection has come.
    """

    found: tuple[Opening, ...]
    lost: tuple[Opening, ...]
    used: tuple[Opening, ...] = ()


def differences(openings: Iterable[Opening], have: Remaining, doors: Sequence[Door], now_s: float) -> Differences:
    """Compare the opening table with the kernel's elements `have`, at `now_s` of the table's clock.

    Elements with a port that no door opens are ignored; their timeout removes them.
    """
    lost: list[Opening] = []
    used: list[Opening] = []
    covered: dict[Element, float] = {}
    for opening in openings:
        elements = opening.elements()
        if is_used(opening, have):
            used.append(opening)
        elif opening.ports and not any(element in have for element in elements):
            lost.append(opening)
            continue
        ends = opening.ends()
        for element in elements:
            covered[element] = max(covered.get(element, 0.0), ends[element.once] - now_s)
    missing: dict[tuple[Source, bool], dict[SetPort, float]] = {}
    for element, left_s in have.items():
        if left_s > covered.get(element, 0.0) + TOLERANCE_S:
            missing.setdefault((element.address, element.once), {})[element.port] = left_s
    by_port: dict[tuple[SetPort, bool], list[Door]] = {}
    for once in {once for _, once in missing}:
        able = (door for door in doors if door.is_for_one_possible or not once)
        for door in sorted(able, key=lambda door: door.once != once):
            for opened in door.all_opens:
                by_port.setdefault((set_port(opened), once), []).append(door)
    found = [o for (address, once), ports in missing.items() for o in _attribute(address, ports, by_port, now_s, once)]
    return Differences(tuple(found), tuple(lost), tuple(used))


def is_used(opening: Opening, have: Collection[Element]) -> bool:
    """Return whether an opening is for one connection, and the kernel lacks an element of it."""
    return any(element.once and element not in have for element in opening.elements())


def _attribute(
    address: Source,
    left_s: Mapping[SetPort, float],
    by_port: Mapping[tuple[SetPort, bool], Sequence[Door]],
    now_s: float,
    once: bool,
) -> Iterator[Opening]:
    """Yield the openings that account for these elements: doors with all their ports first, in file order."""
    remaining = dict(left_s)
    for needs_all in (True, False):
        for first in left_s:
            doors = by_port.get((first, once), ()) if first in remaining else ()
            reached = ((door, {set_port(port): port for port in door.opens_to(address)}) for door in doors)
            fitting = (
                each for each in reached if first in each[1] and (not needs_all or remaining.keys() >= each[1].keys())
            )
            door, opened = next(fitting, (None, {}))
            if door is not None:
                keys = [key for key in opened if key in remaining]
                until_s = now_s + max(remaining.pop(key) for key in keys)
                ports = tuple(opened[key] for key in keys)
                shares = (Share("knock", until_s, name="knock", once=True),) if once else ()
                yield Opening(door.name, address, ports, now_s, until_s, "knock", shares)


def restored_openings(recorded: Iterable[Opening], wall_offset_s: float, now_s: float) -> list[Opening]:
    """Return the recorded openings in times of the opening table's clock, for a daemon that starts at `now_s`.

    None lasts longer than it was opened for, even if the wall clock was set back before a boot.
    """
    openings = []
    for opening in (each.shifted(-wall_offset_s) for each in recorded):
        until_s = min(opening.until_s, now_s + opening.until_s - opening.since_s)
        shares = tuple(share._replace(until_s=min(share.until_s, until_s)) for share in opening.shares)
        openings.append(opening._replace(until_s=until_s, shares=shares))
    return openings
