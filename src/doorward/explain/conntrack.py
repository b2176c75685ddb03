"""Connection tracking over a capture, modeled on nf_conntrack: new, established, or an answer.

Only a new packet can be a knock. Unlike the kernel, this does not know connections from before the capture: they count
as new until the capture shows an answer.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from doorward.model import TCP_FLAGS, Protocol
from doorward.packets.decode import Flow

MOST_CONNECTIONS = 65536  # beyond it the oldest entry is dropped, and its next packet counts as new
UDP_TIMEOUT_S = 30.0  # nf_conntrack_udp_timeout
_FIN, _SYN, _RST, _ACK = (TCP_FLAGS[name] for name in ("fin", "syn", "rst", "ack"))

Key = tuple[int, bytes, int, bytes, int]  # protocol, source and its port, destination and its port


class ConnectionState(StrEnum):
    """The state of a packet's connection. `ACKNOWLEDGED`: the first packet after the client received an answer."""

    NEW = "new"
    ACKNOWLEDGED = "acknowledged"
    ESTABLISHED = "established"
    ANSWER = "answer"
    LATER_ANSWER = "later answer"


@dataclass(slots=True)
class _Connection:
    last_s: float
    has_begun: bool  # the capture has its first packet
    is_answered: bool = False
    has_answer: bool = False  # the answer was captured, not only inferred from a later packet
    is_acknowledged: bool = False
    is_over: bool = False


class ConnectionTracker:
    """Tracks the connections of a capture, in both directions."""

    def __init__(self) -> None:
        self._connections: OrderedDict[Key, _Connection] = OrderedDict()

    def observe(self, flow: Flow, now_s: float) -> ConnectionState:
        """Count a packet and return the state of its connection."""
        if flow.packet is None or flow.port is None:
            return ConnectionState.NEW
        key = flow_key(flow)
        if (answered := self._lookup(reverse_key(flow), flow, now_s)) is not None:
            return self._answer(answered, flow, now_s)
        known = self._lookup(key, flow, now_s)
        if known is None or (known.is_over and _begins(flow)):
            known = self._connections[key] = _Connection(now_s, _begins(flow))
            self._connections.move_to_end(key)
            if len(self._connections) > MOST_CONNECTIONS:
                self._connections.popitem(last=False)
            return ConnectionState.NEW
        return self._forward(known, flow, now_s)

    def _lookup(self, key: Key, flow: Flow, now_s: float) -> _Connection | None:
        known = self._connections.get(key)
        if known is not None and flow.protocol == Protocol.UDP and now_s - known.last_s > UDP_TIMEOUT_S:
            return None
        return known

    def _answer(self, known: _Connection, flow: Flow, now_s: float) -> ConnectionState:
        first = not known.has_answer
        known.is_answered, known.has_answer, known.last_s = True, True, now_s
        known.is_over = known.is_over or _ends(flow)
        return ConnectionState.ANSWER if first else ConnectionState.LATER_ANSWER

    def _forward(self, known: _Connection, flow: Flow, now_s: float) -> ConnectionState:
        known.last_s = now_s
        known.is_over = known.is_over or _ends(flow)
        # Only a client that received an answer acknowledges it: this works with one captured direction, too.
        acknowledges = flow.packet is not None and flow.packet.flags & (_SYN | _RST | _ACK) == _ACK
        if not (known.is_answered or (known.has_begun and acknowledges)):
            return ConnectionState.NEW
        if acknowledges and not known.is_acknowledged:
            known.is_answered = known.is_acknowledged = True
            return ConnectionState.ACKNOWLEDGED
        return ConnectionState.ESTABLISHED


def flow_key(flow: Flow) -> Key:
    """Return the 5-tuple of the packet's direction."""
    return flow.protocol, flow.source, flow.source_port, flow.destination, flow.port.number if flow.port else 0


def reverse_key(flow: Flow) -> Key:
    """Return the 5-tuple of the opposite direction."""
    return flow.protocol, flow.destination, flow.port.number if flow.port else 0, flow.source, flow.source_port


def _begins(flow: Flow) -> bool:
    return flow.packet is not None and (
        flow.protocol == Protocol.UDP or flow.packet.flags & (_SYN | _ACK | _RST | _FIN) == _SYN
    )


def _ends(flow: Flow) -> bool:
    return flow.protocol == Protocol.TCP and flow.packet is not None and bool(flow.packet.flags & (_RST | _FIN))
