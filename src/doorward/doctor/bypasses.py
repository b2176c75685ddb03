"""Find ways around the gate: conntrack helpers, and containers that answer at their own addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from doorward.config.schema import Configuration, Mode
from doorward.doctor.finding import Finding, Level
from doorward.doctor.firewalls import MAX_PORTS, followed, probes
from doorward.doctor.host import Facts, is_watched
from doorward.doctor.walk import Helper, Probe, TooLargeError

_SYSCTL = "net.netfilter.nf_conntrack_helper"


def judge(_: str, configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    """Name what lets packets in without a knock. In mode observe nothing is hidden, so there is nothing to name."""
    if configuration.gate.mode is Mode.OBSERVE:
        return
    yield from _helpers(facts)
    try:
        yield from _containers(configuration, facts)
    except TooLargeError:  # `firewalls` says so
        return


def _helpers(facts: Facts) -> Iterator[Finding]:
    what = (
        "the conntrack helper {} reads what clients and servers write, and lets in the connections that they announce: "
        "in mode stealth to every port that no door opens, behind NAT to every port of the same machine"
    )
    remedy = "remove the rule, here and where it is configured; name the ports that the service needs in `public`"
    rules = (rule for table in facts.filters for chain in table.chains.values() for rule in chain)
    for rule in rules:
        for step in rule.steps:
            if isinstance(step, Helper):
                yield Finding(Level.WARNING, rule.name, what.format(step.name), remedy, (step.removal,))
    if facts.assigns_helpers:
        command = f"sysctl -w {_SYSCTL}=0"
        remedy = f"switch it off, in /etc/sysctl.d too ({_SYSCTL} = 0)"
        yield Finding(Level.WARNING, _SYSCTL, what.format("of each well-known port"), remedy, (command,))


def _containers(configuration: Configuration, facts: Facts) -> Iterator[Finding]:
    """Follow a packet without a knock to each address that a hidden port is forwarded to."""
    doors = {port: door.name for door in configuration.doors for port in door.opens}
    for port in list(doors)[:MAX_PORTS]:
        published = {
            (arrival.destination, arrival.port): arrival
            for probe in probes(configuration, facts, port)
            for arrival in followed(configuration, facts, probe).arrives
            if not arrival.is_local and arrival.translated_from is not None
        }
        for arrival in published.values():
            ways = _ways_to(configuration, facts, arrival)
            if ways:
                what = (
                    f"door {doors[port]!r} opens {port}, which is forwarded to {arrival.destination}, {arrival.port}; "
                    f"that address answers without a knock to packets that come in by {', '.join(ways)}"
                )
                remedy = "drop what comes in there for the container's own address, and save the rule as the others are"
                commands = tuple(command for way in ways for command in _commands(facts, arrival, way))
                yield Finding(Level.WARNING, f"port {port}", what, remedy, commands)


def _ways_to(configuration: Configuration, facts: Facts, arrival: Probe) -> list[str]:
    """Return the watched interfaces from which a stranger reaches where a packet arrived."""
    behind = facts.network.way_to(arrival.destination)
    names = dict.fromkeys(local.interface for local in facts.network.locals)
    watched = [name for name in names if name not in ("lo", behind) and is_watched(configuration.gate.interfaces, name)]
    direct = replace(arrival, source=None, mark=0, state="new", oif=None, translated_from=None)
    ways = []
    for name in watched:
        journey = followed(configuration, facts, replace(direct, iif=name), is_opened=False)
        if not any(block.certain for block in journey.blocks):
            ways.append(name)
    return ways


def _commands(facts: Facts, arrival: Probe, way: str) -> tuple[str, ...]:
    """Return what drops packets to the network of the container, before they are forwarded."""
    behind = facts.network.way_to(arrival.destination)
    networks = [local.address.network for local in facts.network.locals if local.interface == behind]
    there = next((network for network in networks if arrival.destination in network), arrival.destination)
    program = "iptables" if arrival.version == 4 else "ip6tables"
    owner = next((table.owner for table in facts.filters if table.owner.startswith(f"{program}-")), None)
    if owner is not None:
        return (f"{owner} -t raw -I PREROUTING -i {way} -d {there} -j DROP",)
    family = "ip" if arrival.version == 4 else "ip6"
    return (
        f"nft add table {family} containers",
        f"nft add chain {family} containers direct '{{ type filter hook prerouting priority raw; }}'",
        f'nft add rule {family} containers direct iifname "{way}" {family} daddr {there} drop',
    )
