"""The automaton as the tables of shield.bpf.c, and the fixed form in which they reach the loader. Pure."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from doorward.config.schema import Gate, Mode, WrongPort
from doorward.core.automaton import Automaton, Machine, pack_symbol, split_edge
from doorward.errors import MalformedError
from doorward.model import DEFAULT_FLAGS, Port, Protocol

PORTS = 1 << 17  # the index of a port: its number, and UDP_PORTS more for UDP
UDP_PORTS = 1 << 16
MAX_STATES = 1 << 22  # the other bits of a packet's priority have the token
MAX_EDGES = 1 << 23
MAX_INTERFACES = 64
# As in shield.bpf.c.
SAME, COMPLETES, FALLS = 0xFFFFFFFE, 1 << 31, 1 << 30
PASSED, LATER, NEEDED, FIRST_COMPLETES, FIRST_SHIFT = 1, 2, 4, 8, 8
_DHCP = Port(Protocol.UDP, 68), Port(Protocol.UDP, 546)
_FORM = struct.Struct("<8s8s9I")  # magic, digest of the automaton, numbers; then names, ports, edges, failure links
_MAGIC = b"DWSHLD01"
_NAME = struct.Struct("16s")
_PORT, _EDGE, _LINK = struct.Struct("<II"), struct.Struct("<III"), struct.Struct("<II")
_INTERFACE = re.compile(r"[^/\s*\0]{1,15}\*?")


@dataclass(frozen=True, slots=True)
class ShieldTables:
    """What the loader fills the maps with: packed little-endian numbers, since one door needs them as 100,000 do.

    `ports`: index and value of each port that has one; `edges`: state, symbol and value; `links`: state and shorter
    state. States count from 0, the `root` of the gate's. `digest`
    identifies them: sources keep theirs while it stays the same.
    """

    digest: bytes
    token: int
    state_mask: int
    root: int
    within_ms: int
    firsts: int
    known_only: bool
    interfaces: tuple[str, ...]
    ports: bytes
    edges: bytes
    links: bytes

    def pack(self) -> bytes:
        """Return the form."""
        names = b"".join(_NAME.pack(name.encode()) for name in self.interfaces)
        numbers = (self.token, self.state_mask, self.root, self.within_ms, self.firsts | self.known_only << 31)
        counts = (
            len(self.interfaces),
            len(self.ports) // _PORT.size,
            len(self.edges) // _EDGE.size,
            len(self.links) // _LINK.size,
        )
        return _FORM.pack(_MAGIC, self.digest, *numbers, *counts) + names + self.ports + self.edges + self.links


def parse_tables(raw: bytes) -> ShieldTables:
    """Parse the form, which comes from a process with fewer rights. MalformedError: it is invalid."""
    if len(raw) < _FORM.size:
        raise MalformedError("shield-form", f"shield: a form of {len(raw)} bytes, its header needs {_FORM.size}")
    magic, digest, token, mask, root, within_ms, firsts, *counts = _FORM.unpack_from(raw)
    sizes = [count * item.size for count, item in zip(counts, (_NAME, _PORT, _EDGE, _LINK), strict=True)]
    bounds = (MAX_INTERFACES, PORTS, MAX_EDGES, MAX_EDGES)
    if magic != _MAGIC or len(raw) != _FORM.size + sum(sizes) or any(map(int.__gt__, counts, bounds)):
        raise MalformedError("shield-form", f"shield: a form of {len(raw)} bytes that is of another version or size")
    parts, at = [], _FORM.size
    for size in sizes:
        parts.append(raw[at : at + size])
        at += size
    try:
        names = tuple(name.rstrip(b"\0").decode() for (name,) in _NAME.iter_unpack(parts[0]))
    except UnicodeDecodeError:
        names = ("",)
    is_mask = 0 < mask < MAX_STATES and mask & (mask + 1) == 0
    if not is_mask or token & mask or not token or any(not _INTERFACE.fullmatch(name) for name in names):
        raise MalformedError("shield-form", "shield: a form with an invalid token or interface")
    if any(index >= PORTS for index, _ in _PORT.iter_unpack(parts[1])):
        raise MalformedError("shield-form", "shield: a form with an invalid port")
    return ShieldTables(digest, token, mask, root, within_ms, firsts & ~(1 << 31), firsts >> 31 == 1, names, *parts[1:])


def unsupported(gate: Gate, automaton: Automaton) -> str:
    """Return why the shield cannot be in front of this gate, or ""."""
    machines = automaton.machines
    if gate.mode is not Mode.STEALTH:
        return f'it works in mode "{Mode.STEALTH}" only'
    if len(machines) != 1:
        return "its doors need the same `within`, and no `target`" if machines else "no door has a port sequence"
    if machines[0].flags != DEFAULT_FLAGS or machines[0].target is not None:
        return "it does not support `flags` and `target` of doors"
    if len(machines[0].edges) >= MAX_STATES:
        return f"the sequences have more than {MAX_STATES:,} states"
    return ""


def mark_of(machine: Machine, key: bytes) -> tuple[int, int]:
    """Return the token and the bits of a priority that have the state.

    The token is random to everyone without `key`, and another one where states mean something else.
    """
    mask = (1 << (machine.root + len(machine.edges)).bit_length()) - 1
    drawn = hashlib.blake2s(digest_of(machine), key=key, digest_size=4).digest()
    return int.from_bytes(drawn) & ~mask & 0xFFFFFFFF or mask + 1, mask


def compile_tables(gate: Gate, automaton: Automaton, key: bytes) -> ShieldTables:
    """Return the tables for a gate that can have a shield; packets to ports that are not a knock's pass."""
    [machine] = automaton.machines
    root, within_ms = machine.root, machine.within_ms
    values: dict[int, int] = dict.fromkeys(map(_index, _DHCP), NEEDED)
    edges, links = bytearray(), bytearray()
    for packed, state in machine.edges.items():
        before, port = split_edge(packed)
        flags = COMPLETES * (state in machine.completes)
        at = _index(port)
        if before == root:
            first = (state - root) << FIRST_SHIFT | (FIRST_COMPLETES if flags else 0)
            values[at] = values.get(at, 0) | first
        else:
            values[at] = values.get(at, 0) | LATER
            to = state - root | flags | FALLS * (state in machine.fail)
            edges += _EDGE.pack(before - root, pack_symbol(port), to)
    for packed in sorted(machine.repeats):
        state, port = split_edge(packed)
        edges += _EDGE.pack(state - root, pack_symbol(port), SAME)
    for state, shorter in machine.fail.items():
        links += _LINK.pack(state - root, shorter - root | FALLS * (shorter in machine.fail))
    values |= {_index(port): PASSED for port in automaton.ignored_ports}
    return ShieldTables(
        digest_of(machine),
        *mark_of(machine, key),
        root,
        within_ms,
        len(machine.first_states),
        gate.wrong_port is WrongPort.KNOWN,
        gate.interfaces,
        b"".join(_PORT.pack(*item) for item in sorted(values.items())),
        bytes(edges),
        bytes(links),
    )


def digest_of(machine: Machine) -> bytes:
    """Return what identifies the meaning of a machine's states: with other doors a state has another number."""
    tables = (machine.within_ms, machine.root, machine.edges, machine.completes)
    return hashlib.blake2s(repr(tables).encode(), digest_size=8).digest()


def edge_bits(edges: bytes) -> bytes:
    """Return the Bloom filter of edges: a power of two of 32-bit words, at least two bits an edge."""
    words = max(64, 1 << (len(edges) // _EDGE.size).bit_length() >> 1)
    bits = bytearray(4 * words)
    for state, symbol, _ in _EDGE.iter_unpack(edges):
        bit = (state * 0x9E3779B1 ^ symbol * 0x85EBCA6B) & 0xFFFFFFFF
        bit ^= bit >> 15
        at = (bit >> 5 & words - 1) * 32 + (bit & 31)
        bits[at >> 3] |= 1 << (at & 7)
    return bytes(bits)


def _index(port: Port) -> int:
    return port.number | (UDP_PORTS if port.protocol is Protocol.UDP else 0)
