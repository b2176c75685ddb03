"""IP packets, from the network header on."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.packets.packet import parse, source_address


def one(data: bytes) -> None:
    """Read a packet, and its source as the netfilter log is read: both give the same."""
    try:
        packet = parse(memoryview(data))
    except MalformedError:
        return
    assert packet.source == source_address(memoryview(data)).packed
    assert packet.destination is not None
    assert len(packet.destination) == len(packet.source)
    assert 0 <= packet.port.number <= 65535
    assert 0 <= packet.flags <= 255
