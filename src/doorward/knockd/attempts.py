"""Attempts in progress, as logged: stages and sequence timeouts. Pure and bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import MachineKey
from doorward.core.deadlines import Deadlines
from doorward.knockd.stages import Stage
from doorward.model import Address

MAX_ATTEMPTS = 65536  # beyond it the oldest is evicted, and its timeout is not logged


class StageProgress(NamedTuple):
    """The progress of a source in one automaton, and its deadline."""

    stages: tuple[Stage, ...]
    deadline_s: float


class AttemptTable:
    """The progress of each source by automaton; sources in order of their latest packet."""

    def __init__(self) -> None:
        self._progress: OrderedDict[Address, dict[MachineKey, StageProgress]] = OrderedDict()
        self._deadlines: Deadlines[tuple[Address, MachineKey]] = Deadlines()

    def advance(self, source: Address, machine: MachineKey, stages: Sequence[Stage], now_s: float) -> None:
        """Record a step; the deadline counts from the first knock packet."""
        progress = self._progress.pop(source, {})
        attempt = progress.get(machine)
        is_first = all(stage.number == 1 for stage in stages)
        until_s = now_s + machine[1] / 1000 if attempt is None or is_first else attempt.deadline_s
        progress[machine] = StageProgress(tuple(stage for stage in stages if not stage.last), until_s)
        self._progress[source] = progress
        self._deadlines.set((source, machine), until_s)
        if len(self._progress) > MAX_ATTEMPTS:
            self.fail(next(iter(self._progress)))

    def fail(self, source: Address) -> None:
        """Remove a source after a wrong packet; knockd does not log it either."""
        for machine in self._progress.pop(source, {}):
            self._deadlines.discard((source, machine))

    def expire(self, now_s: float) -> list[tuple[Address, Stage]]:
        """Remove and return the attempts whose deadline has passed at `now_s`."""
        expired: list[tuple[Address, Stage]] = []
        while (first := self._deadlines.first()) is not None and first[0] <= now_s:
            source, machine = first[1]
            self._deadlines.discard(first[1])
            expired += [(source, stage) for stage in self._progress[source].pop(machine).stages]
        return expired

    def next_deadline_s(self) -> float:
        """Return the earliest deadline; infinity if there is no attempt."""
        first = self._deadlines.first()
        return float("inf") if first is None else first[0]
