"""Sockets that send from their port and receive nothing, over loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from doorward.kernel.routes import LOCAL, UNICAST, route_type
from doorward.kernel.send_only import open_send_only, send_from

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(params=[4, 6])
def peer(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    version: int = request.param
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as peer:
        peer.bind((str(LOOPBACK[version]), 0))
        peer.settimeout(5)
        yield peer


def version_of(peer: socket.socket) -> int:
    return 4 if peer.family == socket.AF_INET else 6


def test_it_sends_from_its_port_and_an_address_of_this_host(peer: socket.socket) -> None:
    address = LOOPBACK[version_of(peer)]
    with open_send_only(peer.family, 0) as sender:
        send_from(sender, b"hello", address, address, peer.getsockname()[1], 0)
        datagram, source = peer.recvfrom(100)
        assert (datagram, source[:2]) == (b"hello", (str(address), sender.getsockname()[1]))


def test_it_receives_nothing(peer: socket.socket) -> None:
    with open_send_only(peer.family, 0) as sender:
        for payload in (b"", b"x", bytes(1400)):
            peer.sendto(payload, (str(LOOPBACK[version_of(peer)]), sender.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            sender.recv(2000)
        everything = struct.pack("HP", 0, 0)
        for option in (26, 27):  # SO_ATTACH_FILTER, SO_DETACH_FILTER
            with pytest.raises(OSError, match=r"Operation not permitted|Invalid argument"):
                sender.setsockopt(socket.SOL_SOCKET, option, everything)
        peer.sendto(b"still", (str(LOOPBACK[version_of(peer)]), sender.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            sender.recv(2000)


def test_a_source_of_another_host_is_rejected(peer: socket.socket) -> None:
    version = version_of(peer)
    foreign = ip_address("198.51.100.7" if version == 4 else "2001:db8::7")
    with (
        open_send_only(peer.family, 0) as sender,
        pytest.raises(OSError, match=r"Invalid argument|Cannot assign|unreachable"),
    ):
        send_from(sender, b"hello", foreign, LOOPBACK[version], peer.getsockname()[1], 0)


def test_nobody_else_can_bind_the_port(peer: socket.socket) -> None:
    with open_send_only(peer.family, 0) as sender, pytest.raises(OSError, match="already in use"):
        open_send_only(peer.family, sender.getsockname()[1])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "127.255.255.255"],
)
def test_destinations_that_are_not_another_host(address: str) -> None:
    assert route_type(ip_address(address), 1) != UNICAST


def test_this_hosts_own_addresses() -> None:
    assert {route_type(address, 1) for address in LOOPBACK.values()} == {LOCAL}
