"""Causes in single knock packets: destination, interface, protocol, TCP flags, rate and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doorward.config.duration import format_duration
from doorward.core.tracker import BURST, RATE_PER_S
from doorward.explain import wording
from doorward.explain.align import Cause, KnockAttempt, KnockMatch
from doorward.explain.conntrack import flow_key
from doorward.explain.replay import COUNTED, UNNAMED, MachineStep, PacketVerdict, ReplayStep
from doorward.explain.sources import ACCEPTED, REFUSED, REPLIED
from doorward.model import TCP_FLAGS, FlagFilter, Protocol

_ECN = TCP_FLAGS["ece"] | TCP_FLAGS["cwr"]
_FROM_THE_HOST = (ACCEPTED, REFUSED, REPLIED)


def packet_causes(attempt: KnockAttempt) -> Iterator[Cause]:
    """Yield what is wrong with the knocks that arrived, the most severe first."""
    yield from _unreachable(attempt)
    yield from _inside(attempt)
    yield from _too_fast(attempt)
    yield from _elsewhere(attempt)
    for match in attempt.alignment.matches:
        yield from _protocol(attempt, match)
        yield from _flags(attempt, match)
        yield from _connection(attempt, match)
        yield from _broken(match)


def timing_causes(attempt: KnockAttempt) -> Iterator[Cause]:
    """Yield the cause for a knock that took too long, with the packet from which the time counts."""
    matches, within = attempt.alignment.matches, format_duration(attempt.door.within_ms)
    remedy, first_ns = "knock faster, or increase `within`", matches[0].step.captured.at_ns
    for match in matches[1:]:
        machine_step = _machine_step(attempt, match.step)
        began_ns = first_ns if machine_step is None or machine_step.began_ns is None else machine_step.began_ns
        took_s = (match.step.captured.at_ns - began_ns) / 1e9
        if took_s < attempt.within_s:
            continue
        knock = f"the {wording.ordinal(match.knock + 1)} knock came {wording.span_beyond(took_s, attempt.within_s)}"
        if began_ns < first_ns:
            first = attempt.door.knock[0]
            what = f"{knock} after the first packet to {first}; sending that again does not restart `within` ({within})"
            yield Cause("late_after_repeat", what, f"wait {within}, and knock again without repeating the first knock")
        else:
            yield Cause("late", f"{knock} after the first; `within` is {within}", remedy)
        return


def _machine_step(attempt: KnockAttempt, step: ReplayStep) -> MachineStep | None:
    machine = attempt.context.config.machine_by_door[attempt.alignment.door]
    return next((machine_step for machine_step in step.machine_steps if machine_step.machine == machine), None)


def _named(matches: Sequence[KnockMatch], total: int) -> str:
    """Return `the second knock`, `knocks 1 and 3` or `the knocks`."""
    if len(matches) == total > 1:
        return "the knocks"
    if len(matches) == 1:
        return f"the {wording.ordinal(matches[0].knock + 1)} knock"
    return f"knocks {wording.listed([str(match.knock + 1) for match in matches])}"


def _matches_with(attempt: KnockAttempt, *verdicts: PacketVerdict) -> list[KnockMatch]:
    return [match for match in attempt.alignment.matches if match.step.verdict in verdicts]


def _unreachable(attempt: KnockAttempt) -> Iterator[Cause]:
    """Yield the cause for an ICMP error from a router: the packet got no further."""
    for match in attempt.alignment.matches:
        answer = attempt.context.trace.answer_to(match.step)
        if answer is None or answer.kind in _FROM_THE_HOST or attempt.context.is_local(answer.by):
            continue
        knock = f"the {wording.ordinal(match.knock + 1)} knock"
        what = f"{knock} did not arrive: {wording.address(answer.by)} answered for {_port(match)}: {answer.kind}"
        yield Cause("unreachable", what, "check the route, and the firewall of that router")
        return


def _port(match: KnockMatch) -> str:
    return str(match.step.port)


def _inside(attempt: KnockAttempt) -> Iterator[Cause]:
    matches = _matches_with(attempt, PacketVerdict.INSIDE)
    if not matches:
        return
    interface = matches[0].step.captured.interface
    knocks = _named(matches, len(attempt.alignment.matches))
    if interface and interface != "lo" and not interface.startswith(UNNAMED):
        watched = wording.listed(attempt.context.config.gate.interfaces)
        what = f"{knocks} arrived on {interface}; `interfaces` lists only {watched}"
        yield Cause("interface", what, f"add {interface} to `interfaces`, or knock through a watched interface")
    else:
        source = wording.address(attempt.context.trace.source)
        what = f"{knocks} came from this host itself ({source}): loopback is not watched"
        yield Cause("own_packets", what, "knock from another host")


def _too_fast(attempt: KnockAttempt) -> Iterator[Cause]:
    matches = _matches_with(attempt, PacketVerdict.FAST)
    if not matches:
        return
    context, until_s = attempt.context, matches[0].step.at_s
    own = _count_recent(context.steps, until_s)
    neighbors = [
        trace for trace in context.traces.values() if wording.is_same_network(trace.source, context.trace.source)
    ]
    together = sum(_count_recent(trace.steps, until_s) for trace in neighbors)
    rule = f"the limit is {RATE_PER_S}/s (burst {BURST})"
    remedy = "stop the other traffic to this host, wait two seconds, and knock again"
    if own < BURST < together:
        sent = f"its network (/64) sent {wording.counted(together, 'knock packet')} within two seconds"
        what = f"rate limit exceeded: {sent}, this address {own}"
        yield Cause("network_too_fast", f"{what}; {rule}", remedy)
    else:
        what = f"rate limit exceeded: {wording.counted(own, 'knock packet')} within two seconds; {rule}"
        yield Cause("too_fast", what, remedy)


def _count_recent(steps: Sequence[ReplayStep], until_s: float) -> int:
    """Count the knock packets of the two seconds before, the time in which the token bucket refills."""
    counted = COUNTED | {PacketVerdict.FAST}
    return sum(until_s - 2 <= step.at_s <= until_s and step.verdict in counted for step in steps)


def _elsewhere(attempt: KnockAttempt) -> Iterator[Cause]:
    target, matches = attempt.door.target, attempt.alignment.matches
    wrong = [match for match in matches if not _is_watched_destination(attempt, match.step)]
    if not wrong:
        return
    knocks, destinations = _named(wrong, len(matches)), _destinations(wrong)
    others = [match for match in matches if match not in wrong]
    if others:
        rest = "other" if len(others) == 1 else "others"
        what = f"{knocks} went to {destinations}, the {rest} to {_destinations(others)}"
        yield Cause("part_elsewhere", what, "use the address: the name may have several")
    elif target is not None:
        what = f"{knocks} went to {destinations}, which is not the target of door {attempt.door.name}, {target}"
        yield Cause("not_the_target", what, f"send the knock to {target}")
    else:
        own_addresses = wording.listed(list(map(wording.address, attempt.context.own_hosts())))
        what = (
            f"{knocks} went to {destinations}, which is not this host{f' ({own_addresses})' if own_addresses else ''}"
        )
        yield Cause(
            "elsewhere", what, f"knock at {own_addresses or 'its address'}, or name this host's addresses with --host"
        )


def _is_watched_destination(attempt: KnockAttempt, step: ReplayStep) -> bool:
    destination, target = step.captured.flow.destination, attempt.door.target
    return attempt.context.is_local(destination) if target is None else destination == target.packed


def _destinations(matches: Sequence[KnockMatch]) -> str:
    return wording.listed(sorted({wording.address(match.step.captured.flow.destination) for match in matches}))


def _protocol(attempt: KnockAttempt, match: KnockMatch) -> Iterator[Cause]:
    wanted = attempt.door.knock[match.knock]
    if match.is_exact:
        return
    knock = f"the {wording.ordinal(match.knock + 1)} knock"
    what = f"{knock} came as {_port(match)}; door {attempt.door.name} expects {wanted}"
    remedy = f"send it as {wanted}; knockd's client writes {wanted.number}:{wanted.protocol.name.lower()}"
    yield Cause("tcp_for_udp" if wanted.protocol is Protocol.UDP else "udp_for_tcp", what, remedy)


def _flags(attempt: KnockAttempt, match: KnockMatch) -> Iterator[Cause]:
    packet, wanted = match.step.captured.flow.packet, attempt.door.flags
    if not match.is_exact or packet is None or packet.port.protocol is Protocol.UDP or wanted.passes(packet.flags):
        return
    what = (
        f"the {wording.ordinal(match.knock + 1)} knock's flags were {wording.flags(packet.flags)};"
        f" `flags` of door {attempt.door.name} is {wanted}"
    )
    if _is_ecn_alone(packet.flags, wanted):
        yield Cause(
            "flags_ecn",
            f"{what}: the client requests ECN",
            "remove !ece and !cwr from `flags`, or set net.ipv4.tcp_ecn=2 on the client",
        )
    else:
        yield Cause("flags", what, "knock with plain connection attempts, as `doorward knock` does")


def _is_ecn_alone(flags: int, wanted: FlagFilter) -> bool:
    return bool(flags & _ECN & wanted.mask) and wanted.passes(flags & ~_ECN)


def _connection(attempt: KnockAttempt, match: KnockMatch) -> Iterator[Cause]:
    if match.step.verdict is PacketVerdict.CONNECTION and match.is_exact:
        earlier = next(
            step for step in attempt.context.steps if flow_key(step.captured.flow) == flow_key(match.step.captured.flow)
        )
        what = (
            f"the {wording.ordinal(match.knock + 1)} knock ({_port(match)}) belongs to an established connection"
            f" from port {earlier.captured.flow.source_port}: only a new one can be a knock"
        )
        yield Cause("established", what, "send each knock from a port of its own, as `doorward knock` does")


def _broken(match: KnockMatch) -> Iterator[Cause]:
    if match.step.verdict is not PacketVerdict.BROKEN:
        return
    knock, captured = f"the {wording.ordinal(match.knock + 1)} knock", match.step.captured
    if captured.is_cut:
        yield Cause("cut", f"the capture truncated {knock}", "capture again with `tcpdump -s 0`")
    else:
        what = f"{knock} has an incomplete header: {captured.flow.trouble}"
        yield Cause("broken", what, "check the program or device that sends or rewrites it")
