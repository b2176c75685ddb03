"""Plan the test packets: from other clients and from the operator, and through which interface. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from itertools import islice

from doorward.config.schema import Configuration, is_watched
from doorward.doctor.host import LocalAddress, Network, PacketPath, Probe
from doorward.kernel.sock_diag import Connection
from doorward.model import Address, HostPort, Port
from doorward.nftables.redirects import unreachable

_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
# Three from different parts of the world: a rule for one's network is not a rule for every client.
_CLIENTS = {
    4: tuple(map(ip_address, ("81.2.69.142", "12.81.92.9", "133.11.0.5"))),
    6: tuple(map(ip_address, ("2a02:cf40::5", "2600:1404::5", "2400:4000::5"))),
}


def plan_probes(configuration: Configuration, network: Network, session: Connection | None) -> Iterator[Probe]:
    """Yield the connections to the ports that doors open, here and behind, then the first packets of knocks."""
    opened = [port for door in configuration.doors for port in (*door.opens, *(span.first for span in door.ranges))]
    knocks = [port for door in configuration.doors if door.target is None for port in door.knock]
    lacking = unreachable(configuration.doors)
    for behind in dict.fromkeys(port for door in configuration.doors for port in door.behind):
        local = _local_address(configuration, network, None, behind.host.version)  # the operator may be inside
        if local is not None:
            port, sources = Port(behind.protocol, behind.number), _client_addresses(network, local)
            yield Probe(port, local.interface, sources, behind.host, is_operator=False, is_behind=True)
    for ports, is_knock in (opened, False), (knocks, True):
        for port in dict.fromkeys(ports):
            for version in (4, 6):
                local = _local_address(configuration, network, session, version)
                if local is None or (str(version), port) in lacking:
                    continue
                destination, interface = local.address.ip, local.interface
                yield Probe(port, interface, _client_addresses(network, local), destination, False, is_knock)
                if session is not None and session.source.version == version:
                    yield Probe(port, interface, (session.source,), destination, True, is_knock)


def plan_bypass_probes(configuration: Configuration, network: Network, path: Iterable[PacketPath]) -> Iterator[Probe]:
    """Yield connections, without a knock, to the targets of forwarded hidden ports, through each watched interface.

    The target of a door that forwards is left out: it is hidden only where a door names it.
    """
    forwarded = {
        (path.probe.port, path.forwarded_to, path.arrival): None
        for path in path
        if path.forwarded_to not in (None, path.probe.destination) and not path.probe.is_knock
    }
    own = {(each.port, each.to) for door in configuration.doors for each in door.redirects}
    for port, address, arrival in forwarded:
        if address is None or arrival is None or (port, HostPort(*arrival, address)) in own:
            continue
        behind = network.output_interface(address)
        locals_ = {local.interface: local for local in network.locals if local.address.version == address.version}
        for name, local in locals_.items():
            if name not in ("lo", behind) and is_watched(configuration.gate.interfaces, name):
                yield Probe(
                    arrival, name, _client_addresses(network, local), address, is_operator=False, published=port
                )


def _client_addresses(network: Network, local: LocalAddress) -> tuple[Address, ...]:
    """Return source addresses of packets that arrive through this interface; neighbors' if it has no default route."""
    version = local.address.version
    routed = tuple(a for a in _CLIENTS[version] if network.output_interface(a) == local.interface)
    if routed:
        return routed
    own = {local.address.ip for local in network.locals}
    return tuple(islice((a for a in local.address.network.hosts() if a not in own), 3)) or _CLIENTS[version]


def _local_address(
    configuration: Configuration, network: Network, session: Connection | None, version: int
) -> LocalAddress | None:
    """Return the watched address that clients reach: the session's, or one on the default route's interface."""
    candidates = [
        local
        for local in network.locals
        if local.address.version == version
        and is_watched(configuration.gate.interfaces, local.interface)
        and not (local.address.is_loopback or local.address.is_link_local)
    ]
    for local in candidates:
        if session is not None and local.address.ip == session.destination:
            return local
    outward = {route.interface for route in network.routes if route.network == _ANYWHERE[version]}
    return next((local for local in candidates if local.interface in outward), candidates[0] if candidates else None)
