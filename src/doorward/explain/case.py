"""What a judgement may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from doorward.explain.align import Alignment
from doorward.explain.follow import Step
from doorward.explain.house import House
from doorward.explain.neighbours import Neighbours
from doorward.explain.traces import Trace
from doorward.model import Door


@dataclass(frozen=True, slots=True)
class Case:
    """One source among the others. `hosts` are this host's addresses, as far as the capture shows them."""

    house: House
    trace: Trace
    traces: Mapping[bytes, Trace]
    neighbours: Neighbours
    hosts: frozenset[bytes]
    is_local: Callable[[bytes], bool]
    has_answers: bool

    @property
    def steps(self) -> Sequence[Step]:
        """Give the source's packets."""
        return self.trace.steps

    def own_hosts(self) -> list[bytes]:
        """Give this host's addresses of the source's family."""
        return sorted(host for host in self.hosts if len(host) == len(self.trace.source))


@dataclass(frozen=True, slots=True)
class Try:
    """One try at a door, as the alignment explains it."""

    case: Case
    alignment: Alignment

    @property
    def door(self) -> Door:
        """Give the door that was meant."""
        return self.case.house.doors[self.alignment.door]

    @property
    def within_s(self) -> float:
        """Give the door's deadline."""
        return self.door.within_ms / 1000

    @property
    def missing(self) -> list[int]:
        """Give the knocks that no packet is a match for."""
        found = {match.knock for match in self.alignment.matches}
        return [knock for knock in range(len(self.door.knock)) if knock not in found]
