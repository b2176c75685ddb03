"""Openings as timelines: one for each door and person, with the times when the door was open. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from doorward.report.events import Period, Session

SLOTS = 240  # width of a timeline in marks; one or two pixels each on a phone
MOST_LANES = 40
Runs = tuple[tuple[int, int], ...]  # (first slot, number of slots)


class Timeline(NamedTuple):
    """A door's openings for one person; or the sum of `others` people at `doors` doors, beyond the limit."""

    door: str
    person: str
    by: str
    visits: int
    open_s: float
    last_s: float
    addresses: int
    standing: int
    runs: Runs  # of ended openings
    now: Runs  # of current openings
    others: int = 0
    doors: int = 1


def lanes(visits: Iterable[Session], period: Period) -> list[Timeline]:
    """Return the timelines by door, the busiest person first; those beyond the limit share the last one."""
    groups: dict[tuple[str, str, bool], list[Session]] = defaultdict(list)
    for visit in visits:
        groups[visit.door, visit.person, visit.by == "key"].append(visit)
    busiest = sorted(groups.values(), key=lambda group: (-len(group), -group[-1].since_s))
    found = [_lane(group, period) for group in busiest[:MOST_LANES]]
    found.sort(key=lambda lane: (lane.door, -lane.visits, -lane.last_s))
    if rest := busiest[MOST_LANES:]:
        doors = len({group[0].door for group in rest})
        together = _lane([visit for group in rest for visit in group], period)
        found.append(together._replace(others=len(rest), doors=doors))
    return found


def people(visits: Iterable[Session]) -> int:
    """Return the number of keys plus the number of addresses that used no key."""
    return len({(visit.person, visit.by == "key") for visit in visits})


def time_slot(at_s: float, period: Period) -> int:
    """Return the slot of a time; times outside of the period are at the edge."""
    place = int((at_s - period.since_s) / period.length_s * SLOTS)
    return min(max(place, 0), SLOTS - 1)


def _lane(group: Sequence[Session], period: Period) -> Timeline:
    last = max(group, key=lambda visit: visit.since_s)
    return Timeline(
        last.door,
        last.person,
        last.by,
        len(group),
        sum(max(0.0, min(visit.until_s, period.until_s) - max(visit.since_s, period.since_s)) for visit in group),
        last.since_s,
        len({visit.address for visit in group}),
        sum(visit.ended_by is None for visit in group),
        _runs((visit for visit in group if visit.ended_by is not None), period),
        _runs((visit for visit in group if visit.ended_by is None), period),
    )


def _runs(group: Iterable[Session], period: Period) -> Runs:
    taken = [False] * SLOTS
    for visit in group:
        first, last = time_slot(visit.since_s, period), time_slot(visit.until_s, period)
        taken[first : last + 1] = [True] * (last + 1 - first)
    runs, place = [], 0
    for is_open, slots in groupby(taken):
        length = len(list(slots))
        if is_open:
            runs.append((place, length))
        place += length
    return tuple(runs)
