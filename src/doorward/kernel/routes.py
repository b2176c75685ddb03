"""The kernel's routing decisions (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct

from doorward.kernel import netlink
from doorward.model import Address

_ROUTE = 0  # NETLINK_ROUTE
_NEW_ROUTE, _GET_ROUTE = 24, 26
_RTMSG = struct.Struct("=8BI")  # family, bits of destination and source, TOS, table, protocol, scope, type, flags
_TYPE_AT = 7
UNICAST, LOCAL = 1, 2  # types of routes
_DESTINATION, _INTERFACE = 1, 4
_RECEIVE_BYTES = 1 << 14


def route_type(to: Address, interface: int) -> int:
    """Return the type of the route for packets to `to`: LOCAL for this host's own, UNICAST for one other host; 0: none.

    Broadcast, multicast, anycast and others have types of their own. `interface`: an index, used for link-local
    addresses.
    """
    if to.is_unspecified:
        return LOCAL  # what is sent to it arrives here, though IPv6's default route is for it, too
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    body = _RTMSG.pack(family, to.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(_DESTINATION, to.packed)
    if to.version == 6 and to.is_link_local:
        body += netlink.attribute(_INTERFACE, struct.pack("=I", interface))
    with netlink.open_socket(_ROUTE, "the routing table") as asking:
        asking.send(netlink.message(_GET_ROUTE, netlink.REQUEST, body))
        for reply in netlink.messages(memoryview(asking.recv(_RECEIVE_BYTES))):
            if reply.kind == _NEW_ROUTE and len(reply.body) >= _RTMSG.size:
                return reply.body[_TYPE_AT]
    return 0
