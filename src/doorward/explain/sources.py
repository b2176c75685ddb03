"""Traces by source address: each source's packets in order, and the answers to them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState, Key, key_of, reverse_of
from doorward.explain.replay import SYMBOLS, CapturedPacket, PacketVerdict, Replayer, ReplayStep
from doorward.model import TCP_FLAGS, Port, Protocol
from doorward.packets.decode import Flow


def server_addresses(
    seen: Iterable[CapturedPacket], house: CompiledConfig, own: Collection[bytes] = ()
) -> frozenset[bytes]:
    """Return this host's addresses, packed: per family, the destination with the most (source, door port) pairs.

    If some of the destinations are in `own`, the addresses of the host that runs this, those are returned instead.
    """
    numbers, found = house.numbers, defaultdict[bytes, set[tuple[bytes, int]]](set)
    for flow in (packet.flow for packet in seen if packet.standing is ConnectionState.NEW):
        if flow.port is not None and flow.port.number in numbers and flow.destination not in house.targets:
            found[flow.destination].add((flow.source, flow.port.number))
    if ours := found.keys() & set(own):
        return frozenset(ours)
    best: dict[int, bytes] = {}
    for address, visitors in found.items():
        before = best.get(len(address))
        if before is None or len(visitors) > len(found[before]):
            best[len(address)] = address
    return frozenset(best.values())


MOST_SOURCES = 20_000  # beyond it new ones are only counted: a flood from spoofed addresses
MOST_STEPS = 20_000  # of one source
_SYN, _RST = TCP_FLAGS["syn"], TCP_FLAGS["rst"]
ACCEPTED, REFUSED, REPLIED = "accepted", "refused", "replied"  # besides what an ICMP error says


class ReplyPacket(NamedTuple):
    """An answer to a packet: when, what (a constant above, or the text of an ICMP error), and from which address."""

    at_s: float
    what: str
    by: bytes


@dataclass(slots=True)
class SourceTrace:
    """One source: its packets in order, the answers by connection, and the connections whose answer it received."""

    source: bytes
    steps: list[ReplayStep] = field(default_factory=list)
    answers: dict[Key, ReplyPacket] = field(default_factory=dict)
    heard: set[Key] = field(default_factory=set)

    def answer_to(self, step: ReplayStep) -> ReplyPacket | None:
        """Return the answer to a packet, or None."""
        return self.answers.get(key_of(step.seen.flow))


class SourceTraces:
    """Replays packets in order and groups them by source."""

    def __init__(self, house: CompiledConfig, is_local: Callable[[bytes], bool]) -> None:
        self._follower = Replayer(house, is_local)
        self._is_local = is_local
        self._here = house.targets
        self.of: dict[bytes, SourceTrace] = {}
        self.has_answers = False  # the capture has both directions
        self.left_out = 0

    def feed_all(self, seen: Iterable[CapturedPacket]) -> None:
        """Feed packets in order."""
        for packet in seen:
            self.feed(packet)

    def feed(self, seen: CapturedPacket) -> ReplayStep | None:
        """Feed a packet; return its step, or None for an answer or a packet of this host's own."""
        flow = seen.flow
        if flow.error and flow.about is not None:
            self._answered(flow.about.source, key_of(flow.about), ReplyPacket(seen.at_s, flow.error, flow.source))
            return None
        if seen.standing in (ConnectionState.ANSWER, ConnectionState.LATER_ANSWER) and self._is_local(flow.source):
            self._answered(flow.destination, reverse_of(flow), ReplyPacket(seen.at_s, _meaning(flow), flow.source))
            return None
        if self._is_local(flow.source) and not (self._is_local(flow.destination) or flow.destination in self._here):
            return None  # this host's own connection
        trace = self._trace(flow.source)
        if trace is None or len(trace.steps) >= MOST_STEPS:
            self.left_out += 1
            return None
        if seen.standing is ConnectionState.HEARD:
            trace.heard.add(key_of(flow))
        step = self._follower.replay(seen)
        trace.steps.append(step)
        return step

    def _trace(self, source: bytes) -> SourceTrace | None:
        trace = self.of.get(source)
        if trace is None and len(self.of) < MOST_SOURCES:
            trace = self.of[source] = SourceTrace(source)
        return trace

    def _answered(self, source: bytes, key: Key, answer: ReplyPacket) -> None:
        self.has_answers = self.has_answers or self._is_local(answer.by)
        if (trace := self.of.get(source)) is not None:
            trace.answers.setdefault(key, answer)


def _meaning(flow: Flow) -> str:
    if flow.protocol == Protocol.UDP or flow.packet is None:
        return REPLIED
    if flow.packet.flags & _RST:
        return REFUSED
    return ACCEPTED if flow.packet.flags & _SYN else REPLIED


MOST_STRANGER_PORTS = 16  # a source with more is a scanner, not a client's second address
MOST_LOOKED_AT = 2000  # packets to one port; in a flood a second address is not found


class OtherSources:
    """Index of the other sources' packets to door ports, and of their openings, by time."""

    def __init__(self, house: CompiledConfig, traces: Mapping[bytes, SourceTrace]) -> None:
        self._steps: dict[Port, list[ReplayStep]] = defaultdict(list)
        self._openings: dict[int, list[ReplayStep]] = defaultdict(list)
        wanted = house.ports | house.services.keys()
        for trace in traces.values():
            if len({step.port for step in trace.steps if step.verdict in SYMBOLS}) > MOST_STRANGER_PORTS:
                continue
            for step in trace.steps:
                for index in step.opened:
                    self._openings[index].append(step)
                if (
                    step.port in wanted
                    and step.seen.standing is ConnectionState.NEW
                    and step.verdict is not PacketVerdict.FAST
                ):
                    self._steps[step.port].append(step)
        for steps in self._steps.values():
            steps.sort(key=lambda step: step.at_s)

    def at(self, port: Port, source: bytes, since_s: float, until_s: float) -> Iterator[ReplayStep]:
        """Yield packets from others than `source` to a port, in order, from `since_s` to `until_s`."""
        steps = self._steps.get(port, [])
        start = bisect_left(steps, since_s, key=lambda step: step.at_s)
        for step in steps[start : start + MOST_LOOKED_AT]:
            if step.at_s > until_s:
                return
            if step.seen.flow.source != source:
                yield step

    def openings(self, door: int, source: bytes, since_s: float, until_s: float) -> Iterator[ReplayStep]:
        """Yield the packets with which others than `source` opened a door, from `since_s` to `until_s`."""
        for step in self._openings.get(door, ()):
            if since_s <= step.at_s <= until_s and step.seen.flow.source != source:
                yield step
