"""The ports on which this host listens, read through sock_diag(7): no knock goes there."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from doorward.errors import HostError, MalformedError
from doorward.gate.connections import address_of, sockets
from doorward.model import Port, Protocol

_LISTENING = {Protocol.TCP: 1 << 10, Protocol.UDP: 1 << 7}  # states: LISTEN; a UDP socket bound, to no peer (CLOSE)
_LOCAL = struct.Struct("!4xH2x16s")  # of struct inet_diag_msg: port, address
_INODE, _INODE_AT = struct.Struct("=I"), 68  # its last field


class Listener(NamedTuple):
    """A port, and the inode of the socket that has it (0: the kernel does not say)."""

    port: Port
    inode: int


def listening_ports() -> frozenset[Port]:
    """List the TCP ports on which this host listens and the UDP ports to which sockets are bound.

    Those of loopback addresses alone are left out. HostError: the kernel does not list its sockets.
    """
    return frozenset(listener.port for listener in listeners())


def listeners(*, loopback: bool = False) -> Iterator[Listener]:
    """Give each socket that listens, those of loopback addresses only on demand; HostError as above."""
    for protocol in Protocol:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                yield from _listeners(protocol, family, loopback=loopback)
            except OSError as error:
                name = protocol.name
                raise HostError(
                    f"the kernel does not list its {name} sockets ({error.strerror}); it needs CONFIG_INET_DIAG"
                    f" and, as module or built in, {name.lower()}_diag"
                ) from None


def _listeners(protocol: Protocol, family: socket.AddressFamily, *, loopback: bool) -> Iterator[Listener]:
    for body in sockets(family, protocol, _LISTENING[protocol]):
        number = outer_port(body, family)
        if loopback and not number:
            number = _LOCAL.unpack_from(body)[0]
        if number:
            yield Listener(Port(protocol, number), _inode(body))


def _inode(body: memoryview) -> int:
    return int(_INODE.unpack_from(body, _INODE_AT)[0]) if len(body) >= _INODE_AT + _INODE.size else 0


def outer_port(body: memoryview, family: int) -> int:
    """Give the port of a struct inet_diag_msg, 0 where none is bound or others cannot reach it.

    MalformedError where it is cut short.
    """
    if len(body) < _LOCAL.size:
        raise MalformedError(f"sock_diag: a socket of {len(body)} bytes, it needs {_LOCAL.size}")
    number, address = _LOCAL.unpack_from(body)
    return 0 if address_of(address, family).is_loopback else int(number)
