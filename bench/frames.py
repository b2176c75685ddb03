"""Ethernet frames with TCP SYNs, checksums right, laid side by side in one buffer. Pure."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import cycle

FRAME_BYTES = 54  # Ethernet 14, IPv4 20, TCP 20
SLOT_BYTES = 64  # one frame and its padding: a cache line
TCP = 6
SYN_WORD = 5 << 12 | 2  # header of five words, flag SYN
# Ethernet: to, from, type | IPv4: version.., length, id, fragment, ttl.protocol, checksum, from, to
# TCP: from port, to port, sequence (high, low), acknowledgement, offset.flags, window, checksum, urgent
FRAME = struct.Struct("!6s6sH" + "HHHHHHII" + "HHHHIHHHH")
SPOOFED = range(0x10000000, 0x50000000)  # 16.0.0.0 to 79.255.255.255: unicast, and none of the lab's networks


@dataclass(frozen=True, slots=True)
class Path:
    """Whom the frames are for, on the wire and on the internet."""

    to_mac: bytes
    from_mac: bytes
    destination: IPv4Address


def fold(total: int) -> int:
    """Return the internet checksum (RFC 1071) of words that add up to `total`."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def words(address: int) -> int:
    """Add up an address's two words, as the checksum does."""
    return (address >> 16) + (address & 0xFFFF)


def random_sources(count: int, seed: int) -> list[int]:
    """Give `count` different addresses, the same ones for the same seed."""
    return random.Random(seed).sample(SPOOFED, count)


def syn_frames(path: Path, sources: Sequence[int], ports: Sequence[int], seed: int) -> bytearray:
    """Build a SYN from each source in turn, to the ports in turn; frame i starts at i * SLOT_BYTES."""
    buffer = bytearray(len(sources) * SLOT_BYTES)
    to = int(path.destination)
    fixed_ip = 0x4500 + 40 + 0x4000 + (64 << 8 | TCP) + words(to)  # identification 0, don't fragment
    fixed_tcp = words(to) + TCP + 20 + SYN_WORD + 0xFFFF
    choices = zip(sources, cycle(ports), _numbers(random.Random(seed)), strict=False)
    for slot, (source, port, (high, low)) in enumerate(choices):
        from_port = 1024 + high % 64512
        ip_sum = fold(fixed_ip + words(source))
        tcp_sum = fold(fixed_tcp + words(source) + from_port + port + high + low)
        FRAME.pack_into(
            buffer, slot * SLOT_BYTES,
            path.to_mac, path.from_mac, 0x0800,
            0x4500, 40, 0, 0x4000, 64 << 8 | TCP, ip_sum, source, to,
            from_port, port, high, low, 0, SYN_WORD, 0xFFFF, tcp_sum, 0,
        )  # fmt: skip
    return buffer


def _numbers(generator: random.Random) -> Iterator[tuple[int, int]]:
    while True:
        number = generator.getrandbits(32)
        yield number >> 16, number & 0xFFFF
