"""Parsing of IP packets, from the network header on: addresses, and the fields that the automaton tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from doorward.errors import MalformedError
from doorward.model import Address, Packet, Port, Protocol

_IPV4_HEADER, _IPV6_HEADER = 20, 40
_PORT_PAIR = Struct("!HH")
_TRANSPORT_HEADERS: dict[int, int] = {Protocol.TCP: 20, Protocol.UDP: 8}  # required bytes
FLAGS_IN_TCP = 13
# RFC 791: version and header length, total length, fragment, protocol, source, destination
_IPV4 = Struct("!BxHxxHxBxx4s4s")
_FRAGMENT_OFFSET = 0x1FFF
# RFC 8200: version and more, payload length, next header, source, destination
_IPV6 = Struct("!BxxxHBx16s16s")
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
# Without the authentication header (RFC 4302): the kernel too parses what follows it only after IPsec has verified it.
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS)
MAX_EXTENSIONS = 16  # RFC 8200 has each of them once, and one twice
_EXTENSION = Struct("!BBH")  # next header, length, and in a fragment header its offset
_FRAGMENT_OFFSET6 = 0xFFF8
_MOST_PORTS = 4096  # cached; others are created each time


class PortCache(dict[bytes, Port]):
    """Ports of one protocol by their two bytes in a packet: a lookup takes a quarter of the time of creating one."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self._protocol = protocol

    def __missing__(self, packed: bytes) -> Port:
        port = Port(self._protocol, int.from_bytes(packed))
        if len(self) < _MOST_PORTS:
            self[packed] = port
        return port


PORTS = {int(protocol): PortCache(protocol) for protocol in Protocol}


class TransportLocation(NamedTuple):
    """An IP packet trimmed to its length, with the offset and protocol of the transport header and both addresses."""

    packet: memoryview
    at: int
    protocol: int
    source: bytes
    destination: bytes


def source_address(packet: memoryview) -> Address:
    """Return the source address of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet; else MalformedError."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER:
        return IPv4Address(bytes(packet[12:16]))
    if version == 6 and len(packet) >= _IPV6_HEADER:
        return IPv6Address(bytes(packet[8:24]))
    raise MalformedError("not-ip", f"no IP packet: version {version}, {len(packet)} bytes")


def parse(packet: memoryview) -> Packet:
    """Parse a TCP or UDP packet; MalformedError for any other, for a truncated one, and for a later fragment.

    Destination port 0 is reserved, but a packet to it is a wrong knock packet like any other.
    """
    return parse_transport(*locate(packet))


def locate(packet: memoryview) -> TransportLocation:
    """Locate the transport header; MalformedError if the packet has none, as a later fragment."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _ipv4(packet)
    if version == 6:
        return _ipv6(packet)
    raise MalformedError("not-ip", f"no IP packet: version {version}, {len(packet)} bytes")


class UdpDatagram(NamedTuple):
    """A UDP packet: packed addresses, ports and payload."""

    source: bytes
    source_port: int
    destination: bytes
    port: int
    payload: bytes


def parse_udp(packet: memoryview) -> UdpDatagram:
    """Parse a whole UDP packet (RFC 768); else MalformedError."""
    packet, at, protocol, source, destination = locate(packet)
    length = int.from_bytes(packet[at + 4 : at + 6])
    if protocol != Protocol.UDP or not _TRANSPORT_HEADERS[Protocol.UDP] <= length <= len(packet) - at:
        raise MalformedError(
            "truncated-udp", f"no whole UDP packet: protocol {protocol}, {length} bytes of {len(packet) - at}"
        )
    source_port, port = _PORT_PAIR.unpack_from(packet, at)
    return UdpDatagram(source, source_port, destination, port, bytes(packet[at + 8 : at + length]))


def _ipv4(packet: memoryview) -> TransportLocation:
    if len(packet) < _IPV4_HEADER:
        raise MalformedError("header-size", f"IPv4: {len(packet)} bytes, a header needs {_IPV4_HEADER}")
    head, length, fragment, protocol, source, destination = _IPV4.unpack_from(packet)
    at = (head & 0xF) * 4
    if not _IPV4_HEADER <= at <= length:
        raise MalformedError("invalid-header-length", f"IPv4: a header of {at} bytes in a packet of {length}")
    if fragment & _FRAGMENT_OFFSET:
        raise MalformedError("later-fragment", "IPv4: a later fragment, which has no ports")
    return TransportLocation(packet[:length], at, protocol, source, destination)


def _ipv6(packet: memoryview) -> TransportLocation:
    if len(packet) < _IPV6_HEADER:
        raise MalformedError("header-size", f"IPv6: {len(packet)} bytes, a header needs {_IPV6_HEADER}")
    _, length, following, source, destination = _IPV6.unpack_from(packet)
    packet, at = packet[: _IPV6_HEADER + length], _IPV6_HEADER
    for _ in range(MAX_EXTENSIONS):
        if following not in EXTENSIONS:
            break
        following, at = _skip_extension(packet, at, following)
    return TransportLocation(packet, at, following, source, destination)


def _skip_extension(packet: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Return the next header after an extension header (RFC 8200, section 4), and its offset."""
    if len(packet) - at < 8:
        raise MalformedError(
            "extension-header-size", f"IPv6: {len(packet) - at} bytes of an extension header, it needs 8"
        )
    following, length, offset = _EXTENSION.unpack_from(packet, at)
    if kind == FRAGMENT:
        if offset & _FRAGMENT_OFFSET6:
            raise MalformedError("later-fragment", "IPv6: a later fragment, which has no ports")
        return following, at + 8
    return following, at + (length + 1) * 8


def parse_transport(packet: memoryview, at: int, protocol: int, source: bytes, destination: bytes) -> Packet:
    """Parse a located TCP or UDP header, as `parse` does."""
    needed = _TRANSPORT_HEADERS.get(protocol)
    if needed is None:
        raise MalformedError("not-tcp-or-udp", f"neither TCP nor UDP: protocol {protocol}")
    if len(packet) - at < needed:
        raise MalformedError(
            "header-size", f"protocol {protocol}: {max(len(packet) - at, 0)} bytes, a header needs {needed}"
        )
    flags = packet[at + FLAGS_IN_TCP] if protocol == Protocol.TCP else 0
    return Packet(source, PORTS[protocol][bytes(packet[at + 2 : at + 4])], flags, destination)
