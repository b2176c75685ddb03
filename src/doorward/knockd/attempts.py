"""Attempts in progress, as the log tells of them: stages and sequence timeouts. Pure, and bounded."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import MachineKey
from doorward.knockd.stages import Stage
from doorward.model import Address

MAX_ATTEMPTS = 65536  # beyond it the oldest is forgotten: its timeout is not told


class StageProgress(NamedTuple):
    """Where a source stands in one machine, and until when."""

    stages: tuple[Stage, ...]
    until_s: float


class AttemptTable:
    """Keeps what was told last of each source, by machine; sources in the order in which they were heard."""

    def __init__(self) -> None:
        self._standing: OrderedDict[Address, dict[MachineKey, StageProgress]] = OrderedDict()
        self._ends: list[tuple[float, int, Address, MachineKey]] = []  # a heap; what moved on is passed over
        self._numbers = itertools.count()

    def advance(self, source: Address, machine: MachineKey, stages: Sequence[Stage], now_s: float) -> None:
        """Enter a step; the deadline counts from the first knock."""
        attempts = self._standing.pop(source, {})
        old = attempts.get(machine)
        first = all(stage.number == 1 for stage in stages)
        until_s = now_s + machine[1] / 1000 if old is None or first else old.until_s
        attempts[machine] = StageProgress(tuple(stage for stage in stages if not stage.last), until_s)
        self._standing[source] = attempts
        heapq.heappush(self._ends, (until_s, next(self._numbers), source, machine))
        if len(self._standing) > MAX_ATTEMPTS:
            self._standing.popitem(last=False)

    def fail(self, source: Address) -> None:
        """Forget a source that went wrong: knockd says nothing of it either."""
        self._standing.pop(source, None)

    def expire(self, now_s: float) -> list[tuple[Address, Stage]]:
        """Strike out what is over time at `now_s`, and give it."""
        over: list[tuple[Address, Stage]] = []
        while (end_s := self.next_end_s()) is not None and end_s <= now_s:
            _, _, source, machine = heapq.heappop(self._ends)
            over += [(source, stage) for stage in self._standing[source].pop(machine).stages]
        return over

    def next_end_s(self) -> float | None:
        """Give the moment at which the first attempt is over time."""
        while self._ends:
            until_s, _, source, machine = self._ends[0]
            attempt = self._standing.get(source, {}).get(machine)
            if attempt is not None and attempt.until_s == until_s:
                return until_s
            heapq.heappop(self._ends)
        return None
