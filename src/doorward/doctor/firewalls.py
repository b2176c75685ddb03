"""Check whether other firewalls of this host let through what a door opens, from the kernel's verdicts (trace.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from doorward.config.schema import Configuration
from doorward.doctor.host import Block, Facts
from doorward.doctor.problem import Level, Problem
from doorward.doctor.remedies import DEFAULT_MARK, is_before_mark, remedy
from doorward.model import Port


@dataclass(slots=True)
class _Found:
    """A rule that drops packets: for which ports, for whom, in which connection states."""

    block: Block
    ports: dict[Port, None] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    is_decisive: bool = False  # in an SSH session: it drops the operator's packets, too


def judge(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield each rule that drops what a door opens, and each door behind which nothing listens."""
    doors = {port: door.name for door in configuration.doors for port in door.opens}
    knocks = {port: door.name for door in configuration.doors if door.target is None for port in door.knock}
    trace = facts.trace
    is_certain = all(one.is_outward for one in trace.unchecked)
    uses = {port: f"a knock of door {name!r}" for port, name in knocks.items()}
    uses |= {port: f"which door {name!r} opens" for port, name in doors.items()}
    found = _found(facts)
    for one in found:
        yield _finding(file, configuration, one, uses, is_certain=is_certain)
    for why in trace.unchecked:
        remedy = "look at that yourself, or knock from outside, and see"
        yield Problem(Level.WARNING, "other firewalls", f"not checked: {why.what}", remedy)
    if not found and not trace.unchecked and trace.tables:
        yield Problem(Level.OK, "other firewalls", f"{len(trace.tables)} tables let through what the doors open")
    yield from _listening(facts, doors)
    yield from _routing(configuration, facts)


def _found(facts: Facts) -> list[_Found]:
    """Return the rules that drop packets; for knocks only those before the gate, since it sees knocks first."""
    found: dict[str, _Found] = {}
    for way in facts.trace.ways:
        for block in way.blocks:
            if way.probe.published or (way.probe.is_knock and not is_before_mark(block.base)):
                continue
            one = found.setdefault(block.rule, _Found(block))
            one.ports[way.probe.port] = None
            one.states.add(way.state)
            one.is_decisive |= way.probe.is_operator or facts.session is None
    return list(found.values())


def _finding(
    file: str, configuration: Configuration, one: _Found, uses: dict[Port, str], *, is_certain: bool
) -> Problem:
    mark = configuration.gate.accept_mark
    what = "; ".join(f"{port}, {uses[port]}" for port in one.ports)
    verb = "drops" if is_certain else "may drop (not every rule was checked)"
    whose = ", but not from where you are" if is_certain and not one.is_decisive else ""
    later = "" if "new" in one.states else ", after the first packet"
    cure = remedy(one.block, mark or DEFAULT_MARK, one.ports, one.states)
    words = cure.words
    if mark is None and any("mark" in command for command in cure.commands):
        words = f'write accept_mark = "{DEFAULT_MARK}" in [gate] of {file}, have the daemon read it, and {words}'
    level = Level.ERROR if one.is_decisive and is_certain else Level.WARNING
    return Problem(level, one.block.rule, f"{verb} {what}{later}{whose}", words, cure.commands)


def _listening(facts: Facts, doors: dict[Port, str]) -> Iterator[Problem]:
    """Yield ports without a listening socket; for a forwarded port the socket belongs to another host or container."""
    if facts.listening is None:
        return
    for port, name in doors.items():
        ways = [
            way
            for way in facts.trace.ways
            if way.probe.port == port and way.arrival and not (way.probe.is_knock or way.probe.published)
        ]
        here = {way.arrival for way in ways}
        if here and not any(way.forwarded_to for way in ways) and not here & facts.listening:
            what = f"door {name!r} opens {port}, but nothing listens there"
            yield Problem(Level.WARNING, f"port {port}", what, "start the service, or take the port out of `opens`")


def _routing(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    mark = configuration.gate.accept_mark
    for rule in facts.network.mark_rules if mark is not None else ():
        if mark is not None and rule.mask & mark.mask and not (rule.value ^ mark.value) & rule.mask & mark.mask:
            where = f"ip rule, fwmark {rule.value:#x}/{rule.mask:#x}"
            what = f"accept_mark {mark} sets bits that this rule looks at: it may route what a door opens elsewhere"
            yield Problem(Level.WARNING, where, what, "choose bits for accept_mark that no rule looks at")
