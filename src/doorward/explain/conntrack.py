"""What conntrack would call a packet: new, of a connection that stands, or an answer to one.

Only what is new can be a knock. The kernel knows connections that began before the capture; here they are new until
the capture shows an answer.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from doorward.model import TCP_FLAGS, Protocol
from doorward.packets.decode import Flow

MOST_CONNECTIONS = 65536  # beyond it the one that was silent longest is forgotten, and its next packet is new
UDP_TIMEOUT_S = 30.0  # nf_conntrack_udp_timeout
_FIN, _SYN, _RST, _ACK = (TCP_FLAGS[name] for name in ("fin", "syn", "rst", "ack"))

Key = tuple[int, bytes, int, bytes, int]  # protocol, source and its port, destination and its port


class ConnectionState(StrEnum):
    """What a packet is to conntrack. `HEARD` is the first that shows that an answer arrived."""

    NEW = "new"
    HEARD = "heard"
    ESTABLISHED = "established"
    ANSWER = "answer"
    LATER_ANSWER = "later answer"


@dataclass(slots=True)
class _Connection:
    last_s: float
    has_begun: bool  # with the packet that begins one, and not in the middle
    is_answered: bool = False
    has_answer: bool = False  # which was seen, and not only concluded from what followed
    is_heard: bool = False
    is_over: bool = False


class ConnectionTracker:
    """Follows the connections of a capture, both ways."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, _Connection] = OrderedDict()

    def observe(self, flow: Flow, now_s: float) -> ConnectionState:
        """Take one packet, and tell what it is."""
        if flow.packet is None or flow.port is None:
            return ConnectionState.NEW
        key = key_of(flow)
        if (answered := self._standing(reverse_of(flow), flow, now_s)) is not None:
            return self._answer(answered, flow, now_s)
        known = self._standing(key, flow, now_s)
        if known is None or (known.is_over and _begins(flow)):
            known = self._known[key] = _Connection(now_s, _begins(flow))
            self._known.move_to_end(key)
            if len(self._known) > MOST_CONNECTIONS:
                self._known.popitem(last=False)
            return ConnectionState.NEW
        return self._onward(known, flow, now_s)

    def _standing(self, key: Key, flow: Flow, now_s: float) -> _Connection | None:
        known = self._known.get(key)
        if known is not None and flow.protocol == Protocol.UDP and now_s - known.last_s > UDP_TIMEOUT_S:
            return None
        return known

    def _answer(self, known: _Connection, flow: Flow, now_s: float) -> ConnectionState:
        first = not known.has_answer
        known.is_answered, known.has_answer, known.last_s = True, True, now_s
        known.is_over = known.is_over or _ends(flow)
        return ConnectionState.ANSWER if first else ConnectionState.LATER_ANSWER

    def _onward(self, known: _Connection, flow: Flow, now_s: float) -> ConnectionState:
        known.last_s = now_s
        known.is_over = known.is_over or _ends(flow)
        # Only who heard an answer acknowledges it, also where the capture has one direction alone.
        acknowledges = flow.packet is not None and flow.packet.flags & (_SYN | _RST | _ACK) == _ACK
        if not (known.is_answered or (known.has_begun and acknowledges)):
            return ConnectionState.NEW
        if acknowledges and not known.is_heard:
            known.is_answered = known.is_heard = True
            return ConnectionState.HEARD
        return ConnectionState.ESTABLISHED


def key_of(flow: Flow) -> Key:
    """Give what all packets of this direction share."""
    return flow.protocol, flow.source, flow.source_port, flow.destination, flow.port.number if flow.port else 0


def reverse_of(flow: Flow) -> Key:
    """Give the same for the other direction."""
    return flow.protocol, flow.destination, flow.port.number if flow.port else 0, flow.source, flow.source_port


def _begins(flow: Flow) -> bool:
    return flow.packet is not None and (
        flow.protocol == Protocol.UDP or flow.packet.flags & (_SYN | _ACK | _RST | _FIN) == _SYN
    )


def _ends(flow: Flow) -> bool:
    return flow.protocol == Protocol.TCP and flow.packet is not None and bool(flow.packet.flags & (_RST | _FIN))
