"""Which connections the doors that a tracker opened let in, as the kernel and the daemon decide. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from doorward.model import TCP_FLAGS, Door, OpenPort, Packet, Port, Protocol

SYN_S = 120.0  # for so long the SYN of an opening's one connection may be sent again; Linux does so for 63 s
_SYN, _FIRST = TCP_FLAGS["syn"], TCP_FLAGS["fin"] | TCP_FLAGS["syn"] | TCP_FLAGS["rst"] | TCP_FLAGS["ack"]


class _Source(NamedTuple):
    """The openings of a source by door, the newest last, and its connections that used one up, each with its end."""

    openings: dict[str, tuple[Door, float]]
    syns: dict[tuple[int, bytes | None, Port], float]


class PortAccess:
    """Openings by source; beyond `most` sources the one that opened a door first is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sources: dict[bytes, _Source] = {}

    def open(self, source: bytes, door: Door, now_s: float) -> None:
        """Open a door, or prolong its opening."""
        openings = self._sources.setdefault(source, _Source({}, {})).openings
        openings.pop(door.name, None)
        openings[door.name] = door, now_s + door.for_ms / 1000
        while len(self._sources) > self._most:
            del self._sources[next(iter(self._sources))]

    def left_s(self, packet: Packet, source_port: int, now_s: float, opened_as: OpenPort | None = None) -> float:
        """Return how long the port of a new packet was open to its source, 0 if it was not; it may use that up.

        `opened_as`: the range, or the port of a host behind this one, by which doors open it.
        """
        known, port = self._sources.get(packet.source), packet.port
        if known is None:
            return 0.0
        source, wanted = ip_address(packet.source), opened_as or port
        own = [(door, until_s) for door, until_s in known.openings.values() if wanted in door.opens_to(source)]
        if port.protocol is Protocol.TCP and packet.flags & _FIRST == _SYN:
            flow = source_port, packet.destination, port
            for_one = [(door, until_s) for door, until_s in own if door.once]
            if for_one and (left_s := for_one[-1][1] - now_s) > 0:  # the newest says until when, of whichever door
                for door, _ in for_one:
                    del known.openings[door.name]
                known.syns[flow] = now_s + SYN_S
                return left_s
            if (left_s := known.syns.get(flow, now_s) - now_s) > 0:
                return left_s
        return max([0.0, *(until_s - now_s for door, until_s in own if not door.once)])
