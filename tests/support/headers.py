"""IP headers put together by hand: options, extension headers, fragments, lengths that lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from doorward.packets.packet import FRAGMENT

AUTHENTICATION = 51  # RFC 4302

HERE4, THERE4 = bytes([192, 0, 2, 7]), bytes([198, 51, 100, 2])
HERE6 = bytes.fromhex("20010db8" + "00" * 11 + "07")
THERE6 = bytes.fromhex("20010db80002" + "00" * 9 + "02")  # the lab's server


class Extension(NamedTuple):
    """An IPv6 extension header: its kind, and how many words of eight bytes (AH: four) beyond its shortest form."""

    kind: int
    words: int = 0
    offset: int = 0  # of a fragment


def tcp(number: int = 7000, flags: int = 2, options: bytes = b"") -> bytes:
    """Return a TCP header."""
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", 40000, number, 1, 0, words << 4, flags, 1024, 0, 0) + options


def udp(number: int = 8000, data: bytes = b"") -> bytes:
    """Return a UDP datagram."""
    return struct.pack("!HHHH", 40000, number, 8 + len(data), 0) + data


def ipv4(protocol: int, body: bytes, *, options: bytes = b"", fragment: int = 0, length: int | None = None) -> bytes:
    """Return an IPv4 packet; `length` is what the header claims."""
    words = 5 + len(options) // 4
    claimed = words * 4 + len(body) if length is None else length
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, claimed, 1, fragment, 64, protocol, 0, HERE4, THERE4)
    return head + options + body


def ipv6(protocol: int, body: bytes, *, chain: Sequence[Extension] = (), length: int | None = None) -> bytes:
    """Return an IPv6 packet with these extension headers in this order."""
    raw, following = body, protocol
    for header in reversed(chain):
        raw, following = extension(header, following) + raw, header.kind
    claimed = len(raw) if length is None else length
    return struct.pack("!IHBB16s16s", 6 << 28, claimed, following, 64, HERE6, THERE6) + raw


def extension(header: Extension, following: int) -> bytes:
    """Give one extension header with padding for content."""
    kind, words, offset = header
    if kind == FRAGMENT:
        return struct.pack("!BBHI", following, 0, offset << 3 | 1, 7)
    if kind == AUTHENTICATION:
        return struct.pack("!BB", following, words + 1) + bytes(10 + words * 4)
    return struct.pack("!BB", following, words) + bytes(6 + words * 8)
