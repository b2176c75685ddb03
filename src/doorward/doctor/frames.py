"""Build the test packets, and parse the messages in which nf_tables reports their path (NFNLGRP_NFTRACE)."""

from __future__ import annotations

import struct
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.model import Address, Port, Protocol

TRACE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}  # NFPROTO_*
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT = 1, 2, 3, 4, 5  # NFTA_TRACE_*
_NETWORK_HEADER, _TRANSPORT_HEADER, _OUTPUT_INTERFACE, _POLICY = 8, 9, 12, 16
_VERDICT_CODE = 1
_DROP = 0  # NF_DROP, in the low byte: the kernel may put an errno above it
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_SEGMENT_SIZE = struct.pack("!BBH", 2, 4, 1400)  # without this option a SYN looks like a port scan
_SYN, _ACK = 2, 16


class Step(Enum):
    """The packets of one connection: TCP flags, sequence and acknowledgment numbers; UDP payload bytes."""

    NEW = (_SYN, 1, 0, 1)
    REPLY = (_SYN | _ACK, 1, 2, 2)
    ESTABLISHED = (_ACK, 2, 2, 3)


class PacketFlow(NamedTuple):
    """A packet's addresses and ports."""

    source: Address
    source_port: int
    destination: Address
    port: Port

    def match(self, step: Step) -> str:
        """Return the nft expression that matches only this packet of the connection, with or without NAT."""
        name = self.port.protocol.name.lower()
        client = f"dport {self.port.number}" if step is Step.REPLY else f"sport {self.source_port}"
        flags, _, _, payload = step.value
        if self.port.protocol is Protocol.TCP:
            return f"{name} {client} tcp flags & (syn | ack) == {flags:#x}"
        return f"{name} {client} udp length {payload + 8}"


class TraceEvent(NamedTuple):
    """The verdict of one rule or policy (`handle` 0); `flow` is the packet as the chain saw it."""

    family: str
    table: str
    chain: str
    handle: int
    is_drop: bool
    flow: PacketFlow | None
    output: int  # index of the output interface; 0 if not yet routed or for this host


def build_packet(flow: PacketFlow, step: Step) -> bytes:
    """Return an IP packet with valid checksums."""
    source, destination = flow.source.packed, flow.destination.packed
    body = _segment(flow, step)
    kind = int(flow.port.protocol)
    pseudo = source + destination + struct.pack("!II", len(body), kind)
    at = 16 if flow.port.protocol is Protocol.TCP else 6
    body = body[:at] + struct.pack("!H", _checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]
    if flow.source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + source + destination + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, kind, 0) + source + destination
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def build_frame(packed: bytes, address: bytes) -> bytes:
    """Return the Ethernet frame that carries an IP packet to the interface with this hardware address."""
    return address + b"\x02\0\0\0\0\x01" + struct.pack("!H", _ETHERTYPE[packed[0] >> 4]) + packed


def _segment(flow: PacketFlow, step: Step) -> bytes:
    flags, sequence, acknowledged, payload = step.value
    ports = (flow.source_port, flow.port.number)
    if flow.port.protocol is Protocol.UDP:
        return struct.pack("!HHHH", *ports, 8 + payload, 0) + bytes(payload)
    options = _SEGMENT_SIZE if flags & _SYN else b""
    words = (20 + len(options)) // 4
    return struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, words << 4, flags, 64240, 0, 0) + options


def _checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def parse_event(body: memoryview) -> TraceEvent:
    """Return the event in the body of a trace message; raise MalformedError for a wrong length."""
    parts = netlink.attributes(body[4:])
    verdict = netlink.attributes(parts[_VERDICT]) if _VERDICT in parts else {}
    family = body[0] if len(body) else 0
    decision = verdict.get(_VERDICT_CODE) or parts.get(_POLICY)
    return TraceEvent(
        FAMILIES.get(family, str(family)),
        _name(parts.get(_TABLE)),
        _name(parts.get(_CHAIN)),
        _number(parts.get(_HANDLE), 8),
        decision is not None and _number(decision, 4) & 0xFF == _DROP,
        _flow(bytes(parts.get(_NETWORK_HEADER, b"")), bytes(parts.get(_TRANSPORT_HEADER, b""))),
        _number(parts.get(_OUTPUT_INTERFACE), 4),
    )


def _name(raw: memoryview | None) -> str:
    return bytes(raw or b"").rstrip(b"\0").decode(errors="surrogateescape")


def _number(raw: memoryview | None, size: int) -> int:
    if raw is None:
        return 0
    if len(raw) != size:
        raise MalformedError("trace-number", f"nf_tables: a number in a trace has {len(raw)} bytes, expected {size}")
    return int.from_bytes(raw, "big")


def _flow(network: bytes, transport: bytes) -> PacketFlow | None:
    try:
        kind, size = {4: (network[9:10], 4), 6: (network[6:7], 16)}[network[0] >> 4]
        end = {4: 20, 16: 40}[size]
        source, destination = (ip_address(network[at : at + size]) for at in (end - 2 * size, end - size))
        from_port, to_port = struct.unpack_from("!HH", transport)
        return PacketFlow(source, from_port, destination, Port(Protocol(kind[0]), to_port))
    except (IndexError, KeyError, ValueError, struct.error):  # not one of the test packets
        return None
