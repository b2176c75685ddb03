"""What other sources sent meanwhile: a client may have two addresses, and a door knows only one."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping

from doorward.explain.connections import Standing
from doorward.explain.follow import SYMBOLS, Step, Verdict
from doorward.explain.house import House
from doorward.explain.traces import Trace
from doorward.model import Port

MOST_STRANGER_PORTS = 16  # who goes to more of them scans, and is nobody's second address
MOST_LOOKED_AT = 2000  # packets to one port: in a flood nobody's second address is found


class Neighbours:
    """Looks up who else went to a port of some door, and when."""

    def __init__(self, house: House, traces: Mapping[bytes, Trace]) -> None:
        self._steps: dict[Port, list[Step]] = defaultdict(list)
        self._openings: dict[int, list[Step]] = defaultdict(list)
        wanted = house.ports | house.services.keys()
        for trace in traces.values():
            if len({step.port for step in trace.steps if step.verdict in SYMBOLS}) > MOST_STRANGER_PORTS:
                continue
            for step in trace.steps:
                for index in step.opened:
                    self._openings[index].append(step)
                if step.port in wanted and step.seen.standing is Standing.NEW and step.verdict is not Verdict.FAST:
                    self._steps[step.port].append(step)
        for steps in self._steps.values():
            steps.sort(key=lambda step: step.at_s)

    def at(self, port: Port, source: bytes, since_s: float, until_s: float) -> Iterator[Step]:
        """Give the packets of others to a port within a time, in order."""
        steps = self._steps.get(port, [])
        start = bisect_left(steps, since_s, key=lambda step: step.at_s)
        for step in steps[start : start + MOST_LOOKED_AT]:
            if step.at_s > until_s:
                return
            if step.seen.flow.source != source:
                yield step

    def openings(self, door: int, source: bytes, since_s: float, until_s: float) -> Iterator[Step]:
        """Give the packets with which others opened a door within a time."""
        for step in self._openings.get(door, ()):
            if since_s <= step.at_s <= until_s and step.seen.flow.source != source:
                yield step
