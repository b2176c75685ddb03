"""Packets as the automaton sees them, their source addresses, and bytes that are not a packet."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from doorward.errors import MalformedError
from doorward.model import Packet, Port, Protocol
from doorward.packets.packet import (
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    MAX_EXTENSIONS,
    ROUTING,
    parse,
    source_address,
)
from tests.support.errors import raises
from tests.support.headers import AUTHENTICATION, HERE4, HERE6, THERE4, THERE6, Extension, ipv4, ipv6, tcp, udp
from tests.support.netfilter_log import packet_from

TCP, UDP = Protocol.TCP, Protocol.UDP
SYN4, SYN6 = Packet(HERE4, Port(TCP, 7000), 2, THERE4), Packet(HERE6, Port(TCP, 7000), 2, THERE6)
UDP4, UDP6 = Packet(HERE4, Port(UDP, 8000), 0, THERE4), Packet(HERE6, Port(UDP, 8000), 0, THERE6)
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000
ALL = [Extension(kind, 1) for kind in (HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, FRAGMENT)]
V4, V6 = packet_from(ip_address("192.0.2.7")), packet_from(ip_address("2001:db8::7"))


@pytest.mark.parametrize(
    ("raw", "packet"),
    [
        (ipv4(TCP, tcp()), SYN4),
        (ipv4(TCP, tcp(flags=0xFF)), SYN4._replace(flags=0xFF)),
        (ipv4(TCP, tcp(options=bytes(40))), SYN4),
        (ipv4(TCP, tcp(), options=bytes(4)), SYN4),
        (ipv4(TCP, tcp(), options=bytes(40)), SYN4),
        (ipv4(TCP, tcp(), fragment=DONT_FRAGMENT), SYN4),
        (ipv4(TCP, tcp(), fragment=MORE_FRAGMENTS), SYN4),  # the first one has the ports
        (ipv4(TCP, tcp()) + bytes(6), SYN4),  # what Ethernet pads
        (ipv4(TCP, tcp(), length=1500), SYN4),  # a capture is shorter than its packet
        (ipv4(TCP, tcp(0)), SYN4._replace(port=Port(TCP, 0))),
        (ipv4(TCP, tcp(65535)), SYN4._replace(port=Port(TCP, 65535))),
        (ipv4(UDP, udp()), UDP4),
        (ipv4(UDP, udp(data=bytes(20))), UDP4),
        (ipv4(UDP, udp(), options=bytes(12)), UDP4),
        (ipv6(TCP, tcp()), SYN6),
        (ipv6(UDP, udp(data=b"knock")), UDP6),
        *((ipv6(TCP, tcp(), chain=[each]), SYN6) for each in ALL),
        (ipv6(UDP, udp(), chain=ALL), UDP6),
        (ipv6(TCP, tcp(), chain=[Extension(DESTINATION_OPTIONS, 255)]), SYN6),
        (ipv6(TCP, tcp(), chain=[Extension(DESTINATION_OPTIONS)] * MAX_EXTENSIONS), SYN6),
    ],
)
def test_packets(raw: bytes, packet: Packet) -> None:
    assert parse(memoryview(raw)) == packet


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "not-ip"),
        (b"\x45", "header-size"),
        (b"\x60", "header-size"),
        (b"\x55" + ipv4(TCP, tcp())[1:], "not-ip"),
        (ipv4(TCP, tcp())[:19], "header-size"),
        (b"\x44" + ipv4(TCP, tcp())[1:], "invalid-header-length"),
        (ipv4(TCP, tcp(), length=19), "invalid-header-length"),
        (ipv4(TCP, tcp(), length=0), "invalid-header-length"),
        (ipv4(TCP, tcp(), fragment=1), "later-fragment"),
        (ipv4(TCP, tcp(), fragment=MORE_FRAGMENTS | 0x1FFF), "later-fragment"),
        (ipv4(TCP, tcp())[:39], "header-size"),
        (ipv4(TCP, tcp(), length=39), "header-size"),
        (ipv4(TCP, tcp(), length=20), "header-size"),
        (ipv4(UDP, udp(), length=27) + bytes(20), "header-size"),  # padding is not a datagram
        (b"\x4f" + ipv4(TCP, tcp())[1:], "invalid-header-length"),
        (ipv4(TCP, b"", options=bytes(40)), "header-size"),
        (ipv4(1, bytes(8)), "not-tcp-or-udp"),
        (ipv6(TCP, tcp(), chain=[Extension(AUTHENTICATION)]), "not-tcp-or-udp"),
        (ipv4(33, tcp()), "not-tcp-or-udp"),
        (ipv6(TCP, tcp())[:39], "header-size"),
        (ipv6(TCP, tcp())[:59], "header-size"),
        (ipv6(TCP, tcp(), length=19), "header-size"),
        (ipv6(58, bytes(8)), "not-tcp-or-udp"),
        (ipv6(50, tcp()), "not-tcp-or-udp"),  # encrypted: nobody can tell
        (ipv6(59, b""), "not-tcp-or-udp"),
        (ipv6(TCP, tcp(), chain=[Extension(FRAGMENT, offset=1)]), "later-fragment"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING)])[:47], "extension-header-size"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING, 1)])[:50], "header-size"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING)] * (MAX_EXTENSIONS + 1)), "not-tcp-or-udp"),
    ],
)
def test_bytes_that_are_not_a_packet(raw: bytes, code: str) -> None:
    with raises(MalformedError, code):
        parse(memoryview(raw))


@pytest.mark.parametrize(
    ("packet", "source"),
    [
        (V4, "192.0.2.7"),
        (V4[:20], "192.0.2.7"),  # cut after the header
        (b"\x4f" + V4[1:], "192.0.2.7"),  # with options
        (V6, "2001:db8::7"),
        (V6[:40], "2001:db8::7"),
        (b"\x6f" + V6[1:], "2001:db8::7"),  # with a traffic class
    ],
)
def test_source_address(packet: bytes, source: str) -> None:
    assert source_address(memoryview(packet)) == ip_address(source)


@pytest.mark.parametrize(
    "packet", [b"", V4[:19], V6[:39], b"\x00" * 40, b"\x55" + V4[1:], b"\x45", b"\x60", b"\xff" * 60]
)
def test_invalid_packets_have_no_source(packet: bytes) -> None:
    with raises(MalformedError, "not-ip"):
        source_address(memoryview(packet))
