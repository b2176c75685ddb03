"""Find ways around the gate: conntrack helpers, and containers that answer at their own addresses."""

from __future__ import annotations

from collections.abc import Iterator

from doorward.config.schema import Configuration, Mode
from doorward.doctor.host import Facts
from doorward.doctor.problem import WARNING, Problem
from doorward.model import Address, HostPort, Port, set_port

_SYSCTL = "net.netfilter.nf_conntrack_helper"


def check(_: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield what lets packets in without a knock; nothing in mode observe, which hides nothing."""
    if configuration.gate.mode is not Mode.OBSERVE:
        yield from _helpers(facts)
        yield from _containers(configuration, facts)


def _helpers(facts: Facts) -> Iterator[Problem]:
    what = (
        "the conntrack helper {} parses untrusted traffic and admits the connections that it announces: "
        "in mode stealth to every port that no door opens, behind NAT to every port of the same host"
    )
    remedy = "remove the rule, also from the saved ruleset; list the ports that the service needs in `public`"
    for helper in facts.trace.helpers:
        yield Problem("conntrack-helper", WARNING, helper.rule, what.format(helper.name), remedy, (helper.removal,))
    if facts.assigns_helpers:
        command = f"sysctl -w {_SYSCTL}=0"
        remedy = f"disable it, also in /etc/sysctl.d ({_SYSCTL} = 0)"
        yield Problem("automatic-helpers", WARNING, _SYSCTL, what.format("of each well-known port"), remedy, (command,))


def _containers(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield the hidden ports that are forwarded to an address that answered a packet without a knock."""
    doors = {port: door.name for door in configuration.doors for port in map(set_port, door.all_opens)}
    hidden = {port for door in configuration.doors for port in door.behind}
    reached: dict[tuple[Port, Address, Port], list[str]] = {}
    for probe, _, blocks, arrival, *_ in facts.trace.paths:
        if probe.published is None or arrival is None or blocks:
            continue
        if HostPort(*arrival, probe.destination) not in hidden:
            reached.setdefault((probe.published, probe.destination, probe.port), []).append(probe.interface)
    for (port, address, arrival), ways in reached.items():
        what = (
            f"door {doors[port]!r} opens {port}, which is forwarded to {address}, {arrival}; "
            f"that address answers packets from {', '.join(ways)} without a knock"
        )
        named = HostPort(*arrival, address)
        remedy = f'write "{named}" in `opens` too, or drop packets from there to that address, and save the rule'
        commands = tuple(command for way in ways for command in _drop_commands(facts, address, way))
        yield Problem("container-port", WARNING, f"port {port}", what, remedy, commands)


def _drop_commands(facts: Facts, address: Address, way: str) -> tuple[str, ...]:
    """Return the commands that drop packets to the container's network before they are forwarded."""
    behind = facts.network.output_interface(address)
    networks = [local.address.network for local in facts.network.locals if local.interface == behind]
    network = next((network for network in networks if address in network), address)
    program = "iptables" if address.version == 4 else "ip6tables"
    owners = [table.partition(" ")[0] for table in facts.trace.tables]
    owner = next((owner for owner in owners if owner.startswith(f"{program}-")), None)
    if owner is not None:
        return (f"{owner} -t raw -I PREROUTING -i {way} -d {network} -j DROP",)
    family = "ip" if address.version == 4 else "ip6"
    return (
        f"nft add table {family} containers",
        f"nft add chain {family} containers direct '{{ type filter hook prerouting priority raw; }}'",
        f'nft add rule {family} containers direct iifname "{way}" {family} daddr {network} drop',
    )
