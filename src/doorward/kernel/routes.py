"""The kernel's routing decisions (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct

from doorward.kernel import netlink
from doorward.model import Address

ROUTE = 0  # NETLINK_ROUTE
NEW_ROUTE, DELETED_ROUTE, GET_ROUTE = 24, 25, 26
RTMSG = struct.Struct("=8BI")  # family, bits of destination and source, TOS, table, protocol, scope, type, flags
_TYPE_AT = 7
UNICAST, LOCAL = 1, 2  # types of routes
DESTINATION, INTERFACE = 1, 4  # attributes
_RECEIVE_BYTES = 1 << 14


def route_type(to: Address, interface: int) -> int:
    """Return the type of the route for packets to `to`: LOCAL for this host's own, UNICAST for one other host; 0: none.

    Broadcast, multicast, anycast and others have types of their own. `interface`: an index, used for link-local
    addresses.
    """
    if to.is_unspecified:
        return LOCAL  # what is sent to it arrives here, though IPv6's default route is for it, too
    with netlink.open_socket(ROUTE, "the routing table") as requests:
        route = find_route(requests, to, interface)
    return 0 if route is None else route[_TYPE_AT]


def find_route(requests: socket.socket, to: Address, interface: int) -> memoryview | None:
    """Return the kernel's description of the route to `to`, an RTMSG and attributes; None: there is no route."""
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    body = RTMSG.pack(family, to.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(DESTINATION, to.packed)
    if to.version == 6 and to.is_link_local:
        body += netlink.attribute(INTERFACE, struct.pack("=I", interface))
    requests.send(netlink.message(GET_ROUTE, netlink.REQUEST, body))
    for reply in netlink.messages(memoryview(requests.recv(_RECEIVE_BYTES))):
        if reply.kind == NEW_ROUTE and len(reply.body) >= RTMSG.size:
            return reply.body
    return None  # an error
