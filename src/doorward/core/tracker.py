"""Run the automaton in Python: one packet and a time in, the doors that open out. Bounded.

At the bound the tracker evicts the source that has been silent longest, which has to knock again; the kernel's sets
cannot evict and reject new sources instead. Neither loses an opening.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from doorward.core.automaton import Automaton, Machine, edge, pack_symbol
from doorward.model import Packet, Protocol

# A client's knock is a handful of packets, never more than a burst of 40.
RATE_PER_S = 20
BURST = 40
PAUSE_S = 1 / RATE_PER_S  # between two tokens; a source over the rate is ignored for it: a flood costs one look-up each
LIMITER_TIMEOUT_S = BURST / RATE_PER_S  # after this silence the bucket is full again and can be dropped

# A bucket with less than one token is full again later than this. Sums of twentieths are not exact: one nanosecond
# more keeps the burst at 40.
_NO_TOKEN_S = (BURST - 1) / RATE_PER_S + 1e-9
_UDP = int(Protocol.UDP)
_NO_FLAGS = 256  # UDP's index in a table by TCP flags

Attempt = tuple[int, float]  # the progress of a source: its state, and when the deadline began
_NO_ATTEMPT: Attempt = (0, float("-inf"))


class Transition(NamedTuple):
    """The effect of a packet on its source: the new state (the root if wrong), and the doors that open, by index."""

    state: int
    wrong: bool
    opened: tuple[int, ...]


class MachineProgress(NamedTuple):
    """A state machine, and the progress of the sources of one address family in it."""

    machine: Machine
    within_s: float
    attempts: OrderedDict[bytes, Attempt]


# By TCP flags, or `_NO_FLAGS`: the machines that match such packets.
Lanes = tuple[tuple[MachineProgress, ...], ...]


class Limiter:
    """A token bucket per source, like the kernel's `limit rate over 20/second burst 40 packets`.

    A bucket is stored as the time at which it is full again; from then on it can be dropped. Buckets move to `_recent`
    when they are used, and those not used for two seconds are dropped together.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._recent: dict[bytes, float] = {}
        self._older: dict[bytes, float] = {}
        self._throttled: dict[bytes, float] = {}  # sources over the rate, and until when they are ignored
        self._next_rotation_s = float("-inf")

    def admits(self, source: bytes, now_s: float) -> bool | None:
        """Count one knock packet: True within the rate, False above it, None if there is no room for `source`."""
        if now_s >= self._next_rotation_s:
            self._rotate(now_s)
        if self._throttled and now_s < self._throttled.get(source, now_s):
            return False
        recent = self._recent
        full_s = recent.get(source)
        if full_s is None and (full_s := self._older.pop(source, None)) is None:
            if len(recent) + len(self._older) >= self._capacity:
                return None
            full_s = now_s
        if full_s < now_s:
            full_s = now_s
        if full_s > now_s + _NO_TOKEN_S:
            recent[source] = full_s
            self._throttled[source] = now_s + PAUSE_S
            return False
        recent[source] = full_s + PAUSE_S
        return True

    def is_throttled(self, source: bytes, now_s: float) -> bool:
        """Return whether `source` exceeded the rate and is ignored at `now_s`."""
        return now_s < self._throttled.get(source, now_s)

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def _rotate(self, now_s: float) -> None:
        """Drop the buckets not used since the last turn: they are full."""
        long_ago = now_s >= self._next_rotation_s + LIMITER_TIMEOUT_S
        self._older = {} if long_ago else self._recent
        self._recent = {}
        self._throttled = {source: until_s for source, until_s in self._throttled.items() if until_s > now_s}
        self._next_rotation_s = now_s + LIMITER_TIMEOUT_S


class Tracker:
    """One state per source and machine. `capacity` bounds the sources in progress, and in the limiter, per family."""

    def __init__(self, automaton: Automaton, capacity: int) -> None:
        self._capacity = capacity
        self._limiters = {4: Limiter(capacity), 16: Limiter(capacity)}  # by the length of an address
        self._lanes = {
            length: [MachineProgress(m, m.within_ms / 1000, OrderedDict()) for m in automaton.machines]
            for length in (4, 16)
        }
        targets = {machine.target for machine in automaton.machines}
        self._local_lanes = {length: _by_flags(lanes, None) for length, lanes in self._lanes.items()}
        self._target_lanes = {target: _by_flags(self._lanes[len(target)], target) for target in targets if target}
        self.update(automaton)

    def update(self, automaton: Automaton) -> None:
        """Switch to an automaton with the same machines: only which ports count may differ."""
        self._never = {pack_symbol(port) for port in automaton.ignored_ports}
        self._never_behind = {(port.host.packed, pack_symbol(port)) for port in automaton.ignored_behind}
        self._only = None if automaton.known_ports is None else {pack_symbol(port) for port in automaton.known_ports}

    def feed(self, packet: Packet, now_s: float) -> tuple[int, ...]:
        """Process one new packet at `now_s` (any monotonic clock); return the doors that open, by index."""
        opened: tuple[int, ...] = ()
        for move in self.transitions(packet, now_s):
            opened += move.opened
        return opened

    def transitions(self, packet: Packet, now_s: float) -> list[Transition]:
        """Process one new packet, as `feed` does; return its transition in each machine that it changed."""
        source, (protocol, number), flags, destination, local = packet
        symbol = protocol << 16 | number
        is_opened = symbol in self._never if local else (destination, symbol) in self._never_behind
        if is_opened or (self._only is not None and symbol not in self._only):
            return []
        length, flag_index = len(source), _NO_FLAGS if protocol == _UDP else flags
        lanes = self._local_lanes[length][flag_index] if local else ()
        if self._target_lanes and destination in self._target_lanes:
            lanes += self._target_lanes[destination][flag_index]
        if not lanes:
            return []
        admitted = self._limiters[length].admits(source if length == 4 else source[:8], now_s)  # IPv6: the /64
        if not admitted:
            if admitted is False:
                self._discard(source)
            return []
        transitions: list[Transition] = []
        for lane in lanes:
            machine, within_s, attempts = lane
            state_before, began_s = attempts.get(source, _NO_ATTEMPT)
            if now_s - began_s >= within_s:
                state_before = machine.root
            elif edge(state_before, symbol) in machine.repeats:
                continue  # the common case in a flood onto one port
            state = machine.step(state_before, symbol)
            if state is not None and self._advance(lane, source, state, began_s, now_s):
                transitions.append(Transition(state, state == machine.root, machine.completes.get(state, ())))
        return transitions

    def attempts(self, source: bytes) -> tuple[Attempt, ...]:
        """Return the progress of a source in each machine, in order; it may include attempts past their deadline."""
        return tuple(lane.attempts.get(source, (lane.machine.root, float("-inf"))) for lane in self._lanes[len(source)])

    def is_throttled(self, source: bytes, now_s: float) -> bool:
        """Return whether the source exceeded the rate limit and its packets are ignored at `now_s`."""
        return self._limiters[len(source)].is_throttled(source if len(source) == 4 else source[:8], now_s)

    def sizes(self) -> tuple[int, ...]:
        """Return the number of sources in each table."""
        limiters = tuple(len(limiter) for limiter in self._limiters.values())
        return limiters + tuple(len(lane.attempts) for lanes in self._lanes.values() for lane in lanes)

    def _advance(self, lane: MachineProgress, source: bytes, state: int, began_s: float, now_s: float) -> bool:
        """Store the source's new state; return False if it was at the root and still is."""
        machine, _, attempts = lane
        previous = attempts.pop(source, None)
        if state == machine.root:
            return previous is not None
        attempts[source] = (state, now_s if state in machine.first_states else began_s)
        if len(attempts) > self._capacity:
            attempts.popitem(last=False)
        return True

    def _discard(self, source: bytes) -> None:
        for lane in self._lanes[len(source)]:
            lane.attempts.pop(source, None)


def _by_flags(lanes: Sequence[MachineProgress], target: bytes | None) -> Lanes:
    """Index the lanes with one target by the TCP flags that they match."""
    target_lanes = [lane for lane in lanes if lane.machine.target == target]
    tcp = [tuple(lane for lane in target_lanes if lane.machine.flags.passes(flags)) for flags in range(_NO_FLAGS)]
    return (*tcp, tuple(target_lanes))
