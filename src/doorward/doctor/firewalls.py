"""Check whether other firewalls of this host let through what a door opens, from the kernel's verdicts (trace.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from doorward.config.schema import Configuration
from doorward.doctor.host import Block, Facts
from doorward.doctor.problem import ERROR, OK, WARNING, Problem
from doorward.doctor.remedies import DEFAULT_MARK, Scope, build_remedy, precedes_gate
from doorward.model import HostPort, Port, PortRange


@dataclass(slots=True)
class _BlockingRule:
    """A rule that drops packets: for which ports, for whom, in which connection states."""

    block: Block
    ports: dict[Port | HostPort, None] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    is_decisive: bool = False  # in an SSH session: it drops the operator's packets, too


def check(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield each rule that drops what a door opens, and each door behind which nothing listens."""
    doors = {port: door.name for door in configuration.doors for port in door.opens}
    knocks = {port: door.name for door in configuration.doors if door.target is None for port in door.knock}
    trace = facts.trace
    uses: dict[Port | HostPort, str] = {port: f"a knock of door {name!r}" for port, name in knocks.items()}
    for door in configuration.doors:
        for opened in (door.behind, door.opens):
            uses |= dict.fromkeys(opened, f"which door {door.name!r} opens")
    spans = {span: door.name for door in configuration.doors for span in door.ranges}
    uses |= {span.first: f"the first of {span}, which door {name!r} opens" for span, name in spans.items()}
    redirected = {each.port for door in configuration.doors for each in door.redirects}
    blocking = _blocking_rules(facts)
    for drop in blocking:
        yield _problem(file, configuration, facts, drop, uses)
    for rule in trace.unchecked:
        remedy = "check it by hand, or try a knock from outside"
        yield Problem("firewall-unchecked", WARNING, "other firewalls", f"not checked: {rule.what}", remedy)
    if not blocking and not trace.unchecked and trace.tables:
        yield Problem(
            "firewall-accepts", OK, "other firewalls", f"{len(trace.tables)} tables accept what the doors open"
        )
    yield from _unused_ports(facts, {port: name for port, name in doors.items() if port not in redirected})
    yield from _own_rules(configuration, facts)
    yield from _mark_conflicts(configuration, facts)


def _blocking_rules(facts: Facts) -> list[_BlockingRule]:
    """Return the rules that drop packets; for knocks only those before the gate, since it sees knocks first."""
    rules: dict[str, _BlockingRule] = {}
    for path in facts.trace.paths:
        for block in path.blocks:
            if path.probe.published or (path.probe.is_knock and not precedes_gate(block.base)):
                continue
            blocking = rules.setdefault(block.rule, _BlockingRule(block))
            blocking.ports[path.probe.opened] = None
            blocking.states.add(path.state)
            blocking.is_decisive |= path.probe.is_operator or path.probe.is_behind or facts.session is None
    return list(rules.values())


def _problem(
    file: str, configuration: Configuration, facts: Facts, blocking: _BlockingRule, uses: dict[Port | HostPort, str]
) -> Problem:
    mark = configuration.gate.accept_mark
    is_certain = all(rule.is_outward for rule in facts.trace.unchecked)
    what = "; ".join(f"{port}, {uses[port]}" for port in blocking.ports)
    verb = "drops" if is_certain else "may drop (not every rule was checked)"
    scope = ", but not from where you are" if is_certain and not blocking.is_decisive else ""
    later = "" if "new" in blocking.states else ", after the first packet"
    spans: dict[Port | HostPort, PortRange] = {span.first: span for door in configuration.doors for span in door.ranges}
    wanted = Scope(
        ports=[spans.get(port, Port(port.protocol, port.number)) for port in blocking.ports],
        states=blocking.states,
        interfaces=configuration.gate.interfaces,
        versions={local.address.version for local in facts.network.locals},
        is_behind=any(isinstance(port, HostPort) for port in blocking.ports),
    )
    fix = build_remedy(blocking.block, mark or DEFAULT_MARK, wanted)
    text = fix.text
    if mark is None and any("mark" in command for command in fix.commands):
        text = f'write accept_mark = "{DEFAULT_MARK}" in [gate] of {file}, reload the daemon, and {text}'
    level = ERROR if blocking.is_decisive and is_certain else WARNING
    return Problem("firewall-blocks", level, blocking.block.rule, f"{verb} {what}{later}{scope}", text, fix.commands)


def _unused_ports(facts: Facts, doors: dict[Port, str]) -> Iterator[Problem]:
    """Yield ports without a listening socket; for a forwarded port the socket belongs to another host or container."""
    if facts.listening is None:
        return
    for port, name in doors.items():
        paths = [
            path for path in facts.trace.paths if path.probe.port == port and path.arrival and path.probe.is_of_own_door
        ]
        reached = {path.arrival for path in paths}
        if reached and not any(path.forwarded_to for path in paths) and not reached & facts.listening:
            what = f"door {name!r} opens {port}, but nothing listens there"
            yield Problem(
                "no-listener", WARNING, f"port {port}", what, "start the service, or remove the port from `opens`"
            )


def _own_rules(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield rules of `doctor --fix` that are not loaded, or that close a port to everyone, since nothing marks packets.

    firewalld opens its ports before it loads these rules, and keeps the ports open if that fails.
    """
    if facts.firewalld_has_rules and "inet firewalld" in facts.trace.tables and not facts.trace.own_drops:
        what = (
            "the rules of `doctor --fix` that drop unmarked packets are not loaded: without the gate its ports are open"
        )
        remedy = "correct what firewalld's log reports; its direct rules need iptables"
        yield Problem("rule-not-loaded", ERROR, "firewalld", what, remedy, ("firewall-cmd --reload",))
    marked = {str(port) for door in configuration.doors for port in (*door.opens, *door.ranges)}
    for port, rule in {drop.port: drop.rule for drop in facts.trace.own_drops}.items():
        if facts.off_since or port not in marked:
            what = f"drops {port} from everyone, since " + (
                "doorward is off" if facts.off_since else "no door opens it"
            )
            remedy = "take it back; `doorward doctor --fix` adds what is still needed"
            yield Problem("rule-left-behind", ERROR, rule, what, remedy, ("doorward doctor --undo",))


def _mark_conflicts(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    mark = configuration.gate.accept_mark
    for rule in facts.network.mark_rules if mark is not None else ():
        if mark is not None and rule.mask & mark.mask and not (rule.value ^ mark.value) & rule.mask & mark.mask:
            where = f"ip rule, fwmark {rule.value:#x}/{rule.mask:#x}"
            what = f"accept_mark {mark} sets bits that this rule matches: it may reroute accepted connections"
            yield Problem("mark-conflict", WARNING, where, what, "choose bits for accept_mark that no rule matches")
