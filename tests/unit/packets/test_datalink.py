"""From a frame to its packet, for every supported link type, and the errors for others."""

from __future__ import annotations

import struct

import pytest

from doorward.errors import MalformedError
from doorward.model import Protocol
from doorward.packets.datalink import strip_link_header
from tests.support.headers import ipv4, ipv6, tcp, udp

V4, V6 = ipv4(Protocol.TCP, tcp()), ipv6(Protocol.UDP, udp())
MACS = bytes(12)
SNAP = b"\xaa\xaa\x03\0\0\0"


def tag(kind: int = 0x8100) -> bytes:
    return struct.pack("!HH", kind, 5)


def cooked(way: int = 0, device: int = 1, kind: int = 0x0800) -> bytes:
    return struct.pack("!HHH8sH", way, device, 6, bytes(8), kind)


def cooked2(way: int = 0, device: int = 1, kind: int = 0x0800) -> bytes:
    return struct.pack("!HHIHBB8s", kind, 0, 3, device, way, 6, bytes(8))


LOG_LITTLE = struct.pack("<BBH", 2, 0, 5) + struct.pack("<HH", 8, 4) + b"abcd" + struct.pack("<HH", 4 + len(V4), 9) + V4
LOG_BIG = struct.pack("<BBH", 2, 0, 5) + struct.pack(">HH", 5, 4) + b"a\0\0\0" + struct.pack(">HH", 4 + len(V4), 9) + V4


@pytest.mark.parametrize(
    ("link", "frame", "packet"),
    [
        (1, MACS + b"\x08\x00" + V4, V4),
        (1, MACS + b"\x86\xdd" + V6, V6),
        (1, MACS + tag() + b"\x08\x00" + V4, V4),
        (1, MACS + tag(0x88A8) + tag() + b"\x86\xdd" + V6, V6),
        (1, MACS + tag(0x9100) + tag(0x9200) + tag() + tag() + b"\x08\x00" + V4, V4),
        (1, MACS + struct.pack("!H", len(V4) + 8) + SNAP + b"\x08\x00" + V4, V4),
        (1, MACS + b"\x88\x64\x11\0\0\x01\0\x30\0\x21" + V4, V4),
        (1, MACS + b"\x88\x64\x11\0\0\x01\0\x30\0\x57" + V6, V6),
        (113, cooked() + V4, V4),
        (113, cooked(kind=0x8100) + struct.pack("!HH", 5, 0x86DD) + V6, V6),
        (276, cooked2() + V4, V4),
        (276, cooked2(kind=0x86DD) + V6, V6),
        (12, V4, V4),
        (14, V6, V6),
        (101, V4, V4),
        (228, V4, V4),
        (229, V6, V6),
        (0, b"\2\0\0\0" + V4, V4),
        (0, b"\0\0\0\x1e" + V6, V6),
        (108, b"\0\0\0\2" + V4, V4),
        (108, b"\0\0\0\x18" + V6, V6),
        (9, b"\xff\x03\x00\x21" + V4, V4),
        (9, b"\x21" + V4, V4),
        (50, b"\xff\x03\x57" + V6, V6),
        (51, bytes(6) + b"\x00\x21" + V4, V4),
        (104, b"\x0f\x00\x08\x00" + V4, V4),
        (104, b"\xff\x03\x00\x57" + V6, V6),
        (166, b"\x00\xff\x03\x00\x21" + V4, V4),
        (239, LOG_LITTLE, V4),
        (239, LOG_BIG, V4),
    ],
)
def test_packet_is_found_in_the_frame(link: int, frame: bytes, packet: bytes) -> None:
    assert bytes(strip_link_header(link, frame).packet) == packet


@pytest.mark.parametrize(
    ("link", "frame", "outgoing", "interface"),
    [
        (113, cooked(), False, ""),
        (113, cooked(way=3), False, ""),
        (113, cooked(way=4), True, ""),
        (113, cooked(way=7), None, ""),
        (113, cooked(device=772), False, "lo"),
        (276, cooked2(), False, "interface 3"),
        (276, cooked2(way=4), True, "interface 3"),
        (276, cooked2(device=772), False, "lo"),
        (166, b"\x01\xff\x03\x00\x21", True, ""),
        (0, b"\2\0\0\0", None, "lo"),
        (1, MACS + b"\x08\x00", None, ""),
    ],
)
def test_direction_and_interface(link: int, frame: bytes, outgoing: bool | None, interface: str) -> None:
    network = strip_link_header(link, frame + V4)
    assert (network.outgoing, network.interface) == (outgoing, interface)
    assert network.is_cooked == (link in (113, 276))


@pytest.mark.parametrize(
    ("link", "frame", "says"),
    [
        (1, MACS + b"\x08\x06" + bytes(28), "no IP packet: protocol 0x0806 (ARP)"),
        (1, MACS + b"\x88\xe5" + bytes(28), "MACsec, encrypted"),
        (1, MACS + b"\x12\x34", "protocol 0x1234 (unknown)"),
        (1, MACS + (tag() * 5) + b"\x08\x00" + V4, "protocol 0x8100 (unknown)"),
        (1, MACS + b"\x81\x00\x00", "a VLAN tag's frame of 15 bytes, it needs 18"),
        (1, MACS, "an Ethernet frame of 12 bytes, it needs 14"),
        (1, MACS + struct.pack("!H", 100) + b"\x42\x42\x03" + bytes(97), "no IP packet: protocol 0x0064"),
        (1, MACS + struct.pack("!H", 100) + SNAP, "a SNAP frame of 20 bytes, it needs 22"),
        (113, bytes(15), "a cooked frame of 15 bytes, it needs 16"),
        (276, bytes(19), "a cooked frame (version 2) of 19 bytes, it needs 20"),
        (0, b"\7\0\0\0" + V4, "no IP packet: address family"),
        (0, b"\2", "a loopback frame of 1 bytes, it needs 4"),
        (9, b"\xc0\x21" + bytes(8), "no IP packet: PPP protocol 0xc021"),
        (9, b"", "a PPP frame of 0 bytes, it needs 2"),
        (166, b"", "a PPP frame of 0 bytes, it needs 1"),
        (104, b"\x0f\0", "an HDLC frame of 2 bytes, it needs 4"),
        (239, bytes(3), "a netfilter log message of 3 bytes, it needs 4"),
        (239, bytes(8), "a netfilter log attribute of 0 bytes"),
        (239, bytes(4) + struct.pack("<HH", 8, 4) + b"abcd", "a netfilter log message without a packet"),
        (105, bytes(64), "link type 105 (802.11); capture on a network interface, or with `-i any`"),
        (189, bytes(64), "link type 189 (USB); capture on a network interface, or with `-i any`"),
        (999, bytes(64), "link type 999 (which doorward does not know); capture on"),
    ],
)
def test_other_frames_are_named(link: int, frame: bytes, says: str) -> None:
    with pytest.raises(MalformedError) as found:
        strip_link_header(link, frame)
    assert says in str(found.value)
