"""TCP connections and listening sockets of this host by sock_diag(7); closes connections there and in conntrack."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from doorward.errors import HostError, MalformedError
from doorward.kernel import netlink
from doorward.model import Address, OpenPort, Port, PortRange, Protocol, SetPort, Source, holds

_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_LISTEN, _TIME_WAIT, _CLOSE = 1 << 10, 1 << 6, 1 << 7
_ESTABLISHED_STATES = 0xFFF & ~(_LISTEN | _TIME_WAIT | _CLOSE)
_SOCKET_ID = struct.Struct("!HH16s16s4s8s")  # ports, addresses, interface, cookie (inet_diag_sockid)
_CONNTRACK = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_CT_GET, _CT_DELETE = _CONNTRACK | 1, _CONNTRACK | 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_NOTHING = memoryview(b"")


class Connection(NamedTuple):
    """A TCP connection from the peer's side: `destination` is this host."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int


class FoundSocket(NamedTuple):
    """One of this host's sockets, and the kernel's identifier for it."""

    connection: Connection
    socket_id: bytes
    family: int


def established_connections(*, loopback: bool = False) -> list[Connection]:
    """Return the established TCP connections of this host's sockets; those of loopback only on demand."""
    return [found.connection for found in _established() if loopback or not found.connection.source.is_loopback]


def close_connections(source: Source, ports: Iterable[OpenPort]) -> int:
    """Close the connections from `source` to `ports`: delete their conntrack entries, and reset local sockets.

    Returns their number. Without the reset a local service that sends first would revive its connection.
    HostError: the kernel lists neither.
    """
    try:
        return _close_connections(source, _each(ports))
    except OSError as error:
        raise HostError(
            "connections-not-closed", f"cannot close the connections: {error.strerror}; the door itself is closed"
        ) from None


def _each(ports: Iterable[OpenPort]) -> frozenset[SetPort]:
    """Return the ports, also those of ranges."""
    each: set[SetPort] = set()
    for port in ports:
        each.update(port.ports() if isinstance(port, PortRange) else (port,))
    return frozenset(each)


def _close_connections(source: Source, wanted: frozenset[SetPort]) -> int:
    reset = sum(_destroy(found) for found in list(_established()) if _is_to(found.connection, source, wanted))
    return max(reset, _delete_from_conntrack(source, wanted))


def _is_to(connection: Connection, source: Source, ports: frozenset[SetPort]) -> bool:
    return holds(source, connection.source) and Port(Protocol.TCP, connection.destination_port) in ports


def sockets(family: int, protocol: int, states: int) -> Iterator[memoryview]:
    """Yield the struct inet_diag_msg of each socket in one of these states; OSError if the kernel cannot list them."""
    request = struct.pack("=BBBxI", family, protocol, 0, states) + bytes(_SOCKET_ID.size)
    with netlink.open_socket(netlink.SOCK_DIAG, "the list of sockets") as diag:
        framed = netlink.message(_SOCK_DIAG_BY_FAMILY, netlink.REQUEST | netlink.DUMP, request)
        for reply in netlink.dump(diag, framed):
            yield reply.body


def _established() -> Iterator[FoundSocket]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in sockets(family, socket.IPPROTO_TCP, _ESTABLISHED_STATES):
            yield read_socket(bytes(body), family)


def read_socket(body: bytes, family: int) -> FoundSocket:
    """Parse a struct inet_diag_msg; MalformedError if it is truncated."""
    socket_id = body[4 : 4 + _SOCKET_ID.size]
    if len(socket_id) < _SOCKET_ID.size:
        raise MalformedError("socket-size", f"sock_diag: a socket of {len(body)} bytes, it needs {4 + _SOCKET_ID.size}")
    local_port, remote_port, local, remote, _, _ = _SOCKET_ID.unpack(socket_id)
    connection = Connection(to_address(remote, family), remote_port, to_address(local, family), local_port)
    return FoundSocket(connection, socket_id, family)


def to_address(raw: bytes, family: int) -> Address:
    """Parse an address of sock_diag, 16 bytes for either family; an IPv4-mapped one becomes an IPv4 address."""
    if family == socket.AF_INET:
        return IPv4Address(raw[:4])
    address = IPv6Address(raw)
    return address.ipv4_mapped or address  # a dual-stack socket's packets are IPv4


def _destroy(found: FoundSocket) -> bool:
    """Reset one socket (SOCK_DESTROY, Linux 4.5); a socket that is already gone is not an error."""
    body = struct.pack("=BBBxI", found.family, socket.IPPROTO_TCP, 0, _ESTABLISHED_STATES)
    with netlink.open_socket(netlink.SOCK_DIAG, "ending connections") as diag:
        try:
            request = body + found.socket_id
            netlink.send_request(diag, netlink.message(_SOCK_DESTROY, netlink.REQUEST | netlink.ACK, request))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                return False
            raise HostError("no-net-admin", f"ending a connection needs CAP_NET_ADMIN ({error.strerror})") from None
    return True


def _delete_from_conntrack(source: Source, ports: frozenset[SetPort]) -> int:
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    head = netlink.FAMILY_HEADER.pack(family, 0, 0)
    deleted = 0
    with (
        netlink.open_socket(netlink.NETFILTER, "conntrack") as tracked,
        netlink.open_socket(netlink.NETFILTER, "") as ct,
    ):
        for reply in netlink.dump(tracked, netlink.message(_CT_GET, netlink.REQUEST | netlink.DUMP, head)):
            if (entry := matching_entry(reply.body, source, ports)) is None:
                continue
            try:
                netlink.send_request(ct, netlink.message(_CT_DELETE, netlink.REQUEST | netlink.ACK, head + entry))
                deleted += 1
            except OSError as error:
                if error.errno != errno.ENOENT:  # it expired meanwhile
                    raise HostError("conntrack-failed", f"conntrack: {error.strerror}") from None
    return deleted


def matching_entry(body: memoryview, source: Source, ports: Collection[SetPort]) -> bytes | None:
    """Return the attributes that identify a conntrack entry from `source` to one of `ports`.

    A port of a host behind this one is compared with where the answers come from: after destination NAT.
    None for any other entry; MalformedError on a wrong length.
    """
    found = netlink.family_attributes(body)
    original, number = found.get(_TUPLE_ORIGINAL), found.get(_ID)
    if original is None or number is None or not _is_tracked(found, source, ports):
        return None
    nested = netlink.attribute(_TUPLE_ORIGINAL | netlink.NESTED, bytes(original))
    return nested + netlink.attribute(_ID, bytes(number))


def _is_tracked(found: dict[int, memoryview], source: Source, ports: Collection[SetPort]) -> bool:
    sender, _, to = _ends(found[_TUPLE_ORIGINAL])
    host, answering, _ = _ends(found.get(_TUPLE_REPLY, _NOTHING))
    is_wanted = to in ports or (answering is not None and host is not None and (*answering, host) in ports)
    return is_wanted and sender is not None and holds(source, sender)


def _ends(direction: memoryview) -> tuple[Address | None, tuple[int, int] | None, tuple[int, int] | None]:
    """Return the source address, source port and destination port of one direction; None for what it lacks."""
    parts = netlink.attributes(direction)
    ends = netlink.attributes(parts.get(_TUPLE_IP, _NOTHING))
    raw = ends.get(1) or ends.get(3) or b""  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    proto = netlink.attributes(parts.get(_TUPLE_PROTO, _NOTHING))
    number = bytes(proto.get(1, b""))  # protocols without ports have no such attributes
    ports = [
        (number[0], int.from_bytes(port)) if [len(number), len(port)] == [1, 2] else None
        for port in (bytes(proto.get(2, b"")), bytes(proto.get(3, b"")))
    ]
    return ip_address(bytes(raw)) if len(raw) in (4, 16) else None, ports[0], ports[1]


_LISTENING = {Protocol.TCP: 1 << 10, Protocol.UDP: 1 << 7}  # states: LISTEN; an unconnected UDP socket (CLOSE)
_LOCAL = struct.Struct("!4xH2x16s")  # of struct inet_diag_msg: port, address
_INODE, _INODE_AT = struct.Struct("=I"), 68  # its last field


class Listener(NamedTuple):
    """A port, and the inode of its socket (0: not reported by the kernel)."""

    port: Port
    inode: int


def listening_ports() -> frozenset[Port]:
    """Return the TCP ports on which this host listens and the UDP ports to which sockets are bound.

    Those of loopback addresses only are left out. HostError: the kernel does not list its sockets.
    """
    return frozenset(listener.port for listener in listeners())


def listeners(*, loopback: bool = False) -> Iterator[Listener]:
    """Yield each listening socket, those of loopback addresses only on demand; HostError as above."""
    for protocol in Protocol:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                yield from _listeners(protocol, family, loopback=loopback)
            except OSError as error:
                name = protocol.name
                raise HostError(
                    "no-sock-diag",
                    f"the kernel cannot list its {name} sockets ({error.strerror}); it needs CONFIG_INET_DIAG"
                    f" and, as module or built in, {name.lower()}_diag",
                ) from None


def _listeners(protocol: Protocol, family: socket.AddressFamily, *, loopback: bool) -> Iterator[Listener]:
    for body in sockets(family, protocol, _LISTENING[protocol]):
        number = reachable_port(body, family)
        if loopback and not number:
            number = _LOCAL.unpack_from(body)[0]
        if number:
            yield Listener(Port(protocol, number), _inode(body))


def _inode(body: memoryview) -> int:
    return int(_INODE.unpack_from(body, _INODE_AT)[0]) if len(body) >= _INODE_AT + _INODE.size else 0


def reachable_port(body: memoryview, family: int) -> int:
    """Return the port of a struct inet_diag_msg, 0 if none is bound or other hosts cannot reach it.

    MalformedError if it is truncated.
    """
    if len(body) < _LOCAL.size:
        raise MalformedError("socket-size", f"sock_diag: a socket of {len(body)} bytes, it needs {_LOCAL.size}")
    number, address = _LOCAL.unpack_from(body)
    return 0 if to_address(address, family).is_loopback else int(number)


def require_unbound(ports: Sequence[Port], held: Collection[Port]) -> None:
    """Raise HostError if a program has bound one of these ports, other than those in `held`, which the daemon has."""
    free = frozenset(ports) - frozenset(held)
    taken = free.intersection(listener.port for listener in listeners(loopback=True)) if free else free
    for port in (port for port in ports if port in taken):
        raise HostError(
            "signed-port-bound",
            f"a service is bound to {port}, and signed knocks are to be confirmed from that port; use another port,"
            " stop that service, or leave `confirm` out",
        )
