"""Decoding of whole and truncated packets, and of ICMP errors."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from doorward.errors import MalformedError
from doorward.model import Packet, Port, Protocol
from doorward.packets.decode import decode_flow
from tests.support.captures import CLIENT, SERVER, icmp_error, ip, segment
from tests.support.errors import raises
from tests.support.headers import HERE4, HERE6, THERE4, THERE6, Extension, ipv4, ipv6, tcp, udp

SIX = ip_address("2001:db8::7"), ip_address("2001:db8:2::2")


def test_a_tcp_packet() -> None:
    flow = decode_flow(memoryview(ip(CLIENT, SERVER, 6, segment(7000, 40_000, 2, 12345))))
    port = Port(Protocol.TCP, 7000)
    assert flow.packet == Packet(CLIENT.packed, port, 2, SERVER.packed)
    assert (flow.source, flow.destination, flow.source_port, flow.port) == (CLIENT.packed, SERVER.packed, 40_000, port)
    assert (flow.sequence, flow.trouble, flow.error) == (12345, "", "")


@pytest.mark.parametrize(
    ("raw", "port", "trouble"),
    [
        (ipv4(Protocol.TCP, tcp()[:12]), Port(Protocol.TCP, 7000), "protocol 6: 12 bytes, a header needs 20"),
        (ipv4(Protocol.TCP, tcp())[:36], Port(Protocol.TCP, 7000), "protocol 6: 16 bytes, a header needs 20"),
        (ipv4(Protocol.TCP, tcp())[:22], None, "protocol 6: 2 bytes, a header needs 20"),
        (ipv4(Protocol.UDP, udp()[:4]), Port(Protocol.UDP, 8000), "protocol 17: 4 bytes, a header needs 8"),
        (ipv4(Protocol.UDP, bytes(16), fragment=3), None, "IPv4: a later fragment, which has no ports"),
        (ipv4(47, bytes(16)), None, "neither TCP nor UDP: protocol 47"),
        (ipv4(1, bytes(16)), None, "neither TCP nor UDP: ICMP"),
        (ipv6(58, bytes(16)), None, "neither TCP nor UDP: ICMP"),
        (ipv6(Protocol.UDP, bytes(16), chain=[Extension(44, offset=2)]), None, "IPv6: a later fragment"),
        (ipv4(Protocol.TCP, tcp(), length=10), None, "IPv4: a header of 20 bytes in a packet of 10"),
    ],
)
def test_truncated_headers(raw: bytes, port: Port | None, trouble: str) -> None:
    flow = decode_flow(memoryview(raw))
    ends = (HERE4, THERE4) if raw[0] >> 4 == 4 else (HERE6, THERE6)
    assert (flow.packet, flow.port, (flow.source, flow.destination)) == (None, port, ends)
    assert trouble in flow.trouble


@pytest.mark.parametrize("raw", [b"", b"\x45", b"\x60" + bytes(38), b"\x50" + bytes(60)])
def test_packets_without_addresses(raw: bytes) -> None:
    with raises(MalformedError, "not-ip"):
        decode_flow(memoryview(raw))


@pytest.mark.parametrize(
    ("kind", "code", "version", "says"),
    [
        (3, 0, 4, "unreachable"),
        (3, 1, 4, "unreachable"),
        (3, 3, 4, "no such port"),
        (3, 9, 4, "prohibited"),
        (3, 10, 4, "prohibited"),
        (3, 13, 4, "prohibited"),
        (11, 0, 4, "no hops left"),
        (3, 4, 4, ""),  # path MTU discovery
        (0, 0, 4, ""),
        (1, 0, 6, "unreachable"),
        (1, 1, 6, "prohibited"),
        (1, 4, 6, "no such port"),
        (1, 5, 6, "prohibited"),
        (3, 0, 6, "no hops left"),
        (2, 0, 6, ""),
        (135, 0, 6, ""),
    ],
)
def test_errors(kind: int, code: int, version: int, says: str) -> None:
    client, server = (CLIENT, SERVER) if version == 4 else SIX
    about = ip(client, server, 6, segment(7000, 40_000, 2, 5))
    flow = decode_flow(memoryview(icmp_error(server, kind, code, about)))
    assert flow.error == says
    if says:
        assert flow.about is not None
        assert (flow.about.source, flow.about.source_port) == (client.packed, 40_000)
        assert (flow.about.destination, flow.about.port) == (server.packed, Port(Protocol.TCP, 7000))
    else:
        assert flow.about is None


def test_icmp_errors_with_unreadable_packets() -> None:
    for quoted in (b"", b"\x45", bytes(40)):
        flow = decode_flow(memoryview(ip(SERVER, CLIENT, 1, struct.pack("!BBHI", 3, 1, 0, 0) + quoted)))
        assert (flow.error, flow.about) == ("", None)
    nested = icmp_error(SERVER, 3, 1, icmp_error(SERVER, 3, 1, ip(CLIENT, SERVER, 17, b"")))
    found = decode_flow(memoryview(nested))
    assert found.about is not None
    assert (found.about.error, found.about.about) == ("", None)  # an error about an error is not decoded further
