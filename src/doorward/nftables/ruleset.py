"""The automaton and the gate's settings as nftables text (nft(8)). Pure: every fact about the host is an argument.

The automaton's tables are maps, so a packet traverses the same rules for one door and for 100,000. The packet's
priority (`meta priority`, which nothing else reads before this hook) carries the state.

For each part of the automaton and each family, three maps hold the sources in progress:

    first_knock   source : state after its first knock packet; its timeout is the deadline
    short_window  the same with a deadline of two seconds, for sources that find first_knock full
    progress      source : state after a later knock packet; counts only while one of the other two has the source

A source after one knock packet uses one element. A flood of first packets fills `first_knock`, then turns over in
`short_window`: during it a knock still succeeds if it takes less than two seconds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from doorward.config.duration import nft_duration
from doorward.config.schema import SHORT_WINDOW_MS, Fwknop, Gate, Mode
from doorward.core.automaton import Automaton, state_depths
from doorward.core.tracker import LIMITER_TIMEOUT_NS, PAUSE_NS
from doorward.model import Door, Port
from doorward.nftables import ban_sets, behind, chains, maps, once_chains, ranges, redirects, stealth_chains
from doorward.nftables.automaton_chains import ADDRESS_TYPES, Group, build_groups
from doorward.nftables.shield_chains import INTERFACES, SIZE, ShieldMark

TABLE = "inet doorward"
BASE_CHAINS = ("prerouting", "early", "before_conntrack", "forward", "input", "output", *redirects.BASE_CHAINS)
FROM_FILE = "from_file"  # an unused chain that marks a table that was loaded from a file, without openings
OPEN_BEHIND_SETS = ("open_behind4", "open_behind6", "open_behind_nets4", "open_behind_nets6")  # ports of other hosts
ONCE_BEHIND_SETS = ("once_behind4", "once_behind6")
# Open ports by address, by network, and for one connection.
OPEN_SETS = ("open4", "open6", "open_nets4", "open_nets6", "once4", "once6", *OPEN_BEHIND_SETS, *ONCE_BEHIND_SETS)
OPEN_NETS_SIZE = 1024  # openings to networks per family; only holders of a key that permits them can fill it
OPEN_SIZE = 65536  # openings per family; only clients that know a knock can fill it
THROTTLED_SIZE = 65536  # sources over the rate limit; each sent 40 packets; if it is full, the rate limit still works
SIGNED_SIZE = 65536  # senders of signed knocks within two seconds; if it is full, the budget still works
SCANNERS_SIZE = 4096  # sources logged in the last minute, at most ten per second
LIMITER_BYTES, ATTEMPT_BYTES = 260, 150  # per element of a full set, with its buckets: docs/dev/measured.md
# The objects that hide a port survive a reload, only their content is replaced: a packet in flight during the commit
# may look up a port in the new generation and follow the old one's chains, where a new chain is still empty.
REUSED = ("ports", "door", "preexisting", *behind.REUSED, *redirects.REUSED, *ranges.REUSED)
# So do the maps of the automaton if they stay the same: otherwise a packet in flight would find the old map empty, and
# its knock would be lost.
_MAPS = ("delta", "number", "fail", "opens")
_CHAIN = re.compile(r"^ *chain (\w+) \{", re.MULTILINE)
COUNTERS = (
    "knocked",  # packets that completed a knock
    "dropped_closed",  # packets to a hidden port, dropped
    "dropped_stealth",  # packets dropped by stealth
    "throttled",  # knock packets of sources over the rate limit
    "ratelimit_full",  # knock packets ignored: the rate-limit set was full
    "short_window",  # first knock packets that got the short deadline: the map for the full deadline was full
    "short_window_full",  # first knock packets ignored: the map for short deadlines was full too
    "progress_full",  # later knock packets ignored: the progress map was full
    "open_full",  # complete knocks rejected: the open set was full
    "banned",  # packets of banned sources: dropped at a hidden port, ignored as knock packets
    "signed",  # datagrams of a signed knock's length, passed to the daemon
    "signed_length",  # datagrams to its port of any other length, dropped
    "signed_throttled",  # dropped: more than 10/s from one source, while more than 1,000/s came from all
    "signed_budget_exceeded",  # dropped: more than 60,000/s from all sources
    "browser",  # STUN frames, of browsers, passed to the daemon
    "browser_throttled",  # dropped: more than 10/s from one source, while more than 200/s came from all
    "browser_budget_exceeded",  # dropped: more than 2,000/s from all sources
    "fwknop",  # packets of fwknop's clients, passed to the daemon
    "fwknop_throttled",  # dropped: more than 10/s from one source, while many came from all
    "fwknop_budget_exceeded",  # dropped: more from all sources than the keys of all stanzas can be tried with
)


@dataclass(frozen=True, slots=True)
class SetSpec:
    """A set or map that a reload keeps, unless its size changed."""

    name: str
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Existing:
    """A chain, set, map or counter of the loaded table; `size` is 0 if it has none."""

    kind: str
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A compiled gate. `states` maps a state in the log to the doors (by index) that opened.

    `depths` are the numbers of knock packets that led to a state, as the automaton's `state_depths`. `opening` and
    `maps` name the chains and maps that are the same in every table of this generation; the chains' names contain it.
    """

    generation: str
    sets: tuple[SetSpec, ...]
    body: str
    states: dict[int, tuple[int, ...]]
    depths: tuple[tuple[int, int], ...] = ()
    opening: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def full_text(self) -> str:
        """Return a file for `nft -f` that replaces the table and everything in it."""
        return f"add table {TABLE}\ndelete table {TABLE}\n\n{self.body}"

    def for_boot(self) -> str:
        """Return the same with the chain FROM_FILE, so that the next daemon restores the openings from the ledger."""
        return f"{self.full_text()}\nadd chain {TABLE} {FROM_FILE}\n"

    def replacing(self, existing: Sequence[Existing], *, afresh: bool = False) -> str:
        """Return the transaction that replaces rules and maps but keeps the elements of the sets.

        If the loaded table is of this generation its maps are flushed and filled again, so that no knock in progress is
        lost; with `afresh` they are deleted and created, whatever another program did to them.
        """
        same_size = {s.name for s in self.sets if any((s.name, s.size) == (e.name, e.size) for e in existing)}
        chains_of_it = _CHAIN.findall(self.body)
        base = {name for name in chains_of_it if name in BASE_CHAINS or name.startswith(ranges.CHAIN_PREFIX)}
        filled = {*REUSED, *(() if afresh or not self.has_loaded(existing) else (*self.opening, *self.maps))}
        # Openings to hosts behind this one outlive the last door that named one; for one connection if `once` stays.
        names = {spec.name for spec in self.sets}
        unnamed = {*OPEN_BEHIND_SETS, *(ONCE_BEHIND_SETS if "once4" in names else ())} - names
        stays = same_size | unnamed | {*base, *filled, *COUNTERS}
        gone = [thing for thing in existing if thing.name not in stays]
        # A verdict map holds references to chains, so the maps go before the chains.
        gone.sort(key=lambda thing: thing.kind == "chain")
        head = [f"add table {TABLE}", f"flush table {TABLE}"]
        head += [
            f"flush map {TABLE} {thing.name}" for thing in existing if thing.kind == "map" and thing.name in filled
        ]
        return "\n".join([*head, *(f"delete {thing.kind} {TABLE} {thing.name}" for thing in gone), "", self.body])

    def has_loaded(self, existing: Iterable[Existing]) -> bool:
        """Return whether the loaded table is of this generation."""
        return bool(self.opening) and {*self.opening} <= {thing.name for thing in existing}


def default_capacity(memory_bytes: int, machines: int, wanted: int) -> int:
    """Return how many sources per family fit in 1/16 of the memory when every set is full, at most `wanted`."""
    source_bytes = LIMITER_BYTES + 3 * machines * ATTEMPT_BYTES
    return max(1024, min(wanted, memory_bytes // 16 // (2 * source_bytes)))


def compile_ruleset(
    doors: Sequence[Door],
    automaton: Automaton,
    gate: Gate,
    capacity: int,
    signed_ports: Sequence[Port] = (),
    *,
    is_for_browsers: bool = False,
    fwknop: Fwknop | None = None,
    log_steps: bool = False,
    shield: ShieldMark | None = None,
) -> Ruleset:
    """Return the text of the table `inet doorward` for an automaton; with `log_steps` every step is logged.

    `signed_ports`: the ports for signed knocks; `is_for_browsers`: also for those in STUN frames;
    `fwknop`: also for packets of its clients; `shield`: how one marks a packet that completes a knock.
    """
    groups = build_groups(automaton.machines)
    states = {state: done for machine in automaton.machines for state, done in machine.completes.items()}
    data = [*_data(doors, automaton, log_steps=log_steps), *_targets(groups)]
    actions = maps.actions(doors, automaton)
    generation = _generation(data, actions)
    opening = {f"opens_{number}_{generation}": action for number, action in enumerate(actions)}
    context = chains.ChainContext(
        groups, gate, generation, log_steps, signed_ports, is_for_browsers, fwknop, shield,
        is_for_one=_is_for_one(doors, has_signed=bool(signed_ports)),
        behind=behind.look_up(behind.families(doors)),
        look_up_range=ranges.look_up(doors),
        unreachable=redirects.unreachable(doors),
        is_router=any(door.leads_to for door in doors),
    )  # fmt: skip
    sets = (*_sets(context, capacity), *_behind_sets(behind.families(doors), context))
    parts = [
        _heading(doors, automaton, gate, capacity),
        *(f"counter {name} {{ }}\n" for name in COUNTERS),
        *(spec.text for spec in sets),
        *data,
        chains.granted(context),
        *_opening_chains(context, doors, states, {name: actions[action] for name, action in opening.items()}, opening),
        *chains.matching(context),
        chains.door(context),
        _ports(doors, gate, signed_ports),
        _exempt(doors, gate) if stealth_chains.early(context) else "",
        stealth_chains.early(context),
        chains.signed(context),
        *(text for each in (behind, ranges, redirects) for text in each.texts(doors, context)),
        chains.forwarded(context),
        chains.prerouting(context),
        chains.translated(context),
        stealth_chains.output(context),
    ]
    inside = "\n".join(part.rstrip("\n") for part in parts if part).replace("\n", "\n    ")
    text = f"table {TABLE} {{\n    {inside}\n}}\n"
    roots = (f"roots{group.mark(family)}" for group in groups for family in group.family)
    return Ruleset(generation, sets, text, states, state_depths(automaton), (*opening,), (*_MAPS, *roots))


def _is_for_one(doors: Iterable[Door], *, has_signed: bool) -> bool:
    """Return whether a door may open for one connection: any signed knock for a TCP port may request that."""
    return any(door.is_for_one_possible and (door.once or has_signed) for door in doors)


def _generation(data: Iterable[str], actions: dict[maps.Action, list[int]]) -> str:
    """Return the name of all tables with these maps and actions.

    Without `once` it is what earlier versions wrote, so that an upgrade loses no knock in progress.
    """
    written = {tuple(each if each[2] else each[:2] for each in action): states for action, states in actions.items()}
    return hashlib.blake2s("".join([*data, repr(written)]).encode(), digest_size=4).hexdigest()


def _opening_chains(
    context: chains.ChainContext,
    doors: Sequence[Door],
    completes: dict[int, tuple[int, ...]],
    ends: dict[str, list[int]],
    actions: dict[str, maps.Action],
) -> Iterable[str]:
    """Yield the chains that open doors, and the map that leads to them from the final states, `ends` of each."""
    for name, action in actions.items():
        opened = (index for state in ends[name] for index in completes[state])
        yield chains.opening(context, name, action, maps.door_names(doors, opened))
    yield maps.opens(ends)


def _heading(doors: Sequence[Door], automaton: Automaton, gate: Gate, capacity: int) -> str:
    knockable = sum(bool(door.knock) for door in doors)
    return (
        f"# mode {gate.mode}; doors: {len(doors)}, with a port sequence: {knockable}; machines:"
        f" {len(automaton.machines)}; capacity: {capacity} sources per family\n"
    )


def _limiters(context: chains.ChainContext) -> tuple[str, ...]:
    """Return the names of the sets that limit the datagrams of each source, by kind."""
    kinds = {
        "signed": bool(context.signed_ports),
        "browser": context.is_for_browsers,
        "fwknop": context.fwknop is not None,
    }
    return tuple(kind for kind, is_used in kinds.items() if is_used)


def _sets(context: chains.ChainContext, capacity: int) -> Iterable[SetSpec]:
    limiter, dynamic = f"{LIMITER_TIMEOUT_NS // 1_000_000_000}s", "dynamic,timeout"
    for family, address in ADDRESS_TYPES.items():
        opened = f"{address} . inet_proto . inet_service"
        connection = f"{address} . inet_service . {address} . inet_service"  # source, its port, destination, its port
        yield _spec(f"set open{family}", opened, OPEN_SIZE, dynamic)
        # Five days, as conntrack allows an idle connection (nf_conntrack_tcp_timeout_established).
        yield _spec(f"set preexisting{family}", connection, 0, "timeout", "5d")
        yield _spec(f"set ratelimit{family}", address, capacity, dynamic, limiter)
        yield _spec(f"set throttled{family}", address, THROTTLED_SIZE, dynamic, f"{PAUSE_NS // 1_000_000}ms")
        yield _spec(f"set scanners{family}", address, SCANNERS_SIZE, dynamic, "1m")
        yield _spec(f"set banned{family}", address, ban_sets.SIZE, "timeout")
        if context.is_for_one:
            yield from _once_sets("", family, opened)
            yield _spec(f"set once_syn{family}", connection, once_chains.SIZE, dynamic, once_chains.SYN_TIMEOUT)
        if context.signed_ports:
            yield _spec(f"set open_nets{family}", opened, OPEN_NETS_SIZE, "interval,timeout")
        for kind in _limiters(context):
            yield _spec(f"set {kind}{family}", address, SIGNED_SIZE, dynamic, limiter)
        for group in context.groups:
            if family in group.families:
                within_ms, mark = group.within_ms, group.mark(family)
                short_ms = min(within_ms, SHORT_WINDOW_MS)
                for name, ms in (("first_knock", within_ms), ("short_window", short_ms), ("progress", within_ms)):
                    state = f"{group.key_type(family)} : classid"
                    yield _spec(f"map {name}{mark}", state, capacity, dynamic, nft_duration(ms))
    if context.shield is not None:
        yield _spec(f"set {INTERFACES}", "ifname", SIZE)


def _once_sets(of: str, family: str, key: str) -> Iterable[SetSpec]:
    """Yield the sets of openings for one connection, by their elements' key."""
    yield _spec(f"set once{of}{family}", key, once_chains.SIZE, "dynamic,timeout")
    yield _spec(f"set once{of}_limit{family}", key, once_chains.SIZE, "dynamic,timeout", once_chains.LIMIT_TIMEOUT)


def _behind_sets(families: str, context: chains.ChainContext) -> Iterable[SetSpec]:
    """Yield the open sets of hosts behind this one."""
    for family in families:
        key = f"{ADDRESS_TYPES[family]} . {ADDRESS_TYPES[family]} . inet_proto . inet_service"  # source, host, port
        yield _spec(f"set open_behind{family}", key, OPEN_SIZE, "dynamic,timeout")
        if context.is_for_one:
            yield from _once_sets("_behind", family, key)
        if context.signed_ports:
            yield _spec(f"set open_behind_nets{family}", key, OPEN_NETS_SIZE, "interval,timeout")
    if families:
        yield _spec(f"set {behind.PICKED_UP}", "inet_proto", 0, "timeout")


def _spec(head: str, element_type: str, size: int, flags: str = "", timeout: str = "") -> SetSpec:
    """Return a set or map; size 0: unlimited. Packets add elements only to those with the flag dynamic."""
    lines = [
        f"type {element_type}",
        f"size {size}" if size else "",
        f"flags {flags}" if flags else "",
        f"timeout {timeout}" if timeout else "",
    ]
    return SetSpec(head.split()[1], size, f"{head} {{\n" + "".join(f"    {line}\n" for line in lines if line) + "}\n")


def _data(doors: Sequence[Door], automaton: Automaton, *, log_steps: bool) -> list[str]:
    data = [maps.delta(doors, automaton), maps.same(automaton), maps.number(automaton, every=log_steps)]
    if any(machine.fail for machine in automaton.machines):
        data.append(maps.fail(automaton))
    if automaton.known_ports is not None:
        data.append(maps.ports("known", "inet_proto . inet_service", automaton.known_ports))
    return data


def _targets(groups: Sequence[Group]) -> Iterable[str]:
    """Return the targets of doors, and the maps with the start state for each."""
    for family, address in ADDRESS_TYPES.items():
        targets: dict[str, str] = {}
        for group in groups:
            if group.family == family:
                roots = {str(ip_address(m.target or b"")): maps.classid(m.root) for m in group.machines}
                yield maps.addresses(f"map roots{group.mark(family)}", f"{address} : classid", roots)
                targets |= dict.fromkeys(roots, "")
        if targets:
            yield maps.addresses(f"set targets{family}", address, targets)


def _ports(doors: Sequence[Door], gate: Gate, signed_ports: Sequence[Port]) -> str:
    verdicts = dict.fromkeys(gate.public, "accept") | {port: "goto door" for door in doors for port in door.opens}
    # The chain `signed` drops what is to this host alone, but in mode observe, where the ports are not a knock's.
    verdicts |= dict.fromkeys(signed_ports, "accept" if gate.mode is Mode.OBSERVE else "goto door")
    return maps.ports("ports", "inet_proto . inet_service : verdict", verdicts, sized=False)


def _exempt(doors: Sequence[Door], gate: Gate) -> str:
    """Return the keys of `ports` as a set: Linux 6.1 cannot test whether a map has a key."""
    exempt = {*gate.public, *(port for door in doors for port in door.opens)}
    return maps.ports("exempt", "inet_proto . inet_service", exempt) + (
        ranges.exempt(doors) if ranges.of(doors) else ""
    )
