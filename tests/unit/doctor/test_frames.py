"""The test packets, and the trace events of nf_tables."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from itertools import product

import pytest

from doorward.doctor.frames import PacketFlow, Step, TraceEvent, build_frame, build_packet, parse_event
from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.model import Port, Protocol
from doorward.packets.packet import parse as packet_of
from doorward.packets.packet import parse_udp

FOUR, SIX = ("192.0.2.7", "198.51.100.2"), ("2001:db8::7", "2001:db8:1::2")
FLOWS = [
    PacketFlow(ip_address(source), 50001, ip_address(destination), Port.parse(port))
    for (source, destination), port in product((FOUR, SIX), ("22/tcp", "53/udp"))
]


def summed(data: bytes) -> int:
    """What RFC 1071 says of data with a right checksum in it: 0xffff."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8) * (
        len(data) % 2
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("flow", FLOWS, ids=str)
@pytest.mark.parametrize("step", Step)
def test_packets_parse_back_with_valid_checksums(flow: PacketFlow, step: Step) -> None:
    raw = build_packet(flow, step)
    found = packet_of(memoryview(raw))
    assert (found.source, found.destination, found.port) == (flow.source.packed, flow.destination.packed, flow.port)
    if flow.port.protocol is Protocol.TCP:
        assert found.flags == {Step.NEW: 2, Step.REPLY: 18, Step.ESTABLISHED: 16}[step]
    else:
        assert len(parse_udp(memoryview(raw)).payload) == step.value[3]
    head = 20 if flow.source.version == 4 else 40
    if head == 20:
        assert summed(raw[:20]) == 0xFFFF
    pseudo = flow.source.packed + flow.destination.packed + struct.pack("!II", len(raw) - head, flow.port.protocol)
    assert summed(pseudo + raw[head:]) == 0xFFFF


def test_frame_has_the_right_ethertype() -> None:
    kinds = [build_frame(build_packet(flow, Step.NEW), b"\x02\0\0\0\0\x09")[12:14] for flow in FLOWS[::2]]
    assert kinds == [b"\x08\x00", b"\x86\xdd"]


def report(*attributes: bytes, family: int = 1) -> memoryview:
    return memoryview(bytes([family, 0, 0, 0]) + b"".join(attributes))


NAMES = netlink.attribute(1, b"t\0") + netlink.attribute(2, b"c\0")
SENT = build_packet(FLOWS[0], Step.NEW)
HEADERS = netlink.attribute(8, SENT[:20]) + netlink.attribute(9, SENT[20:40])


def verdict(code: int) -> bytes:
    return netlink.attribute(5 | netlink.NESTED, netlink.attribute(1, struct.pack("!I", code)))


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        (netlink.attribute(3, struct.pack("!Q", 7)) + verdict(0), TraceEvent("inet", "t", "c", 7, True, None, 0)),
        (netlink.attribute(3, struct.pack("!Q", 7)) + verdict(0x10000), TraceEvent("inet", "t", "c", 7, True, None, 0)),
        (netlink.attribute(3, struct.pack("!Q", 7)) + verdict(1), TraceEvent("inet", "t", "c", 7, False, None, 0)),
        (verdict(0xFFFFFFFD), TraceEvent("inet", "t", "c", 0, False, None, 0)),  # jump
        (netlink.attribute(16, struct.pack("!I", 0)), TraceEvent("inet", "t", "c", 0, True, None, 0)),
        (netlink.attribute(16, struct.pack("!I", 1)), TraceEvent("inet", "t", "c", 0, False, None, 0)),
        (
            HEADERS + netlink.attribute(12, struct.pack("!I", 9)),
            TraceEvent("inet", "t", "c", 0, False, FLOWS[0], 9),
        ),
        (
            netlink.attribute(8, SENT[:20]) + netlink.attribute(9, b"\0"),
            TraceEvent("inet", "t", "c", 0, False, None, 0),
        ),
        (netlink.attribute(8, b"\x45"), TraceEvent("inet", "t", "c", 0, False, None, 0)),
    ],
)
def test_trace_events_are_parsed(attributes: bytes, found: TraceEvent) -> None:
    assert parse_event(report(NAMES, attributes)) == found


@pytest.mark.parametrize("broken", [netlink.attribute(3, b"\0" * 4), b"\xff\xff\x01\0\0", verdict(0)[:-4]])
def test_wrong_lengths_are_malformed(broken: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_event(report(NAMES, broken))
