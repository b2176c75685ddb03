"""The head of an IP packet, as far as the daemon needs it: who sent it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from doorward.errors import MalformedError
from doorward.model import Address

_IPV4_HEADER, _IPV6_HEADER = 20, 40


def source_of(packet: memoryview) -> Address:
    """Give the source address of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet, or MalformedError."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER:
        return IPv4Address(bytes(packet[12:16]))
    if version == 6 and len(packet) >= _IPV6_HEADER:
        return IPv6Address(bytes(packet[8:24]))
    raise MalformedError(f"no IP packet: version {version}, {len(packet)} bytes")
