"""The automaton as the tables of automaton.h, and the fixed form in which they reach the loader. Pure."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from doorward.config.schema import Gate, Mode, Shield, WrongPort
from doorward.core.automaton import Automaton, Machine, pack_symbol, split_edge
from doorward.core.port_access import SYN_S
from doorward.errors import MalformedError
from doorward.model import DEFAULT_FLAGS, Door, Port, Protocol, Source

PORTS = 1 << 17  # the index of a port: its number, UDP_PORTS more for UDP, and PORTS more for each further automaton
UDP_PORTS = 1 << 16
MAX_MACHINES = 8
MAX_STATES = 1 << 22  # the other bits of a packet's priority have the token
MAX_EDGES = 1 << 23
MAX_INTERFACES = 64
MAX_TARGETS = 1 << 16
MAX_BANS = 1 << 14
# As in automaton.h.
SAME, COMPLETES, FALLS = 0xFFFFFFFE, 1 << 31, 1 << 30
PASSED, LATER, NEEDED, FIRST_COMPLETES, BEGINS, KNOWN, HIDDEN, ENDS, FIRST_SHIFT = 1, 2, 4, 8, 16, 32, 64, 128, 8
OPENING_MARGIN_S = round(SYN_S) + 5  # the SYN of an opening's one connection may be sent again; clocks are coarse
_MAX_OPEN_S = 1 << 31
_DHCP = Port(Protocol.UDP, 68), Port(Protocol.UDP, 546)
_FORM = struct.Struct("<8s8s14I")  # magic, digest of the automata, numbers and counts; then the parts
_MAGIC = b"DWSHLD03"
_MACHINE, _NAME, _TARGET = struct.Struct("<IBB2x"), struct.Struct("16s"), struct.Struct("16s")
_PORT, _EDGE, _LINK = struct.Struct("<III"), struct.Struct("<III"), struct.Struct("<II")
_PARTS = (_MACHINE, _NAME, _TARGET, _PORT, _EDGE, _LINK)
_BOUNDS = (MAX_MACHINES, MAX_INTERFACES, MAX_TARGETS, MAX_MACHINES * PORTS, MAX_EDGES, MAX_EDGES)
_BAN = struct.Struct("<8sQ")
_INTERFACE = re.compile(r"[^/\s*\0]{1,15}\*?")


@dataclass(frozen=True, slots=True)
class ShieldTables:
    """What the loader fills the maps with: packed little-endian numbers, since one door needs them as 100,000 do.

    `is_stealth`: the gate drops every knock packet. `open_s`: an opening by a knock ends earlier than so long after it.
    `wants_xdp`: it is attached at XDP too. `machines`: deadline, mask and value of the TCP flags of each automaton.
    `targets`: addresses that packets pass to.
    `ports`: index, value and filter of each port that has them; `edges`: state, symbol and value; `links`: state and
    shorter state. States count from 0, the `root` of the gate's first. `digest` identifies them: sources keep theirs
    while it stays the same.
    """

    digest: bytes
    token: int
    state_mask: int
    counted: int
    root: int
    known_only: bool
    is_stealth: bool
    open_s: int
    wants_xdp: bool
    machines: tuple[tuple[int, int, int], ...]
    interfaces: tuple[str, ...]
    targets: tuple[bytes, ...]
    ports: bytes
    edges: bytes
    links: bytes

    @property
    def needs_conntrack(self) -> bool:
        """Return whether packets of established connections may match its TCP flags."""
        tested, first = DEFAULT_FLAGS  # what such packets never have
        return any((mask & tested, value & tested) != (tested, first) for _, mask, value in self.machines)

    def machine_config(self) -> bytes:
        """Return the automata as they are in the program's configuration."""
        return b"".join(_MACHINE.pack(*machine) for machine in self.machines).ljust(MAX_MACHINES * _MACHINE.size, b"\0")

    def pack(self) -> bytes:
        """Return the form."""
        parts = (
            b"".join(_MACHINE.pack(*machine) for machine in self.machines),
            b"".join(_NAME.pack(name.encode()) for name in self.interfaces),
            b"".join(self.targets),
            self.ports,
            self.edges,
            self.links,
        )
        counts = (len(part) // item.size for part, item in zip(parts, _PARTS, strict=True))
        marks = self.token, self.state_mask, self.counted, self.root
        numbers = (*marks, self.known_only, self.is_stealth, self.open_s, self.wants_xdp)
        return _FORM.pack(_MAGIC, self.digest, *numbers, *counts) + b"".join(parts)


def parse_tables(raw: bytes) -> ShieldTables:
    """Parse the form, which comes from a process with fewer rights. MalformedError: it is invalid."""
    if len(raw) < _FORM.size:
        raise MalformedError("shield-form", f"shield: a form of {len(raw)} bytes, its header needs {_FORM.size}")
    magic, digest, token, mask, counted, root, known_only, is_stealth, open_s, xdp, *counts = _FORM.unpack_from(raw)
    sizes = [count * item.size for count, item in zip(counts, _PARTS, strict=True)]
    if magic != _MAGIC or len(raw) != _FORM.size + sum(sizes) or any(map(int.__gt__, counts, _BOUNDS)):
        raise MalformedError("shield-form", f"shield: a form of {len(raw)} bytes that is of another version or size")
    parts, at = [], _FORM.size
    for size in sizes:
        parts.append(raw[at : at + size])
        at += size
    try:
        names = tuple(name.rstrip(b"\0").decode() for (name,) in _NAME.iter_unpack(parts[1]))
    except UnicodeDecodeError:
        names = ("",)
    is_mask = 0 < mask < MAX_STATES and mask & (mask + 1) == 0
    if not is_mask or token & mask or not token or any(not _INTERFACE.fullmatch(name) for name in names):
        raise MalformedError("shield-form", "shield: a form with an invalid token or interface")
    machines = tuple(_MACHINE.iter_unpack(parts[0]))
    if (
        not machines
        or max(known_only, is_stealth, xdp) > 1
        or any(at >= len(machines) * PORTS for at, _, _ in _PORT.iter_unpack(parts[3]))
    ):
        raise MalformedError("shield-form", "shield: a form with an invalid automaton or port")
    targets = tuple(target for (target,) in _TARGET.iter_unpack(parts[2]))
    numbers = token, mask, counted, root, bool(known_only), bool(is_stealth), open_s, bool(xdp)
    return ShieldTables(digest, *numbers, machines, names, targets, *parts[3:])


def shielded_machines(automaton: Automaton) -> list[Machine]:
    """Return the automata that the shield runs; packets to the targets of the others pass."""
    return [machine for machine in automaton.machines if machine.target is None]


def unsupported(gate: Gate, automaton: Automaton) -> str:
    """Return why the shield cannot be in front of this gate, or ""."""
    machines = shielded_machines(automaton)
    if gate.mode is Mode.OBSERVE:
        return f'in mode "{Mode.OBSERVE}" the gate drops nothing'
    if not machines:
        return "no door without `target` has a port sequence"
    if len(machines) > MAX_MACHINES:
        return f"its doors have more than {MAX_MACHINES} combinations of `flags` and `within`"
    last = [port for machine in machines for port in _last_packets(machine)]
    if len({*last}) < len(last):  # a packet could complete knocks of two automata, and its priority has one state
        return "doors with different `flags` or `within` have the same last knock packet"
    if _last_state(machines) >= MAX_STATES:
        return f"the sequences have more than {MAX_STATES:,} states"
    return ""


def mark_of(machines: Sequence[Machine], key: bytes) -> tuple[int, int, int]:
    """Return the token, the bits of a priority that have the state, and the mark of packets that were only counted.

    Token and mark are random to everyone without `key`, and others where states mean something else. They have nothing
    in common: a local program can read the priority of a packet that it receives (SO_RCVPRIORITY).
    """
    mask = (1 << _last_state(machines).bit_length()) - 1
    drawn = hashlib.blake2s(digest_of(machines), key=key, digest_size=8).digest()
    token = int.from_bytes(drawn[:4]) & ~mask & 0xFFFFFFFF or mask + 1
    choices = int.from_bytes(drawn[4:]) & ~mask & 0xFFFFFFFF, mask + 1 << 1, mask + 1 << 2
    return token, mask, next(choice for choice in choices if choice not in (0, token))


def compile_tables(
    gate: Gate, automaton: Automaton, doors: Sequence[Door], public: Collection[Port], key: bytes
) -> ShieldTables:
    """Return the tables for a gate that can have a shield; packets to the ports in `public` pass."""
    machines = shielded_machines(automaton)
    root = machines[0].root
    flags: dict[int, int] = dict.fromkeys(map(_index, _DHCP), NEEDED)  # of a port, for all automata
    for port in automaton.known_ports or ():
        flags[_index(port)] = flags.get(_index(port), 0) | KNOWN
    firsts: list[dict[int, int]] = []  # the states after a first knock packet
    filters: list[dict[int, int]] = []  # of such states that have an edge for a port
    edges, links = bytearray(), bytearray()
    for machine in machines:
        firsts.append({})
        filters.append({})
        first_states = set[int]()
        for packed, state in machine.edges.items():
            before, port = split_edge(packed)
            is_last, at = state in machine.completes, _index(port)
            if before == machine.root:
                first_states.add(state)
                firsts[-1][at] = (state - root) << FIRST_SHIFT | FIRST_COMPLETES * is_last
            else:
                to = state - root | COMPLETES * is_last | FALLS * (state in machine.fail)
                edges += _EDGE.pack(before - root, pack_symbol(port), to)
                if before in first_states:
                    filters[-1][at] = filters[-1].get(at, 0) | _filter_bit(before - root)
            flags[at] = flags.get(at, 0) | (BEGINS if before == machine.root else LATER) | ENDS * is_last
        for packed in sorted(machine.repeats):
            state, port = split_edge(packed)
            edges += _EDGE.pack(state - root, pack_symbol(port), SAME)
        for state, shorter in machine.fail.items():
            links += _LINK.pack(state - root, shorter - root | FALLS * (shorter in machine.fail))
    flags |= {_index(port): PASSED if port in public else HIDDEN for port in automaton.ignored_ports}
    longest_ms = max((door.for_ms for door in doors if door.knock), default=0)
    return ShieldTables(
        digest_of(machines),
        *mark_of(machines, key),
        root,
        gate.wrong_port is WrongPort.KNOWN,
        gate.mode is Mode.STEALTH,
        min(longest_ms // 1000 + OPENING_MARGIN_S, _MAX_OPEN_S),
        gate.shield is Shield.XDP,
        tuple((machine.within_ms, *machine.flags) for machine in machines),
        gate.interfaces,
        tuple(sorted({packed_address(machine.target) for machine in automaton.machines if machine.target})),
        b"".join(
            _PORT.pack(number * PORTS + at, value | first.get(at, 0), before.get(at, 0))
            for number, (first, before) in enumerate(zip(firsts, filters, strict=True))
            for at, value in sorted(flags.items())
        ),
        bytes(edges),
        bytes(links),
    )


def digest_of(machines: Sequence[Machine]) -> bytes:
    """Return what identifies the meaning of the states: with other doors a state has another number."""
    tables = [
        (machine.flags, machine.within_ms, machine.root, machine.edges, machine.completes) for machine in machines
    ]
    return hashlib.blake2s(repr(tables).encode(), digest_size=8).digest()


def pack_bans(ends_ns: Mapping[Source, int]) -> bytes:
    """Return changes of the bans as the loader accepts them: ends on CLOCK_MONOTONIC, 0 for a ban that was removed."""
    return b"".join(_BAN.pack(network_key(ban), end_ns) for ban, end_ns in ends_ns.items())


def parse_bans(raw: bytes) -> dict[bytes, int]:
    """Parse that: the end of each ban, by its key in the program's map. MalformedError: it is invalid."""
    if len(raw) % _BAN.size:
        raise MalformedError("shield-form", f"shield: bans of {len(raw)} bytes, each has {_BAN.size}")
    return dict(_BAN.iter_unpack(raw))


def network_key(source: Source) -> bytes:
    """Return the key of an IPv4 address, or of the /64 of an IPv6 address, in the program's maps."""
    packed = (source if isinstance(source, IPv4Address | IPv6Address) else source.network_address).packed
    return packed + b"\xff" * 4 if len(packed) == 4 else packed[4:8] + packed[:4]


def packed_address(address: bytes) -> bytes:
    """Return an address in 16 bytes; IPv4 as an IPv6 address that no packet is for."""
    return address if len(address) == 16 else b"\xff" * 12 + address


def _last_state(machines: Sequence[Machine]) -> int:
    return machines[-1].root + len(machines[-1].edges)


def _last_packets(machine: Machine) -> set[Port]:
    """Return the packets that complete a knock."""
    return {split_edge(packed)[1] for packed, state in machine.edges.items() if state in machine.completes}


def _filter_bit(state: int) -> int:
    """Return the bit of a state in the Bloom filter of a port (struct port in automaton.h)."""
    return 1 << ((state * 0x9E3779B1 & 0xFFFFFFFF) >> 27)


def _index(port: Port) -> int:
    return port.number | (UDP_PORTS if port.protocol is Protocol.UDP else 0)
