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
# Between two tokens; a source over the rate is ignored for it: a flood costs one look-up each.
PAUSE_NS = 1_000_000_000 // RATE_PER_S
LIMITER_TIMEOUT_NS = BURST * PAUSE_NS  # after this silence the bucket is full again and can be dropped

_NO_TOKEN_NS = (BURST - 1) * PAUSE_NS  # a bucket with less than one token is full again later than this
_UDP = int(Protocol.UDP)
_NO_FLAGS = 256  # UDP's index in a table by TCP flags

Attempt = tuple[int, int]  # the progress of a source: its state, and its deadline in nanoseconds


class Transition(NamedTuple):
    """The effect of a packet on its source: the new state (the root if wrong), and the doors that open, by index."""

    state: int
    wrong: bool
    opened: tuple[int, ...]


class MachineProgress(NamedTuple):
    """A state machine, and the progress of the sources of one address family in it."""

    machine: Machine
    within_ns: int
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
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}
        self._throttled: dict[bytes, int] = {}  # sources over the rate, and until when they are ignored
        self._next_rotation_ns = 0

    def admits(self, source: bytes, now_ns: int) -> bool | None:
        """Count one knock packet: True within the rate, False above it, None if there is no room for `source`."""
        if now_ns >= self._next_rotation_ns:
            self._rotate(now_ns)
        if self._throttled and now_ns < self._throttled.get(source, now_ns):
            return False
        recent = self._recent
        full_ns = recent.get(source)
        if full_ns is None and (full_ns := self._older.pop(source, None)) is None:
            if len(recent) + len(self._older) >= self._capacity:
                return None
            full_ns = now_ns
        if full_ns <= now_ns:
            full_ns = now_ns
        elif full_ns > now_ns + _NO_TOKEN_NS:
            recent[source] = full_ns
            self._throttled[source] = now_ns + PAUSE_NS
            return False
        recent[source] = full_ns + PAUSE_NS
        return True

    def is_throttled(self, source: bytes, now_ns: int) -> bool:
        """Return whether `source` exceeded the rate and is ignored at `now_ns`."""
        return now_ns < self._throttled.get(source, now_ns)

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def _rotate(self, now_ns: int) -> None:
        """Drop the buckets not used since the last turn: they are full."""
        long_ago = now_ns >= self._next_rotation_ns + LIMITER_TIMEOUT_NS
        self._older = {} if long_ago else self._recent
        self._recent = {}
        self._throttled = {source: until_ns for source, until_ns in self._throttled.items() if until_ns > now_ns}
        self._next_rotation_ns = now_ns + LIMITER_TIMEOUT_NS


class Tracker:
    """One state per source and machine. `capacity` bounds the sources in progress, and in the limiter, per family."""

    def __init__(self, automaton: Automaton, capacity: int) -> None:
        self._capacity = capacity
        self._limiters = {4: Limiter(capacity), 16: Limiter(capacity)}  # by the length of an address
        self._lanes = {
            length: [MachineProgress(m, m.within_ms * 1_000_000, OrderedDict()) for m in automaton.machines]
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

    def feed(self, packet: Packet, now_ns: int) -> tuple[int, ...]:
        """Process one new packet at `now_ns` (any monotonic clock); return the doors that open, by index."""
        opened: tuple[int, ...] = ()
        for move in self.transitions(packet, now_ns):
            opened += move.opened
        return opened

    def transitions(self, packet: Packet, now_ns: int) -> list[Transition]:
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
        admitted = self._limiters[length].admits(source if length == 4 else source[:8], now_ns)  # IPv6: the /64
        if not admitted:
            if admitted is False:
                self._discard(source)
            return []
        transitions: list[Transition] = []
        for lane in lanes:
            machine, _, attempts = lane
            attempt = attempts.get(source)
            if attempt is None or now_ns >= attempt[1]:
                state_before = machine.root
            elif edge(state_before := attempt[0], symbol) in machine.repeats:
                continue  # the common case in a flood onto one port
            state = machine.step(state_before, symbol)
            if state is None or (attempt is None and state == machine.root):
                continue
            self._advance(lane, source, attempt, state, now_ns)
            transitions.append(Transition(state, state == machine.root, machine.completes.get(state, ())))
        return transitions

    def attempts(self, source: bytes) -> tuple[Attempt, ...]:
        """Return the progress of a source in each machine, in order; it may include attempts past their deadline."""
        return tuple(lane.attempts.get(source, (lane.machine.root, 0)) for lane in self._lanes[len(source)])

    def is_throttled(self, source: bytes, now_ns: int) -> bool:
        """Return whether the source exceeded the rate limit and its packets are ignored at `now_ns`."""
        return self._limiters[len(source)].is_throttled(source if len(source) == 4 else source[:8], now_ns)

    def sizes(self) -> tuple[int, ...]:
        """Return the number of sources in each table."""
        limiters = tuple(len(limiter) for limiter in self._limiters.values())
        return limiters + tuple(len(lane.attempts) for lanes in self._lanes.values() for lane in lanes)

    def _advance(self, lane: MachineProgress, source: bytes, before: Attempt | None, state: int, now_ns: int) -> None:
        machine, within_ns, attempts = lane
        if before is not None:
            del attempts[source]  # so that it becomes the newest
        if state == machine.root:
            return
        until_ns = now_ns + within_ns if before is None or state in machine.first_states else before[1]
        attempts[source] = (state, until_ns)
        if len(attempts) > self._capacity:
            attempts.popitem(last=False)

    def _discard(self, source: bytes) -> None:
        for lane in self._lanes[len(source)]:
            lane.attempts.pop(source, None)


def _by_flags(lanes: Sequence[MachineProgress], target: bytes | None) -> Lanes:
    """Index the lanes with one target by the TCP flags that they match."""
    target_lanes = [lane for lane in lanes if lane.machine.target == target]
    tcp = [tuple(lane for lane in target_lanes if lane.machine.flags.passes(flags)) for flags in range(_NO_FLAGS)]
    return (*tcp, tuple(target_lanes))
