"""The ports on which this host listens, read through sock_diag(7): no knock goes there."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from doorward import netlink
from doorward.errors import HostError
from doorward.model import Address, Port, Protocol

_SOCK_DIAG_BY_FAMILY = 20
_LISTENING = {Protocol.TCP: 1 << 10, Protocol.UDP: 1 << 7}  # states: LISTEN; a UDP socket bound, to no peer (CLOSE)
_SOCKET_ID_BYTES = 48
_LOCAL = struct.Struct("!4xH2x16s")  # of struct inet_diag_msg: port, address


def listening_ports() -> frozenset[Port]:
    """List the TCP ports on which this host listens and the UDP ports to which sockets are bound.

    Those of loopback addresses alone are left out. HostError: the kernel does not list its sockets.
    """
    found: set[Port] = set()
    for protocol in Protocol:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                found.update(Port(protocol, number) for number in _numbers(protocol, family))
            except OSError as error:
                name = protocol.name
                raise HostError(
                    f"the kernel does not list its {name} sockets ({error.strerror}); it needs CONFIG_INET_DIAG"
                    f" and, as module or built in, {name.lower()}_diag"
                ) from None
    return frozenset(found)


def _numbers(protocol: Protocol, family: socket.AddressFamily) -> Iterator[int]:
    request = struct.pack("=BBBxI", family, protocol, 0, _LISTENING[protocol]) + bytes(_SOCKET_ID_BYTES)
    with netlink.open_socket(netlink.SOCK_DIAG, "the ports on which this host listens") as diag:
        framed = netlink.message(_SOCK_DIAG_BY_FAMILY, netlink.REQUEST | netlink.DUMP, request)
        for reply in netlink.dump(diag, framed):
            if len(reply.body) < _LOCAL.size:
                continue
            number, address = _LOCAL.unpack_from(reply.body)
            if number and not _address(address, family).is_loopback:
                yield number


def _address(raw: bytes, family: socket.AddressFamily) -> Address:
    if family == socket.AF_INET:
        return IPv4Address(raw[:4])
    address = IPv6Address(raw)
    return address.ipv4_mapped or address
