"""Is a good configuration also a strong one: each check is a row of `CHECKS`, and looks at one weakness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from doorward.config.duration import format_duration
from doorward.config.lines import Keys, line_of
from doorward.config.schema import DEFAULT_CAPACITY, HURRIED_MS, Configuration, Mode, WrongPort
from doorward.model import Door, Port

MAX_COMBINATIONS = 16  # of flags and within: each is an automaton that every packet passes
MIN_SEQUENCE = 3
PORTS = 65_535

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A weakness (`warning`), or something to know (`note`): where, what, and what to do about it."""

    level: Level
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.line}: {self.level}: {self.what}; {self.remedy}"


class _Weakness(NamedTuple):
    level: Level
    path: Keys
    what: str
    remedy: str


Check = Callable[[Configuration], Iterator[_Weakness]]


def warnings(configuration: Configuration, lines: Mapping[Keys, int]) -> list[Finding]:
    """Give all that is weak or worth knowing, in the order of the lines (`find_lines` of the same text)."""
    findings = [
        Finding(weakness.level, line_of(lines, weakness.path), weakness.what, weakness.remedy)
        for check in CHECKS
        for weakness in check(configuration)
    ]
    return sorted(findings, key=lambda finding: finding.line)


def combinations(configuration: Configuration) -> list[Door]:
    """Give the first door of each combination of flags and within: one for each automaton."""
    first: dict[object, Door] = {}
    for door in configuration.doors:
        if door.knock:
            first.setdefault((door.flags, door.within_ms), door)
    return list(first.values())


def _mode(configuration: Configuration) -> Iterator[_Weakness]:
    path = ("gate", "mode")
    stealth = 'write mode = "stealth" and list in `public` what everyone may reach'
    if configuration.gate.mode is Mode.OBSERVE:
        what = "mode observe drops nothing: every door stands open to everyone"
        yield _Weakness("warning", path, what, f'write mode = "guard", or {stealth}')
    if configuration.gate.mode is Mode.GUARD:
        what = "mode guard hides only the doors' ports: a scan still sees that the host is there"
        yield _Weakness("note", path, what, f"to hide everything, {stealth}")


def _wrong_port(configuration: Configuration) -> Iterator[_Weakness]:
    if configuration.gate.wrong_port is WrongPort.KNOWN:
        what = 'wrong_port "known" forgives wrong ports: a sweep over all ports opens doors in its order'
        yield _Weakness("warning", ("gate", "wrong_port"), what, 'write wrong_port = "any"')


def _sweeps(configuration: Configuration) -> Iterator[_Weakness]:
    """Find the doors that a scan of one port after the other opens by itself."""
    known = configuration.gate.wrong_port is WrongPort.KNOWN
    silent = frozenset(configuration.gate.public).union(*(door.opens for door in configuration.doors))
    for door in configuration.doors:
        upward = _in_order(door.knock)
        if len(door.knock) < 2 or not upward or not (known or _adjacent(upward, silent)):
            continue
        way = "ascend" if upward == door.knock else "descend"
        what = f"door {door.name!r}: its ports {way}{'' if known else ' without a gap'}, so a plain sweep opens it"
        yield _Weakness("warning", ("doors", door.name, "knock"), what, "mix their order")


def _in_order(ports: tuple[Port, ...]) -> tuple[Port, ...] | None:
    """Give the ports of one protocol as an ascending sweep meets them, if they ascend or descend."""
    upward = tuple(sorted(set(ports)))
    one_protocol = len({port.protocol for port in ports}) == 1
    return upward if one_protocol and ports in (upward, upward[::-1]) else None


def _adjacent(upward: tuple[Port, ...], silent: frozenset[Port]) -> bool:
    """Tell whether a sweep meets no other symbol in between; public and opened ports are none."""
    return all(
        Port(low.protocol, number) in silent
        for low, high in pairwise(upward)
        for number in range(low.number + 1, high.number)
    )


def _short(configuration: Configuration) -> Iterator[_Weakness]:
    for door in configuration.doors:
        count = len(door.knock)
        if 0 < count < MIN_SEQUENCE:
            knocks = "1 knock, and every scan of all ports gives it" if count == 1 else f"{count} knocks"
            what = f"door {door.name!r} has {knocks}: about 1 blind guess in {PORTS**count:,} opens it"
            path = ("doors", door.name, "knock")
            yield _Weakness("warning", path, what, f"write {MIN_SEQUENCE} knocks or more")


def _repeats(configuration: Configuration) -> Iterator[_Weakness]:
    for door in configuration.doors:
        twice = next((first for first, second in pairwise(door.knock) if first == second), None)
        if twice is not None:
            what = f"door {door.name!r} knocks at {twice} twice in a row: a retransmitted packet counts as the second"
            path = ("doors", door.name, "knock")
            yield _Weakness("warning", path, what, "put another port between the two")


def _opens_public(configuration: Configuration) -> Iterator[_Weakness]:
    public = frozenset(configuration.gate.public)
    for door in configuration.doors:
        for index, port in enumerate(door.opens):
            if port in public:
                what = f"{port} is public, and door {door.name!r} opens it: only who knocks gets in"
                remedy = "take it out of `public`, or out of `opens`"
                yield _Weakness("warning", ("doors", door.name, "opens", str(index)), what, remedy)


def _many_combinations(configuration: Configuration) -> Iterator[_Weakness]:
    first = combinations(configuration)
    if len(first) > MAX_COMBINATIONS:
        what = f"{len(first)} combinations of `flags` and `within`: every packet passes an automaton for each"
        path = ("doors", first[MAX_COMBINATIONS].name)
        yield _Weakness("warning", path, what, f"use at most {MAX_COMBINATIONS}: give doors the same `within`")


def _capacity(configuration: Configuration) -> Iterator[_Weakness]:
    if not combinations(configuration):
        return
    capacity = configuration.gate.capacity or DEFAULT_CAPACITY
    within_ms = max(door.within_ms for door in configuration.doors if door.knock)
    what = (
        f"capacity {capacity:,}: forged first knocks fill it from {max(1, capacity * 1000 // within_ms):,} packets a "
        f"second; then a knock must be done within {format_duration(HURRIED_MS)}, and from "
        f"{capacity * 1000 // HURRIED_MS:,} a second no new one begins"
    )
    remedy = "to withstand more, raise capacity (and the kernel's memory for it)"
    yield _Weakness("note", ("gate", "capacity"), what, remedy)


CHECKS: tuple[Check, ...] = (
    _mode,
    _wrong_port,
    _sweeps,
    _short,
    _repeats,
    _opens_public,
    _many_combinations,
    _capacity,
)
