"""Causes in the sequence of knocks: order, stray and missing packets, packets from a second address."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from doorward.config.schema import WrongPort
from doorward.explain import wording
from doorward.explain.align import Cause, KnockAttempt, KnockMatch, counts_for
from doorward.explain.conntrack import flow_key
from doorward.explain.replay import PacketVerdict, ReplayStep
from doorward.model import Port, Protocol

OVERTAKING_S = 0.05  # packets reordered on the way are closer than knocks sent in the wrong order
AROUND_S = 5.0  # packets this long before the first or after the last match may belong to the attempt
MOST_CANDIDATES = 16
MANY_STRAYS = 12  # more packets between two knocks are a scan


class _Gap(NamedTuple):
    """Between two matched knocks: the missing knocks, and the stray packets that were counted."""

    missing: tuple[int, ...]
    strays: tuple[ReplayStep, ...]
    after: KnockMatch | None
    before: KnockMatch | None


def sequence_causes(attempt: KnockAttempt) -> Iterator[Cause]:
    """Yield what was missing, and what should not have been there."""
    displaced = _unmatched(attempt)
    if displaced:
        yield _order(attempt, displaced)
    others = _packets_of_others(attempt, displaced)
    if others:
        yield _split(attempt, others)
    lost: list[int] = []
    for gap in _gaps(attempt):
        strays = [stray for stray in gap.strays if stray not in displaced.values()]
        missing = [knock for knock in gap.missing if knock not in displaced and knock not in others]
        if len(strays) > MANY_STRAYS:
            yield _scan(strays)
        elif missing and len(strays) == len(missing):
            yield from (_wrong_port(attempt, *pair) for pair in zip(missing, strays, strict=True))
        else:
            lost += missing
            if gap.after is not None and gap.before is not None and not displaced:
                yield from (_stray(attempt, gap, stray) for stray in strays[:1])
    if lost:
        yield _lost(attempt, lost)


def _gaps(attempt: KnockAttempt) -> Iterator[_Gap]:
    alignment = attempt.alignment
    ends = [None, *alignment.matches, None]
    for after, before in pairwise(ends):
        low = after.knock + 1 if after else 0
        high = before.knock if before else len(attempt.door.knock)
        strays = tuple(_strays(attempt, after, before))
        yield _Gap(tuple(range(low, high)), strays, after, before)


def _strays(attempt: KnockAttempt, after: KnockMatch | None, before: KnockMatch | None) -> Iterator[ReplayStep]:
    """Yield the counted packets between two matches, except repetitions of the first; at the ends, only near ones."""
    repeated = attempt.door.knock[after.knock] if after else None
    steps = attempt.alignment.between(after.step if after else None, before.step if before else None)
    for step in steps:
        if not counts_for(attempt.context.config, attempt.alignment.door, step) or step.port == repeated:
            continue
        near_s = min(abs(step.at_s - match.step.at_s) for match in (after, before) if match)
        if (after and before) or near_s <= AROUND_S:
            yield step


def with_displaced_packets(attempt: KnockAttempt) -> KnockAttempt:
    """Return the attempt with packets added that fit where a knock is missing; many strays had hidden them."""
    matches = list(attempt.alignment.matches)
    for knock, step in _unmatched(attempt, with_any_protocol=True).items():
        before = [match.step.captured.number for match in matches if match.knock < knock]
        after = [match.step.captured.number for match in matches if match.knock > knock]
        if max(before, default=-1) < step.captured.number < min(after, default=step.captured.number + 1):
            matches.append(KnockMatch(knock, step, step.port == attempt.door.knock[knock]))
    matches.sort(key=lambda match: match.knock)
    return replace(attempt, alignment=attempt.alignment._replace(matches=tuple(matches)))


def _unmatched(attempt: KnockAttempt, *, with_any_protocol: bool = False) -> dict[int, ReplayStep]:
    """Return packets near the attempt that fit missing knocks, by knock; they arrived, but out of place."""
    matches = attempt.alignment.matches
    used = {match.step for match in matches}
    since_s, until_s = matches[0].step.at_s - AROUND_S, matches[-1].step.at_s + AROUND_S
    displaced: dict[int, ReplayStep] = {}
    for knock in attempt.missing:
        wanted = attempt.door.knock[knock]
        for step in attempt.alignment.steps:
            fits = step.port == wanted or (with_any_protocol and step.port and step.port.number == wanted.number)
            if fits and step not in used and since_s <= step.at_s <= until_s:
                displaced[knock] = step
                used.add(step)
                break
    return displaced


def _arrived(attempt: KnockAttempt, displaced: dict[int, ReplayStep]) -> tuple[dict[int, ReplayStep], list[int]]:
    """Return the packets of all knocks that arrived, and the knocks in the order of arrival."""
    arrived = {match.knock: match.step for match in attempt.alignment.matches} | displaced
    return arrived, sorted(arrived, key=lambda knock: arrived[knock].captured.number)


def _swapped(attempt: KnockAttempt, displaced: dict[int, ReplayStep]) -> list[tuple[int, int]]:
    """Return the adjacent pairs in which the later knock arrived first."""
    return [(early, late) for early, late in pairwise(_arrived(attempt, displaced)[1]) if early > late]


def _order(attempt: KnockAttempt, displaced: dict[int, ReplayStep]) -> Cause:
    arrived, order = _arrived(attempt, displaced)
    sent = " ".join(str(attempt.door.knock[knock]) for knock in order)
    remedy = f"door {attempt.door.name} expects {wording.knocks(attempt.door)}"
    if len(order) > 2 and order == sorted(order, reverse=True):
        return Cause("reversed", f"the knocks came in reverse: {sent}", remedy)
    early, late = _swapped(attempt, displaced)[0]
    apart_s = arrived[late].at_s - arrived[early].at_s
    which = (
        f"the {wording.ordinal(early + 1)} knock came {wording.span(apart_s)} before the {wording.ordinal(late + 1)}"
    )
    if apart_s <= OVERTAKING_S:
        what = f"{which}: packets overtook each other on the way"
        otherwise = "if it persists, the client's order is wrong"
        return Cause(
            "overtaken", what, f"leave time between them: `doorward knock --delay 50ms`; {otherwise}: {remedy}"
        )
    return Cause("order", f"{which}: the order was {sent}", remedy)


def _packets_of_others(attempt: KnockAttempt, displaced: Collection[int]) -> dict[int, ReplayStep]:
    """Return the packets of other sources that are exactly what is missing; empty if anything remains missing."""
    missing = [knock for knock in attempt.missing if knock not in displaced]
    fitting: dict[bytes, dict[int, ReplayStep]] = {source: {} for source in _candidate_sources(attempt)}
    for knock in missing:
        since_s, until_s = _time_span(attempt, knock)
        for step in attempt.context.other_sources.packets_to(
            attempt.door.knock[knock], attempt.context.trace.source, since_s, until_s
        ):
            if (theirs := fitting.get(step.captured.flow.source)) is not None:
                theirs.setdefault(knock, step)
    packets: dict[int, ReplayStep] = {}
    for theirs in sorted(fitting.values(), key=lambda theirs: (-len(theirs), _distance_s(attempt, theirs.values()))):
        packets = theirs | packets
    return packets if len(packets) == len(missing) else {}


def _distance_s(attempt: KnockAttempt, steps: Iterable[ReplayStep]) -> float:
    """Return the least time between any of the packets and any knock that arrived."""
    moments = [match.step.at_s for match in attempt.alignment.matches]
    return min((abs(step.at_s - moment) for step in steps for moment in moments), default=float("inf"))


def _time_span(attempt: KnockAttempt, knock: int) -> tuple[float, float]:
    """Return the time span in which a missing knock would have been in order."""
    matches, slack_s = attempt.alignment.matches, max(AROUND_S, attempt.within_s)
    before = [match.step.at_s for match in matches if match.knock < knock]
    after = [match.step.at_s for match in matches if match.knock > knock]
    return max(before, default=matches[0].step.at_s - slack_s), min(after, default=matches[-1].step.at_s + slack_s)


def _candidate_sources(attempt: KnockAttempt) -> set[bytes]:
    """Return the sources that sent some of the knocks, but none that this source sent: possibly the same client.

    Empty when there are many: among many unrelated sources some fit by chance.
    """
    matches, slack_s = attempt.alignment.matches, max(AROUND_S, attempt.within_s)
    since_s, until_s = matches[0].step.at_s - slack_s, matches[-1].step.at_s + slack_s
    own = {attempt.door.knock[match.knock] for match in matches}
    theirs: dict[bytes, set[Port]] = {}
    for port in set(attempt.door.knock):
        for step in attempt.context.other_sources.packets_to(port, attempt.context.trace.source, since_s, until_s):
            theirs.setdefault(step.captured.flow.source, set()).add(port)
    fitting = {source for source, ports in theirs.items() if not ports & own}
    return fitting if len(fitting) <= MOST_CANDIDATES else set()


def _split(attempt: KnockAttempt, others: dict[int, ReplayStep]) -> Cause:
    own = attempt.context.trace.source
    parts = {own: [match.knock for match in attempt.alignment.matches]}
    for knock, step in sorted(others.items()):
        parts.setdefault(step.captured.flow.source, []).append(knock)
    first, *others_text = [f"{_knocks(knocks)} came from {wording.address(source)}" for source, knocks in parts.items()]
    what = ", ".join([first, *(part.replace(" came", "") for part in others_text)])
    sources = list(parts)
    if len({len(source) for source in sources}) > 1:
        return Cause("split_families", f"{what}: IPv4 and IPv6 mixed", "use one address family: -4 or -6")
    count = wording.number_word(len(sources))
    if all(wording.is_same_network(own, source) for source in sources[1:]):
        remedy = "bind the client to one address, or disable its temporary addresses"
        return Cause("split_network", f"{what}: {count} addresses of one client", remedy)
    remedy = "use a network with one outgoing address, IPv6, or a signed knock, which is a single packet"
    return Cause("split_addresses", f"{what}: {count} addresses", remedy)


def _knocks(numbers: Sequence[int]) -> str:
    named = wording.listed([str(number + 1) for number in sorted(numbers)])
    return f"knock{'s' if len(numbers) > 1 else ''} {named}"


def _wrong_port(attempt: KnockAttempt, knock: int, step: ReplayStep) -> Cause:
    wanted = attempt.door.knock[knock]
    what = f"the {wording.ordinal(knock + 1)} knock went to {step.port}; door {attempt.door.name} expects {wanted}"
    return Cause("wrong_port", what, "configure the same sequence on both sides")


def _scan(strays: Sequence[ReplayStep]) -> Cause:
    count = len({step.port for step in strays})
    took_s = strays[-1].at_s - strays[0].at_s
    tried = f"{wording.counted(count, 'other port')} in {wording.span(took_s)}"
    what = f"port scan: {tried} between the knocks; a scan opens no door"
    return Cause("scan", what, "knock without other traffic to this host")


def _stray(attempt: KnockAttempt, gap: _Gap, step: ReplayStep) -> Cause:
    assert gap.after is not None and gap.before is not None  # noqa: S101, PT018 - checked by the caller
    place = f"between knocks {gap.after.knock + 1} and {gap.before.knock + 1}"
    if (earlier := _retransmitted_packet(attempt, step)) is not None:
        pause = wording.span(step.at_s - earlier.at_s)
        what = f"the client's TCP retransmitted its SYN to {step.port} after {pause}, {place}, and broke the sequence"
        return Cause("retransmitted", what, "knock with a program that sends each packet once, like `doorward knock`")
    config = attempt.context.config
    if step.port in attempt.door.knock:
        what = f"the sequence was restarted: another packet to {step.port} came {place}"
        return Cause("restarted", what, "let one program knock at a time")
    if step.port in config.ports:
        owner = next(door for door in config.doors if step.port in door.knock)
        what = f"a packet to {step.port}, a knock of door {owner.name}, came {place} and reset the progress"
        return Cause("other_door", what, "knock on one door at a time")
    rule = ' (wrong_port = "any")' if config.gate.wrong_port is WrongPort.ANY else ""
    what = f"a packet to {step.port} {place} reset the progress{rule}"
    return Cause("stray", what, f"stop other traffic to this host, make {step.port} `public`, or knock again")


def _retransmitted_packet(attempt: KnockAttempt, step: ReplayStep) -> ReplayStep | None:
    """Return the packet that this one retransmits, or None."""
    flow = step.captured.flow
    if flow.protocol != Protocol.TCP:
        return None
    for earlier in attempt.context.steps:
        if earlier is step:
            return None
        if flow_key(earlier.captured.flow) == flow_key(flow) and earlier.captured.flow.sequence == flow.sequence:
            return earlier
    return None


def _lost(attempt: KnockAttempt, lost: Sequence[int]) -> Cause:
    door, total = attempt.door, len(attempt.door.knock)
    ports = wording.listed([str(door.knock[knock]) for knock in lost])
    arrived = len(attempt.alignment.matches)
    if (fragment := _find_fragment(attempt)) is not None:
        if fragment.captured.is_cut:
            what = f"the capture truncated a packet that may be the missing {ports}"
            return Cause("cut", what, "capture again with `tcpdump -s 0`")
        what = f"the {wording.ordinal(lost[0] + 1)} knock ({ports}) was fragmented: {fragment.captured.flow.trouble}"
        return Cause("fragment", what, "send an empty or short packet as the knock")
    knock = lost[0]
    if len(lost) == 1 and door.knock[knock] in (door.knock[knock - 1 : knock] + door.knock[knock + 1 : knock + 2]):
        what = f"door {door.name} expects {door.knock[knock]} twice in a row; it came once"
        return Cause("repeat_missing", what, "send it twice")
    verb = "is" if len(lost) == 1 else "are"
    what = f"only {wording.number_word(arrived)} of {wording.number_word(total)} knocks arrived: {ports} {verb} missing"
    first, last = 0 in lost, total - 1 in lost
    if arrived == 1 and total > 2:
        return Cause("alone", what, "capture at the client: did it send them all?")
    remedy = "capture at the client: was it lost, filtered on the way, or never sent?"
    if len(lost) == 1 and (first or last):
        return Cause("first_missing" if first else "last_missing", what, remedy)
    return Cause("missing", what, remedy)


def _find_fragment(attempt: KnockAttempt) -> ReplayStep | None:
    """Return a packet without readable ports that may be what is missing, or None."""
    matches = attempt.alignment.matches
    since_s, until_s = matches[0].step.at_s - AROUND_S, matches[-1].step.at_s + AROUND_S
    for step in attempt.context.steps:
        if step.verdict is PacketVerdict.BROKEN and step.port is None and since_s <= step.at_s <= until_s:
            return step
    return None
