"""Summarize a capture: the sources worth showing, and the diagnosis of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from doorward.explain import wording
from doorward.explain.align import Cause, Diagnosis, SourceContext
from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.diagnose import diagnose
from doorward.explain.replay import PacketVerdict, ReplayStep
from doorward.explain.sources import OtherSources, SourceTrace, SourceTraces
from doorward.explain.wording import made_text, state_text
from doorward.model import Address

MOST_SHOWN = 20  # sources; a day's capture holds thousands of scanners
MOST_FOR_PROGRAMS = 1000


class SourceSummary(NamedTuple):
    """A source with its diagnosis."""

    trace: SourceTrace
    conclusion: Diagnosis


class PacketRow(NamedTuple):
    """A packet as text: what it was, what it counted as, and its source's progress after it."""

    number: int
    at_s: float
    packet: str
    made_of: str
    state: str
    verdict: PacketVerdict


class Summary(NamedTuple):
    """The sources shown, and the numbers of those left out: with and without a packet to a door's port."""

    told: tuple[SourceSummary, ...]
    more_knocking: int
    others: int


def summarize(
    house: CompiledConfig,
    traces: SourceTraces,
    hosts: frozenset[bytes],
    is_local: Callable[[bytes], bool],
    *,
    source: Address | None = None,
    door: int | None = None,
    most: int = MOST_SHOWN,
) -> Summary:
    """Return the diagnoses of `source`, or of at most `most` sources that sent packets to door ports."""
    neighbours = OtherSources(house, traces.of)

    def told(trace: SourceTrace) -> SourceSummary:
        case = SourceContext(house, trace, traces.of, neighbours, hosts, is_local, traces.has_answers)
        return SourceSummary(trace, diagnose(case, door))

    if source is not None:
        trace = traces.of.get(source.packed)
        if trace is None or not trace.steps:
            return Summary((SourceSummary(SourceTrace(source.packed), _silent(source)),), 0, 0)
        return Summary((told(trace),), 0, 0)
    knocking = [trace for trace in traces.of.values() if _is_of_note(house, trace)]
    knocking.sort(key=lambda trace: (-_weight(trace), trace.steps[0].at_s))
    shown = sorted(knocking[:most], key=lambda trace: trace.steps[0].at_s)
    others = len(traces.of) - len(knocking)
    return Summary(tuple(map(told, shown)), len(knocking) - len(shown), others)


def rows(house: CompiledConfig, trace: SourceTrace) -> Iterator[PacketRow]:
    """Return the packets of a source as rows, in order."""
    return (build_row(house, step) for step in trace.steps)


def build_row(house: CompiledConfig, step: ReplayStep) -> PacketRow:
    """Return a packet as a row."""
    seen = step.seen
    return PacketRow(
        seen.number, seen.at_s, wording.packet(seen.flow), made_text(house, step), state_text(house, step), step.verdict
    )


def _is_of_note(house: CompiledConfig, trace: SourceTrace) -> bool:
    return any(
        step.verdict is PacketVerdict.BROKEN or (step.port and step.port.number in house.numbers)
        for step in trace.steps
    )


def _weight(trace: SourceTrace) -> int:
    """Rank a source: those that opened a door first, then those that got furthest."""
    if any(step.opened for step in trace.steps):
        return 3
    moved = sum(step.verdict is PacketVerdict.FORWARD for step in trace.steps)
    return 2 if moved > 1 else 1 if moved else 0


def _silent(source: Address) -> Diagnosis:
    what = f"no packet of {source} came"
    remedy = "it sends from another address, goes to another one, or a firewall or router before this host drops it"
    return Diagnosis(Cause("silence", what, remedy))
