"""The routes by which this host reaches others, with notifications of changes, by rtnetlink(7)."""

from __future__ import annotations

import errno
import socket
import struct

from doorward.errors import MalformedError
from doorward.kernel import netlink

_ROUTE = 0  # NETLINK_ROUTE
# RTMGRP_*: links; addresses, routes and rules of both families.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
_NEW_ROUTE, _GET_ROUTE = 24, 26
_HEADER = struct.Struct("=8BI")  # family, destination's bits, source's bits, TOS, table, protocol, scope, type, flags
_DESTINATION, _INTERFACE, _GATEWAY, _SOURCE, _VIA = 1, 4, 5, 7, 18
_INDEX = struct.Struct("=I")
_RECEIVE_BYTES = 1 << 16


class RouteMonitor:
    """The routes of the current network namespace; its descriptor becomes readable when one may have changed."""

    def __init__(self) -> None:
        self._changes = netlink.open_socket(_ROUTE, "changes of routes")
        self._requests = netlink.open_socket(_ROUTE, "routes")
        self._changes.setblocking(False)
        self._changes.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._changes.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._changes.close()
        self._requests.close()

    def drain(self) -> None:
        """Drop the notifications that are waiting."""
        while True:
            try:
                self._changes.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # ENOBUFS: there were more than fit
                    raise

    def route_to(self, family: int, address: str, interface: int = 0) -> bytes | None:
        """Return a value that identifies the route: interface, gateway and source address. None without one.

        `interface`: an index, for an address that is valid on that link only.
        """
        packed = socket.inet_pton(family, address)
        request = _HEADER.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(_DESTINATION, packed)
        if interface:
            request += netlink.attribute(_INTERFACE, _INDEX.pack(interface))
        self._requests.send(netlink.message(_GET_ROUTE, netlink.REQUEST, request))
        for reply in netlink.messages(memoryview(self._requests.recv(_RECEIVE_BYTES))):
            if reply.kind == _NEW_ROUTE:
                return route_identity(reply.body)
        return None  # an error: no route


def route_identity(body: memoryview) -> bytes:
    """Return what identifies the route in a reply; other attributes may change without notice, such as its age."""
    if len(body) < _HEADER.size:
        raise MalformedError("short-message", f"rtnetlink: {len(body)} bytes, the header needs {_HEADER.size}")
    found = netlink.attributes(body[_HEADER.size :])
    parts = ((kind, found[kind]) for kind in (_INTERFACE, _GATEWAY, _SOURCE, _VIA) if kind in found)
    return b"".join(netlink.attribute(kind, bytes(value)) for kind, value in parts)
