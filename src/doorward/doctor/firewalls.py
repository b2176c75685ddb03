"""Do other tables of this host let through what a door opens: an imagined packet is followed through all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from doorward.config.schema import Configuration
from doorward.doctor.finding import Finding, Level
from doorward.doctor.host import Facts, Local, is_watched
from doorward.doctor.remedies import DEFAULT_MARK, PRIORITY, is_before_mark, remedy
from doorward.doctor.walk import Block, Journey, Probe, TooLargeError, journey
from doorward.model import Port

MAX_PORTS = 64  # looked at, of those that doors open
_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(slots=True)
class _Found:
    """One rule in the way: of which ports, for whom, in which state of the connection."""

    block: Block
    ports: dict[Port, None] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    certain: bool = False
    decisive: bool = False  # certain for the operator, where he is logged in


def judge(file: str, configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    """Name each rule that drops what a door opens, and tell of doors behind which nothing listens."""
    doors = {port: door.name for door in configuration.doors for port in door.opens}
    knocks = {port: door.name for door in configuration.doors if door.target is None for port in door.knock}
    try:
        found, arrivals = _walk(configuration, facts, list(doors)[:MAX_PORTS], list(knocks)[:MAX_PORTS])
    except TooLargeError:
        what = "there are too many rules to follow: whether one drops what a door opens is not known"
        yield Finding(Level.WARNING, "other firewalls", what, "knock from outside, and see")
        return
    uses = {port: f"a knock of door {name!r}" for port, name in knocks.items()}
    uses |= {port: f"which door {name!r} opens" for port, name in doors.items()}
    for one in found.values():
        yield _finding(file, configuration, one, uses)
    if not found and facts.filters:
        yield Finding(Level.OK, "other firewalls", f"{len(facts.filters)} tables let through what the doors open")
    yield from _listening(facts, doors, arrivals)
    yield from _routing(configuration, facts)


def _walk(
    configuration: Configuration, facts: Facts, opened: Iterable[Port], knocks: Iterable[Port]
) -> tuple[dict[str, _Found], dict[Port, list[Probe]]]:
    """Follow connections to what doors open, and knocks as far as the gate, which sees them first."""
    found: dict[str, _Found] = {}
    arrivals: dict[Port, list[Probe]] = {}
    for port in opened:
        for probe in probes(configuration, facts, port):
            for state in ("new", "established"):
                imagined = replace(probe, state=state)
                way = followed(configuration, facts, imagined)
                arrivals.setdefault(port, []).extend(way.arrives)
                for block in way.blocks:
                    _note(found, block, imagined, facts)
    for port in knocks:
        for probe in probes(configuration, facts, port):
            for block in filter(is_before_mark, followed(configuration, facts, probe).blocks):
                _note(found, block, probe, facts)
    return found, arrivals


def _note(found: dict[str, _Found], block: Block, probe: Probe, facts: Facts) -> None:
    one = found.setdefault(block.rule, _Found(block))
    one.ports[probe.port] = None
    one.states.add(probe.state)
    one.certain |= block.certain
    one.decisive |= block.certain and (probe.source is not None or facts.session is None)


def followed(configuration: Configuration, facts: Facts, probe: Probe, *, is_opened: bool = True) -> Journey:
    """Follow a packet through all tables; `is_opened`: a door is open to its sender, so that the gate marks it."""
    mark = configuration.gate.accept_mark

    def marked(probe: Probe) -> Probe:
        if mark is None or probe.mark is None:
            return probe
        is_marked = is_opened and probe.state == "new"
        return replace(probe, mark=probe.mark & ~mark.mask | (mark.value if is_marked else 0))

    def route(probe: Probe) -> Probe:
        if facts.network.interface_of(probe.destination) is not None:
            return replace(probe, is_local=True)
        return replace(probe, is_local=False, oif=facts.network.way_to(probe.destination))

    return journey(facts.filters, probe, route, gate_priority=PRIORITY, mark_of_gate=marked)


def probes(configuration: Configuration, facts: Facts, port: Port) -> Iterator[Probe]:
    """Give the packets to imagine: of either family a stranger's, and the operator's own where he is logged in."""
    for version in (4, 6):
        local = _entrance(configuration, facts, version)
        if local is None:
            continue
        yield Probe(port, local.interface, None, local.address.ip, version)
        if facts.session is not None and facts.session.source.version == version:
            yield Probe(port, local.interface, facts.session.source, local.address.ip, version)


def _entrance(configuration: Configuration, facts: Facts, version: int) -> Local | None:
    """Choose the address and the watched interface that others reach: the session's, or where the default route is."""
    there = [
        local
        for local in facts.network.locals
        if local.address.version == version
        and is_watched(configuration.gate.interfaces, local.interface)
        and not (local.address.is_loopback or local.address.is_link_local)
    ]
    session = facts.session
    for local in there:
        if session is not None and local.address.ip == session.destination:
            return local
    outward = {route.interface for route in facts.network.routes if route.network == _ANYWHERE[version]}
    return next((local for local in there if local.interface in outward), there[0] if there else None)


def _finding(file: str, configuration: Configuration, one: _Found, uses: dict[Port, str]) -> Finding:
    mark = configuration.gate.accept_mark
    what = "; ".join(f"{port}, {uses[port]}" for port in one.ports)
    verb = "drops" if one.certain else "may drop (not every rule on the way is understood)"
    whose = ", but not from where you are" if one.certain and not one.decisive else ""
    later = "" if "new" in one.states else ", after the first packet"
    cure = remedy(one.block, mark or DEFAULT_MARK, one.ports, one.states)
    words = cure.words
    if mark is None and any("mark" in command for command in cure.commands):
        words = f'write accept_mark = "{DEFAULT_MARK}" in [gate] of {file}, have the daemon read it, and {words}'
    level = Level.ERROR if one.decisive else Level.WARNING
    return Finding(level, one.block.rule, f"{verb} {what}{later}{whose}", words, cure.commands)


def _listening(facts: Facts, doors: dict[Port, str], arrivals: dict[Port, list[Probe]]) -> Iterator[Finding]:
    """Tell of ports that arrive at no socket; where they are forwarded, the socket is another host's or container's."""
    if facts.listening is None:
        return
    for port, probes in arrivals.items():
        here = {probe.port for probe in probes if probe.is_local}
        if here and not any(not probe.is_local for probe in probes) and not here & facts.listening:
            what = f"door {doors[port]!r} opens {port}, but nothing listens there"
            yield Finding(Level.WARNING, f"port {port}", what, "start the service, or take the port out of `opens`")


def _routing(configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    mark = configuration.gate.accept_mark
    for rule in facts.network.mark_rules if mark is not None else ():
        if mark is not None and rule.mask & mark.mask and not (rule.value ^ mark.value) & rule.mask & mark.mask:
            where = f"ip rule, fwmark {rule.value:#x}/{rule.mask:#x}"
            what = f"accept_mark {mark} sets bits that this rule looks at: it may route what a door opens elsewhere"
            yield Finding(Level.WARNING, where, what, "choose bits for accept_mark that no rule looks at")
