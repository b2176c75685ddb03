"""The ports on which this host listens, read through sock_diag(7): no knock goes there."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from doorward.errors import HostError, MalformedError
from doorward.gate.connections import address_of, sockets
from doorward.model import Port, Protocol

_LISTENING = {Protocol.TCP: 1 << 10, Protocol.UDP: 1 << 7}  # states: LISTEN; a UDP socket bound, to no peer (CLOSE)
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
    for body in sockets(family, protocol, _LISTENING[protocol]):
        if number := outer_port(body, family):
            yield number


def outer_port(body: memoryview, family: int) -> int:
    """Give the port of a struct inet_diag_msg, 0 where none is bound or others cannot reach it.

    MalformedError where it is cut short.
    """
    if len(body) < _LOCAL.size:
        raise MalformedError(f"sock_diag: a socket of {len(body)} bytes, it needs {_LOCAL.size}")
    number, address = _LOCAL.unpack_from(body)
    return 0 if address_of(address, family).is_loopback else int(number)
