"""The automaton run in Python: one packet and a time in, the doors that open out. Bounded.

At the bound the tracker forgets the source that has been silent longest, whose owner knocks again; the
kernel's sets cannot evict and refuse the newest stranger instead. Both keep every opening that stands.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from doorward.automaton.compile import Automaton, Machine, symbol_of
from doorward.model import Packet

# A person with a script sends a handful of packets; nobody knocks with more than a burst of 40.
RATE_PER_S = 20
BURST = 40
PAUSE_S = 1 / RATE_PER_S  # who goes over the rate is not looked at until the next token: a flood costs one look-up
LIMITER_TIMEOUT_S = BURST / RATE_PER_S  # after so long a silence the bucket is full again: forget it


class Attempt(NamedTuple):
    """How far a source has come: its state, and when the deadline began."""

    state: int
    began_s: float


class Move(NamedTuple):
    """Where a packet took its source: a state (the root where it was wrong), and the doors that open, by index."""

    state: int
    wrong: bool
    opened: tuple[int, ...]


class Bucket(NamedTuple):
    """A source's tokens, when they were counted, and until when it is not looked at."""

    tokens: float
    counted_s: float
    paused_until_s: float


class Limiter:
    """A token bucket a source, as the kernel's `limit rate over 20/second burst 40 packets`."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def admits(self, source: bytes, now_s: float) -> bool | None:
        """Count one symbol: True within the rate, False above it, None where there is no room for `source`."""
        while self._buckets and self._oldest_s() + LIMITER_TIMEOUT_S <= now_s:
            self._buckets.popitem(last=False)
        bucket = self._buckets.get(source) or Bucket(BURST, now_s, 0.0)
        if now_s < bucket.paused_until_s:
            return False
        self._buckets.pop(source, None)
        if len(self._buckets) >= self._capacity:
            return None
        tokens = min(BURST, bucket.tokens + (now_s - bucket.counted_s) * RATE_PER_S)
        admitted = tokens >= 1
        self._buckets[source] = Bucket(tokens - 1, now_s, 0.0) if admitted else Bucket(tokens, now_s, now_s + PAUSE_S)
        return admitted

    def __len__(self) -> int:
        return len(self._buckets)

    def _oldest_s(self) -> float:
        return next(iter(self._buckets.values())).counted_s


class Tracker:
    """One state a source and machine. `capacity` bounds the sources in progress, and in the limiter, a family."""

    def __init__(self, automaton: Automaton, capacity: int) -> None:
        self._automaton = automaton
        self._capacity = capacity
        self._limiters = {4: Limiter(capacity), 16: Limiter(capacity)}  # by the length of an address
        self._attempts: dict[tuple[int, int], OrderedDict[bytes, Attempt]] = {
            (machine.root, length): OrderedDict() for machine in automaton.machines for length in (4, 16)
        }

    def follow(self, automaton: Automaton) -> None:
        """Go over to an automaton with the same machines: only which ports are symbols has changed."""
        self._automaton = automaton

    def see(self, packet: Packet, now_s: float) -> tuple[int, ...]:
        """Take one new packet at `now_s` (any clock that never goes back); give the doors, by index, that open."""
        opened: tuple[int, ...] = ()
        for move in self.moves(packet, now_s):
            opened += move.opened
        return opened

    def moves(self, packet: Packet, now_s: float) -> list[Move]:
        """Take one new packet, as `see` does; give where it took its source in each machine that it moved."""
        if not self._automaton.is_symbol(packet):
            return []
        admitted = self._limiters[len(packet.source)].admits(packet.source[:8], now_s)  # IPv6: the /64
        if not admitted:
            if admitted is False:
                self._forget(packet.source)
            return []
        return [
            Move(state, state == machine.root, machine.completes.get(state, ()))
            for machine in self._automaton.machines
            if machine.watches(packet) and (state := self._advance(machine, packet, now_s)) is not None
        ]

    def sizes(self) -> tuple[int, ...]:
        """Give how many sources each table holds."""
        limiters = tuple(len(limiter) for limiter in self._limiters.values())
        return limiters + tuple(len(attempts) for attempts in self._attempts.values())

    def _advance(self, machine: Machine, packet: Packet, now_s: float) -> int | None:
        """Move the source on; give its new state, or None where it stays what it was."""
        attempts = self._attempts[machine.root, len(packet.source)]
        attempt = attempts.get(packet.source)
        if attempt is None or now_s - attempt.began_s >= machine.within_ms / 1000:
            attempt = Attempt(machine.root, now_s)
        state = machine.step(attempt.state, symbol_of(packet.port))
        if state is None:
            return None
        known = attempts.pop(packet.source, None)
        if state == machine.root:
            return state if known else None
        attempts[packet.source] = Attempt(state, now_s if state in machine.firsts else attempt.began_s)
        if len(attempts) > self._capacity:
            attempts.popitem(last=False)
        return state

    def _forget(self, source: bytes) -> None:
        for (_, length), attempts in self._attempts.items():
            if length == len(source):
                attempts.pop(source, None)
