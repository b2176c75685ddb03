"""Interfaces and local addresses of this host, with notifications of changes, by rtnetlink(7)."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from doorward.errors import HostError, MalformedError
from doorward.kernel import netlink
from doorward.kernel.routes import DELETED_ROUTE, DESTINATION, GET_ROUTE, LOCAL, NEW_ROUTE, ROUTE, RTMSG

# Changes of links and of both families' addresses and routes (RTMGRP_*): the kernel reports an address before it
# removes the local route of that address.
_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400
_LOCAL_TABLE = 255  # RT_TABLE_LOCAL
_ADDRESS_BYTES = (4, 16)
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK, Linux 4.20: only the requested table
_GET_INDEX = 0x8933  # SIOCGIFINDEX
_NAME_BYTES = 16
_RECEIVE_BYTES = 1 << 16


class Prefix(NamedTuple):
    """A range of addresses of `size` bytes: those that equal `value` without their last `shift` bits."""

    size: int
    shift: int
    value: int


class LocalAddresses(NamedTuple):
    """This host's local addresses, packed, and the ranges that are local as a whole, such as 127.0.0.0/8."""

    addresses: frozenset[bytes]
    prefixes: frozenset[Prefix]

    def contains(self, address: bytes) -> bool:
        """Return whether a packet to this address stays on this host (nftables: `fib daddr type local`)."""
        number, size = int.from_bytes(address), len(address)
        return address in self.addresses or any(
            prefix.size == size and number >> prefix.shift == prefix.value for prefix in self.prefixes
        )


class InterfaceMonitor:
    """Interfaces and addresses of the current network namespace; its descriptor becomes readable on a change."""

    def __init__(self) -> None:
        self._removed: set[tuple[int, bytes]] = set()  # the kernel reports a route just before it removes it
        self._changes = netlink.open_socket(ROUTE, "changes of interfaces")
        self._requests = netlink.open_socket(ROUTE, "the list of addresses")
        self._changes.setblocking(False)
        self._changes.bind((0, _GROUPS))
        with suppress(OSError):  # an older kernel lists all routes, and `_local_routes` filters
            self._requests.setsockopt(_SOL_NETLINK, _STRICT, 1)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._changes.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._changes.close()
        self._requests.close()

    def changed(self) -> bool:
        """Return whether a link or an address has changed since the last call."""
        changed = False
        while True:
            try:
                datagram = self._changes.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # ENOBUFS: messages were dropped, so something changed
                    raise
                changed = True
                self._removed.clear()
            else:
                for message in netlink.messages(memoryview(datagram)):
                    changed = self._is_relevant(message) or changed

    def _is_relevant(self, message: netlink.NetlinkMessage) -> bool:
        """Return whether a message is about a link, an address or a route to this host: a router has many others."""
        if message.kind not in (NEW_ROUTE, DELETED_ROUTE):
            return True
        route = local_route(message.body)
        if route is None:
            return False
        (self._removed.add if message.kind == DELETED_ROUTE else self._removed.discard)(route)
        return True

    def find_index(self, name: str) -> int | None:
        """Return the index of an interface, None if no interface has that name now."""
        packed = name.encode()
        if not 0 < len(packed) < _NAME_BYTES:
            return None
        try:
            reply = fcntl.ioctl(self._requests, _GET_INDEX, struct.pack(f"{_NAME_BYTES}si20x", packed, 0))
        except OSError:
            return None
        index: int = struct.unpack_from("i", reply, _NAME_BYTES)[0]
        return index

    def local_addresses(self) -> LocalAddresses:
        """Return the host's local addresses; HostError if the kernel does not list them."""
        addresses: set[bytes] = set()
        prefixes: set[Prefix] = set()
        try:
            routes = {*self._local_routes(socket.AF_INET), *self._local_routes(socket.AF_INET6)}
            for bits, packed in routes - self._removed:
                shift = len(packed) * 8 - bits
                if shift:
                    prefixes.add(Prefix(len(packed), shift, int.from_bytes(packed) >> shift))
                else:
                    addresses.add(packed)
        except OSError as error:
            raise HostError("no-addresses", f"cannot list this host's addresses: {error.strerror}") from None
        self._removed.clear()  # the next dump is current
        return LocalAddresses(frozenset(addresses), frozenset(prefixes))

    def _local_routes(self, family: socket.AddressFamily) -> Iterator[tuple[int, bytes]]:
        request = RTMSG.pack(family, 0, 0, 0, _LOCAL_TABLE, 0, 0, 0, 0)
        framed = netlink.message(GET_ROUTE, netlink.REQUEST | netlink.DUMP, request)
        for reply in netlink.dump(self._requests, framed):
            if reply.kind == NEW_ROUTE and (route := local_route(reply.body)) is not None:
                yield route


def local_route(body: memoryview) -> tuple[int, bytes] | None:
    """Return (prefix length, packed address) of a local route; None for any other route.

    MalformedError on a wrong length.
    """
    if len(body) < RTMSG.size:
        raise MalformedError("route-size", f"rtnetlink: a route of {len(body)} bytes, its header needs {RTMSG.size}")
    _, bits, _, _, table, _, _, kind, _ = RTMSG.unpack_from(body)
    destination = netlink.attributes(body[RTMSG.size :]).get(DESTINATION)
    if (table, kind) != (_LOCAL_TABLE, LOCAL) or destination is None:
        return None
    if len(destination) not in _ADDRESS_BYTES or bits > len(destination) * 8:
        raise MalformedError("route-prefix", f"rtnetlink: a route to {bits} bits of {len(destination)} bytes")
    return bits, bytes(destination)
