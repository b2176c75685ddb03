"""Diagnose one source: which door it meant, whether the door opened, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from doorward.explain import sequence_causes, wording
from doorward.explain.align import Alignment, Cause, Diagnosis, KnockAttempt, SourceContext, best_alignment
from doorward.explain.connection_causes import (
    SOON_S,
    answered_port,
    build_open_period,
    connection_cause,
    exclusion_cause,
    find_other_visitor,
    no_knock_cause,
    two_address_cause,
)
from doorward.explain.conntrack import ConnectionState
from doorward.explain.packet_causes import packet_causes, timing_causes
from doorward.explain.replay import COUNTED, PacketVerdict, ReplayStep
from doorward.model import Door

MOST_SECONDARY = 3
MOST_ATTEMPTS = 20  # attempts of one source that are searched for the last one
SWEEP_PORTS = 20  # distinct ports: more than a sequence has, or than a user's programs try
# When the packets cannot have counted at all, further faults do not matter.
_DECISIVE = frozenset({"unreachable", "own_packets", "interface", "elsewhere", "not_the_target"})


def diagnose(context: SourceContext, wanted: int | None = None) -> Diagnosis:
    """Return the diagnosis for a source; `wanted` is the index of the door in question, or None for any."""
    door = None if wanted is None else context.config.doors[wanted]
    if door is not None and not door.knock:
        what = f"door {door.name} has no port sequence: only a signed knock or an operator opens it"
        return Diagnosis(Cause("no_sequence", what, f"`doorward open {door.name} ADDRESS` opens it"), door.name)
    opening = _last_opening(context, wanted)
    after = context.steps if opening is None else context.steps[context.steps.index(opening[0]) + 1 :]
    alignment = _last_alignment(context, after, wanted)
    if alignment is not None and _is_sweep(context, alignment):
        alignment = None
    faults = (
        [] if alignment is None else _faults(sequence_causes.with_displaced_packets(KnockAttempt(context, alignment)))
    )
    if opening is not None and not (alignment and faults and _is_attempt(context, alignment)):
        return _diagnose_opening(context, *opening)
    if alignment is None:
        return Diagnosis(_no_attempt_cause(context), None if door is None else door.name)
    meant = context.config.doors[alignment.door]
    first, *also = faults or [_unexplained(meant)]
    if opening is not None:
        first = _after_opening(context, opening[1], meant, first)
    return Diagnosis(first, meant.name, opening is not None, tuple(also[:MOST_SECONDARY]))


def _last_opening(context: SourceContext, wanted: int | None) -> tuple[ReplayStep, int] | None:
    for step in reversed(context.steps):
        for index in step.opened:
            if wanted in (None, index):
                return step, index
    return None


def _last_alignment(context: SourceContext, steps: Sequence[ReplayStep], wanted: int | None) -> Alignment | None:
    """Return the best alignment; of several attempts with different faults, that of the last one."""
    alignment = best_alignment(context.config, steps, wanted)
    for _ in range(MOST_ATTEMPTS):
        if alignment is None:
            break
        last = alignment.matches[-1].step.captured.number
        steps = [step for step in steps if step.captured.number > last]
        later = best_alignment(context.config, steps, wanted)
        if later is None or not _is_attempt(context, later):
            break
        alignment = later
    return alignment


def _is_attempt(context: SourceContext, alignment: Alignment) -> bool:
    """Return whether more than half of the knocks match, so that this is an attempt and not just some packet."""
    return len(alignment.matches) > len(context.config.doors[alignment.door].knock) / 2


def _after_opening(context: SourceContext, opened: int, meant: Door, fault: Cause) -> Cause:
    """Return the fault of a failed attempt, with a note that a door had opened before it."""
    times = sum(opened in step.opened for step in context.steps)
    door = context.config.doors[opened]
    before = f"door {door.name} opened" + (f" {times} times" if times > 1 else "")
    last = "the last attempt" if door is meant else f"the last attempt at door {meant.name}"
    return fault._replace(what=f"{before}; {last} did not open it: {fault.what}")


def _diagnose_opening(context: SourceContext, step: ReplayStep, index: int) -> Diagnosis:
    period = build_open_period(context, step, index)
    unreachable = next(
        (fault for fault in _packet_causes_before(context, step, index) if fault.kind == "unreachable"), None
    )
    if unreachable is not None:
        return Diagnosis(unreachable, period.door.name)
    if (excluded := exclusion_cause(period)) is not None:
        return Diagnosis(excluded, period.door.name)
    return Diagnosis(connection_cause(period), period.door.name, True)


def _packet_causes_before(context: SourceContext, step: ReplayStep, index: int) -> Iterable[Cause]:
    upto = context.steps[: context.steps.index(step) + 1]
    alignment = best_alignment(context.config, upto, index)
    return () if alignment is None else packet_causes(KnockAttempt(context, alignment))


def _faults(attempt: KnockAttempt) -> list[Cause]:
    packets = list(packet_causes(attempt))
    if packets and packets[0].kind in _DECISIVE:
        return packets[:1]
    causes = [*packets, *sequence_causes.sequence_causes(attempt), *timing_causes(attempt)]
    return list({fault.kind: fault for fault in reversed(causes)}.values())[::-1]


def _unexplained(door: Door) -> Cause:
    what = f"the knocks of door {door.name} came in order and in time, but it did not open"
    return Cause("unexplained", what, "please report this, with the capture and the configuration")


def _is_sweep(context: SourceContext, alignment: Alignment) -> bool:
    """Return whether the source tried so many ports that those of the door are among them by chance."""
    ports = {step.port for step in context.steps if step.verdict in COUNTED or step.verdict is PacketVerdict.FAST}
    between = sum(1 for _ in alignment.between(alignment.matches[0].step, alignment.matches[-1].step))
    door = context.config.doors[alignment.door]
    near = len(alignment.matches) == len(door.knock) and between <= sequence_causes.MANY_STRAYS + len(door.knock)
    return len(ports) >= SWEEP_PORTS and not near


def _no_attempt_cause(context: SourceContext) -> Cause:
    """Return the cause for a source that attempted no sequence."""
    if signed := list(dict.fromkeys(str(step.port) for step in context.steps if step.verdict is PacketVerdict.SIGNED)):
        port = answered_port(context)
        answered = f"; {port} answered it" if port else ""
        what = f"it sent to {', '.join(signed)}, for signed knocks, and no port sequence{answered}"
        command = f"`doorward explain {wording.address(context.trace.source)}` shows the daemon's decision"
        return Cause("signed", what, f"a capture cannot show whether it is valid: {command}")
    if (fault := no_knock_cause(context)) is not None:
        return _other_knocker_cause(context) or fault
    counted = [step for step in context.steps if step.verdict in COUNTED or step.verdict is PacketVerdict.FAST]
    ports = list(dict.fromkeys(str(step.port) for step in counted))
    if len(ports) >= SWEEP_PORTS:
        duration = wording.span(counted[-1].at_s - counted[0].at_s)
        what = f"port scan: {wording.counted(len(ports), 'port')} in {duration}; a scan opens no door"
        return Cause("sweep", what)
    if ports:
        shown = " ".join(ports[:8]) + (" …" if len(ports) > 8 else "")
        what = f"none of its packets went to a port of a door: {shown}"
        return Cause("unknown_sequence", what, "the client uses another sequence, or that of another server")
    if any(step.verdict is PacketVerdict.BROKEN and step.captured.is_cut for step in context.steps):
        what = "the capture truncated its packets before the ports"
        return Cause("cut", what, "capture again with `tcpdump -s 0`")
    remedy = "they went to public ports, or are neither TCP nor UDP"
    return Cause("nothing", "none of its packets was a knock, correct or wrong", remedy)


def _other_knocker_cause(context: SourceContext) -> Cause | None:
    """Return the cause if the knock for a connection came from another address, else None."""
    for step in context.steps:
        if (
            step.verdict is not PacketVerdict.HIDDEN
            or step.service is None
            or step.captured.state is not ConnectionState.NEW
        ):
            continue
        for index in context.config.services[step.service]:
            openings = list(context.other_sources.openings(index, context.trace.source, step.at_s - SOON_S, step.at_s))
            for opening in reversed(openings):
                knocker = context.traces[opening.captured.flow.source]
                visitor = find_other_visitor(build_open_period(replace(context, trace=knocker), opening, index))
                if visitor is not None and visitor.captured.flow.source == context.trace.source:
                    return two_address_cause(knocker.source, context.trace.source, step.service)
    return None
