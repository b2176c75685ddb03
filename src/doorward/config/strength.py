"""Is a good configuration also a strong one: each check is a row of `CHECKS`, and looks at one weakness. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from doorward.config import sequences
from doorward.config.duration import UNITS_MS, format_duration
from doorward.config.finding import Finding, Weakness
from doorward.config.lines import Keys, line_of
from doorward.config.schema import DEFAULT_CAPACITY, HURRIED_MS, Configuration, Mode
from doorward.config.well_known import SHELLS
from doorward.model import Door, Port, Protocol

MAX_COMBINATIONS = 16  # of flags and within: each is an automaton that every packet passes
LONG_MS = UNITS_MS["d"]
MOST_NAMED = 3  # doors in one note

Check = Callable[[Configuration], Iterator[Weakness]]


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


def _mode(configuration: Configuration) -> Iterator[Weakness]:
    path = ("gate", "mode")
    stealth = 'write mode = "stealth" and list in `public` what everyone may reach'
    if configuration.gate.mode is Mode.OBSERVE:
        what = "mode observe drops nothing: every door stands open to everyone"
        yield Weakness("warning", path, what, f'write mode = "guard", or {stealth}')
    if configuration.gate.mode is Mode.GUARD:
        what = "mode guard hides only the doors' ports: a scan still sees that the host is there"
        yield Weakness("note", path, what, f"to hide everything, {stealth}")


def _opens_public(configuration: Configuration) -> Iterator[Weakness]:
    public = frozenset(configuration.gate.public)
    for door in configuration.doors:
        for index, port in enumerate(door.opens):
            if port in public:
                what = f"{port} is public, and door {door.name!r} opens it: only who knocks gets in"
                remedy = "take it out of `public`, or out of `opens`"
                yield Weakness("warning", ("doors", door.name, "opens", str(index)), what, remedy)


def _opens_several(configuration: Configuration) -> Iterator[Weakness]:
    """Tell of doors that open more than one service; the same number of both protocols is one."""
    several = [door for door in configuration.doors if len({port.number for port in door.opens}) > 1]
    if several:
        what = f"{_named(several)} more than one service at once ({', '.join(map(str, several[0].opens))})"
        remedy = "write a door for each, unless they belong together"
        yield Weakness("note", ("doors", several[0].name, "opens"), what, remedy)


def _opens_long(configuration: Configuration) -> Iterator[Weakness]:
    for door in configuration.doors:
        if door.opens and door.for_ms > LONG_MS:
            what = f"door {door.name!r} stays open for {format_duration(door.for_ms)}: whoever has that address by then"
            remedy = "write a `for` of a day at most; connections that stand go on after it"
            yield Weakness("warning", ("doors", door.name, "for"), f"{what} gets in too", remedy)


def _opens_shell(configuration: Configuration) -> Iterator[Weakness]:
    """Tell of sequences that keep a shell, where there are no signed knocks."""
    if configuration.signed is not None:
        return
    shells = [door for door in configuration.doors if door.knock and _shell_of(door) is not None]
    if shells:
        port = _shell_of(shells[0]) or shells[0].opens[0]
        service = f"{SHELLS[port.number]} ({port})"
        what = f"{_named(shells)} {service} to a sequence, which anyone who sees its packets can repeat"
        remedy = (
            "a signed knock cannot be repeated: write [signed] in place of `knock`; `doorward key server` makes its key"
        )
        yield Weakness("note", ("doors", shells[0].name, "opens"), what, remedy)


def _unnamed(configuration: Configuration) -> Iterator[Weakness]:
    """Note that only the server's key binds a signed knock to this gate, which may have been copied from another."""
    if configuration.signed is not None and configuration.gate.name is None:
        what = "the gate has no name: a signed knock for it also opens any other gate with a copy of its server key"
        remedy = (
            "where several gates have one key, give each a `name` in [gate], and every client the same `gate`: "
            "without it no signed knock opens a gate that has a name"
        )
        yield Weakness("note", ("signed",), what, remedy)


def _opens_both(configuration: Configuration) -> Iterator[Weakness]:
    """Find sequences that make a signed knock needless."""
    if configuration.signed is None:
        return
    if both := [door for door in configuration.doors if door.knock]:
        what = f"{_named(both)} to a sequence as well as to a signed knock: anyone who sees its packets can repeat it"
        remedy = "once a key opens it, take out `knock`, so that only keys do"
        yield Weakness("note", ("doors", both[0].name, "knock"), what, remedy)


def _opens_by_hand(configuration: Configuration) -> Iterator[Weakness]:
    """Find hidden ports that no client can open."""
    if configuration.signed is not None:
        return
    if shut := [door for door in configuration.doors if door.opens and not door.knock]:
        what = f"{_named(shut)} to no knock, only by `doorward open`"
        remedy = "unless that is meant, write a `knock`, or [signed] (`doorward key server` makes its key)"
        yield Weakness("note", ("doors", shut[0].name, "opens"), what, remedy)


def _shell_of(door: Door) -> Port | None:
    return next((port for port in door.opens if port.protocol is Protocol.TCP and port.number in SHELLS), None)


def _named(doors: Sequence[Door]) -> str:
    """Name the first doors and count the others, with the verb that fits."""
    names = ", ".join(repr(door.name) for door in doors[:MOST_NAMED])
    if len(doors) == 1:
        return f"door {names} opens"
    rest = len(doors) - MOST_NAMED
    return f"doors {names}{f' and {rest:,} more' if rest > 0 else ''} open"


def _many_combinations(configuration: Configuration) -> Iterator[Weakness]:
    first = combinations(configuration)
    if len(first) > MAX_COMBINATIONS:
        what = f"{len(first)} combinations of `flags` and `within`: every packet passes an automaton for each"
        path = ("doors", first[MAX_COMBINATIONS].name)
        yield Weakness("warning", path, what, f"use at most {MAX_COMBINATIONS}: give doors the same `within`")


def _capacity(configuration: Configuration) -> Iterator[Weakness]:
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
    yield Weakness("note", ("gate", "capacity"), what, remedy)


def _shares_nothing(configuration: Configuration) -> Iterator[Weakness]:
    fleet = configuration.fleet
    if fleet is not None and not any(door.shared for door in configuration.doors):
        what = "no door is shared with the fleet: what opens at one gate opens there only"
        yield Weakness("warning", ("fleet",), what, "write shared = true in each door that all gates open together")


CHECKS: tuple[Check, ...] = (
    _mode,
    _shares_nothing,
    sequences.wrong_port,
    sequences.sweeps,
    sequences.guessed,
    sequences.repeats,
    _opens_public,
    _opens_several,
    _opens_long,
    _opens_shell,
    _unnamed,
    _opens_both,
    _opens_by_hand,
    _many_combinations,
    _capacity,
)
