"""Two ways to run the automaton, with the same openings for the same packets: in the kernel, or over a ring.

The kernel's gate runs in mode observe: it watches and drops nothing, so it lives beside any firewall.
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

RING_CAPACITY = 65536  # sources a family in progress, in Python's memory: some 200 bytes each


_MEANING = {"step": "step", "knock": "open", "wrong": "wrong"}  # of what the gate tells, for knockd


class EngineEvent(NamedTuple):
    """A source came to a state ("step", or "open" where that completes a door), or went "wrong"."""

    what: str
    source: Address
    state: int
    stages: Stages


class Engine(Protocol):
    """The seam: the kernel or the ring."""

    name: str

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Go over to these doors; ports in `busy` are no symbols. Attempts in progress go on where they can."""

    def lost(self) -> int:
        """Count what was lost for want of room, since the start."""

    @property
    def culprit(self) -> str | None:
        """Who took from the engine, since the last `load`, what it needs; `load` puts it back."""

    def descriptors(self) -> Sequence[int]:
        """Give the descriptors to wait on."""

    def read(self) -> list[EngineEvent]:
        """Give what happened, in order."""

    def close(self) -> None:
        """Stop watching, and leave nothing behind."""


class KernelEngine:
    """The table `inet doorward` in mode observe, and its log, which a process reads that can do nothing else."""

    name = "kernel"

    def __init__(self) -> None:
        self._watch, self._own, self._fingerprint = RulesetMonitor(), own_pid(), b""
        # Steps before what they led to: whatever led to a completion that is read was told before it.
        self._events = NflogReader([event_log(LOG_GROUP), event_log(STEP_GROUP)])
        self._filter = NftFirewall()
        self.culprit: str | None = None
        self._overflows = 0
        self._stages: dict[str, Stages] = {}  # by generation: messages of the one before may be on their way

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Compile, and replace the table in one transaction."""
        public = tuple(sorted(busy - {port for door in doors for port in door.knock}))
        automaton = compile_doors(doors, public=public)
        gate = Gate(mode=Mode.OBSERVE, interfaces=tuple(interfaces), public=public)
        capacity = default_capacity(memory_bytes(), len(automaton.machines), DEFAULT_CAPACITY)
        ruleset = compile_ruleset(doors, automaton, gate, capacity, log_steps=True)
        self._filter.load(ruleset, {})
        self._fingerprint, self.culprit = fingerprint(), None
        before = dict(list(self._stages.items())[-1:])
        self._stages = before | {ruleset.generation: Stages(doors, automaton)}

    def descriptors(self) -> Sequence[int]:
        """Give those of the reader and of the watch on the table."""
        return self._events.fileno(), self._watch.fileno()

    def read(self) -> list[EngineEvent]:
        """Give what the gate told, the steps first."""
        self._look_after_the_table()
        events = self._events.read()
        self._overflows += events is None
        happened = []
        for event in events or ():
            stages, what = self._stages.get(event.generation), _MEANING.get(event.what)
            if stages is not None and what is not None:
                happened.append(EngineEvent(what, event.source, event.state, stages))
        return happened

    def lost(self) -> int:
        """Count how often a log overflowed or its reader ended; steps cannot fill the log of completions."""
        return self._overflows

    def close(self) -> None:
        """Take the table away: without the daemon it would only count."""
        self._filter.unload()
        self._watch.close()
        self._events.close()

    def _look_after_the_table(self) -> None:
        changes = self._watch.read()
        others = [change for change in changes or () if change.scope == "rules" and change.process != self._own]
        if (changes is None or others) and fingerprint() != self._fingerprint:
            self.culprit = f"{others[-1].program} (process {others[-1].process})" if others else "another program"


class RingEngine:
    """The tracker in Python, over a TPACKET_V3 ring."""

    name = "ring"
    culprit: str | None = None  # a socket of its own, which nobody else changes

    def __init__(self) -> None:
        self._ring: TpacketRing | None = None
        self._automaton: Automaton | None = None

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        """Compile, and go over with the next packet; the same automaton keeps the attempts in progress."""
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
        """Give the ring's descriptor."""
        return (self._ring.fileno(),) if self._ring else ()

    def read(self) -> list[EngineEvent]:
        """Run the automaton over what has come."""
        happened = []
        for packets, now_s in self._ring.read() if self._ring else ():
            for packet in packets:
                for move in self._tracker.transitions(packet, now_s):
                    what = "wrong" if move.wrong else "open" if move.opened else "step"
                    happened.append(EngineEvent(what, ip_address(packet.source), move.state, self._stages))
        return happened

    def lost(self) -> int:
        """Count the packets for which the ring had no room."""
        return self._ring.drops() if self._ring else 0

    def close(self) -> None:
        """Stop watching."""
        if self._ring is not None:
            self._ring.close()


def open_engine(wanted: str | None, output: KnockdLog) -> Engine:
    """Open the engine that was asked for; without a wish the kernel's, and the ring where that is not to be had."""
    if wanted == "ring":
        return RingEngine()
    try:
        return KernelEngine()
    except HostError as error:
        if wanted == "kernel":
            raise
        output.complain(f"the kernel's packet filter cannot be used ({error}); going on with --engine ring")
        return RingEngine()
