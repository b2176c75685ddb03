"""Who was refused: by network, by reason, and by the hours of the days. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from doorward.model import parse_place
from doorward.report.record import Period, Refusal

MOST_SOURCES = 12
MOST_REASONS = 12
MOST_DAYS = 32  # a longer period is shown by the days of the week
HOURS = 24

LocalTime = Callable[[float], datetime]
Cell = tuple[int, int]  # a row of the map, and an hour

# What differs from one refusal to the next for the same reason.
_VARIABLE = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "…"),
    (re.compile(r"(?<=is )(?:\d+ (?:d|h|min|s) ?)+(?=behind|ahead)"), ""),
    (re.compile(r"(?<=is )under 1 s (?=behind|ahead)"), ""),
    (re.compile(r"\b(from|for) (?:[0-9a-f]{0,4}[.:]){2,8}[0-9a-f]{0,4}(?:/\d+)?"), r"\1 some address"),
)


class Source(NamedTuple):
    """A network that was refused: how often, of how many addresses (`address`: the only one), when, mostly why."""

    network: str
    address: str | None
    addresses: int
    refusals: int
    first_s: float
    last_s: float
    reason: str
    cells: Mapping[Cell, int]


class Grid(NamedTuple):
    """The rows of the map: dates, or the days of the week from Monday on where the period is long."""

    dates: tuple[date, ...]

    @property
    def rows(self) -> int:
        """Count the rows."""
        return len(self.dates) or 7

    def row_of(self, day: date) -> int:
        """Tell in which row a date is; what lies outside is at the edge."""
        if not self.dates:
            return day.weekday()
        return min(max((day - self.dates[0]).days, 0), len(self.dates) - 1)


class Map(NamedTuple):
    """How many were refused in each hour, and who most often."""

    grid: Grid
    counts: Mapping[Cell, int]
    leaders: Mapping[Cell, tuple[str, int]]


def grid_of(period: Period, local: LocalTime) -> Grid:
    """Choose the rows for a period."""
    first, last = local(period.since_s).date(), local(period.until_s).date()
    days = (last - first).days + 1
    return Grid(tuple(first + timedelta(number) for number in range(days)) if days <= MOST_DAYS else ())


def network_of(address: str) -> str:
    """Give the /24 or /64 around an address, mostly one owner's; a text that is no address is a source of its own."""
    try:
        place = parse_place(address)
    except ValueError:
        return address
    if isinstance(place, IPv4Address):
        return str(IPv4Network((int(place), 24), strict=False))
    return str(IPv6Network((int(place), 64), strict=False) if isinstance(place, IPv6Address) else place)


def sources(refusals: Iterable[Refusal], grid: Grid, local: LocalTime) -> tuple[list[Source], int]:
    """Give the networks that were refused most often, the worst first, and count all."""
    find, groups = cache(network_of), defaultdict[str, list[Refusal]](list)
    for refusal in refusals:
        groups[find(refusal.address)].append(refusal)
    worst = sorted(groups, key=lambda network: (-len(groups[network]), network))[:MOST_SOURCES]
    return [_source(network, groups[network], grid, local) for network in worst], len(groups)


def reasons(refusals: Iterable[Refusal]) -> tuple[list[tuple[str, int]], int]:
    """Give the reasons with their counts, the commonest first, and how many refusals have a rarer one."""
    counts: Counter[str] = Counter()
    for reason, count in Counter(refusal.reason for refusal in refusals).items():
        counts[kind_of(reason)] += count
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return common[:MOST_REASONS], sum(count for _, count in common[MOST_REASONS:])


def kind_of(reason: str) -> str:
    """Give a reason without what differs from one refusal to the next."""
    for pattern, instead in _VARIABLE:
        reason = pattern.sub(instead, reason[:500])
    return reason


def map_of(refusals: Iterable[Refusal], grid: Grid, local: LocalTime) -> Map:
    """Count the refusals of each hour."""
    find, by_cell = cache(network_of), defaultdict[Cell, Counter[str]](Counter)
    for refusal in refusals:
        by_cell[_cell(refusal, grid, local)][find(refusal.address)] += 1
    counts = {cell: counted.total() for cell, counted in by_cell.items()}
    leaders = {cell: min(counted.items(), key=lambda item: (-item[1], item[0])) for cell, counted in by_cell.items()}
    return Map(grid, counts, leaders)


def _source(network: str, group: Sequence[Refusal], grid: Grid, local: LocalTime) -> Source:
    addresses = {refusal.address for refusal in group}
    why = Counter(kind_of(refusal.reason) for refusal in group).most_common(1)[0][0]
    cells = Counter(_cell(refusal, grid, local) for refusal in group)
    only = next(iter(addresses)) if len(addresses) == 1 else None
    return Source(network, only, len(addresses), len(group), group[0].at_s, group[-1].at_s, why, cells)


def _cell(refusal: Refusal, grid: Grid, local: LocalTime) -> Cell:
    moment = local(refusal.at_s)
    return grid.row_of(moment.date()), moment.hour
