"""Causes after the knock: whether the connection arrived, was answered, or went elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.schema import Mode
from doorward.explain import wording
from doorward.explain.align import Cause, SourceContext
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.conntrack import ConnectionState, flow_key
from doorward.explain.replay import COUNTED, PacketVerdict, ReplayStep
from doorward.explain.sources import ACCEPTED, REFUSED, REPLIED, ReplyPacket
from doorward.model import TCP_FLAGS, Door, OpenPort, Port, Protocol

EARLY_S = 10.0  # a connection this long before its opening may have been meant for it
SOON_S = 10.0  # a client that connects from another address does so within this time
_SYN = TCP_FLAGS["syn"]


class OpenPeriod(NamedTuple):
    """An opening of a door: from the completed knock to its end."""

    context: SourceContext
    door: Door
    at_s: float
    until_s: float


def build_open_period(context: SourceContext, step: ReplayStep, index: int) -> OpenPeriod:
    """Return the opening that a step caused."""
    door = context.config.doors[index]
    return OpenPeriod(context, door, step.at_s, step.at_s + door.for_ms / 1000)


def exclusion_cause(period: OpenPeriod) -> Cause | None:
    """Return the cause if the knock was correct, and the door opens nothing to its address family; else None."""
    fault, _, remedy = period.door.exclusion(ip_address(period.context.trace.source)).rpartition("; ")
    return Cause("family", f"the knock was correct, but {fault}", remedy) if fault else None


def connection_cause(period: OpenPeriod) -> Cause:
    """Return what happened to the connection that the opening was for."""
    for find_cause in (
        _command,
        _used_up,
        _connected,
        _not_in_family,
        _too_late,
        _too_early,
        _other_host,
        _other_port,
        _other_source,
    ):
        if (cause := next(find_cause(period), None)) is not None:
            return cause
    what = f"door {period.door.name} opened, but no connection to {wording.ports(period.door)} followed"
    return Cause("no_connection", what, "the knock was correct: connect after it")


def _command(period: OpenPeriod) -> Iterator[Cause]:
    if not period.door.all_opens:
        yield Cause("ran", f"success: door {period.door.name} opened and its command ran; it opens no port")


def _used_up(period: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for another connection after the one that a door with `once` opened for."""
    in_time = [step for step in _connection_packets(period) if period.at_s <= step.at_s < period.until_s]
    first = next((step for step in in_time if step.verdict is PacketVerdict.ENTERS), None)
    later = next((step for step in in_time if step.verdict is PacketVerdict.HIDDEN), None)
    if period.door.once and first is not None and later is not None and later.at_s >= first.at_s:
        came = f"came {wording.span(first.at_s - period.at_s)} later from port {first.captured.flow.source_port}"
        what = f"door {period.door.name} opened for one connection, which {came}; the one after it was dropped"
        yield Cause("used", what, "knock before each connection, or leave out `once`")


def _connection_packets(period: OpenPeriod) -> list[ReplayStep]:
    """Return the source's packets that begin connections to the door's ports, in order."""
    return [
        step
        for step in period.context.steps
        if step.service in period.door.all_opens and step.captured.state is ConnectionState.NEW and _may_begin(step)
    ]


def _may_begin(step: ReplayStep) -> bool:
    packet = step.captured.flow.packet
    return packet is not None and (step.captured.flow.protocol == Protocol.UDP or bool(packet.flags & _SYN))


def _connected(period: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection that arrived while the door was open."""
    connections = [
        step
        for step in _connection_packets(period)
        if period.at_s <= step.at_s < period.until_s and step.verdict in (PacketVerdict.ENTERS, PacketVerdict.PUBLIC)
    ]
    if not connections:
        return
    answers = [answer for step in connections if (answer := period.context.trace.answer_to(step)) is not None]
    best = next((answer for answer in answers if answer.kind in (ACCEPTED, REPLIED)), None)
    yield _answer_cause(period, connections[0], best or (answers[0] if answers else None))


def _answer_cause(period: OpenPeriod, step: ReplayStep, answer: ReplyPacket | None) -> Cause:
    name, port, after = period.door.name, step.service, wording.span(step.at_s - period.at_s)
    opened = f"door {name} opened, and the connection to {port} came {after} later"
    is_answer_received = _is_answer_received(period, step)
    is_silent = step.captured.flow.protocol == Protocol.UDP and not period.context.has_answers
    if answer is None and (is_answer_received or is_silent):  # the client continues as if it had been answered
        remedy = "the capture shows one direction only: capture both to see the answer"
        return Cause("connected_one_way", f"success: {opened}", remedy)
    if answer is None:
        what = f"{opened}, but nothing answered"
        return Cause("unanswered", what, "run `doorward doctor`: another firewall or a route may drop it")
    if answer.kind == REFUSED:
        return Cause("refused", f"{opened}, but {port} refused it", f"start the service: nothing listens on {port}")
    if answer.kind not in (ACCEPTED, REPLIED):
        what = f"{opened}, but {wording.address(answer.by)} answered: {answer.kind}"
        return Cause("rejected", what, "run `doorward doctor`: another firewall rejects it")
    if answer.kind == ACCEPTED and not is_answer_received:
        what = f"{opened} and was accepted, but the answer did not reach the client"
        return Cause("answer_lost", what, "check the return path: routing, or a firewall at the client")
    return Cause("connected", f"success: {opened} and was answered")


def _is_answer_received(period: OpenPeriod, step: ReplayStep) -> bool:
    keys = {flow_key(earlier.captured.flow) for earlier in period.context.steps if earlier.service == step.service}
    return bool(keys & period.context.trace.acknowledged)


def _not_in_family(period: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection to a port that leads to a host of the other address family."""
    reached = period.door.opens_to(ip_address(period.context.trace.source))
    for step in _connection_packets(period):
        if period.at_s <= step.at_s < period.until_s and step.service not in reached:
            what = (
                f"door {period.door.name} opened, but {step.service} leads only to a host of the other address family"
            )
            yield Cause("family", what, "use that address family")


def _too_late(period: OpenPeriod) -> Iterator[Cause]:
    late = next((step for step in _connection_packets(period) if step.at_s >= period.until_s), None)
    if late is not None:
        after = wording.span_beyond(late.at_s - period.at_s, period.door.for_ms / 1000)
        lasts = f"`for` of door {period.door.name} is {format_duration(period.door.for_ms)}"
        what = f"the connection to {late.service} came {after} after the knock; {lasts}"
        yield Cause("too_late", what, "connect sooner, or increase `for`")


def _too_early(period: OpenPeriod) -> Iterator[Cause]:
    early = [step for step in _connection_packets(period) if period.at_s - EARLY_S <= step.at_s < period.at_s]
    if early:
        before = wording.span(period.at_s - early[-1].at_s)
        what = f"the connection to {early[-1].service} came {before} before the last knock, and was not retried"
        yield Cause("too_early", what, "connect after the knock; `doorward knock --wait` waits until the port is open")


def _other_source(period: OpenPeriod) -> Iterator[Cause]:
    if (visitor := find_other_visitor(period)) is not None and visitor.service is not None:
        yield two_address_cause(period.context.trace.source, visitor.captured.flow.source, visitor.service)


def find_other_visitor(period: OpenPeriod) -> ReplayStep | None:
    """Return the first packet from another address if none came from the one that knocked, else None.

    Scanners try ports at all times: it must be the only such source, or have come far sooner than the next.
    """
    context, own = period.context, period.context.trace.source
    if any(step.verdict is PacketVerdict.ENTERS for step in _connection_packets(period)):
        return None
    until_s = min(period.until_s, period.at_s + SOON_S)
    first_packets: dict[bytes, ReplayStep] = {}
    for port in period.door.all_opens:
        for step in context.other_sources.packets_to(port, own, period.at_s, until_s):
            source = step.captured.flow.source
            if step.verdict is PacketVerdict.HIDDEN and not any(s.opened for s in context.traces[source].steps):
                first_packets.setdefault(source, step)
    visitors = sorted(first_packets.values(), key=lambda step: step.at_s)
    if not visitors or any(
        visitor.at_s - period.at_s < 3 * (visitors[0].at_s - period.at_s) for visitor in visitors[1:]
    ):
        return None
    return visitors[0]


def two_address_cause(knocked: bytes, connected: bytes, port: OpenPort) -> Cause:
    """Return the cause for a knock and a connection from different addresses."""
    what = f"the connection to {port} came from {wording.address(connected)}, the knock from {wording.address(knocked)}"
    if len(knocked) != len(connected):
        return Cause("other_family", f"{what}: IPv4 and IPv6", "use one address family for both: -4 or -6")
    if wording.is_same_network(knocked, connected):
        remedy = "bind the client to one address, or disable its temporary addresses"
        return Cause("other_in_network", f"{what}: two addresses of one client", remedy)
    remedy = "a door opens only to the address that knocked: knock and connect from the same network, without a proxy"
    return Cause("other_address", f"{what}: two addresses", remedy)


def _other_host(period: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection to another host."""
    for step in period.context.steps:
        if step.verdict is PacketVerdict.ELSEWHERE and step.port in period.door.opens and step.at_s >= period.at_s:
            destination = wording.address(step.captured.flow.destination)
            opened = f"door {period.door.name} opened"
            what = f"{opened}, but the connection to {step.port} went to {destination}, not to this host"
            yield Cause("connection_elsewhere", what, "connect to the host that received the knock")


def _other_port(period: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection to a port that the door does not open."""
    numbers = {port.number for port in period.door.all_opens}
    for step in period.context.steps:
        if step.at_s < period.at_s or step.port is None or step.captured.state is not ConnectionState.NEW:
            continue
        opened, opens = f"door {period.door.name} opened", wording.ports(period.door)
        if step.port.number in numbers and step.port not in [Port(*port[:2]) for port in period.door.all_opens]:
            what = f"{opened}, but the connection went to {step.port}; the door opens {opens}"
            yield Cause("other_protocol", what, "name the right protocol in `opens`")
        if step.verdict is PacketVerdict.HIDDEN and step.service and step.service not in period.door.all_opens:
            owner = period.context.config.doors[period.context.config.services[step.service][0]]
            what = f"{opened}, but the connection went to {step.service}, which door {owner.name} opens"
            yield Cause("wrong_door", what, _how_to_open(period.context.config, owner))
        if step.verdict in COUNTED and _may_begin(step) and step.port not in period.context.config.ports:
            what = f"{opened}, but the connection went to {step.port}, which the door does not open ({opens})"
            yield Cause("other_port", what, f"add {step.port} to its `opens`, or connect to {opens}")


def answered_port(context: SourceContext) -> OpenPort | None:
    """Return a port that answered though no port sequence had opened it, or None."""
    for step in context.steps:
        answer = context.trace.answer_to(step) if step.verdict is PacketVerdict.HIDDEN else None
        if answer is not None and answer.kind in (ACCEPTED, REPLIED):
            return step.service
    return None


def no_knock_cause(context: SourceContext) -> Cause | None:
    """Return the cause for a source that only tried the ports that doors open, or None."""
    attempts = [step for step in context.steps if step.verdict is PacketVerdict.HIDDEN]
    if not attempts:
        return None
    port = attempts[-1].service
    assert port is not None  # noqa: S101 - a service has one
    door = context.config.doors[context.config.services[port][0]]
    if (answered := answered_port(context)) is not None:
        what = f"no knock, yet {answered} answered: the gate does not hide it"
        remedy = "mode observe hides nothing" if context.config.gate.mode is Mode.OBSERVE else "run `doorward status`"
        return Cause("not_hidden", what, f"{remedy}; a knock from before the capture does not show in it")
    what = f"no knock: {wording.counted(len(attempts), 'packet')} went to {port}, and none to a port of a sequence"
    return Cause("no_knock", what, _how_to_open(context.config, door))


def _how_to_open(config: CompiledConfig, door: Door) -> str:
    if door.knock:
        return f"knock first; door {door.name} expects {wording.knocks(door)}"
    signed = "send a signed knock first, or " if config.signed_ports else ""
    return f"door {door.name} has no port sequence; {signed}open it with `doorward open {door.name} ADDRESS`"
