"""Check whether this host forwards what its doors open behind it."""

from __future__ import annotations

from collections.abc import Iterator

from doorward.config.schema import Configuration
from doorward.doctor.host import Facts
from doorward.doctor.problem import ERROR, Problem
from doorward.kernel.forwarding import SYSCTLS
from doorward.model import Address, HostPort, Port


def check(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield what keeps the doors to hosts behind this one from opening, or from hiding anything."""
    ports = {port: door.name for door in reversed(configuration.doors) for port in door.leads_to}
    for version in sorted({port.host.version for port in ports} - facts.forwarding):
        port, name = next((port, name) for port, name in ports.items() if port.host.version == version)
        what = f"door {name!r} leads to {port}, and this host does not forward IPv{version} packets"
        remedy = "allow it, also in /etc/sysctl.d, if this host is a router"
        yield Problem("not-forwarding", ERROR, SYSCTLS[version], what, remedy, (f"sysctl -w {SYSCTLS[version]}=1",))
    yield from _overridden(configuration, facts)
    for port, name in ((port, door.name) for door in configuration.doors for port in door.behind):
        if (interface := facts.network.interface_with(port.host)) is not None:
            what = f"door {name!r} opens {port}, which is this host itself ({interface}): nothing hides that port"
            remedy = f'write "{str(port).rpartition(":")[2]}" in its `opens`'
            yield Problem("host-is-local", ERROR, file, what, remedy)


def _overridden(configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield the ports that another table forwards first: an earlier destination NAT wins."""
    doors = {each.port: door.name for door in configuration.doors for each in door.redirects}
    own = {(each.port, each.to) for door in configuration.doors for each in door.redirects}
    found: dict[tuple[Port, Address], None] = {}
    for path in facts.trace.paths:
        probe = path.probe
        if path.forwarded_to is None or path.arrival is None or not probe.is_of_own_door or probe.port not in doors:
            continue
        if (probe.port, HostPort(*path.arrival, path.forwarded_to)) not in own:
            found.setdefault((probe.port, path.forwarded_to))
    for port, address in found:
        what = f"door {doors[port]!r} forwards {port}, which another table forwards to {address} first"
        yield Problem("redirect-overridden", ERROR, f"port {port}", what, "remove that rule, or use another port")
