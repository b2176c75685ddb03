"""Causes after the knock: whether the connection arrived, was answered, or went elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.schema import Mode
from doorward.explain import wording
from doorward.explain.align import Cause, SourceContext
from doorward.explain.conntrack import ConnectionState, key_of
from doorward.explain.replay import SYMBOLS, PacketVerdict, ReplayStep
from doorward.explain.sources import ACCEPTED, REFUSED, REPLIED, ReplyPacket
from doorward.model import TCP_FLAGS, Door, Port, Protocol

EARLY_S = 10.0  # a connection this long before its opening may have been meant for it
SOON_S = 10.0  # a client that connects from another address does so within this time
_SYN = TCP_FLAGS["syn"]


class OpenPeriod(NamedTuple):
    """An opening of a door: from the completed knock to its end."""

    case: SourceContext
    door: Door
    at_s: float
    until_s: float


def visit_of(case: SourceContext, step: ReplayStep, index: int) -> OpenPeriod:
    """Return the opening that a step caused."""
    door = case.house.doors[index]
    return OpenPeriod(case, door, step.at_s, step.at_s + door.for_ms / 1000)


def judge(visit: OpenPeriod) -> Cause:
    """Return what happened to the connection that the opening was for."""
    for judgement in (_command, _came, _too_late, _too_early, _astray, _other_port, _other_source):
        if (found := next(judgement(visit), None)) is not None:
            return found
    what = f"door {visit.door.name} opened, but no connection to {wording.ports(visit.door)} followed"
    return Cause("no_connection", what, "the knock is right: connect after it")


def _command(visit: OpenPeriod) -> Iterator[Cause]:
    if not visit.door.opens:
        yield Cause("ran", f"as it should: door {visit.door.name} opened, and its command ran; it opens no port")


def _tries(visit: OpenPeriod) -> list[ReplayStep]:
    """Return the source's packets that begin connections to the door's ports, in order."""
    return [
        step
        for step in visit.case.steps
        if step.port in visit.door.opens and step.seen.standing is ConnectionState.NEW and _may_begin(step)
    ]


def _may_begin(step: ReplayStep) -> bool:
    packet = step.seen.flow.packet
    return packet is not None and (step.seen.flow.protocol == Protocol.UDP or bool(packet.flags & _SYN))


def _came(visit: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection that arrived while the door was open."""
    inside = [
        step
        for step in _tries(visit)
        if visit.at_s <= step.at_s < visit.until_s and step.verdict in (PacketVerdict.ENTERS, PacketVerdict.PUBLIC)
    ]
    if not inside:
        return
    answers = [answer for step in inside if (answer := visit.case.trace.answer_to(step)) is not None]
    good = next((answer for answer in answers if answer.what in (ACCEPTED, REPLIED)), None)
    yield _answered(visit, inside[0], good or (answers[0] if answers else None))


def _answered(visit: OpenPeriod, step: ReplayStep, answer: ReplyPacket | None) -> Cause:
    name, port, after = visit.door.name, step.port, wording.span(step.at_s - visit.at_s)
    opened = f"door {name} opened, and the connection to {port} came {after} later"
    is_heard = _is_heard(visit, step)
    is_silent = step.seen.flow.protocol == Protocol.UDP and not visit.case.has_answers
    if answer is None and (is_heard or is_silent):  # the client continues as if it had been answered
        remedy = "the capture shows one direction only: capture both to see the answer"
        return Cause("came_in", f"as it should: {opened}", remedy)
    if answer is None:
        what = f"{opened}, but nothing answered"
        return Cause("unanswered", what, "run `doorward doctor`: another firewall, or a route, stands behind the gate")
    if answer.what == REFUSED:
        return Cause("refused", f"{opened}, but {port} refused it", f"no service listens on {port}: start it")
    if answer.what not in (ACCEPTED, REPLIED):
        what = f"{opened}, but {wording.address(answer.by)} answered: {answer.what}"
        return Cause("rejected", what, "run `doorward doctor`: another firewall rejects it")
    if answer.what == ACCEPTED and not is_heard:
        what = f"{opened} and was accepted, but the client never heard the answer"
        return Cause("unheard", what, "look at the way back: another route, or a firewall at the client")
    return Cause("as_it_should", f"as it should: {opened} and was answered")


def _is_heard(visit: OpenPeriod, step: ReplayStep) -> bool:
    keys = {key_of(other.seen.flow) for other in visit.case.steps if other.port == step.port}
    return bool(keys & visit.case.trace.heard)


def _too_late(visit: OpenPeriod) -> Iterator[Cause]:
    late = next((step for step in _tries(visit) if step.at_s >= visit.until_s), None)
    if late is not None:
        lasts = format_duration(visit.door.for_ms)
        after = wording.span_beyond(late.at_s - visit.at_s, visit.door.for_ms / 1000)
        what = f"the connection to {late.port} came {after} after the knock; `for` of door {visit.door.name} is {lasts}"
        yield Cause("too_late", what, "connect sooner, or write a longer `for`")


def _too_early(visit: OpenPeriod) -> Iterator[Cause]:
    early = [step for step in _tries(visit) if visit.at_s - EARLY_S <= step.at_s < visit.at_s]
    if early:
        before = wording.span(visit.at_s - early[-1].at_s)
        what = f"the connection to {early[-1].port} came {before} before the last knock, and was not tried again"
        yield Cause("too_early", what, "connect after the knock; `doorward knock --wait` tells when")


def _other_source(visit: OpenPeriod) -> Iterator[Cause]:
    if (guest := guest_of(visit)) is not None and guest.port is not None:
        yield two_addresses(visit.case.trace.source, guest.seen.flow.source, guest.port)


def guest_of(visit: OpenPeriod) -> ReplayStep | None:
    """Return the first packet from another address if none came from the one that knocked, else None.

    Scanners try ports at all times: it must be the only such source, or have come far sooner than the next.
    """
    case, own = visit.case, visit.case.trace.source
    if any(step.verdict is PacketVerdict.ENTERS for step in _tries(visit)):
        return None
    until_s = min(visit.until_s, visit.at_s + SOON_S)
    found: dict[bytes, ReplayStep] = {}
    for port in visit.door.opens:
        for step in case.neighbours.at(port, own, visit.at_s, until_s):
            other = step.seen.flow.source
            if step.verdict is PacketVerdict.HIDDEN and not any(s.opened for s in case.traces[other].steps):
                found.setdefault(other, step)
    guests = sorted(found.values(), key=lambda step: step.at_s)
    if not guests or any(guest.at_s - visit.at_s < 3 * (guests[0].at_s - visit.at_s) for guest in guests[1:]):
        return None
    return guests[0]


def two_addresses(knocked: bytes, connected: bytes, port: Port) -> Cause:
    """Return the cause for a knock and a connection from different addresses."""
    what = f"the connection to {port} came from {wording.address(connected)}, the knock from {wording.address(knocked)}"
    if len(knocked) != len(connected):
        return Cause("other_family", f"{what}: IPv4 and IPv6", "knock and connect by one of them: -4 or -6")
    if wording.is_same_network(knocked, connected):
        remedy = "bind the client to one address, or turn its temporary addresses off"
        return Cause("other_in_network", f"{what}: two addresses of one client", remedy)
    remedy = "a door opens for the address that knocked: knock from the network that connects, through no other proxy"
    return Cause("other_address", f"{what}: two addresses", remedy)


def _astray(visit: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection to another host."""
    for step in visit.case.steps:
        if step.verdict is PacketVerdict.ELSEWHERE and step.port in visit.door.opens and step.at_s >= visit.at_s:
            there = wording.address(step.seen.flow.destination)
            what = f"door {visit.door.name} opened, but the connection to {step.port} went to {there}, not to this host"
            yield Cause("connection_elsewhere", what, "connect to the host at which the knock went")


def _other_port(visit: OpenPeriod) -> Iterator[Cause]:
    """Yield the cause for a connection to a port that the door does not open."""
    numbers = {port.number for port in visit.door.opens}
    for step in visit.case.steps:
        if step.at_s < visit.at_s or step.port is None or step.seen.standing is not ConnectionState.NEW:
            continue
        opened, opens = f"door {visit.door.name} opened", wording.ports(visit.door)
        if step.port.number in numbers and step.port not in visit.door.opens:
            what = f"{opened}, but the connection went to {step.port}; the door opens {opens}"
            yield Cause("other_protocol", what, "name the right protocol in `opens`")
        if step.verdict is PacketVerdict.HIDDEN and step.port not in visit.door.opens:
            owner = visit.case.house.doors[visit.case.house.services[step.port][0]]
            what = f"{opened}, but the connection went to {step.port}, which door {owner.name} opens"
            yield Cause(
                "wrong_door", what, f"knock for door {owner.name}: {wording.knocks(owner) or 'it opens by hand'}"
            )
        if step.verdict in SYMBOLS and _may_begin(step) and step.port not in visit.case.house.ports:
            what = f"{opened}, but the connection went to {step.port}, which the door does not open ({opens})"
            yield Cause("other_port", what, f"add {step.port} to its `opens`, or connect to {opens}")


def answered_port(case: SourceContext) -> Port | None:
    """Return a port that answered though no port sequence had opened it, or None."""
    for step in case.steps:
        answer = case.trace.answer_to(step) if step.verdict is PacketVerdict.HIDDEN else None
        if answer is not None and answer.what in (ACCEPTED, REPLIED):
            return step.port
    return None


def without_a_knock(case: SourceContext) -> Cause | None:
    """Return the cause for a source that only tried the ports that doors open, or None."""
    tries = [step for step in case.steps if step.verdict is PacketVerdict.HIDDEN]
    if not tries:
        return None
    port = tries[-1].port
    assert port is not None  # noqa: S101 - a service has one
    door = case.house.doors[case.house.services[port][0]]
    if (answered := answered_port(case)) is not None:
        what = f"no knock, and {answered} answered all the same: the gate does not hide it"
        seen = "mode observe hides nothing" if case.house.gate.mode is Mode.OBSERVE else "run `doorward status`"
        return Cause("not_hidden", what, f"{seen}; who connected before the capture is not seen to have knocked")
    what = f"no knock: {wording.counted(len(tries), 'packet')} went to {port}, and none to a port of a sequence"
    return Cause(
        "no_knock", what, f"knock first; door {door.name} wants {wording.knocks(door) or 'no knock, but a hand'}"
    )
