"""Statistics since the daemon's start, for `doorward watch` and `doorward metrics`.

Counts by name are bounded: a configuration may have 100,000 doors.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nfnetlink import GateUsage, ProgressEntry

MOST_ATTEMPTS = 50  # of each map, which may have a million
FRESH_S = 0.25  # the kernel is queried at most this often, for any number of clients


class KernelStats:
    """Query the kernel, and cache the result for a moment."""

    def __init__(self) -> None:
        self._read_s, self._gauges, self._counters = float("-inf"), GateUsage([], []), dict[str, int]()

    def read(self, firewall: NftFirewall, now_s: float) -> tuple[GateUsage, dict[str, int]]:
        """Return how full the sets are and the counters, read at most every FRESH_S seconds."""
        if now_s >= self._read_s + FRESH_S:
            self._gauges, self._counters = firewall.gauges(MOST_ATTEMPTS), firewall.counters()
            self._read_s = now_s
        return self._gauges, self._counters


def attempt_as_dict(attempt: ProgressEntry, depths: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return a knock in progress, with how many of its packets have come; `depths` as in a LoadResult."""
    at = bisect_right(depths, attempt.state, key=lambda start: start[0])
    knocks = depths[at - 1][1] if at else 0
    return {"address": str(attempt.source), "knocks": knocks, "left": attempt.left_ms / 1000}


MAX_DOORS = 1000  # counted by name; the others are counted together
OTHERS = ""  # never the name of a door
# From the kernel's log to the opening in the ledger: half a millisecond is usual, and a disk may take its time.
LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONGEST_S = 60.0  # more is a clock that was stepped
_EVENTS = ("opened", "prolonged", "closed", "ran")


class Histogram:
    """Count latencies by the bounds in LATENCY_S that they do not exceed."""

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_S) + 1)
        self._sum_s = 0.0

    def add(self, value_s: float) -> None:
        """Count a latency; a value out of range is ignored."""
        if 0 <= value_s <= _LONGEST_S:
            self._counts[bisect_left(LATENCY_S, value_s)] += 1
            self._sum_s += value_s

    def as_dict(self) -> dict[str, Any]:
        """Return the bounds, the count up to each of them and beyond the last, and the sum."""
        return {"bounds": list(LATENCY_S), "counts": list(self._counts), "sum": self._sum_s}


class EventStats:
    """Count events of the log, rejections and latencies."""

    def __init__(self) -> None:
        self._doors: set[str] = set()
        self._events: Counter[tuple[str, str, str]] = Counter()  # what, at which door, how
        self.refused: Counter[str] = Counter()  # by reason, but for signed knocks
        self.latency = Histogram()

    def count(self, event: str, fields: Mapping[str, object]) -> None:
        """Count an event of the log."""
        if event in _EVENTS:
            way = str(fields["by"]).split(" ", 1)[0]  # of "key NAME" the kind
            self._events[event, self._known(str(fields["door"])), way] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return all counts as JSON values."""
        return {
            "events": [[*key, count] for key, count in self._events.items()],
            "refused": dict(self.refused),
            "latency": self.latency.as_dict(),
        }

    def _known(self, door: str) -> str:
        if door in self._doors or len(self._doors) < MAX_DOORS:
            self._doors.add(door)
            return door
        return OTHERS
