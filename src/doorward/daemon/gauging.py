"""What the daemon answers to `numbers`: counts since it began, and how full the kernel's sets are just now."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from doorward.gate.gauges import Attempt, Gauges

if TYPE_CHECKING:
    from doorward.daemon.app import Daemon

MOST_ATTEMPTS = 50  # of each map; there may be a million, and nobody reads more
FRESH_S = 0.25  # the kernel is asked again after so long, however many ask


class Gauging:
    """Asks the kernel, and remembers for a moment what it said."""

    def __init__(self) -> None:
        self._read_s, self._gauges, self._counters = float("-inf"), Gauges([], []), dict[str, int]()

    def answer(self, daemon: Daemon) -> dict[str, Any]:
        """Answer the request; its cost has a bound, whatever happens at the gate."""
        now_s = daemon.loop.now_s()
        if now_s >= self._read_s + FRESH_S:
            self._gauges, self._counters = daemon.filter.gauges(MOST_ATTEMPTS), daemon.filter.counters()
            self._read_s = now_s
        return {
            "summary": daemon.loaded.summary(),
            "generation": daemon.loaded.generation,
            "doors": len(daemon.doors),
            "openings": len(daemon.book),
            "bans": len(daemon.bans.standing()),
            "counters": self._counters,
            "sets": {fill.name: {"elements": fill.elements, "size": fill.size} for fill in self._gauges.fills},
            "listed": len(self._gauges.attempts),
            "attempts": [
                _shown(attempt, daemon.loaded.depths)
                for attempt in self._gauges.attempts
                if attempt.state not in daemon.loaded.states  # the state stays when the door is open
            ],
            "log_overflows": daemon.missed,
            "ledger_trouble": daemon.ledger.trouble,
            "ledger_lost": daemon.ledger.lost,
            "signed": None if daemon.signed is None else daemon.signed.described(),
            "fleet": None if daemon.fleet is None else daemon.fleet.described(),
            **daemon.numbers.described(),
        }


def _shown(attempt: Attempt, depths: Sequence[tuple[int, int]]) -> dict[str, Any]:
    at = bisect_right(depths, attempt.state, key=lambda start: start[0])
    knocks = depths[at - 1][1] if at else 0
    return {"address": str(attempt.source), "knocks": knocks, "left": attempt.left_ms / 1000}
