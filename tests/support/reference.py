"""The meaning of a knock (docs/design, section 3), written down for reading, not for speed.

`Reference` keeps the knock packets themselves, looks at every door for every packet, and knows no automaton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from doorward.core.automaton import Automaton
from doorward.model import Door, FlagFilter, Packet, Port, Protocol

RATE_PER_S, BURST, PAUSE_S = 20, 40, 0.05


def is_knock_packet(automaton: Automaton, packet: Packet) -> bool:
    """Return whether any machine counts the packet: rule 1 of docs/dev/design.md."""
    port, known = packet.port, automaton.known_ports
    if (packet.local and port in automaton.ignored_ports) or (known is not None and port not in known):
        return False
    return any(machine.matches(packet) for machine in automaton.machines)


@dataclass
class Source:
    """What one source has sent, for each combination of flags and deadline."""

    tokens: float = BURST
    heard_s: float = 0.0
    paused_until_s: float = 0.0
    attempts: dict[tuple[FlagFilter, int], tuple[tuple[Port, ...], float]] = field(default_factory=dict)


class Reference:
    """Unbounded: its tests stay below the tracker's bounds."""

    def __init__(self, doors: Sequence[Door], public: frozenset[Port], *, known_only: bool) -> None:
        self.doors = doors
        self.public = public
        self.known_only = known_only
        self.combinations = list(dict.fromkeys((d.flags, d.within_ms) for d in doors if d.knock))
        self.buckets: dict[bytes, Source] = {}
        self.attempts: dict[tuple[bytes, FlagFilter, int], tuple[tuple[Port, ...], float]] = {}

    def is_symbol_port(self, port: Port) -> bool:
        if port in self.public or any(port in door.opens for door in self.doors):
            return False
        return not self.known_only or any(port in door.knock for door in self.doors)

    def see(self, packet: Packet, now_s: float) -> list[int]:
        watching = [
            (flags, within_ms)
            for flags, within_ms in self.combinations
            if packet.port.protocol is Protocol.UDP or packet.flags & flags.mask == flags.value
        ]
        if not watching or not self.is_symbol_port(packet.port):
            return []
        if self.is_scanner(packet.source if len(packet.source) == 4 else packet.source[:8], now_s):
            for flags, within_ms in self.combinations:
                self.attempts.pop((packet.source, flags, within_ms), None)
            return []
        return [index for combination in watching for index in self.advance(packet, *combination, now_s)]

    def is_scanner(self, source: bytes, now_s: float) -> bool:
        bucket = self.buckets.setdefault(source, Source(BURST, now_s))
        if now_s < bucket.paused_until_s:
            return True
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.heard_s) * RATE_PER_S)
        bucket.heard_s = now_s
        if bucket.tokens < 1:
            bucket.paused_until_s = now_s + PAUSE_S
            return True
        bucket.tokens -= 1
        return False

    def advance(self, packet: Packet, flags: FlagFilter, within_ms: int, now_s: float) -> list[int]:
        doors = [(i, d.knock) for i, d in enumerate(self.doors) if (d.flags, d.within_ms) == (flags, within_ms)]
        key = (packet.source, flags, within_ms)
        word, began_s = self.attempts.get(key, ((), now_s))
        if now_s - began_s >= within_ms / 1000:
            word = ()
        longer = (*word, packet.port)
        suffixes = [longer[start:] for start in range(len(longer) + 1)]
        best = next(s for s in suffixes if any(knock[: len(s)] == s for _, knock in doors))
        repeats_last = bool(word) and packet.port == word[-1]
        if repeats_last and len(best) < 2:  # no sequence repeats it there: a retransmission
            return []
        self.attempts[key] = (best, now_s if len(best) == 1 else began_s)
        return [i for i, knock in doors if knock and knock == best[len(best) - len(knock) :]]


class ReferenceAccess:
    """Which packets to the doors' ports come in: rule 8. It keeps every opening, and every connection through one."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.doors = doors
        self.openings: list[tuple[bytes, Door, float]] = []  # with the end of each
        self.connections: list[tuple[bytes, int, Port, float]] = []  # that used one up

    def open(self, source: bytes, index: int, now_s: float) -> None:
        self.openings.append((source, self.doors[index], now_s + self.doors[index].for_ms / 1000))

    def connect(self, packet: Packet, source_port: int, now_s: float) -> str:
        own = [o for o in self.openings if o[0] == packet.source and packet.port in o[1].opens]
        for_one = [o for o in own if o[1].once]
        is_syn = packet.port.protocol is Protocol.TCP and packet.flags & 0b10111 == 0b00010
        if is_syn and for_one and for_one[-1][2] > now_s:  # the newest says until when
            self.openings = [o for o in self.openings if o not in for_one]
            self.connections.append((packet.source, source_port, packet.port, now_s + 120))
            return "used"
        same = (packet.source, source_port, packet.port)
        if is_syn and any(c[:3] == same and c[3] > now_s for c in self.connections):
            return "again"
        return "open" if any(o[2] > now_s for o in own if not o[1].once) else "dropped"
