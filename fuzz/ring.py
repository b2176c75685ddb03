"""A packet in the ring, of which most take a short cut: it is read as the parser reads it."""

from __future__ import annotations

import struct

from doorward.errors import MalformedError
from doorward.kernel.bpf import SHORTEST, knock_filter
from doorward.kernel.interfaces import LocalAddresses, Prefix
from doorward.kernel.tpacket import _Receiver
from doorward.model import FlagFilter, Packet
from doorward.packets.packet import parse
from tests.support.classic_bpf import kept

FILTER = knock_filter([FlagFilter.parse(())], never=frozenset())
HERE = bytes([198, 51, 100, 2])
LOCALS = LocalAddresses(frozenset([HERE]), frozenset([Prefix(4, 24, 127), Prefix(16, 0, 1)]))
PLACES = (96, 112)  # the kernel puts the network header to the first; the second has no short cut


def one(data: bytes) -> None:
    """Put what the socket filter keeps of a packet into a block, twice, and read the block."""
    size = kept(FILTER, data)
    if size < SHORTEST:  # the ring's filter lets none of these through
        return
    packet = data[:size]
    expected = _parsed(packet)
    for place in PLACES:
        receiver = object.__new__(_Receiver)  # of its own accord it asks the kernel for a ring
        receiver.malformed = 0
        receiver._view = memoryview(_framed(packet, place) * 2 + bytes(128))
        read = receiver._packets(0, 2, LOCALS)
        assert read == expected * 2, (read, expected)
        assert receiver.malformed == 2 - len(read)


def _parsed(packet: bytes) -> list[Packet]:
    try:
        parsed = parse(memoryview(packet))
    except MalformedError:
        return []
    return [parsed._replace(local=LOCALS.contains(parsed.destination or b""))]


def _framed(packet: bytes, place: int) -> bytes:
    """Frame a packet with a struct tpacket3_hdr."""
    whole = (place + len(packet) + 15) // 16 * 16
    head = struct.pack("=IIIIIIHH", whole, 1, 0, len(packet), len(packet), 0, place, place)
    return (head + bytes(place - len(head)) + packet).ljust(whole, b"\0")
