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
from doorward.explain.wording import progress_text, verdict_text
from doorward.model import Address

MOST_SHOWN = 20  # sources; a day's capture holds thousands of scanners
MOST_IN_JSON = 1000


class SourceSummary(NamedTuple):
    """A source with its diagnosis."""

    trace: SourceTrace
    diagnosis: Diagnosis


class PacketRow(NamedTuple):
    """A packet as text: what it was, what it counted as, and its source's progress after it."""

    number: int
    at_s: float
    packet: str
    meaning: str
    state: str
    verdict: PacketVerdict


class Summary(NamedTuple):
    """The sources shown, and the numbers of those left out: with and without a packet to a door's port."""

    sources: tuple[SourceSummary, ...]
    more_knocking: int
    others: int


def summarize(
    config: CompiledConfig,
    traces: SourceTraces,
    hosts: frozenset[bytes],
    is_local: Callable[[bytes], bool],
    *,
    source: Address | None = None,
    door: int | None = None,
    most: int = MOST_SHOWN,
) -> Summary:
    """Return the diagnoses of `source`, or of at most `most` sources that sent packets to door ports."""
    other_sources = OtherSources(config, traces.by_source)

    def build_summary(trace: SourceTrace) -> SourceSummary:
        context = SourceContext(config, trace, traces.by_source, other_sources, hosts, is_local, traces.has_answers)
        return SourceSummary(trace, diagnose(context, door))

    if source is not None:
        trace = traces.by_source.get(source.packed)
        if trace is None or not trace.steps:
            return Summary((SourceSummary(SourceTrace(source.packed), _no_packets(source)),), 0, 0)
        return Summary((build_summary(trace),), 0, 0)
    knocking = [trace for trace in traces.by_source.values() if _is_relevant(config, trace)]
    knocking.sort(key=lambda trace: (-_rank(trace), trace.steps[0].at_s))
    shown = sorted(knocking[:most], key=lambda trace: trace.steps[0].at_s)
    others = len(traces.by_source) - len(knocking)
    return Summary(tuple(map(build_summary, shown)), len(knocking) - len(shown), others)


def rows(config: CompiledConfig, trace: SourceTrace) -> Iterator[PacketRow]:
    """Return the packets of a source as rows, in order."""
    return (build_row(config, step) for step in trace.steps)


def build_row(config: CompiledConfig, step: ReplayStep) -> PacketRow:
    """Return a packet as a row."""
    captured = step.captured
    return PacketRow(
        captured.number,
        captured.at_s,
        wording.packet(captured.flow),
        verdict_text(config, step),
        progress_text(config, step),
        step.verdict,
    )


def _is_relevant(config: CompiledConfig, trace: SourceTrace) -> bool:
    return any(
        step.verdict is PacketVerdict.BROKEN or (step.port and step.port.number in config.numbers)
        for step in trace.steps
    )


def _rank(trace: SourceTrace) -> int:
    """Rank a source: those that opened a door first, then those that got furthest."""
    if any(step.opened for step in trace.steps):
        return 3
    moved = sum(step.verdict is PacketVerdict.FORWARD for step in trace.steps)
    return 2 if moved > 1 else 1 if moved else 0


def _no_packets(source: Address) -> Diagnosis:
    what = f"no packet from {source} was seen"
    remedy = "the client may use another source or destination address, or a firewall may drop its packets on the way"
    return Diagnosis(Cause("silence", what, remedy))
