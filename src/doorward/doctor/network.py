"""Read the host's addresses, routes and routing rules for marks from rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import NamedTuple

from doorward.doctor.host import LocalAddress, MarkRule, Network, Route
from doorward.errors import MalformedError
from doorward.kernel import netlink

ROUTE = 0  # NETLINK_ROUTE
_GET_ADDRESS, _GET_ROUTE, _GET_RULE = 22, 26, 34
_ADDRESS_HEADER = struct.Struct("=BBBBI")  # family, bits of the network, flags, scope, interface
_ROUTE_HEADER = struct.Struct("=BBBBBBBBI")  # family, bits of the destination, …, table, protocol, scope, type, flags
_MAIN_TABLE, _UNICAST = 254, 1  # RT_TABLE_MAIN, RTN_UNICAST
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DESTINATION, _RTA_INTERFACE = 1, 4
_FRA_MARK, _FRA_MASK = 10, 16
_NUMBER = struct.Struct("=I")


class _Reply(NamedTuple):
    header: tuple[int, ...]
    attributes: dict[int, memoryview]


def read_network() -> Network:
    """Return the network of the calling thread's namespace; OSError if the kernel refuses."""
    return Network(
        tuple(local for reply in _dump(_GET_ADDRESS, _ADDRESS_HEADER) if (local := _local(reply))),
        tuple(route for reply in _dump(_GET_ROUTE, _ROUTE_HEADER) if (route := _route(reply))),
        tuple(rule for reply in _dump(_GET_RULE, _ROUTE_HEADER) if (rule := _rule(reply))),
    )


def dump_bodies(request_type: int, families: Iterable[int] = (socket.AF_INET, socket.AF_INET6)) -> Iterator[memoryview]:
    """Yield the messages of an rtnetlink(7) dump without netlink headers; OSError if the kernel refuses."""
    for family in families:
        with netlink.open_socket(ROUTE, "addresses and routes") as sock:
            request = netlink.message(request_type, netlink.REQUEST | netlink.DUMP, bytes([family]) + bytes(15))
            yield from (reply.body for reply in netlink.dump(sock, request))


def _dump(request_type: int, header: struct.Struct) -> Iterator[_Reply]:
    for body in dump_bodies(request_type):
        if len(body) < header.size:
            raise MalformedError("short-message", f"rtnetlink: {len(body)} bytes, the header needs {header.size}")
        yield _Reply(header.unpack_from(body), netlink.attributes(body[header.size :]))


def _local(reply: _Reply) -> LocalAddress | None:
    packed = reply.attributes.get(_IFA_LOCAL) or reply.attributes.get(_IFA_ADDRESS)
    name = _name(reply.header[4])
    return LocalAddress(name, ip_interface((bytes(packed), reply.header[1]))) if packed and name else None


def _route(reply: _Reply) -> Route | None:
    family, bits, table, kind = (reply.header[i] for i in (0, 1, 4, 7))
    interface = reply.attributes.get(_RTA_INTERFACE)
    if (table, kind) != (_MAIN_TABLE, _UNICAST) or interface is None:
        return None
    anywhere = bytes(4 if family == socket.AF_INET else 16)
    destination = ip_address(bytes(reply.attributes.get(_RTA_DESTINATION, memoryview(anywhere))))
    name = _name(_NUMBER.unpack(interface)[0])
    return Route(ip_network((destination, bits)), name) if name else None


def _rule(reply: _Reply) -> MarkRule | None:
    mark, mask = (reply.attributes.get(attribute) for attribute in (_FRA_MARK, _FRA_MASK))
    if mark is None:
        return None
    return MarkRule(_NUMBER.unpack(mark)[0], _NUMBER.unpack(mask)[0] if mask is not None else 0xFFFF_FFFF)


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # it was removed meanwhile
        return ""
