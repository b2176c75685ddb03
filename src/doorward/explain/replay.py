"""Replay captured packets through the automaton: what each packet counted as, and the progress of its source after it.

The checks come in the order of the kernel's chains (nftables/chains.py); the progress is that of core/tracker.py.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from doorward.core.automaton import edge, pack_symbol
from doorward.core.port_access import PortAccess
from doorward.core.tracker import Attempt, Tracker
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState
from doorward.model import OpenPort, Packet, Port
from doorward.packets.decode import Flow

CAPACITY = 65536  # sources in progress per address family; only a flood has more
MOST_OPEN = 65536  # sources with an opening; the kernel's set holds no more
LOOPBACK = "lo"
UNNAMED = "interface "  # prefix of an interface that the capture numbers but does not name


class CapturedPacket(NamedTuple):
    """A packet of the capture: its number there, its time after the first frame, and how it arrived."""

    number: int
    at_ns: int
    flow: Flow
    state: ConnectionState = ConnectionState.NEW
    interface: str = ""
    outgoing: bool | None = None
    is_cut: bool = False  # the capture holds less of it than was on the wire

    @property
    def at_s(self) -> float:
        """The same time in seconds."""
        return self.at_ns / 1e9


class PacketVerdict(StrEnum):
    """What a packet counts as at the gate."""

    OPENS = "opens"
    FORWARD = "forward"  # one knock further
    BACK = "back"  # to a shorter prefix that still fits
    WRONG = "wrong"  # back to the start
    SAME = "same"  # a repetition: nothing changes
    IDLE = "idle"  # not a first knock, and nothing in progress
    FAST = "fast"
    FLAGS = "flags"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"  # in no sequence, with wrong_port = "known"
    PUBLIC = "public"
    SIGNED = "signed"  # to a port for signed knocks, which the daemon verifies
    ENTERS = "enters"  # to a port that is open to its source
    HIDDEN = "hidden"  # to a door's port that is closed to its source
    CONNECTION = "connection"
    INSIDE = "inside"  # from this host itself, or through an interface that is not watched
    BROKEN = "broken"  # no complete TCP or UDP header


COUNTED = frozenset(
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
    """One automaton's step: the source's progress before and after, and when earlier progress that expired began."""

    machine: int
    before: Attempt
    after: Attempt
    verdict: PacketVerdict
    began_ns: int | None = None


class ReplayStep(NamedTuple):
    """A packet and what it counted as. `opened`: doors by index; `left_s`: how long its port stays open.

    `is_after_signed`: its source may have opened the port by a signed knock, which no capture shows.
    """

    captured: CapturedPacket
    verdict: PacketVerdict
    machine_steps: tuple[MachineStep, ...] = ()
    opened: tuple[int, ...] = ()
    left_s: float = 0.0
    is_after_signed: bool = False
    opened_as: OpenPort | None = None  # the range, or the port of a host behind this one, by which doors open it

    @property
    def at_s(self) -> float:
        """When the packet arrived."""
        return self.captured.at_s

    @property
    def port(self) -> Port | None:
        """The destination port, if the packet has one."""
        return self.captured.flow.port

    @property
    def service(self) -> OpenPort | None:
        """The destination, as doors open it."""
        return self.opened_as or self.port


class Replayer:
    """Runs captured packets through the daemon's automaton; `is_local` recognizes this host's addresses."""

    def __init__(self, config: CompiledConfig, is_local: Callable[[bytes], bool]) -> None:
        self._config, self._is_local = config, is_local
        self._tracker = Tracker(config.automaton, CAPACITY)
        self._access = PortAccess(MOST_OPEN)
        self._signing: dict[bytes, None] = {}  # sources, in the order in which they came
        self._now_ns = 0

    def replay(self, captured: CapturedPacket) -> ReplayStep:
        """Return the step of the next packet to this host; packets come in the order of the capture."""
        self._now_ns = max(self._now_ns, captured.at_ns)  # a capture's clock may be set back, the tracker's may not
        flow = captured.flow
        if flow.packet is None or flow.port is None:
            return ReplayStep(captured, PacketVerdict.BROKEN)
        if self._is_inside(captured):
            return ReplayStep(captured, PacketVerdict.INSIDE)
        if captured.state is not ConnectionState.NEW:
            return ReplayStep(captured, PacketVerdict.CONNECTION)
        packet = flow.packet._replace(local=self._is_local(flow.destination))
        opened_as = self._config.opened_as(*packet.port, None if packet.local else ip_address(flow.destination))
        if opened_as is not None:
            return self._service_step(captured, packet, opened_as)
        if not packet.local and flow.destination not in self._config.targets:
            return ReplayStep(captured, PacketVerdict.ELSEWHERE)
        if packet.local and packet.port in self._config.automaton.ignored_ports:
            return self._service_step(captured, packet, None)
        return self._knock_step(captured, packet)

    def _is_inside(self, captured: CapturedPacket) -> bool:
        watched, interface, source = self._config.gate.interfaces, captured.interface, captured.flow.source
        if interface and interface in watched:
            return False
        if interface == LOOPBACK or self._is_local(source) or ip_address(source).is_loopback:
            return LOOPBACK not in watched
        return bool(watched and interface and not interface.startswith(UNNAMED))

    def _service_step(self, captured: CapturedPacket, packet: Packet, opened_as: OpenPort | None) -> ReplayStep:
        service = opened_as or packet.port
        left_s = self._access.left_s(packet, captured.flow.source_port, self._now_ns / 1e9, opened_as)
        if left_s > 0:
            return ReplayStep(captured, PacketVerdict.ENTERS, left_s=left_s, opened_as=opened_as)
        if service in self._config.signed_ports:
            self._signing[packet.source] = None
            if len(self._signing) > MOST_OPEN:
                del self._signing[next(iter(self._signing))]
            return ReplayStep(captured, PacketVerdict.SIGNED)
        if service in self._config.services:
            is_after_signed = packet.source in self._signing
            return ReplayStep(captured, PacketVerdict.HIDDEN, is_after_signed=is_after_signed, opened_as=opened_as)
        return ReplayStep(captured, PacketVerdict.PUBLIC)

    def _knock_step(self, captured: CapturedPacket, packet: Packet) -> ReplayStep:
        automaton = self._config.automaton
        if automaton.known_ports is not None and packet.port not in automaton.known_ports:
            return ReplayStep(captured, PacketVerdict.UNKNOWN)
        watching = [index for index, machine in enumerate(automaton.machines) if machine.matches(packet)]
        if not watching:
            is_watched = any(machine.is_destination(packet) for machine in automaton.machines)
            return ReplayStep(captured, PacketVerdict.FLAGS if is_watched else PacketVerdict.ELSEWHERE)
        before = self._tracker.attempts(packet.source)
        moves = self._tracker.transitions(packet, self._now_ns)
        if self._tracker.is_throttled(packet.source, self._now_ns):
            return ReplayStep(captured, PacketVerdict.FAST)
        after = self._tracker.attempts(packet.source)
        machine_steps = tuple(self._machine_step(index, packet, before[index], after[index]) for index in watching)
        opened = tuple(door for move in moves for door in move.opened)
        for index in opened:
            self._access.open(packet.source, self._config.doors[index], self._now_ns / 1e9)
        return ReplayStep(
            captured, PacketVerdict.OPENS if opened else _most_significant(machine_steps), machine_steps, opened
        )

    def _machine_step(self, index: int, packet: Packet, before: Attempt, after: Attempt) -> MachineStep:
        machine = self._config.automaton.machines[index]
        is_late = before[0] != machine.root and self._now_ns >= before[1]
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
        began_ns = before[1] - machine.within_ms * 1_000_000 if is_late else None
        return MachineStep(index, before, after, verdict, began_ns)


_RANK = (PacketVerdict.FORWARD, PacketVerdict.BACK, PacketVerdict.WRONG, PacketVerdict.SAME, PacketVerdict.IDLE)


def _most_significant(machine_steps: tuple[MachineStep, ...]) -> PacketVerdict:
    return min((machine_step.verdict for machine_step in machine_steps), key=_RANK.index)
