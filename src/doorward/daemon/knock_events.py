"""From the kernel's log messages to openings and rejections."""

from __future__ import annotations

import time

from doorward.core.openings import USE, Effect, Reject, SetElements, on_banned_knock, on_knock
from doorward.daemon.bans import BanList
from doorward.daemon.gate_loader import GateLoader
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.ruleset_loader import LoadResult
from doorward.daemon.stats import EventStats
from doorward.kernel.nflog import NflogEvent
from doorward.model import Source, elements_of

_REJECTIONS = {
    "throttled": "rate limit exceeded (more than 20 knock packets/s); progress reset",
    "full": "the knock was correct, but the open set is full",
}
_EARLY_S, _MOST_EARLY = 1.0, 100  # by so much, and so many, reports of a use may come before those of their knocks


class KnockEvents:
    """Reads events. `overflows` counts how often the kernel lost some, after which the open sets are read back."""

    def __init__(
        self, reader: NflogReader, openings: OpeningsService, gate: GateLoader, bans: BanList, stats: EventStats
    ) -> None:
        self._reader, self._openings, self._gate, self._bans, self._stats = reader, openings, gate, bans, stats
        self._states: dict[str, dict[int, tuple[str, ...]]] = {}  # by generation: the doors that a state opens
        self._early_uses: dict[Source, tuple[float, str]] = {}  # when each came, and what it was
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
        effects: list[Effect] = []
        for event in events:
            if event.what == "knock":
                effects += self._on_knock(event)
            elif event.what == "used":
                effects += self._on_use(event)
            elif event.what in _REJECTIONS:  # a compromised reader may send the kinds that `explain --live` reads
                effects += self._on_rejection(event)
        for refusal in self._openings.perform(effects):  # the kernel has opened the doors; only an end may be wrong
            source = refusal.change.elements[0].address
            self._openings.log.message(
                "opening-end-not-set", f"the end of an opening for {source} was not set: {refusal.error}", "error"
            )
        # Of a knock on a previous ruleset, or from before a close, the kernel may have nothing left.
        if any(isinstance(effect, SetElements) and effect.have is None for effect in effects):
            self._openings.end_used("lost")
        for event in events:
            if event.what == "knock" and event.at_us:
                self._stats.latency.add(time.time() - event.at_us / 1_000_000)

    def _on_use(self, event: NflogEvent) -> list[Effect]:
        """Handle a connection that used up an opening. A forged report ends nothing: the kernel is asked."""
        by, now_s = f"{USE} from port {event.source_port}" if event.source_port else USE, self._openings.loop.now_s()
        if not self._openings.table.for_one(event.source):
            # Its knock may be reported after it, by another processor.
            self._early_uses = dict(list(self._early_uses.items())[-_MOST_EARLY:]) | {event.source: (now_s, by)}
        return self._openings.on_use(event.source, by)

    def _on_knock(self, event: NflogEvent) -> list[Effect]:
        names = self._states.get(event.generation, {}).get(event.state, ())
        doors = [self._openings.doors[name] for name in names if name in self._openings.doors]
        if self._bans.contains(event.source):  # its knock was complete just before the ban
            return on_banned_knock(doors, event.source)
        elements = elements_of(doors, event.source)
        is_current = not (self._gate.guard.is_fresh or self._openings.were_removed(elements))
        now_s = self._openings.loop.now_s()
        effects = on_knock(self._openings.table, doors, event.source, now_s, is_current=is_current)
        came_s, by = self._early_uses.pop(event.source, (float("-inf"), ""))
        return [*effects, *self._openings.on_use(event.source, by)] if now_s - came_s < _EARLY_S else effects

    def _on_rejection(self, event: NflogEvent) -> list[Effect]:
        self._stats.refused[event.what] += 1
        doors = self._states.get(event.generation, {}).get(event.state, (None,))
        return [Reject(event.source, door, _REJECTIONS[event.what], event.what) for door in doors]
