"""Group refusals by network, by reason, and by hour. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from doorward.model import parse_source
from doorward.report.events import Period, Refusal

MOST_NETWORKS = 12
MOST_REASONS = 12
MOST_DAYS = 32  # a longer period is shown by day of the week
HOURS = 24

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"((?:{_OCTET}\.){{3}}){_OCTET}")  # seven times as fast as ipaddress

LocalTime = Callable[[float], datetime]
Cell = tuple[int, int]  # (row of the map, hour)

# Parts of a reason that differ from one refusal to the next.
_VARIABLE_PARTS = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "…"),
    (re.compile(r"(?<=is )(?:\d+[dhms] )+(?=behind|ahead)"), ""),
    (re.compile(r"\b(from|for) (?:[0-9a-f]{0,4}[.:]){2,8}[0-9a-f]{0,4}(?:/\d+)?"), r"\1 some address"),
)


class MappedRefusal(NamedTuple):
    """A refusal with its network and its cell of the map."""

    refusal: Refusal
    network: str
    cell: Cell


class RefusedNetwork(NamedTuple):
    """The refusals of one network; `address` if they are all of one address; `reason` is the most common one."""

    network: str
    address: str | None
    addresses: int
    refusals: int
    first_s: float
    last_s: float
    reason: str
    cells: Mapping[Cell, int]


class HourGrid(NamedTuple):
    """The rows of the map: dates, or the days of the week from Monday on if the period is long (`dates` empty)."""

    dates: tuple[date, ...]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.dates) or 7

    def row_for(self, day: date) -> int:
        """Return the row of a date; dates outside of the period are at the edge."""
        if not self.dates:
            return day.weekday()
        return min(max((day - self.dates[0]).days, 0), len(self.dates) - 1)


class RefusalMap(NamedTuple):
    """The number of refusals in each cell, and the network with the most of them."""

    grid: HourGrid
    counts: Mapping[Cell, int]
    leaders: Mapping[Cell, tuple[str, int]]


def build_grid(period: Period, local: LocalTime) -> HourGrid:
    """Return the rows for a period."""
    first, last = local(period.since_s).date(), local(period.until_s).date()
    days = (last - first).days + 1
    return HourGrid(tuple(first + timedelta(number) for number in range(days)) if days <= MOST_DAYS else ())


def source_network(address: str) -> str:
    """Return the /24 or /64 of an address, mostly one owner's; text that is not an address is returned unchanged."""
    if match := _IPV4.fullmatch(address):
        return f"{match[1]}0/24"
    try:
        parsed = parse_source(address)
    except ValueError:
        return address
    return str(IPv6Network((int(parsed), 64), strict=False) if isinstance(parsed, IPv6Address) else parsed)


def place_on_map(refusals: Iterable[Refusal], grid: HourGrid, local: LocalTime) -> list[MappedRefusal]:
    """Return the refusals with their networks and cells."""
    mapped = []
    for refusal in refusals:
        moment = local(refusal.at_s)
        cell = grid.row_for(moment.date()), moment.hour
        mapped.append(MappedRefusal(refusal, source_network(refusal.address), cell))
    return mapped


def worst_networks(refusals: Iterable[MappedRefusal]) -> tuple[list[RefusedNetwork], int]:
    """Return the networks with the most refusals, the worst first, and the number of all networks."""
    groups = defaultdict[str, list[MappedRefusal]](list)
    for refusal in refusals:
        groups[refusal.network].append(refusal)
    worst = sorted(groups, key=lambda network: (-len(groups[network]), network))[:MOST_NETWORKS]
    return [_network(network, groups[network]) for network in worst], len(groups)


def top_reasons(refusals: Iterable[Refusal]) -> tuple[list[tuple[str, int]], int]:
    """Return the reasons with their counts, the most common first, and the number of refusals for other reasons."""
    counts: Counter[str] = Counter()
    for reason, count in Counter(refusal.reason for refusal in refusals).items():
        counts[refusal_kind(reason)] += count
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return common[:MOST_REASONS], sum(count for _, count in common[MOST_REASONS:])


def refusal_kind(reason: str) -> str:
    """Return a reason without the parts that differ from one refusal to the next."""
    for pattern, replacement in _VARIABLE_PARTS:
        reason = pattern.sub(replacement, reason[:500])
    return reason


def build_map(refusals: Iterable[MappedRefusal], grid: HourGrid) -> RefusalMap:
    """Return the refusals counted by cell."""
    by_cell = defaultdict[Cell, Counter[str]](Counter)
    for refusal in refusals:
        by_cell[refusal.cell][refusal.network] += 1
    counts = {cell: counted.total() for cell, counted in by_cell.items()}
    leaders = {cell: min(counted.items(), key=lambda item: (-item[1], item[0])) for cell, counted in by_cell.items()}
    return RefusalMap(grid, counts, leaders)


def _network(network: str, group: Sequence[MappedRefusal]) -> RefusedNetwork:
    refusals = [mapped.refusal for mapped in group]
    addresses = {refusal.address for refusal in refusals}
    single_address = next(iter(addresses)) if len(addresses) == 1 else None
    reason = Counter(refusal_kind(refusal.reason) for refusal in refusals).most_common(1)[0][0]
    cells = Counter(mapped.cell for mapped in group)
    return RefusedNetwork(
        network, single_address, len(addresses), len(group), refusals[0].at_s, refusals[-1].at_s, reason, cells
    )
