"""Ethernet frames of one kind from many sources, checksums right, laid side by side in one buffer. Pure."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle
from typing import NamedTuple

FRAME_BYTES = 54  # Ethernet 14, IPv4 20, TCP 20
SLOT_BYTES = 64  # one frame and its padding: a cache line
TCP, UDP = 6, 17
SPOOFED = range(0x10000000, 0x50000000)  # 16.0.0.0 to 79.255.255.255: unicast, and none of the lab's networks
_NETWORK_V6 = 0x20010DB8  # a source's 32 bits follow it, so that each has a /64 of its own
_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBHI4s")  # version, type, length, id, fragment, ttl, protocol, checksum, from, to
_IPV6 = struct.Struct("!IHBBIIQ16s")  # version, length, protocol, hop limit, from (network, network, host), to
_TCP = struct.Struct("!HHIIBBHHH")  # from, to, sequence, acknowledgement, offset, flags, window, checksum, urgent
_UDP = struct.Struct("!HHHHI")  # from, to, length, checksum, payload
_SOURCE_AT = 26  # where its 32 bits are, in both versions
_ID_AT = 18  # IPv4's identification
_CHECKSUM_AT = 10  # in IPv4's header


@dataclass(frozen=True, slots=True)
class Path:
    """Whom the frames are for, on the wire and on the internet."""

    to_mac: bytes
    from_mac: bytes
    destination: IPv4Address | IPv6Address


class Kind(NamedTuple):
    """What the packets are: TCP with these flags, or UDP with a payload of four bytes."""

    protocol: int = TCP
    flags: int = 2
    version: int = 4

    @property
    def frame_bytes(self) -> int:
        return self._transport_at + (_TCP if self.protocol == TCP else _UDP).size

    @property
    def slot_bytes(self) -> int:
        return -(-self.frame_bytes // SLOT_BYTES) * SLOT_BYTES

    @property
    def octets_at(self) -> tuple[int, list[int]]:
        """Where the source's first octet is, and where its complements are, which keep the checksums right."""
        complements = [self._transport_at + (4 if self.protocol == TCP else 8)]
        return _SOURCE_AT, complements + [_ID_AT] * (self.version == 4)

    @property
    def _transport_at(self) -> int:
        return _ETHERNET.size + (_IPV4 if self.version == 4 else _IPV6).size


SYN = Kind()


def checksum(*parts: bytes | bytearray) -> int:
    """Return the internet checksum (RFC 1071) of parts of even length, never 0."""
    return 0xFFFF - sum(map(int.from_bytes, parts)) % 0xFFFF


def random_sources(count: int, seed: int) -> list[int]:
    """Give `count` different addresses, the same ones for the same seed."""
    return random.Random(seed).sample(SPOOFED, count)


def frames(path: Path, kind: Kind, sources: Iterable[int], ports: Sequence[int], seed: int) -> bytearray:
    """Build a packet from each source in turn, to the ports in turn; frame i starts at i * kind.slot_bytes."""
    draw, to, padding = random.Random(seed).getrandbits, path.destination.packed, bytes(kind.slot_bytes)
    ethernet = _ETHERNET.pack(path.to_mac, path.from_mac, 0x0800 if kind.version == 4 else 0x86DD)
    buffer = bytearray()
    for source, port in zip(sources, cycle(ports), strict=False):
        complement, from_port = 255 - (source >> 24), 1024 + draw(15)
        mixed = complement << 24 | draw(24)
        body = bytearray(
            _TCP.pack(from_port, port, mixed, 0, 0x50, kind.flags, 0xFFFF, 0, 0)
            if kind.protocol == TCP
            else _UDP.pack(from_port, port, _UDP.size, 0, mixed)
        )
        if kind.version == 4:
            size = _IPV4.size + len(body)
            head = bytearray(_IPV4.pack(0x45, 0, size, complement << 8, 0x4000, 64, kind.protocol, 0, source, to))
            struct.pack_into("!H", head, _CHECKSUM_AT, checksum(head))
        else:
            head = bytearray(_IPV6.pack(6 << 28, len(body), kind.protocol, 64, _NETWORK_V6, source, 1 + draw(32), to))
        addresses = head[-8:] if kind.version == 4 else head[8:]
        pseudo = struct.pack("!HH", kind.protocol, len(body))
        struct.pack_into("!H", body, 16 if kind.protocol == TCP else 6, checksum(addresses, pseudo, body))
        buffer += (ethernet + head + body + padding)[: kind.slot_bytes]
    return buffer
