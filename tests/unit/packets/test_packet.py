"""Source addresses of packets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from doorward.errors import MalformedError
from doorward.packets.packet import source_address
from tests.support.netfilter_log import packet_from

V4, V6 = packet_from(ip_address("192.0.2.7")), packet_from(ip_address("2001:db8::7"))


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
def test_invalid_packets(packet: bytes) -> None:
    with pytest.raises(MalformedError, match="no IP packet"):
        source_address(memoryview(packet))
