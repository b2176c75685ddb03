"""The automaton and the gate's settings as nftables text (nft(8)). Pure: every fact of the host is an argument.

The tables live in maps, so a packet meets the same rules for one door and for 100,000. The packet's priority
(`meta priority`, a scratch word that nobody else reads before this hook) carries the state.

For each machine and family three maps hold the sources in progress:

    window    source : state after its first knock; its timeout is the deadline
    hurried   the same with a deadline of two seconds, for sources that find the window full
    progress  source : state after a later knock; counts only while one of the others stands

A source one knock in fills one entry. A flood of first knocks fills the window, then turns over in the hurried map:
whoever knocks during it gets in if the knock takes less than two seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.config.duration import nft_duration
from doorward.config.schema import SHORT_WINDOW_MS, Gate, Mode
from doorward.core.automaton import Automaton, state_depths
from doorward.core.tracker import LIMITER_TIMEOUT_S, PAUSE_S
from doorward.model import Door, Port, Protocol
from doorward.nftables import ban_sets, chains, maps
from doorward.nftables.automaton_chains import ADDRESS_TYPES, Group, build_groups

TABLE = "inet doorward"
BASE_CHAINS = ("prerouting", "early", "before_conntrack", "input", "output")
FROM_FILE = "from_file"  # a chain that nothing uses: the table came from a file, with no openings
OPEN_SETS = ("open4", "open6", "wide4", "wide6")  # to which sources which ports are open: addresses, networks
WIDE_SIZE = 1024  # openings of networks a family; only who has a key that may ask for them can fill it
OPEN_SIZE = 65536  # openings a family: only who knows a knock can fill it
FAST_SIZE = 65536  # sources over the rate just now; each has sent 40 packets, and where it is full the limiter works on
SIGNED_SIZE = 65536  # senders of signed knocks within two seconds; where it is full the budget works on
SCANNERS_SIZE = 4096  # sources noted in the last minute, at most ten a second
LIMITER_BYTES, ATTEMPT_BYTES = 260, 150  # an entry of a full set, with its share of the buckets: docs/measured.md
# What hides a port outlives a reload as an object, only its content is replaced: a packet that is under way during the
# commit may look a port up in the new generation and follow the old one's chains, and a new chain is empty there.
HELD = ("ports", "door", "standing")
# So does what says how a knock goes on and what it opens, where it says the same after the reload: else a packet under
# way would find the old map empty, and its knock would be lost.
_MAPS = ("delta", "number", "fail", "opens")
COUNTERS = (
    "knocked",  # packets that completed a knock
    "hidden",  # packets to a hidden port, dropped
    "silent",  # packets dropped by stealth
    "fast",  # symbols of sources over the rate
    "no_room_limiter",  # symbols not matched: the limiter was full
    "hurried",  # first knocks that got the short deadline: the window was full
    "no_room_window",  # first knocks refused: the hurried map was full too
    "no_room_progress",  # later knocks refused: the progress map was full
    "no_room_open",  # complete knocks refused: the open set was full
    "banned",  # packets of who is banned: dropped at a hidden port, else no symbol
    "signed",  # datagrams of a signed knock's length, handed to the daemon
    "signed_length",  # datagrams to its port of any other length, dropped
    "signed_fast",  # dropped: more than 10/s from one source, while more than 1,000/s came from all
    "signed_over",  # dropped: more than 60,000 a second from all sources
)


@dataclass(frozen=True, slots=True)
class SetSpec:
    """A set or map that a reload keeps, unless its size changed."""

    name: str
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Existing:
    """A chain, set, map or counter that the loaded table has; `size` 0 where it has none."""

    kind: str
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A compiled gate. `states` tells, for a number in the log, the doors (by index) that opened.

    `depths` tells how many knocks led to a state, as the automaton's `state_depths` does. `opening` and `maps` name the
    chains and maps that are the same in every table of this generation; the chains' names tell the generation.
    """

    generation: str
    kept: tuple[SetSpec, ...]
    body: str
    states: dict[int, tuple[int, ...]]
    depths: tuple[tuple[int, int], ...] = ()
    opening: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def whole(self) -> str:
        """Give a file for `nft -f` that replaces the table and everything in it."""
        return f"add table {TABLE}\ndelete table {TABLE}\n\n{self.body}"

    def for_boot(self) -> str:
        """Give the same with a mark, so that the next daemon puts in the openings that stand by the ledger."""
        return f"{self.whole()}\nadd chain {TABLE} {FROM_FILE}\n"

    def replacing(self, existing: Sequence[Existing], *, afresh: bool = False) -> str:
        """Give the transaction that replaces rules and tables but keeps what the sets hold.

        Where the loaded table is of this generation its maps are emptied and filled again, so that no knock under way
        is lost; with `afresh` they are made anew, whatever somebody did to them.
        """
        same_size = {spec.name for spec in self.kept if spec.size in _sizes(existing, spec.name)}
        base = {name for name in BASE_CHAINS if f"chain {name} {{" in self.body}
        filled = {*HELD, *(() if afresh or not self.has_loaded(existing) else (*self.opening, *self.maps))}
        stays = same_size | {*base, *filled, *COUNTERS}
        gone = [thing for thing in existing if thing.name not in stays]
        # A verdict map holds references to chains, so the maps go before the chains.
        gone.sort(key=lambda thing: thing.kind == "chain")
        head = [f"add table {TABLE}", f"flush table {TABLE}"]
        head += [
            f"flush map {TABLE} {thing.name}" for thing in existing if thing.kind == "map" and thing.name in filled
        ]
        return "\n".join([*head, *(f"delete {thing.kind} {TABLE} {thing.name}" for thing in gone), "", self.body])

    def has_loaded(self, existing: Iterable[Existing]) -> bool:
        """Tell whether the loaded table is of this generation."""
        return bool(self.opening) and {*self.opening} <= {thing.name for thing in existing}


def default_capacity(memory_bytes: int, machines: int, wanted: int) -> int:
    """Give how many sources a family fit in a sixteenth of the memory when every set is full, at most `wanted`."""
    a_source = LIMITER_BYTES + 3 * machines * ATTEMPT_BYTES
    return max(1024, min(wanted, memory_bytes // 16 // (2 * a_source)))


def compile_ruleset(
    doors: Sequence[Door],
    automaton: Automaton,
    gate: Gate,
    capacity: int,
    signed_port: int | None = None,
    *,
    tells_steps: bool = False,
) -> Ruleset:
    """Turn the tables into the text of the table `inet doorward`; with `tells_steps` every step goes to the log.

    `signed_port`: the UDP port for signed knocks, or None.
    """
    groups = build_groups(automaton.machines)
    kept = tuple(_kept(groups, capacity, has_signed=signed_port is not None))
    states = {state: done for machine in automaton.machines for state, done in machine.completes.items()}
    data = [*_data(doors, automaton, tells_steps=tells_steps), *_targets(groups)]
    actions = maps.actions(doors, automaton)
    generation = hashlib.blake2s("".join([*data, repr(actions)]).encode(), digest_size=4).hexdigest()
    opening = {f"opens_{number}_{generation}": action for number, action in enumerate(actions)}
    plan = chains.ChainContext(groups, gate, generation, tells_steps, signed_port)
    parts = [
        _heading(doors, automaton, gate, capacity),
        *(f"counter {name} {{ }}\n" for name in COUNTERS),
        *(spec.text for spec in kept),
        *data,
        chains.granted(plan),
        *(
            chains.opening(plan, name, action, maps.named(doors, _doors_of(states, actions[action])))
            for name, action in opening.items()
        ),
        maps.opens({name: actions[action] for name, action in opening.items()}),
        *chains.matching(plan),
        chains.door(gate, has_wide=signed_port is not None),
        _ports(doors, gate, signed_port),
        _exempt(doors, gate) if chains.early(plan) else "",
        chains.early(plan),
        chains.signed(plan),
        chains.forwarded(plan),
        chains.prerouting(plan),
        chains.translated(plan),
        chains.output(plan),
    ]
    inside = "\n".join(part.rstrip("\n") for part in parts if part).replace("\n", "\n    ")
    text = f"table {TABLE} {{\n    {inside}\n}}\n"
    roots = (f"roots{group.mark(family)}" for group in groups for family in group.family)
    return Ruleset(generation, kept, text, states, state_depths(automaton), (*opening,), (*_MAPS, *roots))


def _sizes(existing: Iterable[Existing], name: str) -> set[int]:
    return {thing.size for thing in existing if thing.name == name}


def _doors_of(states: dict[int, tuple[int, ...]], ends: Iterable[int]) -> Iterable[int]:
    return (index for state in ends for index in states[state])


def _heading(doors: Sequence[Door], automaton: Automaton, gate: Gate, capacity: int) -> str:
    knockable = sum(bool(door.knock) for door in doors)
    return (
        f"# mode {gate.mode}; doors: {len(doors)}, of them by a sequence: {knockable}; machines:"
        f" {len(automaton.machines)}; capacity: {capacity} sources a family\n"
    )


def _kept(groups: Sequence[Group], capacity: int, *, has_signed: bool) -> Iterable[SetSpec]:
    limiter = f"timeout {int(LIMITER_TIMEOUT_S)}s"
    for family, address in ADDRESS_TYPES.items():
        yield _dynamic(f"set open{family}", f"{address} . inet_proto . inet_service", OPEN_SIZE, "")
        yield _standing(f"standing{family}", address)
        yield _dynamic(f"set limiter{family}", address, capacity, limiter)
        yield _dynamic(f"set fast{family}", address, FAST_SIZE, f"timeout {round(PAUSE_S * 1000)}ms")
        yield _dynamic(f"set scanners{family}", address, SCANNERS_SIZE, "timeout 1m")
        yield _banned(f"banned{family}", address)
        if has_signed:
            yield _wide(f"wide{family}", f"{address} . inet_proto . inet_service")
            yield _dynamic(f"set signed{family}", address, SIGNED_SIZE, limiter)
        for group in groups:
            if family in group.families:
                hurried_ms = min(group.within_ms, SHORT_WINDOW_MS)
                for name, ms in (("window", group.within_ms), ("hurried", hurried_ms), ("progress", group.within_ms)):
                    head, element_type = f"map {name}{group.mark(family)}", f"{group.key_type(family)} : classid"
                    yield _dynamic(head, element_type, capacity, f"timeout {nft_duration(ms)}")


def _dynamic(head: str, element_type: str, size: int, timeout: str) -> SetSpec:
    lines = [f"type {element_type}", f"size {size}", "flags dynamic,timeout", *([timeout] if timeout else [])]
    return SetSpec(head.split()[1], size, f"{head} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n")


def _wide(name: str, key: str) -> SetSpec:
    """Networks that a door is open to; packets do not put any in."""
    lines = [f"type {key}", f"size {WIDE_SIZE}", "flags interval,timeout"]
    return SetSpec(name, WIDE_SIZE, f"set {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n")


def _banned(name: str, key: str) -> SetSpec:
    """Whoever the operator banned; packets do not put any in."""
    lines = [f"type {key}", f"size {ban_sets.SIZE}", "flags timeout"]
    return SetSpec(name, ban_sets.SIZE, f"set {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n")


def _standing(name: str, address: str) -> SetSpec:
    """Connections that stood before their port was first hidden: source, its port, destination, its port."""
    key = f"{address} . inet_service . {address} . inet_service"
    # Five days: what conntrack too allows an idle connection (nf_conntrack_tcp_timeout_established).
    return SetSpec(name, 0, f"set {name} {{\n    type {key}\n    flags timeout\n    timeout 5d\n}}\n")


def _data(doors: Sequence[Door], automaton: Automaton, *, tells_steps: bool) -> list[str]:
    data = [
        maps.delta(doors, automaton),
        maps.same(automaton),
        maps.number(automaton, every=tells_steps),
    ]
    if any(machine.fail for machine in automaton.machines):
        data.append(maps.fail(automaton))
    if automaton.known_ports is not None:
        data.append(maps.ports("known", "inet_proto . inet_service", automaton.known_ports))
    return data


def _targets(groups: Sequence[Group]) -> Iterable[str]:
    """Where the doors with a target look, and in which state a source starts there."""
    for family, address in ADDRESS_TYPES.items():
        targets: dict[str, str] = {}
        for group in groups:
            if group.family == family:
                roots = {str(ip_address(m.target or b"")): maps.classid(m.root) for m in group.machines}
                yield maps.addresses(f"map roots{group.mark(family)}", f"{address} : classid", roots)
                targets |= dict.fromkeys(roots, "")
        if targets:
            yield maps.addresses(f"set targets{family}", address, targets)


def _ports(doors: Sequence[Door], gate: Gate, signed_port: int | None) -> str:
    verdicts = dict.fromkeys(gate.public, "accept") | {port: "goto door" for door in doors for port in door.opens}
    if signed_port is not None:
        # The chain `signed` drops what is to this host alone, but in mode observe, where the port is not a knock's.
        verdicts[Port(Protocol.UDP, signed_port)] = "accept" if gate.mode is Mode.OBSERVE else "goto door"
    return maps.ports("ports", "inet_proto . inet_service : verdict", verdicts, sized=False)


def _exempt(doors: Sequence[Door], gate: Gate) -> str:
    """Repeat the keys of `ports` as a set: Linux 6.1 refuses to ask a map whether it has a key."""
    exempt = {*gate.public, *(port for door in doors for port in door.opens)}
    return maps.ports("exempt", "inet_proto . inet_service", exempt)
