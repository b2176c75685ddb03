"""Attempts in progress, as logged: stages and sequence timeouts. Pure and bounded."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import MachineKey
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
        self._deadlines: list[tuple[float, int, Address, MachineKey]] = []  # a heap; outdated entries are skipped
        self._numbers = itertools.count()

    def advance(self, source: Address, machine: MachineKey, stages: Sequence[Stage], now_s: float) -> None:
        """Record a step; the deadline counts from the first knock packet."""
        progress = self._progress.pop(source, {})
        attempt = progress.get(machine)
        is_first = all(stage.number == 1 for stage in stages)
        until_s = now_s + machine[1] / 1000 if attempt is None or is_first else attempt.deadline_s
        progress[machine] = StageProgress(tuple(stage for stage in stages if not stage.last), until_s)
        self._progress[source] = progress
        heapq.heappush(self._deadlines, (until_s, next(self._numbers), source, machine))
        if len(self._progress) > MAX_ATTEMPTS:
            self._progress.popitem(last=False)

    def fail(self, source: Address) -> None:
        """Remove a source after a wrong packet; knockd does not log it either."""
        self._progress.pop(source, None)

    def expire(self, now_s: float) -> list[tuple[Address, Stage]]:
        """Remove and return the attempts whose deadline has passed at `now_s`."""
        expired: list[tuple[Address, Stage]] = []
        while (end_s := self.next_deadline_s()) is not None and end_s <= now_s:
            _, _, source, machine = heapq.heappop(self._deadlines)
            expired += [(source, stage) for stage in self._progress[source].pop(machine).stages]
        return expired

    def next_deadline_s(self) -> float | None:
        """Return the earliest deadline; None if there is no attempt."""
        while self._deadlines:
            until_s, _, source, machine = self._deadlines[0]
            attempt = self._progress.get(source, {}).get(machine)
            if attempt is not None and attempt.deadline_s == until_s:
                return until_s
            heapq.heappop(self._deadlines)
        return None
