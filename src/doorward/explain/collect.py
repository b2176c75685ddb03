"""Filter captured frames down to the packets that can matter: knocks, strays, connection attempts and answers.

Memory is bounded: most of a capture belongs to established connections, of which only the beginning is kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from doorward.errors import MalformedError
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState, ConnectionTracker, flow_key
from doorward.explain.replay import CapturedPacket
from doorward.explain.wording import is_same_network
from doorward.model import TCP_FLAGS, Address, Packet, Protocol
from doorward.packets.datalink import NetworkPacket, UnknownLinkError, strip_link_header
from doorward.packets.decode import Flow, decode_flow
from doorward.packets.pcap import CapturedFrame

MOST_KEPT = 100_000  # packets, about 1 kB each; the rest of a longer capture is not explained
MOST_REASONS = 20  # distinct reasons why frames hold no IP packet
ONE_PACKET_NS = 5_000_000  # a copy on another interface within this time is the same packet
DISORDER_NS = 1_000_000_000  # captures of several interfaces may be out of order by this much
_RECENT = 1024
_SYN, _ACK = TCP_FLAGS["syn"], TCP_FLAGS["ack"]


class PacketCollector:
    """Collects packets frame by frame; `packets` holds those that matter."""

    def __init__(self, config: CompiledConfig, source: Address | None = None) -> None:
        self._config = config
        self._flags = {machine.flags for machine in config.automaton.machines}
        self._source = source.packed if source else None
        self._connections = ConnectionTracker()
        self._recent: OrderedDict[object, tuple[int, tuple[str, bool | None]]] = OrderedDict()
        self._is_timeless = True
        self._unknown_links = 0
        self._last_ns = self._behind_ns = 0
        self.packets: list[CapturedPacket] = []
        self.began_ns: int | None = None
        self.frames = 0
        self.unreadable: Counter[str] = Counter()  # why frames hold no IP packet, with counts

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached; later packets are not kept."""
        return len(self.packets) >= MOST_KEPT

    @property
    def is_timeless(self) -> bool:
        """Whether all packets have the same timestamp: then the capture has no usable times."""
        return self._is_timeless and len(self.packets) > 1

    @property
    def is_unreadable(self) -> bool:
        """Whether every frame has an unsupported link type."""
        return bool(self.frames) and self._unknown_links == self.frames

    def feed_all(self, frames: Iterable[CapturedFrame]) -> None:
        """Feed frames until they end or the limit is reached. Passes on a MalformedError of the iterator."""
        for frame in frames:
            self.feed(frame)
            if self.is_full:
                break

    def feed(self, frame: CapturedFrame) -> CapturedPacket | None:
        """Feed one frame; return its packet if it matters, else None."""
        try:
            network = strip_link_header(frame.link, frame.data)
        except MalformedError as error:
            self._unknown_links += isinstance(error, UnknownLinkError)
            self._stamp(frame.at_ns)
            self._skip(error)
            return None
        if frame.interface:
            network = network._replace(interface=frame.interface)
        return self.feed_packet(network, frame.at_ns, is_cut=frame.length > len(frame.data))

    def feed_packet(self, network: NetworkPacket, at_ns: int, *, is_cut: bool = False) -> CapturedPacket | None:
        """Feed one packet without its link header; return it if it matters, else None."""
        at_ns = self._stamp(at_ns)
        try:
            flow = decode_flow(network.packet)
        except MalformedError as error:
            self._skip(error)
            return None
        if self._is_copy(flow, network, at_ns):
            return None
        state = self._connections.observe(flow, at_ns / 1e9)
        captured = CapturedPacket(self.frames, at_ns, flow, state, network.interface, network.outgoing, is_cut)
        if not self._matters(captured):
            return None
        self.packets.append(captured)
        return captured

    def _stamp(self, at_ns: int) -> int:
        """Count a frame and return its time in nanoseconds after the first frame; never decreases."""
        self.frames += 1
        if self.began_ns is None:
            self.began_ns = at_ns
        self._is_timeless = self._is_timeless and at_ns == self.began_ns
        at_ns += self._behind_ns - self.began_ns
        if at_ns < self._last_ns - DISORDER_NS:  # the clock was set back: continue from here
            self._behind_ns += self._last_ns - at_ns
        self._last_ns = max(self._last_ns, at_ns)
        return self._last_ns

    def _skip(self, error: MalformedError) -> None:
        if len(self.unreadable) < MOST_REASONS or str(error) in self.unreadable:
            self.unreadable[str(error)] += 1

    def _is_copy(self, flow: Flow, network: NetworkPacket, at_ns: int) -> bool:
        """Return whether this is a copy of a packet that another interface has already shown."""
        if not (network.is_cooked or network.interface):
            return False
        identity = bytes(network.packet[4:6]) if network.packet[0] >> 4 == 4 else b""
        key = (flow_key(flow), flow.sequence, flow.packet, identity)
        previous = self._recent.pop(key, None)
        path = (network.interface, network.outgoing)
        self._recent[key] = (at_ns, path)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        if previous is None or abs(at_ns - previous[0]) > ONE_PACKET_NS:
            return False
        return not network.interface or path != previous[1]

    def _matters(self, captured: CapturedPacket) -> bool:
        flow = captured.flow
        if self._source is not None and not self._concerns(flow):
            return False
        if flow.error:
            return flow.about is not None and flow.about.port is not None
        if flow.packet is None:
            return flow.protocol in (Protocol.TCP, Protocol.UDP)
        if captured.state is not ConnectionState.NEW:
            return (
                captured.state in (ConnectionState.ANSWER, ConnectionState.ACKNOWLEDGED)
                or flow.packet.port in self._config.ports
            )
        return self._may_count(flow.packet)

    def _concerns(self, flow: Flow) -> bool:
        """Return whether it is from or to the requested source, or can explain what happened to it."""
        if self._source in (flow.source, flow.destination, flow.about and flow.about.source):
            return True
        if self._source is not None and is_same_network(self._source, flow.source):  # they share a rate limit
            return True
        return flow.port is not None and flow.port.number in self._config.numbers

    def _may_count(self, packet: Packet) -> bool:
        """Return whether a new packet may be a knock or begin a connection; most packets without SYN are neither."""
        if packet.port.protocol is Protocol.UDP or packet.port.number in self._config.numbers:
            return True
        return packet.flags & (_SYN | _ACK) == _SYN or any(flags.passes(packet.flags) for flags in self._flags)
