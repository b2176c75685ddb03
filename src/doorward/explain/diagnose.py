"""Diagnose one source: which door it meant, whether the door opened, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from doorward.explain import sequence_causes, wording
from doorward.explain.align import Alignment, Cause, Diagnosis, KnockAttempt, SourceContext, best_alignment
from doorward.explain.connection_causes import (
    SOON_S,
    answered_port,
    guest_of,
    judge,
    two_addresses,
    visit_of,
    without_a_knock,
)
from doorward.explain.conntrack import ConnectionState
from doorward.explain.packet_causes import packet_causes, timing_causes
from doorward.explain.replay import SYMBOLS, PacketVerdict, ReplayStep
from doorward.model import Door

MOST_SECONDARY = 3
MOST_TRIES = 20  # attempts of one source that are searched for the last one
SWEEP_PORTS = 20  # distinct ports: more than a sequence has, or than a user's programs try
# When the packets cannot have counted at all, further faults do not matter.
_DECISIVE = frozenset({"unreachable", "own_packets", "interface", "elsewhere", "not_the_target"})


def diagnose(case: SourceContext, wanted: int | None = None) -> Diagnosis:
    """Return the diagnosis for a source; `wanted` is the index of the door in question, or None for any."""
    door = None if wanted is None else case.house.doors[wanted]
    if door is not None and not door.knock:
        what = f"door {door.name} has no sequence: it opens by hand, or by a signed knock"
        return Diagnosis(Cause("no_sequence", what, f"`doorward open {door.name} ADDRESS` opens it"), door.name)
    opening = _last_opening(case, wanted)
    after = case.steps if opening is None else case.steps[case.steps.index(opening[0]) + 1 :]
    alignment = _last_try(case, after, wanted)
    if alignment is not None and _is_sweep(case, alignment):
        alignment = None
    faults = [] if alignment is None else _faults(sequence_causes.completed(KnockAttempt(case, alignment)))
    if opening is not None and not (alignment and faults and _is_another_try(case, alignment)):
        return _opened(case, *opening)
    if alignment is None:
        return Diagnosis(_without_door(case), None if door is None else door.name)
    meant = case.house.doors[alignment.door]
    first, *also = faults or [_puzzle(meant)]
    if opening is not None:
        first = _after_opening(case, opening[1], meant, first)
    return Diagnosis(first, meant.name, opening is not None, tuple(also[:MOST_SECONDARY]))


def _last_opening(case: SourceContext, wanted: int | None) -> tuple[ReplayStep, int] | None:
    for step in reversed(case.steps):
        for index in step.opened:
            if wanted in (None, index):
                return step, index
    return None


def _last_try(case: SourceContext, steps: Sequence[ReplayStep], wanted: int | None) -> Alignment | None:
    """Return the best alignment; of several attempts with different faults, that of the last one."""
    found = best_alignment(case.house, steps, wanted)
    for _ in range(MOST_TRIES):
        if found is None:
            break
        last = found.matches[-1].step.seen.number
        steps = [step for step in steps if step.seen.number > last]
        later = best_alignment(case.house, steps, wanted)
        if later is None or not _is_another_try(case, later):
            break
        found = later
    return found


def _is_another_try(case: SourceContext, alignment: Alignment) -> bool:
    """Return whether more than half of the knocks match, so that this is an attempt and not just some packet."""
    return len(alignment.matches) > len(case.house.doors[alignment.door].knock) / 2


def _after_opening(case: SourceContext, opened: int, meant: Door, fault: Cause) -> Cause:
    """Return the fault of a failed attempt, with a note that a door had opened before it."""
    times = sum(opened in step.opened for step in case.steps)
    door = case.house.doors[opened]
    before = f"door {door.name} opened" + (f" {times} times" if times > 1 else "")
    last = "the last try" if door is meant else f"the last try at door {meant.name}"
    return fault._replace(what=f"{before}; {last} did not open it: {fault.what}")


def _opened(case: SourceContext, step: ReplayStep, index: int) -> Diagnosis:
    visit = visit_of(case, step, index)
    lost = next((fault for fault in _of_opening(case, step, index) if fault.kind == "unreachable"), None)
    if lost is not None:
        return Diagnosis(lost, visit.door.name)
    return Diagnosis(judge(visit), visit.door.name, True)


def _of_opening(case: SourceContext, step: ReplayStep, index: int) -> Iterable[Cause]:
    upto = case.steps[: case.steps.index(step) + 1]
    alignment = best_alignment(case.house, upto, index)
    return () if alignment is None else packet_causes(KnockAttempt(case, alignment))


def _faults(attempt: KnockAttempt) -> list[Cause]:
    packets = list(packet_causes(attempt))
    if packets and packets[0].kind in _DECISIVE:
        return packets[:1]
    found = [*packets, *sequence_causes.sequence_causes(attempt), *timing_causes(attempt)]
    return list({fault.kind: fault for fault in reversed(found)}.values())[::-1]


def _puzzle(door: Door) -> Cause:
    what = f"the knocks of door {door.name} came in order and in time, and it did not open"
    return Cause("puzzle", what, "please report this, with the capture and the configuration")


def _is_sweep(case: SourceContext, alignment: Alignment) -> bool:
    """Return whether the source tried so many ports that those of the door are among them by chance."""
    ports = {step.port for step in case.steps if step.verdict in SYMBOLS or step.verdict is PacketVerdict.FAST}
    between = sum(1 for _ in alignment.between(alignment.matches[0].step, alignment.matches[-1].step))
    door = case.house.doors[alignment.door]
    near = len(alignment.matches) == len(door.knock) and between <= sequence_causes.MANY_STRAYS + len(door.knock)
    return len(ports) >= SWEEP_PORTS and not near


def _without_door(case: SourceContext) -> Cause:
    """Return the cause for a source that attempted no sequence."""
    if any(step.verdict is PacketVerdict.SIGNED for step in case.steps):
        port = answered_port(case)
        came_in = f"; {port} answered it" if port else ""
        what = f"it sent to {case.house.signed}, where signed knocks go, and no sequence{came_in}"
        ask = f"`doorward explain {wording.address(case.trace.source)}` tells what the daemon made of it"
        return Cause("signed", what, f"a capture cannot show whether it is genuine: {ask}")
    if (fault := without_a_knock(case)) is not None:
        return _elsewhere_knocked(case) or fault
    symbols = [step for step in case.steps if step.verdict in SYMBOLS or step.verdict is PacketVerdict.FAST]
    ports = list(dict.fromkeys(str(step.port) for step in symbols))
    if len(ports) >= SWEEP_PORTS:
        took = wording.span(symbols[-1].at_s - symbols[0].at_s)
        what = f"a scan: {wording.counted(len(ports), 'port')} in {took}; a sweep opens nothing, in whatever order"
        return Cause("sweep", what)
    if ports:
        shown = " ".join(ports[:8]) + (" …" if len(ports) > 8 else "")
        what = f"none of its packets went to a port of a door: {shown}"
        return Cause("unknown_sequence", what, "the client has another sequence, or knocks at another server's")
    if any(step.verdict is PacketVerdict.BROKEN and step.seen.is_cut for step in case.steps):
        what = "the capture kept too little of its packets to see their ports"
        return Cause("cut", what, "capture again with `tcpdump -s 0`")
    return Cause("nothing", "nothing of it was a knock, right or wrong", "it went to public ports, or is no TCP or UDP")


def _elsewhere_knocked(case: SourceContext) -> Cause | None:
    """Return the cause if the knock for a connection came from another address, else None."""
    for step in case.steps:
        if (
            step.verdict is not PacketVerdict.HIDDEN
            or step.port is None
            or step.seen.standing is not ConnectionState.NEW
        ):
            continue
        for index in case.house.services[step.port]:
            before = list(case.neighbours.openings(index, case.trace.source, step.at_s - SOON_S, step.at_s))
            for opening in reversed(before):
                knocker = case.traces[opening.seen.flow.source]
                guest = guest_of(visit_of(replace(case, trace=knocker), opening, index))
                if guest is not None and guest.seen.flow.source == case.trace.source:
                    return two_addresses(knocker.source, case.trace.source, step.port)
    return None
