"""Rate the strength of a valid configuration: each check in `CHECKS` looks for one weakness. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from doorward.config.duration import UNITS_MS, format_duration
from doorward.config.schema import DEFAULT_CAPACITY, SHORT_WINDOW_MS, Configuration, Mode
from doorward.config.toml_positions import Keys, line_of
from doorward.lint import sequences
from doorward.lint.common_ports import SHELLS
from doorward.lint.finding import Finding, LocatedFinding
from doorward.model import Door, OpenPort, Protocol
from doorward.signed.address_patterns import Network
from doorward.signed.key_options import ANY

if TYPE_CHECKING:
    from doorward.signed.authorized_keys import AuthorizedKeys, Line  # imports `cryptography`

MAX_COMBINATIONS = 16  # of `flags` and `within`: each is a state machine that every packet passes
LONG_MS = UNITS_MS["d"]
MOST_NAMED = 3  # doors named in one note

Check = Callable[[Configuration], Iterator[LocatedFinding]]


def warnings(configuration: Configuration, lines: Mapping[Keys, int]) -> list[Finding]:
    """Return all findings, sorted by line (`lines` is `find_lines` of the same text)."""
    findings = [
        Finding(weakness.code, weakness.level, line_of(lines, weakness.path), weakness.what, weakness.remedy)
        for check in CHECKS
        for weakness in check(configuration)
    ]
    return sorted(findings, key=lambda finding: finding.line)


def combinations(configuration: Configuration) -> list[Door]:
    """Return the first door of each combination of `flags` and `within`: one per state machine."""
    first: dict[object, Door] = {}
    for door in configuration.doors:
        if door.knock:
            first.setdefault((door.flags, door.within_ms), door)
    return list(first.values())


def _mode(configuration: Configuration) -> Iterator[LocatedFinding]:
    path = ("gate", "mode")
    stealth = 'write mode = "stealth" and list in `public` what everyone may reach'
    if configuration.gate.mode is Mode.OBSERVE:
        what = "mode observe drops nothing: every door is open to everyone"
        yield LocatedFinding("mode-observe", "warning", path, what, f'write mode = "guard", or {stealth}')
    if configuration.gate.mode is Mode.GUARD:
        what = "mode guard hides only the doors' ports: a scan still sees that the host is there"
        yield LocatedFinding("mode-guard", "note", path, what, f"to hide everything, {stealth}")


def _opens_public(configuration: Configuration) -> Iterator[LocatedFinding]:
    public = frozenset(configuration.gate.public)
    for door in configuration.doors:
        for index, port in enumerate(door.opens):
            if port in public:
                what = f"{port} is public, and door {door.name!r} opens it: only clients that knock get in"
                remedy = "remove it from `public` or from `opens`"
                place = (str(index),) if door.all_opens == door.opens and not door.redirects else ()
                path = ("doors", door.name, "opens", *place)
                yield LocatedFinding("opens-public-port", "warning", path, what, remedy)


def _opens_several(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Note doors that open more than one service; the same port number with both protocols counts as one."""
    several = [door for door in configuration.doors if len({port.number for port in door.all_opens}) > 1]
    if several:
        what = f"{_doors_open(several)} more than one service at once ({', '.join(map(str, several[0].all_opens))})"
        remedy = "write a door for each, unless they belong together"
        yield LocatedFinding("opens-several", "note", ("doors", several[0].name, "opens"), what, remedy)


def _opens_long(configuration: Configuration) -> Iterator[LocatedFinding]:
    for door in configuration.doors:
        if door.all_opens and door.for_ms > LONG_MS:
            what = (
                f"door {door.name!r} stays open for {format_duration(door.for_ms)}: anyone who has that address by then"
            )
            remedy = "write a `for` of at most a day; established connections stay open"
            yield LocatedFinding("opens-long", "warning", ("doors", door.name, "for"), f"{what} gets in too", remedy)


def _opens_shell(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Note port sequences that protect a shell, if there are no signed knocks."""
    if configuration.signed is not None:
        return
    shells = [door for door in configuration.doors if door.knock and _shell_of(door) is not None]
    if shells:
        port = _shell_of(shells[0]) or shells[0].all_opens[0]
        service = f"{SHELLS[port.number]} ({port})"
        what = f"{_doors_open(shells)} {service} to a sequence, which anyone who sees its packets can replay"
        remedy = (
            "a signed knock cannot be replayed: write [signed] instead of `knock`; `doorward key server` makes its key"
        )
        yield LocatedFinding("opens-shell", "note", ("doors", shells[0].name, "opens"), what, remedy)


def _unnamed(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Note that only the server key binds a signed knock to this gate, and may be a copy of another gate's."""
    if configuration.signed is not None and configuration.gate.name is None:
        what = "the gate has no name: a signed knock for it also opens any other gate with a copy of its server key"
        remedy = (
            "where several gates have one key, give each a `name` in [gate], and every client the same `gate`: "
            "without it no signed knock opens a gate that has a name"
        )
        yield LocatedFinding("no-gate-name", "note", ("signed",), what, remedy)


def _opens_both(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Note port sequences that make a signed knock unnecessary."""
    if configuration.signed is None:
        return
    if both := [door for door in configuration.doors if door.knock]:
        what = (
            f"{_doors_open(both)} to a sequence as well as to a signed knock: anyone who sees its packets can replay it"
        )
        remedy = "once a key opens it, remove `knock`, so that only keys do"
        yield LocatedFinding("opens-both-ways", "note", ("doors", both[0].name, "knock"), what, remedy)


def _opens_by_hand(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Find hidden ports that no client can open."""
    if configuration.signed is not None:
        return
    if shut := [door for door in configuration.doors if door.all_opens and not door.knock]:
        what = f"{_doors_open(shut)} to no knock, only by `doorward open`"
        remedy = "unless that is meant, write a `knock`, or [signed] (`doorward key server` makes its key)"
        yield LocatedFinding("opens-by-hand", "note", ("doors", shut[0].name, "opens"), what, remedy)


def _shell_of(door: Door) -> OpenPort | None:
    return next((port for port in door.all_opens if port.protocol is Protocol.TCP and port.number in SHELLS), None)


def _doors_open(doors: Sequence[Door]) -> str:
    """Return the first door names and the number of others, with the matching form of "open"."""
    names = ", ".join(repr(door.name) for door in doors[:MOST_NAMED])
    if len(doors) == 1:
        return f"door {names} opens"
    others = len(doors) - MOST_NAMED
    return f"doors {names}{f' and {others:,} more' if others > 0 else ''} open"


def _many_combinations(configuration: Configuration) -> Iterator[LocatedFinding]:
    first = combinations(configuration)
    if len(first) > MAX_COMBINATIONS:
        what = f"{len(first)} combinations of `flags` and `within`: every packet passes an automaton for each"
        path = ("doors", first[MAX_COMBINATIONS].name)
        yield LocatedFinding(
            "many-combinations", "warning", path, what, f"use at most {MAX_COMBINATIONS}: give doors the same `within`"
        )


def _capacity(configuration: Configuration) -> Iterator[LocatedFinding]:
    if not combinations(configuration):
        return
    capacity = configuration.gate.capacity or DEFAULT_CAPACITY
    within_ms = max(door.within_ms for door in configuration.doors if door.knock)
    what = (
        f"capacity {capacity:,}: forged first knocks fill it from {max(1, capacity * 1000 // within_ms):,} "
        f"packets/s; then a knock must be done within {format_duration(SHORT_WINDOW_MS)}, and from "
        f"{capacity * 1000 // SHORT_WINDOW_MS:,}/s no new one begins"
    )
    remedy = "to withstand more, raise capacity (and the kernel's memory for it)"
    yield LocatedFinding("capacity-memory", "note", ("gate", "capacity"), what, remedy)


def _shares_nothing(configuration: Configuration) -> Iterator[LocatedFinding]:
    fleet = configuration.fleet
    if fleet is not None and not any(door.shared for door in configuration.doors):
        what = "no door is shared with the fleet: what opens at one gate opens there only"
        yield LocatedFinding(
            "shares-nothing",
            "warning",
            ("fleet",),
            what,
            "write shared = true in each door that all gates open together",
        )


def _shared_keys(configuration: Configuration) -> Iterator[LocatedFinding]:
    for stanza in configuration.fwknop.stanzas if configuration.fwknop is not None else ():
        path = ("fwknop", "stanzas", stanza.name)
        if stanza.insecure_no_hmac:
            what = f"stanza {stanza.name!r} accepts packets without an HMAC: each one is decrypted unverified"
            remedy = "give its clients an HMAC key, or let its users knock with SSH keys"
            yield LocatedFinding("no-hmac", "warning", (*path, "insecure_no_hmac"), what, remedy)
        what = f"stanza {stanza.name!r} uses a shared key: a copy of it, from here or from a client, opens its doors"
        remedy = "remove the stanza once its users knock with SSH keys (`doorward status` shows who does)"
        yield LocatedFinding("shared-key", "note", path, what, remedy)


CHECKS: tuple[Check, ...] = (
    _mode,
    _shares_nothing,
    _shared_keys,
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

# A shorter prefix is not a site but a large part of the Internet.
SHORTEST_PREFIX = {4: 8, 6: 16}


def authorized_keys_findings(keys: AuthorizedKeys, doors: int) -> Iterator[Finding]:
    """Yield the findings in an authorized_keys file, for a configuration with `doors` doors."""
    if not keys.lines:
        what = "no line holds a key, so no signed knock opens anything"
        yield Finding(
            "no-keys", "note", 1, what, "add the public keys of the clients that may knock, one per line", keys.file
        )
    for line in keys.lines:
        for what, remedy in _excessive_options(line):
            yield Finding("excessive-option", "warning", line.number, f"key {line.name}: {what}", remedy, keys.file)
        if line.options.principals is not None and ANY in line.options.principals:
            what = f"key {line.name}: anyone with a certificate from this authority may knock"
            remedy = 'principals="*" allows that; list names to limit it'
            yield Finding("any-certificate", "note", line.number, what, remedy, keys.file)
    yield from _unrestricted_keys(keys, doors)


def _excessive_options(line: Line) -> Iterator[tuple[str, str]]:
    wide = _wide_network(line)
    if wide is not None:
        yield f"may open doors for all of {wide}, not only for where it is", "write the networks that it is used from"
    for_max_ms = line.options.for_max_ms
    if for_max_ms is not None and for_max_ms > LONG_MS:
        remedy = f'write for-max="{LONG_MS // UNITS_MS["h"]}h" or less; established connections stay open'
        yield f"may keep doors open for {format_duration(for_max_ms)}", remedy


def _wide_network(line: Line) -> Network | None:
    patterns = line.options.addresses.included if line.options.addresses is not None else ()
    networks = (place for place in patterns if isinstance(place, Network))
    return next((place for place in networks if place.prefixlen < SHORTEST_PREFIX[place.version]), None)


def _unrestricted_keys(keys: AuthorizedKeys, doors: int) -> Iterator[Finding]:
    """Note once the keys without `doors=`, if there are several doors and several keys."""
    unrestricted = [line for line in keys.lines if line.options.doors is None]
    if doors > 1 and len(keys.lines) > 1 and unrestricted:
        whose = f"key {unrestricted[0].name}" if len(unrestricted) == 1 else f"{len(unrestricted):,} keys"
        what = f"{whose} may open every door, of {doors:,}"
        yield Finding(
            "unrestricted-key",
            "note",
            unrestricted[0].number,
            what,
            'to limit a key, write doors="…" before it',
            keys.file,
        )
