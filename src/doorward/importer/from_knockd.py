"""Convert knockd's doors to doorward.toml: ports that commands open become `opens`, other commands become hooks.

Never silently laxer: if a door would open more than it did, its command stays or a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.knockd import KnockdConfiguration, KnockdDoor, KnockdOptions
from doorward.config.values import MAX_FOR_MS, MAX_WITHIN_MS
from doorward.importer.firewall_commands import parse_command, reverts
from doorward.importer.firewall_ports import ParsedRule, Service
from doorward.importer.toml_writer import LONGEST_STEM, ImportNote, NewDoor, argv, firewall_note, unique_names, write
from doorward.model import TCP_FLAGS, Protocol, SecretBytes

UNTIL_CLOSED_MS = 3_600_000  # knockd's rule stayed until it was removed; every knock extends this hour
SHORTEST_MS = 1000  # of a door that only runs a command: nothing is open, and the next knock runs it again


class Converted(NamedTuple):
    """The text of a doorward.toml, and notes for the operator."""

    toml: str
    notes: tuple[ImportNote, ...]
    keys: SecretBytes = SecretBytes()  # the file of the shared keys of fwknop's stanzas


def convert(configuration: KnockdConfiguration, file: str, service: Service) -> Converted:
    """Convert all doors; `service` looks ports up by name."""
    names = unique_names(_stem(door.name) for door in configuration.doors)
    doors = [_convert_door(name, door, service) for name, door in zip(names, configuration.doors, strict=True)]
    _link_closers(doors)
    doors = list(_merge_doors(doors))
    _safe_commands(doors)
    _note_opened_ports(doors)
    general = list(_general(configuration.options, doors))
    interface = (configuration.options.interface or "").split(":")[0]
    text = write(file, "" if interface in ("any", "lo") else interface, doors, general)
    return Converted(text, (*general, *(note for door in doors for note in door.notes)))


def _stem(name: str) -> str:
    """Return a valid name for a door."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST_STEM] or "door"
    return f"door-{stem}" if stem.isdigit() else stem


def _convert_door(name: str, old: KnockdDoor, service: Service) -> NewDoor:
    parsed = parse_command(old.start_command or "", service)
    door = NewDoor(name, old, parsed.rule, for_ms=SHORTEST_MS)
    why = parsed.why if parsed.rule is None else _why_not_converted(old, parsed.rule, service)
    if name != old.name:
        door.note(f"was called {old.name!r}; scripts and log filters may use that name", check=True)
    if not (old.start_command or old.start_command_6):
        door.on_open = ["true"]
        door.note("ran no command and still runs none; its knocks are only logged", check=True)
    elif why or parsed.rule is None:
        _keep_commands(door, why)
    elif parsed.rule.opens:
        _open(door, parsed.rule)
    else:
        _keep_commands(door, "it closes ports that no door opens")
    _knock_notes(door)
    return door


def _why_not_converted(old: KnockdDoor, rule: ParsedRule, service: Service) -> str:
    """Return why commands must stay although they are understood; empty if they need not."""
    if old.start_command_6 is not None:
        six = parse_command(old.start_command_6, service).rule
        if six is None or (six.opens, set(six.ports)) != (rule.opens, set(rule.ports)):
            return "IPv6 has a different command, or none; if IPv6 may open the same ports, list them in `opens`"
    stops = [stop for stop in (old.stop_command, old.stop_command_6) if stop]
    if not all(reverts(stop, rule, service) for stop in stops):
        return "Stop_Command does not simply undo Start_Command"
    return ""


def _open(door: NewDoor, rule: ParsedRule) -> None:
    door.opens = rule.ports
    for remark in rule.remarks:
        door.note(remark, check=True)
    if door.old.stop_command:
        door.for_ms = max(SHORTEST_MS, int(door.old.cmd_timeout_s * 1000))
    elif rule.for_s:
        door.for_ms = 1000 * rule.for_s
    else:
        door.for_ms = UNTIL_CLOSED_MS
        hour = format_duration(UNTIL_CLOSED_MS)
        door.note(
            f"stayed open until something closed it; now for {hour} after the last knock (established connections "
            f"stay open). Write another `for`, up to {format_duration(MAX_FOR_MS)}, if that is too short",
            check=True,
        )


def _keep_commands(door: NewDoor, why: str) -> None:
    old = door.old
    door.on_open = [script for script in [_script(old.start_command, old.start_command_6)] if script]
    door.on_close = [script for script in [_script(old.stop_command, old.stop_command_6)] if script]
    if door.on_close:
        door.for_ms = max(SHORTEST_MS, int(old.cmd_timeout_s * 1000))
    door.note(f"stays a command: {why}", check=True)


def _script(four: str | None, six: str | None) -> str:
    """Return a shell script that runs each address family's own command."""
    if six is None or six == four:
        return four or ""
    if not (four or six):
        return ""
    return f"case %IP% in\n*:*)\n{six or ':'}\n;;\n*)\n{four or ':'}\n;;\nesac"


def _knock_notes(door: NewDoor) -> None:
    old = door.old
    if old.one_time_file is not None:
        door.note(
            f"its one-time sequences ({old.one_time_file}) are not supported: open it with `doorward open` or a signed "
            "knock, which cannot be replayed either (`doorward key server`), or keep running `knockd`, which supports "
            "them",
            check=True,
        )
    if old.within_ms > MAX_WITHIN_MS:
        door.note(f"its time for the sequence is cut to {format_duration(MAX_WITHIN_MS)}", check=True)
    if all(port.protocol is Protocol.UDP for port in old.knock):
        return
    if not old.flags.mask:
        door.note("every TCP packet counted; now only one that starts a connection, so stray packets do no harm")
    elif not old.flags.passes(TCP_FLAGS["syn"]):
        door.note(f"the flags {old.flags} differ from a plain SYN: `knock` cannot send them, hping3 can", check=True)


def _link_closers(doors: Sequence[NewDoor]) -> None:
    """Make doors that only close ports close the doors that open them."""
    for closer in doors:
        rule, old = closer.rule, closer.old
        if rule is None or rule.opens or old.stop_command or old.start_command_6 is not None:
            continue
        openers = [door.name for door in doors if door.opens and set(door.opens) == set(rule.ports)]
        if openers:
            closer.on_open = [f"doorward close {opener} %IP%" for opener in openers]
            closer.notes = [note for note in closer.notes if not note.text.startswith("stays a command")]
            closer.note(f"closes {', '.join(openers)} early; you may remove it, since every opening ends by itself")


def _merge_doors(doors: Sequence[NewDoor]) -> Iterator[NewDoor]:
    """Merge doors with the same sequence, which doorward.toml does not allow."""
    first: dict[object, NewDoor] = {}
    for door in doors:
        other = first.setdefault(door.key(), door)
        if other is not door:
            other.opens = tuple(dict.fromkeys((*other.opens, *door.opens)))
            other.on_open += door.on_open
            other.on_close += door.on_close
            other.for_ms = max(other.for_ms, door.for_ms)
            other.notes += [ImportNote(f"door {other.name!r}", note.check, note.text) for note in door.notes]
            other.note(f"also does what {door.name} did, since both had the same sequence", check=True)
    yield from first.values()


def _safe_commands(doors: Sequence[NewDoor]) -> None:
    """Drop commands that cannot take the address as an argument: all of a door's, so that none opens permanently."""
    for door in doors:
        try:
            for scripts in (door.on_open, door.on_close):
                argv(scripts)
        except ValueError as error:
            door.on_open, door.on_close = [] if door.opens else ["true"], []
            door.note(
                f'its commands were dropped, since the address cannot be passed to them as "$1": {error}. It runs '
                "nothing yet: write `on_open` and `on_close`",
                check=True,
            )


def _note_opened_ports(doors: Sequence[NewDoor]) -> None:
    opened = {port: door.name for door in reversed(doors) for port in door.opens}
    for door in doors:
        for port in dict.fromkeys(port for port in door.old.knock if port in opened):
            what = f"knocks at {port}, which {opened[port]} opens: doorward rejects that; knock at another port"
            door.note(what, check=True)


def _general(options: KnockdOptions, doors: Sequence[NewDoor]) -> Iterator[ImportNote]:
    yield from firewall_note(port for door in doors for port in door.opens)
    if options.interface is None:
        yield ImportNote(None, True, "no Interface was set: all but lo are watched; did knockd run with -i?")
    elif ":" in options.interface:
        yield ImportNote(
            None, True, f"{options.interface} was one address of an interface; now all of its addresses count"
        )
    if options.log_file or options.use_syslog:
        yield ImportNote(
            None,
            True,
            "`doorward log` shows the access log; filters that parse knockd's lines need doorward's `knockd`",
        )
