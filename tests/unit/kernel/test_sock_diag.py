"""The kernel's answers about sockets, conntrack entries and routes, including wrong lengths."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.kernel.interfaces import local_route
from doorward.kernel.sock_diag import Connection, matching_entry, reachable_port, read_socket
from doorward.model import Address, Port
from tests.support.errors import raises

HOME, ELSEWHERE, HOST = map(ip_address, ("192.0.2.7", "192.0.2.8", "198.51.100.2"))
SSH, DNS = Port.parse("22/tcp"), Port.parse("53/udp")
ICMP = 1


def diag(local: Address, number: int, remote: Address = HOME) -> bytes:
    """Return a struct inet_diag_msg."""
    return bytes(4) + struct.pack("!HH16s16s4s8s", number, 40000, local.packed, remote.packed, b"", b"cookie")


def tracked(source: Address, protocol: int, number: int | None) -> memoryview:
    """Return the parsed part of a conntrack message."""
    ends = netlink.attribute(1 if source.version == 4 else 3, source.packed)
    ports = b"" if number is None else netlink.attribute(3, struct.pack("!H", number))
    carried = netlink.attribute(1, bytes([protocol])) + ports
    original = netlink.attribute(1 | netlink.NESTED, ends) + netlink.attribute(2 | netlink.NESTED, carried)
    return memoryview(bytes(4) + netlink.attribute(1 | netlink.NESTED, original) + netlink.attribute(12, b"\0\0\0\7"))


@pytest.mark.parametrize(
    ("source", "protocol", "number", "is_meant"),
    [
        (HOME, 6, 22, True),
        (HOME, 17, 53, True),
        (HOME, 17, 22, False),
        (HOME, 6, 23, False),
        (ELSEWHERE, 6, 22, False),
        (ip_address("2001:db8::7"), 6, 22, False),
        (HOME, ICMP, None, False),
    ],
)
def test_matching_conntrack_entries(source: Address, protocol: int, number: int | None, is_meant: bool) -> None:
    entry = matching_entry(tracked(source, protocol, number), HOME, [SSH, DNS])
    assert (entry is not None) == is_meant
    assert entry is None or netlink.attributes(memoryview(entry)).keys() == {1, 12}


def test_incomplete_conntrack_entry_does_not_match() -> None:
    for body in b"", bytes(4), bytes(4) + netlink.attribute(1, b""), bytes(tracked(HOME, 6, 22))[:-8]:
        assert matching_entry(memoryview(body), HOME, [SSH]) is None


def test_conntrack_entry_with_a_wrong_length() -> None:
    with pytest.raises(MalformedError):
        matching_entry(tracked(HOME, 6, 22)[:-1], HOME, [SSH])


def test_a_socket() -> None:
    assert read_socket(diag(HOST, 22), socket.AF_INET).connection == Connection(HOME, 40000, HOST, 22)
    with raises(MalformedError, "socket-size"):
        read_socket(diag(HOST, 22)[:51], socket.AF_INET)


@pytest.mark.parametrize(
    ("local", "family", "number"),
    [("0.0.0.0", socket.AF_INET, 22), ("127.0.0.1", socket.AF_INET, 0), ("::1", socket.AF_INET6, 0)],
)
def test_reachable_ports(local: str, family: int, number: int) -> None:
    body = memoryview(diag(ip_address(local), 22))
    assert reachable_port(body, family) == number
    with pytest.raises(MalformedError):
        reachable_port(body[:23], family)


def route(bits: int, destination: bytes, table: int = 255) -> memoryview:
    head = struct.pack("=BBBBBBBBI", 2, bits, 0, 0, table, 0, 0, 2, 0)
    return memoryview(head + netlink.attribute(1, destination))


def test_routes() -> None:
    assert local_route(route(32, HOST.packed)) == (32, HOST.packed)
    assert local_route(route(32, HOST.packed, table=254)) is None
    for body in route(33, HOST.packed), route(8, b"\x7f"), route(32, HOST.packed)[:11]:
        with pytest.raises(MalformedError):
            local_route(body)
