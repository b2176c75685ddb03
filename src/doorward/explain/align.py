"""Align a door's port sequence with the packets of one source: which packet was meant as which knock.

The alignment of least cost wins (dynamic programming, as for the edit distance of two strings); a missing knock, a
stray packet and a faulty knock each have a cost. Among equals the last one wins: the last attempt is of interest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from doorward.explain.compiled_config import CompiledConfig
from doorward.explain.replay import COUNTED, PacketVerdict, ReplayStep
from doorward.explain.sources import OtherSources, SourceTrace
from doorward.model import Door, Port


class Cause(NamedTuple):
    """One reason: a code for programs (`kind`), what happened, and what to do."""

    kind: str
    what: str
    remedy: str = ""


class Diagnosis(NamedTuple):
    """The result for one source. `door`: the door of the last attempt; `opened`: whether any attempt opened a door."""

    fault: Cause
    door: str | None = None
    opened: bool = False
    also: tuple[Cause, ...] = ()


MOST_ALIGNED = 200  # last packets of one source: the time is quadratic
MOST_DOORS = 16  # candidate doors per source, those first whose ports it sent to most
LONGEST_PAUSE_S = 120.0  # between two packets of one attempt
_MISSING, _STRAY, _FAULTY, _OTHER_PROTOCOL = 3.0, 2.0, 2.0, 2.5
_MOST_STRAYS = 20  # the cost is capped here, so that a knock in the middle of a scan is still found
_FAULTS = {
    PacketVerdict.FAST: 1.0,
    PacketVerdict.FLAGS: _FAULTY,
    PacketVerdict.ELSEWHERE: _FAULTY,
    PacketVerdict.CONNECTION: _FAULTY,
    PacketVerdict.INSIDE: _FAULTY,
    PacketVerdict.BROKEN: _FAULTY,
}


class KnockMatch(NamedTuple):
    """A packet that was meant as a knock; `knock` is its index in the sequence, from 0."""

    knock: int
    step: ReplayStep
    is_exact: bool  # right port and right protocol


class Alignment(NamedTuple):
    """The best explanation for one door. `steps`: the packets that were considered, in order."""

    door: int
    matches: tuple[KnockMatch, ...]
    cost: float
    steps: tuple[ReplayStep, ...]

    def between(self, after: ReplayStep | None, before: ReplayStep | None) -> Iterator[ReplayStep]:
        """Yield the steps between two steps; None means the beginning or the end."""
        start = -1 if after is None else self.steps.index(after)
        end = len(self.steps) if before is None else self.steps.index(before)
        yield from self.steps[start + 1 : end]


class _Node(NamedTuple):
    position: int  # in the steps
    knock: int
    cost: float
    is_exact: bool


def counts_for(config: CompiledConfig, door: int, step: ReplayStep) -> bool:
    """Return whether the door's automaton counted the packet."""
    return step.verdict in COUNTED and any(
        machine_step.machine == config.machine_by_door[door] for machine_step in step.machine_steps
    )


def best_alignment(config: CompiledConfig, steps: Sequence[ReplayStep], door: int | None = None) -> Alignment | None:
    """Return the alignment with the least cost per knock, or None when no packet fits any sequence."""
    doors = _candidates(config, steps) if door is None else [door]
    alignments = [alignment for index in doors if (alignment := align(config, steps, index)) is not None]
    return min(
        alignments,
        key=lambda alignment: (
            alignment.cost / len(config.doors[alignment.door].knock),
            -len(alignment.matches),
            alignment.door,
        ),
        default=None,
    )


def _candidates(config: CompiledConfig, steps: Sequence[ReplayStep]) -> list[int]:
    numbers = {step.port.number for step in steps[-MOST_ALIGNED:] if step.port}
    hits = Counter(door for number in numbers for door in config.doors_by_number.get(number, ()))
    share = {door: count / len({port.number for port in config.doors[door].knock}) for door, count in hits.items()}
    return sorted(share, key=lambda door: (-share[door], door))[:MOST_DOORS]


def align(config: CompiledConfig, steps: Sequence[ReplayStep], index: int) -> Alignment | None:
    """Return the best alignment of one door's sequence with the steps, or None when no packet fits."""
    door = config.doors[index]
    numbers = {port.number for port in door.knock}
    considered = [
        step for step in steps if counts_for(config, index, step) or (step.port and step.port.number in numbers)
    ]
    considered = considered[-MOST_ALIGNED:]
    nodes = [
        _Node(position, knock, *price)
        for position, step in enumerate(considered)
        for knock, port in enumerate(door.knock)
        if (price := _cost(config, index, step, port)) is not None
    ]
    if not nodes:
        return None
    counts = [counts_for(config, index, step) for step in considered]
    chain, cost = _cheapest(door, considered, nodes, _Strays(considered, counts))
    matches = tuple(KnockMatch(node.knock, considered[node.position], node.is_exact) for node in chain)
    return Alignment(index, matches, cost, tuple(considered))


def _cost(config: CompiledConfig, index: int, step: ReplayStep, port: Port) -> tuple[float, bool] | None:
    """Return the cost of matching a packet with a knock at `port` and whether it is exact, or None."""
    if step.port is None or step.port.number != port.number:
        return None
    if step.port.protocol is not port.protocol:
        return _OTHER_PROTOCOL, False
    cost = _FAULTS.get(step.verdict)
    if cost is not None:
        return cost, True
    return (0.0 if counts_for(config, index, step) else _FAULTY), True


class _Strays:
    """Counts knock packets between two packets in O(1), without repetitions of the earlier one."""

    def __init__(self, steps: Sequence[ReplayStep], counts: Sequence[bool]) -> None:
        self._ports = [step.port for step in steps]
        self._all = [0]
        self._of: dict[Port | None, list[int]] = defaultdict(lambda: [0] * (len(steps) + 1))
        positions: dict[Port | None, list[int]] = defaultdict(list)
        for position, is_counted in enumerate(counts):
            self._all.append(self._all[-1] + is_counted)
            if is_counted:
                positions[self._ports[position]].append(position)
        for port, port_positions in positions.items():
            row, marks = self._of[port], set(port_positions)
            for position in range(len(steps)):
                row[position + 1] = row[position] + (position in marks)

    def between(self, start: int, end: int) -> int:
        row = self._of.get(self._ports[start])
        same = row[end] - row[start + 1] if row else 0
        return self._all[end] - self._all[start + 1] - same


def _cheapest(
    door: Door, steps: Sequence[ReplayStep], nodes: Sequence[_Node], strays: _Strays
) -> tuple[list[_Node], float]:
    costs: list[float] = []
    previous: list[int | None] = []
    for node in nodes:
        best, best_previous = _MISSING * node.knock, None
        for other, earlier in enumerate(nodes[: len(costs)]):
            if earlier.knock >= node.knock or earlier.position >= node.position:
                continue
            if steps[node.position].at_s - steps[earlier.position].at_s > LONGEST_PAUSE_S:
                continue
            between = min(strays.between(earlier.position, node.position), _MOST_STRAYS)
            cost = costs[other] + _MISSING * (node.knock - earlier.knock - 1) + _STRAY * between
            if cost <= best:
                best, best_previous = cost, other
        costs.append(best + node.cost)
        previous.append(best_previous)
    last = len(door.knock) - 1
    totals = [cost + _MISSING * (last - node.knock) for cost, node in zip(costs, nodes, strict=True)]
    index: int | None = max(range(len(nodes)), key=lambda n: (-totals[n], n))
    total, chain = totals[index or 0], list[_Node]()
    while index is not None:
        chain.append(nodes[index])
        index = previous[index]
    return chain[::-1], total


@dataclass(frozen=True, slots=True)
class SourceContext:
    """One source, with what its diagnosis needs of the others. `hosts`: this host's addresses, as far as known."""

    config: CompiledConfig
    trace: SourceTrace
    traces: Mapping[bytes, SourceTrace]
    other_sources: OtherSources
    hosts: frozenset[bytes]
    is_local: Callable[[bytes], bool]
    has_answers: bool

    @property
    def steps(self) -> Sequence[ReplayStep]:
        """The source's packets, in order."""
        return self.trace.steps

    def own_hosts(self) -> list[bytes]:
        """Return this host's addresses of the source's family, sorted."""
        return sorted(host for host in self.hosts if len(host) == len(self.trace.source))


@dataclass(frozen=True, slots=True)
class KnockAttempt:
    """One attempt at a door, as the alignment explains it."""

    context: SourceContext
    alignment: Alignment

    @property
    def door(self) -> Door:
        """The door that was meant."""
        return self.context.config.doors[self.alignment.door]

    @property
    def within_s(self) -> float:
        """The door's deadline."""
        return self.door.within_ms / 1000

    @property
    def missing(self) -> list[int]:
        """The indexes of the knocks that no packet matches."""
        matched = {match.knock for match in self.alignment.matches}
        return [knock for knock in range(len(self.door.knock)) if knock not in matched]
