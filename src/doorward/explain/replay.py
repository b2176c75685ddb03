"""One packet after the other through the automaton: what each was, and where it left its source.

The order of the questions is the order of the kernel's chains (gate/chains.py), and the answers are the tracker's.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from doorward.core.automaton import edge, pack_symbol
from doorward.core.tracker import Attempt, Tracker
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState
from doorward.model import Packet, Port
from doorward.packets.decode import Flow

CAPACITY = 65536  # sources a family in progress: a capture with more of them is of a flood
MOST_OPEN = 65536  # openings that are remembered; as many as the kernel's set holds
LOOPBACK = "lo"
UNNAMED = "interface "  # before the number of one whose name the capture does not tell


class CapturedPacket(NamedTuple):
    """A packet of the capture: its number there, when it came (seconds since the first), and how."""

    number: int
    at_s: float
    flow: Flow
    standing: ConnectionState = ConnectionState.NEW
    interface: str = ""
    outgoing: bool | None = None
    is_cut: bool = False  # the capture kept less of it than there was


class PacketVerdict(StrEnum):
    """What the gate makes of a packet."""

    OPENS = "opens"
    FORWARD = "forward"  # one knock further
    BACK = "back"  # to the shorter prefix that still fits
    WRONG = "wrong"  # back to the start
    SAME = "same"  # the same again: nothing changes
    IDLE = "idle"  # no first knock, and none had come
    FAST = "fast"
    FLAGS = "flags"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"  # in no sequence, where only those count
    PUBLIC = "public"
    SIGNED = "signed"  # to the port for signed knocks, which the daemon judges by their contents
    ENTERS = "enters"  # to a port that is open to its source
    HIDDEN = "hidden"  # to a port that doors open, and that is closed to its source
    CONNECTION = "connection"
    INSIDE = "inside"  # from this host itself, or by an interface that is not watched
    BROKEN = "broken"  # no whole TCP or UDP header


SYMBOLS = frozenset(
    {
        PacketVerdict.OPENS,
        PacketVerdict.FORWARD,
        PacketVerdict.BACK,
        PacketVerdict.WRONG,
        PacketVerdict.SAME,
        PacketVerdict.IDLE,
    }
)


class MachineStep(NamedTuple):
    """One machine: where the source was before and after, and whether what it had was over its time."""

    machine: int
    before: Attempt
    after: Attempt
    verdict: PacketVerdict
    is_late: bool = False


class ReplayStep(NamedTuple):
    """A packet and what it was made of; `opened` are doors by index; `left_s` how long a port is open yet.

    `is_after_signed`: its source may have opened the port by a signed knock, which no capture shows.
    """

    seen: CapturedPacket
    verdict: PacketVerdict
    lanes: tuple[MachineStep, ...] = ()
    opened: tuple[int, ...] = ()
    left_s: float = 0.0
    is_after_signed: bool = False

    @property
    def at_s(self) -> float:
        """Give when the packet came."""
        return self.seen.at_s

    @property
    def port(self) -> Port | None:
        """Give where it went, if it has a port."""
        return self.seen.flow.port


class Replayer:
    """Runs the daemon's automaton over what was seen; `is_local` tells this host's own addresses."""

    def __init__(self, house: CompiledConfig, is_local: Callable[[bytes], bool]) -> None:
        self._house, self._is_local = house, is_local
        self._tracker = Tracker(house.automaton, CAPACITY)
        self._open: dict[tuple[bytes, Port], float] = {}
        self._signing: dict[bytes, None] = {}  # sources, in the order in which they came
        self._now_s = float("-inf")

    def replay(self, seen: CapturedPacket) -> ReplayStep:
        """Take the next packet, of a visitor."""
        self._now_s = max(self._now_s, seen.at_s)  # a capture's clock may be set back, the tracker's may not
        flow = seen.flow
        if flow.packet is None or flow.port is None:
            return ReplayStep(seen, PacketVerdict.BROKEN)
        if self._is_inside(seen):
            return ReplayStep(seen, PacketVerdict.INSIDE)
        if seen.standing is not ConnectionState.NEW:
            return ReplayStep(seen, PacketVerdict.CONNECTION)
        packet = flow.packet._replace(local=self._is_local(flow.destination))
        if not packet.local and flow.destination not in self._house.targets:
            return ReplayStep(seen, PacketVerdict.ELSEWHERE)
        if packet.local and packet.port in self._house.automaton.ignored_ports:
            return self._service(seen, packet)
        return self._symbol(seen, packet)

    def _is_inside(self, seen: CapturedPacket) -> bool:
        watched, interface, source = self._house.gate.interfaces, seen.interface, seen.flow.source
        if interface and interface in watched:
            return False
        if interface == LOOPBACK or self._is_local(source) or ip_address(source).is_loopback:
            return LOOPBACK not in watched
        return bool(watched and interface and not interface.startswith(UNNAMED))

    def _service(self, seen: CapturedPacket, packet: Packet) -> ReplayStep:
        left_s = self._open.get((packet.source, packet.port), self._now_s) - self._now_s
        if left_s > 0:
            return ReplayStep(seen, PacketVerdict.ENTERS, left_s=left_s)
        if packet.port == self._house.signed:
            self._signing[packet.source] = None
            if len(self._signing) > MOST_OPEN:
                del self._signing[next(iter(self._signing))]
            return ReplayStep(seen, PacketVerdict.SIGNED)
        if packet.port in self._house.services:
            return ReplayStep(seen, PacketVerdict.HIDDEN, is_after_signed=packet.source in self._signing)
        return ReplayStep(seen, PacketVerdict.PUBLIC)

    def _symbol(self, seen: CapturedPacket, packet: Packet) -> ReplayStep:
        automaton = self._house.automaton
        if automaton.known_ports is not None and packet.port not in automaton.known_ports:
            return ReplayStep(seen, PacketVerdict.UNKNOWN)
        watching = [number for number, machine in enumerate(automaton.machines) if machine.matches(packet)]
        if not watching:
            return ReplayStep(seen, PacketVerdict.FLAGS if self._is_looked_at(packet) else PacketVerdict.ELSEWHERE)
        before = self._tracker.attempts(packet.source)
        moves = self._tracker.transitions(packet, self._now_s)
        if self._tracker.is_throttled(packet.source, self._now_s):
            return ReplayStep(seen, PacketVerdict.FAST)
        after = self._tracker.attempts(packet.source)
        lanes = tuple(self._lane(number, packet, before[number], after[number]) for number in watching)
        opened = tuple(door for move in moves for door in move.opened)
        self._note(packet.source, opened)
        return ReplayStep(seen, PacketVerdict.OPENS if opened else _foremost(lanes), lanes, opened)

    def _is_looked_at(self, packet: Packet) -> bool:
        """Tell whether some door looks at the packet's destination."""
        return any(
            packet.local if machine.target is None else packet.destination == machine.target
            for machine in self._house.automaton.machines
        )

    def _lane(self, number: int, packet: Packet, before: Attempt, after: Attempt) -> MachineStep:
        machine = self._house.automaton.machines[number]
        is_late = before[0] != machine.root and self._now_s - before[1] >= machine.within_ms / 1000
        start = machine.root if is_late else before[0]
        symbol = pack_symbol(packet.port)
        if machine.edges.get(edge(start, symbol)) == after[0]:
            verdict = PacketVerdict.FORWARD
        elif edge(start, symbol) in machine.repeats:
            verdict = PacketVerdict.SAME
        elif after[0] != machine.root:
            verdict = PacketVerdict.BACK
        else:
            verdict = PacketVerdict.IDLE if before[0] == machine.root else PacketVerdict.WRONG
        return MachineStep(number, before, after, verdict, is_late)

    def _note(self, source: bytes, opened: tuple[int, ...]) -> None:
        for index in opened:
            door = self._house.doors[index]
            for port in door.opens:
                until_s = self._now_s + door.for_ms / 1000
                self._open[source, port] = max(self._open.get((source, port), until_s), until_s)
        while len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]


_RANK = (PacketVerdict.FORWARD, PacketVerdict.BACK, PacketVerdict.WRONG, PacketVerdict.SAME, PacketVerdict.IDLE)


def _foremost(lanes: tuple[MachineStep, ...]) -> PacketVerdict:
    return min((lane.verdict for lane in lanes), key=_RANK.index)
