"""Two engines that run the automaton with the same results: in the kernel, or over a packet ring.

The kernel engine runs in mode observe: it drops nothing, so it works alongside any firewall.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from doorward.config.schema import DEFAULT_CAPACITY, Gate, Mode
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.tracker import Tracker
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.ruleset_loader import memory_bytes
from doorward.errors import HostError
from doorward.kernel.bpf import knock_filter
from doorward.kernel.nflog import event_log
from doorward.kernel.tpacket import TpacketRing
from doorward.knockd.knockd_log import KnockdLog
from doorward.knockd.stages import Stages
from doorward.model import Address, Door, Port
from doorward.nftables.chains import LOG_GROUP, STEP_GROUP
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.monitor import RulesetMonitor, fingerprint, own_pid
from doorward.nftables.ruleset import compile_ruleset, default_capacity

RING_CAPACITY = 65536  # sources in progress per address family; some 200 bytes each, in Python


_EVENTS = {"step": "step", "knock": "open", "wrong": "wrong"}  # kernel event to knockd's


class EngineEvent(NamedTuple):
    """A source reached a state ("step", or "open" if it completes a door), or sent a "wrong" packet."""

    event: str
    source: Address
    state: int
    stages: Stages


class Engine(Protocol):
    """The interface of both engines."""

    name: str

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Switch to these doors, ignoring ports in `busy`. Attempts in progress continue if possible."""

    def lost(self) -> int:
        """Return the number of packets or messages lost to overflow since the start."""

    @property
    def culprit(self) -> str | None:
        """The program that removed the engine's rules since the last `load`, if any; `load` restores them."""

    def descriptors(self) -> Sequence[int]:
        """Return the descriptors to wait on."""

    def read(self) -> list[EngineEvent]:
        """Return the events since the last call, in order."""

    def close(self) -> None:
        """Stop, and remove everything."""


class KernelEngine:
    """The table `inet doorward` in mode observe, and its log, read by a sandboxed process."""

    name = "kernel"

    def __init__(self) -> None:
        self._monitor, self._own, self._fingerprint = RulesetMonitor(), own_pid(), b""
        # Steps first: every step that led to a completion was sent before it.
        self._events = NflogReader([event_log(LOG_GROUP), event_log(STEP_GROUP)])
        self._firewall = NftFirewall()
        self.culprit: str | None = None
        self._overflows = 0
        self._stages: dict[str, Stages] = {}  # by generation: messages of the previous one may be in flight

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Compile, and replace the table in one transaction."""
        public = tuple(sorted(busy - {port for door in doors for port in door.knock}))
        automaton = compile_doors(doors, public=public)
        gate = Gate(mode=Mode.OBSERVE, interfaces=tuple(interfaces), public=public)
        capacity = default_capacity(memory_bytes(), len(automaton.machines), DEFAULT_CAPACITY)
        ruleset = compile_ruleset(doors, automaton, gate, capacity, log_steps=True)
        self._firewall.load(ruleset, {})
        self._fingerprint, self.culprit = fingerprint(), None
        previous = dict(list(self._stages.items())[-1:])
        self._stages = previous | {ruleset.generation: Stages(doors, automaton)}

    def descriptors(self) -> Sequence[int]:
        """Return the descriptors of the log reader and of the ruleset monitor."""
        return self._events.fileno(), self._monitor.fileno()

    def read(self) -> list[EngineEvent]:
        """Return the kernel's events, steps first."""
        self._check_table()
        events = self._events.read()
        self._overflows += events is None
        engine_events = []
        for event in events or ():
            stages, event_name = self._stages.get(event.generation), _EVENTS.get(event.what)
            if stages is not None and event_name is not None:
                engine_events.append(EngineEvent(event_name, event.source, event.state, stages))
        return engine_events

    def lost(self) -> int:
        """Return how often a log overflowed or its reader ended; steps cannot fill the log of completions."""
        return self._overflows

    def close(self) -> None:
        """Remove the table: without the daemon it has no use."""
        self._firewall.unload()
        self._monitor.close()
        self._events.close()

    def _check_table(self) -> None:
        changes = self._monitor.read()
        others = [change for change in changes or () if change.scope == "rules" and change.process != self._own]
        if (changes is None or others) and fingerprint() != self._fingerprint:
            self.culprit = f"{others[-1].program} (process {others[-1].process})" if others else "another program"


class RingEngine:
    """The tracker in Python, over a TPACKET_V3 ring."""

    name = "ring"
    culprit: str | None = None  # its own socket, which no other program changes

    def __init__(self) -> None:
        self._ring: TpacketRing | None = None
        self._automaton: Automaton | None = None

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Compile, and switch with the next packet; an unchanged automaton keeps the attempts in progress."""
        public = busy - {port for door in doors for port in door.knock}
        automaton = compile_doors(doors, public=public)
        program = knock_filter({machine.flags for machine in automaton.machines}, never=public)
        if self._ring is None:
            self._ring = TpacketRing(interfaces, program)
        else:
            self._ring.set_filter(program)
        if self._automaton is None or automaton.machines != self._automaton.machines:
            self._tracker = Tracker(automaton, RING_CAPACITY)
        else:
            self._tracker.update(automaton)
        self._automaton, self._stages = automaton, Stages(doors, automaton)

    def descriptors(self) -> Sequence[int]:
        """Return the ring's descriptor."""
        return (self._ring.fileno(),) if self._ring else ()

    def read(self) -> list[EngineEvent]:
        """Run the automaton over the captured packets."""
        engine_events = []
        for packets, now_ns in self._ring.read() if self._ring else ():
            for packet in packets:
                for move in self._tracker.transitions(packet, now_ns):
                    event_name = "wrong" if move.wrong else "open" if move.opened else "step"
                    engine_events.append(EngineEvent(event_name, ip_address(packet.source), move.state, self._stages))
        return engine_events

    def lost(self) -> int:
        """Return the number of packets dropped because the ring was full."""
        return self._ring.drops() if self._ring else 0

    def close(self) -> None:
        """Close the ring."""
        if self._ring is not None:
            self._ring.close()


def open_engine(wanted: str | None, output: KnockdLog) -> Engine:
    """Open the wanted engine; by default the kernel's, or the ring if that is unavailable."""
    if wanted == "ring":
        return RingEngine()
    try:
        return KernelEngine()
    except HostError as error:
        if wanted == "kernel":
            raise
        output.alert(f"the kernel's packet filter cannot be used ({error}); going on with --engine ring")
        return RingEngine()
