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
    ("raw", "why"),
    [
        (b"", "no IP packet"),
        (b"\x45", "IPv4: 1 bytes"),
        (b"\x60", "IPv6: 1 bytes"),
        (b"\x55" + ipv4(TCP, tcp())[1:], "no IP packet: version 5"),
        (ipv4(TCP, tcp())[:19], "IPv4: 19 bytes"),
        (b"\x44" + ipv4(TCP, tcp())[1:], "IPv4: a header of 16 bytes"),
        (ipv4(TCP, tcp(), length=19), "IPv4: a header of 20 bytes in a packet of 19"),
        (ipv4(TCP, tcp(), length=0), "IPv4: a header of 20 bytes in a packet of 0"),
        (ipv4(TCP, tcp(), fragment=1), "later fragment"),
        (ipv4(TCP, tcp(), fragment=MORE_FRAGMENTS | 0x1FFF), "later fragment"),
        (ipv4(TCP, tcp())[:39], "19 bytes, a header needs 20"),
        (ipv4(TCP, tcp(), length=39), "19 bytes, a header needs 20"),
        (ipv4(TCP, tcp(), length=20), " 0 bytes, a header needs 20"),
        (ipv4(UDP, udp(), length=27) + bytes(20), "7 bytes, a header needs 8"),  # padding is no datagram
        (b"\x4f" + ipv4(TCP, tcp())[1:], "IPv4: a header of 60 bytes in a packet of 40"),
        (ipv4(TCP, b"", options=bytes(40)), " 0 bytes"),
        (ipv4(1, bytes(8)), "neither TCP nor UDP: protocol 1"),
        (ipv6(TCP, tcp(), chain=[Extension(AUTHENTICATION)]), "neither TCP nor UDP: protocol 51"),
        (ipv4(33, tcp()), "neither TCP nor UDP: protocol 33"),
        (ipv6(TCP, tcp())[:39], "IPv6: 39 bytes"),
        (ipv6(TCP, tcp())[:59], "19 bytes"),
        (ipv6(TCP, tcp(), length=19), "19 bytes"),
        (ipv6(58, bytes(8)), "neither TCP nor UDP: protocol 58"),
        (ipv6(50, tcp()), "neither TCP nor UDP: protocol 50"),  # encrypted: nobody can tell
        (ipv6(59, b""), "neither TCP nor UDP: protocol 59"),
        (ipv6(TCP, tcp(), chain=[Extension(FRAGMENT, offset=1)]), "later fragment"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING)])[:47], "7 bytes of an extension header"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING, 1)])[:50], "0 bytes, a header needs 20"),
        (ipv6(TCP, tcp(), chain=[Extension(ROUTING)] * (MAX_EXTENSIONS + 1)), "protocol 43"),
    ],
)
def test_bytes_that_are_not_a_packet(raw: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
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
    with pytest.raises(MalformedError, match="no IP packet"):
        source_address(memoryview(packet))
