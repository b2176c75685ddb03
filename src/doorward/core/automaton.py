"""Compile the port sequences of all doors into an Aho-Corasick automaton (CACM 18(6), 1975).

Doors with the same flags, deadline and target share a state machine; the machines run in parallel. A state is an
integer from 1, unique across all machines. Each state has its own edges and one failure link, never the full
transition table, which explodes where many sequences overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from doorward.model import Door, FlagFilter, HostPort, Packet, Port, Protocol

Edges = dict[int, int]  # edge(state, symbol) -> state
MachineKey = tuple[FlagFilter, int, bytes | None]  # flags, deadline in ms, packed target
_SYMBOL_BITS = 24
_SYMBOL_MASK = (1 << _SYMBOL_BITS) - 1


def pack_symbol(port: Port | HostPort) -> int:
    """Pack a protocol and a port into 24 bits."""
    return port.protocol << 16 | port.number


def edge(state: int, symbol: int) -> int:
    """Pack a state and a symbol into one key: tuples would need twice the memory for 100,000 doors."""
    return state << _SYMBOL_BITS | symbol


def split_edge(key: int) -> tuple[int, Port]:
    """Unpack a key of `edge`: the state, and the symbol as a port."""
    return key >> _SYMBOL_BITS, Port(Protocol(key >> 16 & 0xFF), key & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Machine:
    """The state machine for all doors with one combination of flags, deadline and target.

    `fail` maps a state to its longest proper suffix that is a useful prefix; states that fall back to the root are
    not in it. `repeats` holds the edges on which a packet repeats the state's last symbol and nothing changes.
    `completes` maps a state to the doors (by index) that open on entering it.
    """

    flags: FlagFilter
    within_ms: int
    root: int
    first_states: range  # the states one knock packet from the root: entering one starts the deadline
    edges: Edges
    fail: dict[int, int]
    repeats: frozenset[int]
    completes: dict[int, tuple[int, ...]]
    target: bytes | None = None

    @property
    def key(self) -> MachineKey:
        """What its doors have in common."""
        return self.flags, self.within_ms, self.target

    def is_destination(self, packet: Packet) -> bool:
        """Return whether the packet is sent to the address that this machine's doors expect."""
        return packet.local if self.target is None else packet.destination == self.target

    def matches(self, packet: Packet) -> bool:
        """Return whether the packet's destination and flags match this machine's doors; UDP has no flags."""
        return self.is_destination(packet) and (packet.port.protocol is Protocol.UDP or self.flags.passes(packet.flags))

    def step(self, state: int, symbol: int) -> int | None:
        """Return the state after `symbol`: the root for a wrong one, None if nothing changes."""
        next_state = self.edges.get(edge(state, symbol))
        if next_state is None and edge(state, symbol) in self.repeats:
            return None
        while next_state is None and state != self.root:
            state = self.fail.get(state, self.root)
            next_state = self.edges.get(edge(state, symbol))
        return self.root if next_state is None else next_state

    def longest_failure_chain(self) -> int:
        """Return the length of the longest chain of failure links, not counting the root; at most 31."""
        lengths: dict[int, int] = {}
        for state in sorted(self.fail):  # links lead to shorter prefixes, which have smaller numbers
            lengths[state] = 1 + lengths.get(self.fail[state], 0)
        return max(lengths.values(), default=0)


@dataclass(frozen=True, slots=True)
class Automaton:
    """All state machines, and which ports count: not `ignored_ports`; only `known_ports`, if it is set.

    `ignored_behind` are those of hosts behind this one that do not count.
    """

    machines: tuple[Machine, ...]
    ignored_ports: frozenset[Port]
    known_ports: frozenset[Port] | None = None
    ignored_behind: frozenset[HostPort] = frozenset()


def compile_doors(doors: Sequence[Door], *, public: Iterable[Port] = (), known_only: bool = False) -> Automaton:
    """Compile `doors`; doors without a port sequence are in no machine."""
    groups: dict[MachineKey, list[int]] = {}
    for index, door in enumerate(doors):
        if door.knock:
            groups.setdefault(machine_key(door), []).append(index)
    machines: list[Machine] = []
    root = 1
    for key, members in groups.items():
        machines.append(_build_machine(key, root, [(i, doors[i].knock) for i in members]))
        root += len(machines[-1].edges) + 1
    ranges = {span for door in doors for span in door.ranges}
    never = frozenset(public).union(*(door.opens for door in doors), *(span.ports() for span in ranges))
    only = frozenset(port for door in doors for port in door.knock) if known_only else None
    return Automaton(tuple(machines), never, only, frozenset(port for door in doors for port in door.behind))


def state_depths(automaton: Automaton) -> tuple[tuple[int, int], ...]:
    """Return the depth of every state as sorted ranges: (first state, number of knock packets that lead to it)."""
    starts: list[tuple[int, int]] = []
    for machine in automaton.machines:
        starts.append((machine.root, 0))
        knocks = {machine.root: 0}
        for key, state in machine.edges.items():  # in the order of depth
            knocks[state] = knocks[key >> _SYMBOL_BITS] + 1
            if knocks[state] != starts[-1][1]:
                starts.append((state, knocks[state]))
    return tuple(starts)


def machine_key(door: Door) -> MachineKey:
    """Return the key of the machine that a door belongs to."""
    return door.flags, door.within_ms, door.target.packed if door.target else None


def _build_machine(key: MachineKey, root: int, members: Sequence[tuple[int, tuple[Port, ...]]]) -> Machine:
    edges, levels, ends = _build_trie(root, [knock for _, knock in members])
    fail = _failure_links(root, edges, levels)
    completes: dict[int, tuple[int, ...]] = {}
    for (index, _), end in zip(members, ends, strict=True):
        completes[end] = (*completes.get(end, ()), index)
    for state, shorter in fail.items():  # in the order of depth, so the shorter prefix is complete
        if shorter in completes:
            completes[state] = completes.get(state, ()) + completes[shorter]
    repeats = (edge(state, key & _SYMBOL_MASK) for key, state in edges.items())  # of each state: its own last packet
    same = frozenset(key for key in repeats if _is_retransmission(root, edges, fail, key))
    firsts = range(root + 1, root + 1 + len(levels[0]))
    flags, within_ms, target = key
    return Machine(flags, within_ms, root, firsts, edges, _shorten_links(edges, fail), same, completes, target)


def _build_trie(root: int, sequences: Sequence[tuple[Port, ...]]) -> tuple[Edges, list[list[int]], list[int]]:
    """Number the prefixes by depth; return the edges, the edges of each depth, and each sequence's last state."""
    edges: Edges = {}
    levels: list[list[int]] = []
    ends = [root] * len(sequences)
    for depth in range(max(map(len, sequences))):
        level: list[int] = []
        for index, knock in enumerate(sequences):
            if depth < len(knock):
                key = edge(ends[index], pack_symbol(knock[depth]))
                if key not in edges:
                    edges[key] = root + 1 + len(edges)
                    level.append(key)
                ends[index] = edges[key]
        levels.append(level)
    return edges, levels, ends


def _failure_links(root: int, edges: Edges, levels: list[list[int]]) -> dict[int, int]:
    """Map each state to its longest proper suffix that is also a prefix; states without one fall back to the root."""
    fail: dict[int, int] = {}
    for level in levels[1:]:
        for key in level:
            shorter = fail.get(key >> _SYMBOL_BITS, root)
            target = edges.get(edge(shorter, key & _SYMBOL_MASK))
            while target is None and shorter != root:
                shorter = fail.get(shorter, root)
                target = edges.get(edge(shorter, key & _SYMBOL_MASK))
            if target is not None:
                fail[edges[key]] = target
    return fail


def _is_retransmission(root: int, edges: Edges, fail: dict[int, int], key: int) -> bool:
    """Return whether no sequence repeats the symbol here, so that it is a retransmission (section 3, rule 4)."""
    state, symbol = key >> _SYMBOL_BITS, key & _SYMBOL_MASK
    while state != root:
        if edge(state, symbol) in edges:
            return False
        state = fail.get(state, root)
    return True


def _shorten_links(edges: Edges, fail: dict[int, int]) -> dict[int, int]:
    """Shorten failure links: skip states whose symbols are all known to the longer state already."""
    involved = fail.keys() | set(fail.values())
    symbols: dict[int, set[int]] = {state: set() for state in involved}
    for key in edges:
        if key >> _SYMBOL_BITS in involved:
            symbols[key >> _SYMBOL_BITS].add(key & _SYMBOL_MASK)
    useful: dict[int, int] = {}
    for state, shorter in fail.items():
        target = useful.get(shorter) if symbols[shorter] <= symbols[state] else shorter
        if target is not None:
            useful[state] = target
    return useful
