"""Decode one IP packet as far as possible, even without a whole TCP or UDP header."""

from __future__ import annotations

from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.model import Packet, Port, Protocol
from doorward.packets.packet import PORTS, TransportLocation, locate, parse_transport, source_address

ICMP, ICMPV6 = 1, 58
_SEQUENCE_AT, _SEQUENCE_END = 4, 8  # of a TCP header
_QUOTED_AT = 8  # offset of the quoted packet in an ICMP error
# RFC 792, RFC 1812, RFC 4443: the meaning of an error for the packet that it quotes, by type and code.
_PROHIBITED, _NO_PORT, _NO_HOST, _LOST_ON_THE_WAY = "prohibited", "no such port", "unreachable", "no hops left"
_ERRORS4 = {3: {3: _NO_PORT, 9: _PROHIBITED, 10: _PROHIBITED, 13: _PROHIBITED}, 11: {0: _LOST_ON_THE_WAY}}
_ERRORS6 = {1: {1: _PROHIBITED, 4: _NO_PORT, 5: _PROHIBITED, 6: _PROHIBITED}, 3: {0: _LOST_ON_THE_WAY}}
_NOT_ERRORS4 = {4}  # "fragmentation needed": path MTU discovery, the sender retries


class Flow(NamedTuple):
    """One packet: source, destination, and the fields that the automaton tests, as far as they could be parsed.

    `packet` is None without a whole TCP or UDP header; `trouble` says why. `error` is the meaning of an ICMP error
    about the packet `about`.
    """

    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    port: Port | None = None
    packet: Packet | None = None
    sequence: int = 0  # of TCP, to recognize retransmissions
    trouble: str = ""
    error: str = ""
    about: Flow | None = None


def decode_flow(packet: memoryview, *, quoted: bool = False) -> Flow:
    """Return the fields of a packet; MalformedError if it has no addresses."""
    try:
        found = locate(packet)
    except MalformedError as error:
        source = source_address(packet).packed
        return Flow(source, _destination(packet), _protocol(packet), trouble=str(error))
    flow = Flow(found.source, found.destination, found.protocol)
    if found.protocol in (ICMP, ICMPV6):
        return flow if quoted else _with_error(flow, found)
    return _with_ports(flow, found)


def _destination(packet: memoryview) -> bytes:
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def _protocol(packet: memoryview) -> int:
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def _with_ports(flow: Flow, found: TransportLocation) -> Flow:
    header = found.packet[found.at :]
    if found.protocol in PORTS and len(header) >= 4:
        port = PORTS[found.protocol][bytes(header[2:4])]
        flow = flow._replace(source_port=int.from_bytes(header[:2]), port=port)
    try:
        whole = parse_transport(*found)
    except MalformedError as error:
        return flow._replace(trouble=str(error))
    sequence = int.from_bytes(header[_SEQUENCE_AT:_SEQUENCE_END]) if found.protocol == Protocol.TCP else 0
    return flow._replace(packet=whole, sequence=sequence)


def _with_error(flow: Flow, found: TransportLocation) -> Flow:
    """Add the packet that an ICMP error is about."""
    message = found.packet[found.at :]
    flow = flow._replace(trouble="neither TCP nor UDP: ICMP")
    if len(message) < _QUOTED_AT:
        return flow
    kind, code = message[0], message[1]
    errors = _ERRORS4 if found.protocol == ICMP else _ERRORS6
    if kind not in errors or (found.protocol == ICMP and kind == 3 and code in _NOT_ERRORS4):
        return flow
    try:
        about = decode_flow(message[_QUOTED_AT:], quoted=True)
    except MalformedError:
        return flow
    return flow._replace(error=errors[kind].get(code, _NO_HOST), about=about)
