"""From the kernel's log messages to openings and rejections."""

from __future__ import annotations

import time

from doorward.daemon.bans import BanList
from doorward.daemon.gate_loader import GateLoader
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.ruleset_loader import LoadResult
from doorward.daemon.stats import EventStats
from doorward.errors import DoorwardError
from doorward.kernel.nflog import NflogEvent
from doorward.model import Element, Opening

_REJECTIONS = {
    "fast": "rate limit exceeded (more than 20 knock packets/s); progress reset",
    "full": "the knock was correct, but the open set is full",
}


class KnockEvents:
    """Reads events. `overflows` counts how often the kernel lost some, after which the open sets are read back."""

    def __init__(
        self, reader: NflogReader, openings: OpeningsService, gate: GateLoader, bans: BanList, stats: EventStats
    ) -> None:
        self._reader, self._openings, self._gate, self._bans, self._stats = reader, openings, gate, bans, stats
        self._states: dict[str, dict[int, tuple[str, ...]]] = {}  # by generation: the doors that a state opens
        self.overflows = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def configure(self, loaded: LoadResult) -> None:
        """Add a configuration's states; messages of the previous one may still be in flight."""
        before = dict(list(self._states.items())[-1:])
        names = {state: tuple(loaded.doors[i].name for i in done) for state, done in loaded.states.items()}
        self._states = before | {loaded.generation: names}

    def read(self) -> None:
        """Record what the kernel logged."""
        events = self._reader.read()
        if events is None:
            self.overflows += 1
            self._openings.log.message(
                "knock-log-overflow", f"{self._reader.loss}; reading the open sets back", "warning"
            )
            self._openings.reconcile()
            return
        with self._openings.recording():
            for event in events:
                if event.what == "knock":
                    try:
                        self._knocked(event)
                    except DoorwardError as error:  # the kernel has opened the door already; only the end may be wrong
                        self._openings.log.message(
                            "opening-end-not-set",
                            f"the end of an opening for {event.source} was not set: {error}",
                            "error",
                        )
                elif event.what in _REJECTIONS:  # a compromised reader may send the kinds that `explain --live` reads
                    self._rejected(event)
        for event in events:
            if event.what == "knock" and event.at_us:
                self._stats.latency.add(time.time() - event.at_us / 1_000_000)

    def _knocked(self, event: NflogEvent) -> None:
        openings, now_s = self._openings, self._openings.loop.now_s()
        names = self._states.get(event.generation, {}).get(event.state, ())
        doors = [openings.doors[name] for name in names if name in openings.doors]
        have: dict[Element, float] = {}
        if self._bans.contains(event.source):  # its knock was complete just before the ban
            openings.apply_openings(tuple(Element(event.source, port) for door in doors for port in door.opens))
            return
        for door in doors:
            new = Opening(door.name, event.source, door.opens, now_s, now_s + door.for_ms / 1000, "knock")
            if not door.is_opening:
                openings.record_command_run(new)
                continue
            openings.record_opening(new)
            for element in new.elements():
                have[element] = max(have.get(element, 0.0), door.for_ms / 1000)
        # The kernel set the end of the last knock; where another opening of the port lasts longer, restore that one.
        openings.apply_openings(tuple(have), None if self._gate.guard.is_fresh else have)

    def _rejected(self, event: NflogEvent) -> None:
        self._stats.refused[event.what] += 1
        for door in self._states.get(event.generation, {}).get(event.state, (None,)):
            self._openings.reject(event.source, door, _REJECTIONS[event.what], event.what)
