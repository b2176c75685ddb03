"""The meaning of a knock (docs/design, section 3), written down for reading, not for speed.

`Reference` keeps the knock packets themselves, looks at every door for every packet, and knows no automaton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.core.automaton import Automaton
from doorward.model import Address, Door, FlagFilter, HostPort, Packet, Port, PortRange, Protocol

Combination = tuple[FlagFilter, int, Address | None]  # what the doors of one automaton part have in common
TOKEN_NS, BURST_NS = 50_000_000, 2_000_000_000  # 20 per second, burst 40


def is_knock_packet(automaton: Automaton, packet: Packet) -> bool:
    """Return whether any machine counts the packet: rule 1 of docs/dev/design.md."""
    port, known = packet.port, automaton.known_ports
    if packet.local:
        is_opened = port in automaton.ignored_ports
    else:
        is_opened = any((p.host.packed, p[:2]) == (packet.destination, port) for p in automaton.ignored_behind)
    if is_opened or (known is not None and port not in known):
        return False
    return any(machine.matches(packet) for machine in automaton.machines)


@dataclass
class Source:
    """The rate limit of one source; its tokens are counted in the time that they take."""

    heard_ns: int
    tokens_ns: int = BURST_NS
    paused_until_ns: int = 0


class Reference:
    """Unbounded: its tests stay below the tracker's bounds."""

    def __init__(self, doors: Sequence[Door], public: frozenset[Port], *, known_only: bool) -> None:
        self.doors = doors
        self.public = public
        self.known_only = known_only
        self.combinations = list(dict.fromkeys((d.flags, d.within_ms, d.target) for d in doors if d.knock))
        self.buckets: dict[bytes, Source] = {}
        self.attempts: dict[tuple[bytes, Combination], tuple[tuple[Port, ...], int]] = {}

    def is_symbol_port(self, packet: Packet) -> bool:
        port, doors = packet.port, self.doors
        if packet.local and (port in self.public or any(port in door.opens for door in doors)):
            return False
        if packet.local and any(port in span.ports() for door in doors for span in door.ranges):
            return False
        there = [(p.host.packed, p[:2]) for door in doors for p in door.behind]
        if not packet.local and (packet.destination, port) in there:
            return False
        return not self.known_only or any(port in door.knock for door in doors)

    def see(self, packet: Packet, now_ns: int) -> list[int]:
        watching = [
            (flags, within_ms, target)
            for flags, within_ms, target in self.combinations
            if (packet.local if target is None else packet.destination == target.packed)
            and (packet.port.protocol is Protocol.UDP or packet.flags & flags.mask == flags.value)
        ]
        if not watching or not self.is_symbol_port(packet):
            return []
        if self.is_scanner(packet.source if len(packet.source) == 4 else packet.source[:8], now_ns):
            for combination in self.combinations:
                self.attempts.pop((packet.source, combination), None)
            return []
        return [index for combination in watching for index in self.advance(packet, combination, now_ns)]

    def is_scanner(self, source: bytes, now_ns: int) -> bool:
        bucket = self.buckets.setdefault(source, Source(now_ns))
        if now_ns < bucket.paused_until_ns:
            return True
        bucket.tokens_ns = min(BURST_NS, bucket.tokens_ns + now_ns - bucket.heard_ns)
        bucket.heard_ns = now_ns
        if bucket.tokens_ns < TOKEN_NS:
            bucket.paused_until_ns = now_ns + TOKEN_NS
            return True
        bucket.tokens_ns -= TOKEN_NS
        return False

    def advance(self, packet: Packet, combination: Combination, now_ns: int) -> list[int]:
        doors = [(i, d.knock) for i, d in enumerate(self.doors) if (d.flags, d.within_ms, d.target) == combination]
        key = (packet.source, combination)
        word, began_ns = self.attempts.get(key, ((), now_ns))
        if now_ns - began_ns >= combination[1] * 1_000_000:
            word = ()
        longer = (*word, packet.port)
        suffixes = [longer[start:] for start in range(len(longer) + 1)]
        best = next(s for s in suffixes if any(knock[: len(s)] == s for _, knock in doors))
        repeats_last = bool(word) and packet.port == word[-1]
        if repeats_last and len(best) < 2:  # no sequence repeats it there: a retransmission
            return []
        self.attempts[key] = (best, now_ns if len(best) == 1 else began_ns)
        return [i for i, knock in doors if knock and knock == best[len(best) - len(knock) :]]


def is_opened(door: Door, packet: Packet) -> bool:
    """Return whether a door opens the port of a packet to its source."""
    opened = door.opens_to(ip_address(packet.source))
    if not packet.local:
        return packet.destination is not None and HostPort(*packet.port, ip_address(packet.destination)) in opened
    spans = (span for span in opened if isinstance(span, PortRange))
    return packet.port in opened or any(packet.port in span.ports() for span in spans)


class ReferenceAccess:
    """Which packets to the doors' ports come in: rule 8. It keeps every opening, and every connection through one."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.doors = doors
        self.openings: list[tuple[bytes, Door, float]] = []  # with the end of each
        self.connections: list[tuple[bytes, int, bytes | None, Port, float]] = []  # that used one up

    def open(self, source: bytes, index: int, now_s: float) -> None:
        self.openings.append((source, self.doors[index], now_s + self.doors[index].for_ms / 1000))

    def connect(self, packet: Packet, source_port: int, now_s: float) -> str:
        own = [o for o in self.openings if o[0] == packet.source and is_opened(o[1], packet)]
        for_one = [o for o in own if o[1].once]
        is_syn = packet.port.protocol is Protocol.TCP and packet.flags & 0b10111 == 0b00010
        if is_syn and for_one and for_one[-1][2] > now_s:  # the newest says until when
            self.openings = [o for o in self.openings if o not in for_one]
            self.connections.append((packet.source, source_port, packet.destination, packet.port, now_s + 120))
            return "used"
        same = (packet.source, source_port, packet.destination, packet.port)
        if is_syn and any(c[:4] == same and c[4] > now_s for c in self.connections):
            return "again"
        return "open" if any(o[2] > now_s for o in own if not o[1].once) else "dropped"
