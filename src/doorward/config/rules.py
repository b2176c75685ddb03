"""What settings may not say together, each good by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from doorward.config.lines import Keys
from doorward.config.report import Report, shown
from doorward.config.schema import Gate
from doorward.model import Door, Port


def same_sequence_twice(report: Report, doors: Iterable[Door]) -> None:
    """Refuse two doors of one automaton with the same sequence: one knock would mean both."""
    first: dict[object, str] = {}
    for door in doors:
        other = first.setdefault((door.flags, door.within_ms, door.knock), door.name)
        if door.knock and other != door.name:
            report.add(
                ("doors", door.name, "knock"),
                f"door {shown(door.name)} has the same sequence as door {shown(other)} "
                f"(line {report.line(('doors', other, 'knock'))})",
                "change one of them, or let one door open the ports of both",
            )


def knocks_at_taken_ports(report: Report, gate: Gate, doors: Sequence[Door]) -> None:
    """Refuse a knock at a port that is no symbol, since it is public or some door opens it."""
    public = frozenset(gate.public)
    opener: dict[Port, str] = {}
    for door in doors:
        for port in door.opens:
            opener.setdefault(port, door.name)
    for door in doors:
        for path, port in _knocks(door):
            if port in public:
                _refuse(report, path, f"{port} is public", ("gate", "public"), 'take it out of "public"')
            elif port in opener:
                other = opener[port]
                whose = "the same door" if other == door.name else f"door {shown(other)}"
                _refuse(report, path, f"{whose} opens {port}", ("doors", other, "opens"), "open another port")


def _knocks(door: Door) -> Iterator[tuple[Keys, Port]]:
    """Give each port of a sequence once, with its place."""
    for index, port in enumerate(door.knock):
        if port not in door.knock[:index]:
            yield ("doors", door.name, "knock", str(index)), port


def _refuse(report: Report, path: Keys, why: str, place: Keys, otherwise: str) -> None:
    what = f"door {shown(path[1])} knocks at a port that is no knock: {why} (line {report.line(place)})"
    report.add(path, what, f"knock at another port, or {otherwise}")
