"""Who was refused: by network, by reason, and by the hours of the days. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from doorward.model import parse_place
from doorward.report.events import Period, Refusal

MOST_SOURCES = 12
MOST_REASONS = 12
MOST_DAYS = 32  # a longer period is shown by the days of the week
HOURS = 24

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"((?:{_OCTET}\.){{3}}){_OCTET}")  # ipaddress takes seven times as long, of 200,000 strangers

LocalTime = Callable[[float], datetime]
Cell = tuple[int, int]  # a row of the map, and an hour

# What differs from one refusal to the next for the same reason.
_VARIABLE = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "…"),
    (re.compile(r"(?<=is )(?:\d+ (?:d|h|min|s) ?)+(?=behind|ahead)"), ""),
    (re.compile(r"(?<=is )under 1 s (?=behind|ahead)"), ""),
    (re.compile(r"\b(from|for) (?:[0-9a-f]{0,4}[.:]){2,8}[0-9a-f]{0,4}(?:/\d+)?"), r"\1 some address"),
)


class Placed(NamedTuple):
    """A refusal, the network that it is of, and its place on the map."""

    refusal: Refusal
    network: str
    cell: Cell


class RefusedNetwork(NamedTuple):
    """A network that was refused: how often, of how many addresses (`address`: the only one), when, mostly why."""

    network: str
    address: str | None
    addresses: int
    refusals: int
    first_s: float
    last_s: float
    reason: str
    cells: Mapping[Cell, int]


class HourGrid(NamedTuple):
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


class RefusalMap(NamedTuple):
    """How many were refused in each hour, and who most often."""

    grid: HourGrid
    counts: Mapping[Cell, int]
    leaders: Mapping[Cell, tuple[str, int]]


def build_grid(period: Period, local: LocalTime) -> HourGrid:
    """Choose the rows for a period."""
    first, last = local(period.since_s).date(), local(period.until_s).date()
    days = (last - first).days + 1
    return HourGrid(tuple(first + timedelta(number) for number in range(days)) if days <= MOST_DAYS else ())


def source_network(address: str) -> str:
    """Give the /24 or /64 around an address, mostly one owner's; a text that is no address is a source of its own."""
    if match := _IPV4.fullmatch(address):
        return f"{match[1]}0/24"
    try:
        place = parse_place(address)
    except ValueError:
        return address
    return str(IPv6Network((int(place), 64), strict=False) if isinstance(place, IPv6Address) else place)


def placed(refusals: Iterable[Refusal], grid: HourGrid, local: LocalTime) -> list[Placed]:
    """Find each refusal's network and place on the map."""
    found = []
    for refusal in refusals:
        moment = local(refusal.at_s)
        cell = grid.row_of(moment.date()), moment.hour
        found.append(Placed(refusal, source_network(refusal.address), cell))
    return found


def sources(refusals: Iterable[Placed]) -> tuple[list[RefusedNetwork], int]:
    """Give the networks that were refused most often, the worst first, and count all."""
    groups = defaultdict[str, list[Placed]](list)
    for refusal in refusals:
        groups[refusal.network].append(refusal)
    worst = sorted(groups, key=lambda network: (-len(groups[network]), network))[:MOST_SOURCES]
    return [_source(network, groups[network]) for network in worst], len(groups)


def reasons(refusals: Iterable[Refusal]) -> tuple[list[tuple[str, int]], int]:
    """Give the reasons with their counts, the commonest first, and how many refusals have a rarer one."""
    counts: Counter[str] = Counter()
    for reason, count in Counter(refusal.reason for refusal in refusals).items():
        counts[refusal_kind(reason)] += count
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return common[:MOST_REASONS], sum(count for _, count in common[MOST_REASONS:])


def refusal_kind(reason: str) -> str:
    """Give a reason without what differs from one refusal to the next."""
    for pattern, instead in _VARIABLE:
        reason = pattern.sub(instead, reason[:500])
    return reason


def build_map(refusals: Iterable[Placed], grid: HourGrid) -> RefusalMap:
    """Count the refusals of each hour."""
    by_cell = defaultdict[Cell, Counter[str]](Counter)
    for refusal in refusals:
        by_cell[refusal.cell][refusal.network] += 1
    counts = {cell: counted.total() for cell, counted in by_cell.items()}
    leaders = {cell: min(counted.items(), key=lambda item: (-item[1], item[0])) for cell, counted in by_cell.items()}
    return RefusalMap(grid, counts, leaders)


def _source(network: str, group: Sequence[Placed]) -> RefusedNetwork:
    refusals = [each.refusal for each in group]
    addresses = {refusal.address for refusal in refusals}
    only = next(iter(addresses)) if len(addresses) == 1 else None
    why = Counter(refusal_kind(refusal.reason) for refusal in refusals).most_common(1)[0][0]
    cells = Counter(each.cell for each in group)
    return RefusedNetwork(network, only, len(addresses), len(group), refusals[0].at_s, refusals[-1].at_s, why, cells)
