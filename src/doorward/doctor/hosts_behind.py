"""Check whether this host forwards what its doors open behind it."""

from __future__ import annotations

from collections.abc import Iterator

from doorward.config.schema import Configuration
from doorward.doctor.host import Facts
from doorward.doctor.problem import ERROR, Problem
from doorward.kernel.forwarding import SYSCTLS


def check(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield what keeps the doors to hosts behind this one from opening, or from hiding anything."""
    ports = {port: door.name for door in reversed(configuration.doors) for port in door.behind}
    for version in sorted({port.host.version for port in ports} - facts.forwarding):
        port, name = next((port, name) for port, name in ports.items() if port.host.version == version)
        what = f"door {name!r} opens {port}, and this host does not forward IPv{version} packets"
        remedy = "allow it, also in /etc/sysctl.d, if this host is a router"
        yield Problem("not-forwarding", ERROR, SYSCTLS[version], what, remedy, (f"sysctl -w {SYSCTLS[version]}=1",))
    for port, name in ports.items():
        if (interface := facts.network.interface_with(port.host)) is not None:
            what = f"door {name!r} opens {port}, which is this host itself ({interface}): nothing hides that port"
            remedy = f'write "{str(port).rpartition(":")[2]}" in its `opens`'
            yield Problem("host-is-local", ERROR, file, what, remedy)
