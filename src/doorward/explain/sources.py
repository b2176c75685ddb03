"""Traces by source address: each source's packets in order, and the answers to them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState, Key, flow_key, reverse_key
from doorward.explain.replay import COUNTED, CapturedPacket, PacketVerdict, Replayer, ReplayStep
from doorward.model import TCP_FLAGS, OpenPort, Protocol
from doorward.packets.decode import Flow


def server_addresses(
    packets: Iterable[CapturedPacket], config: CompiledConfig, own: Collection[bytes] = ()
) -> frozenset[bytes]:
    """Return this host's addresses, packed: per family, the destination with the most (source, door port) pairs.

    If some of the destinations are in `own`, the addresses of the host that runs this, those are returned instead.
    """
    visitors_by_address = defaultdict[bytes, set[tuple[bytes, int]]](set)
    for flow in (packet.flow for packet in packets if packet.state is ConnectionState.NEW):
        if flow.port is not None and flow.port.number in config.numbers and flow.destination not in config.targets:
            visitors_by_address[flow.destination].add((flow.source, flow.port.number))
    if own_addresses := visitors_by_address.keys() & set(own):
        return frozenset(own_addresses)
    best: dict[int, bytes] = {}
    for address, visitors in visitors_by_address.items():
        previous = best.get(len(address))
        if previous is None or len(visitors) > len(visitors_by_address[previous]):
            best[len(address)] = address
    return frozenset(best.values())


MOST_SOURCES = 20_000  # beyond it new ones are only counted: a flood from spoofed addresses
MOST_STEPS = 20_000  # of one source
_SYN, _RST = TCP_FLAGS["syn"], TCP_FLAGS["rst"]
ACCEPTED, REFUSED, REPLIED = "accepted", "refused", "replied"  # besides what an ICMP error says


class ReplyPacket(NamedTuple):
    """An answer to a packet: when, what (a constant above, or the text of an ICMP error), and from which address."""

    at_s: float
    kind: str
    by: bytes


@dataclass(slots=True)
class SourceTrace:
    """One source: its packets in order, the answers by connection, and the connections whose answer it received."""

    source: bytes
    steps: list[ReplayStep] = field(default_factory=list)
    answers: dict[Key, ReplyPacket] = field(default_factory=dict)
    acknowledged: set[Key] = field(default_factory=set)

    def answer_to(self, step: ReplayStep) -> ReplyPacket | None:
        """Return the answer to a packet, or None."""
        return self.answers.get(flow_key(step.captured.flow))


class SourceTraces:
    """Replays packets in order and groups them by source."""

    def __init__(self, config: CompiledConfig, is_local: Callable[[bytes], bool]) -> None:
        self._replayer = Replayer(config, is_local)
        self._is_local = is_local
        self._targets = config.targets
        self.by_source: dict[bytes, SourceTrace] = {}
        self.has_answers = False  # the capture has both directions

    def feed_all(self, packets: Iterable[CapturedPacket]) -> None:
        """Feed packets in order."""
        for packet in packets:
            self.feed(packet)

    def feed(self, captured: CapturedPacket) -> ReplayStep | None:
        """Feed a packet; return its step, or None for an answer or a packet of this host's own."""
        flow = captured.flow
        if flow.error and flow.about is not None:
            self._add_reply(
                flow.about.source, flow_key(flow.about), ReplyPacket(captured.at_s, flow.error, flow.source)
            )
            return None
        if captured.state in (ConnectionState.ANSWER, ConnectionState.LATER_ANSWER) and self._answers(flow.source):
            self._add_reply(
                flow.destination, reverse_key(flow), ReplyPacket(captured.at_s, _reply_kind(flow), flow.source)
            )
            return None
        if self._is_local(flow.source) and not (self._is_local(flow.destination) or flow.destination in self._targets):
            return None  # this host's own connection
        trace = self._trace(flow.source)
        if trace is None or len(trace.steps) >= MOST_STEPS:
            return None
        if captured.state is ConnectionState.ACKNOWLEDGED:
            trace.acknowledged.add(flow_key(flow))
        step = self._replayer.replay(captured)
        trace.steps.append(step)
        return step

    def _answers(self, address: bytes) -> bool:
        return self._is_local(address) or address in self._targets

    def _trace(self, source: bytes) -> SourceTrace | None:
        trace = self.by_source.get(source)
        if trace is None and len(self.by_source) < MOST_SOURCES:
            trace = self.by_source[source] = SourceTrace(source)
        return trace

    def _add_reply(self, source: bytes, key: Key, answer: ReplyPacket) -> None:
        self.has_answers = self.has_answers or self._answers(answer.by)
        if (trace := self.by_source.get(source)) is not None:
            trace.answers.setdefault(key, answer)


def _reply_kind(flow: Flow) -> str:
    if flow.protocol == Protocol.UDP or flow.packet is None:
        return REPLIED
    if flow.packet.flags & _RST:
        return REFUSED
    return ACCEPTED if flow.packet.flags & _SYN else REPLIED


MOST_OTHER_PORTS = 16  # a source with more is a scanner, not a client's second address
MOST_PACKETS = 2000  # packets to one port; in a flood a second address is not found


class OtherSources:
    """Index of the other sources' packets to door ports, and of their openings, by time."""

    def __init__(self, config: CompiledConfig, traces: Mapping[bytes, SourceTrace]) -> None:
        self._steps: dict[OpenPort, list[ReplayStep]] = defaultdict(list)
        self._openings: dict[int, list[ReplayStep]] = defaultdict(list)
        wanted = config.ports | config.services.keys()
        for trace in traces.values():
            if len({step.port for step in trace.steps if step.verdict in COUNTED}) > MOST_OTHER_PORTS:
                continue
            for step in trace.steps:
                for index in step.opened:
                    self._openings[index].append(step)
                if (
                    step.service in wanted
                    and step.captured.state is ConnectionState.NEW
                    and step.verdict is not PacketVerdict.FAST
                ):
                    self._steps[step.service].append(step)
        for steps in self._steps.values():
            steps.sort(key=lambda step: step.at_s)

    def packets_to(self, port: OpenPort, source: bytes, since_s: float, until_s: float) -> Iterator[ReplayStep]:
        """Yield packets from others than `source` to a port, in order, from `since_s` to `until_s`."""
        steps = self._steps.get(port, [])
        start = bisect_left(steps, since_s, key=lambda step: step.at_s)
        for step in steps[start : start + MOST_PACKETS]:
            if step.at_s > until_s:
                return
            if step.captured.flow.source != source:
                yield step

    def openings(self, door: int, source: bytes, since_s: float, until_s: float) -> Iterator[ReplayStep]:
        """Yield the packets with which others than `source` opened a door, from `since_s` to `until_s`."""
        for step in self._openings.get(door, ()):
            if since_s <= step.at_s <= until_s and step.captured.flow.source != source:
                yield step
