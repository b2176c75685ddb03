"""The routes by which this host reaches others, with notifications of changes, by rtnetlink(7)."""

from __future__ import annotations

from doorward.kernel import netlink
from doorward.kernel.routes import INTERFACE, ROUTE, RTMSG, find_route
from doorward.model import Address

# RTMGRP_*: links; addresses, routes and rules of both families.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
_GATEWAY, _SOURCE, _VIA = 5, 7, 18  # attributes


class RouteMonitor:
    """The routes of the current network namespace; its descriptor becomes readable when one may have changed."""

    def __init__(self) -> None:
        self._changes = netlink.open_socket(ROUTE, "changes of routes")
        self._requests = netlink.open_socket(ROUTE, "routes")
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
        netlink.drain(self._changes)

    def route_to(self, to: Address, interface: int) -> bytes | None:
        """Return what identifies the route: interface, gateway and source address. None: there is no route.

        Other attributes may change without notice, such as its age. `interface`: an index, used for link-local
        addresses.
        """
        route = find_route(self._requests, to, interface)
        if route is None:
            return None
        found = netlink.attributes(route[RTMSG.size :])
        parts = ((kind, found[kind]) for kind in (INTERFACE, _GATEWAY, _SOURCE, _VIA) if kind in found)
        return b"".join(netlink.attribute(kind, bytes(value)) for kind, value in parts)
