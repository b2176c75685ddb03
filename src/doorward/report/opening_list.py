"""Openings as timelines: one for each door and person, with the times when the door was open. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from doorward.report.events import Period, Session

SLOTS = 240  # width of a timeline in marks; one or two pixels each on a phone
MOST_TIMELINES = 40
Runs = tuple[tuple[int, int], ...]  # (first slot, number of slots)


class Timeline(NamedTuple):
    """A door's openings for one person; or the sum of `others` people at `doors` doors, beyond the limit."""

    door: str
    person: str
    by: str
    openings: int
    open_s: float
    last_s: float
    addresses: int
    open_now: int
    runs: Runs  # of ended openings
    now: Runs  # of current openings
    others: int = 0
    doors: int = 1


def timelines(sessions: Iterable[Session], period: Period) -> list[Timeline]:
    """Return the timelines by door, the busiest person first; those beyond the limit share the last one."""
    groups: dict[tuple[str, str, str], list[Session]] = defaultdict(list)
    for session in sessions:
        groups[session.door, session.person, session.key].append(session)
    busiest = sorted(groups.values(), key=lambda group: (-len(group), -group[-1].since_s))
    result = [_timeline(group, period) for group in busiest[:MOST_TIMELINES]]
    result.sort(key=lambda timeline: (timeline.door, -timeline.openings, -timeline.last_s))
    if rest := busiest[MOST_TIMELINES:]:
        doors = len({group[0].door for group in rest})
        sum_of_rest = _timeline([session for group in rest for session in group], period)
        result.append(sum_of_rest._replace(others=len(rest), doors=doors))
    return result


def count_people(sessions: Iterable[Session]) -> int:
    """Return the number of keys plus the number of addresses that used no key."""
    return len({(session.person, session.key) for session in sessions})


def slot_at(at_s: float, period: Period) -> int:
    """Return the slot of a time; times outside of the period are at the edge."""
    slot = int((at_s - period.since_s) / period.length_s * SLOTS)
    return min(max(slot, 0), SLOTS - 1)


def _timeline(group: Sequence[Session], period: Period) -> Timeline:
    last = max(group, key=lambda session: session.since_s)
    return Timeline(
        last.door,
        last.person,
        last.by,
        len(group),
        sum(max(0.0, min(session.until_s, period.until_s) - max(session.since_s, period.since_s)) for session in group),
        last.since_s,
        len({session.address for session in group}),
        sum(session.ended_by is None for session in group),
        _runs((session for session in group if session.ended_by is not None), period),
        _runs((session for session in group if session.ended_by is None), period),
    )


def _runs(group: Iterable[Session], period: Period) -> Runs:
    is_open_at = [False] * SLOTS
    for session in group:
        first, last = slot_at(session.since_s, period), slot_at(session.until_s, period)
        is_open_at[first : last + 1] = [True] * (last + 1 - first)
    runs, start = [], 0
    for is_open, slots in groupby(is_open_at):
        length = len(list(slots))
        if is_open:
            runs.append((start, length))
        start += length
    return tuple(runs)
