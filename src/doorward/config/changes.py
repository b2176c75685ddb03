"""What differs between two configurations, for an operator who loads the second. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from doorward.config.schema import Configuration, FwknopStanza, Mode
from doorward.config.toml import DOOR, FLEET, FWKNOP, GATE, SIGNED, STANZA, Setting
from doorward.model import Door, HostPort, OpenPort, Port, PortRange, Redirect, SetPort

MOST_SHOWN = 20  # doors or stanzas of a kind, and ports in a line


def describe_changes(before: Configuration, after: Configuration) -> list[str]:
    """Return a line for each change, without the ports of a sequence; none if nothing differs."""
    return [
        *_named("door", before.doors, after.doors, DOOR),
        *_settings(before, after),
        *_named("stanza", _stanzas(before), _stanzas(after), STANZA),
        *_ports(before, after),
    ]


def _stanzas(configuration: Configuration) -> Sequence[FwknopStanza]:
    return () if configuration.fwknop is None else configuration.fwknop.stanzas


def _named(
    kind: str, before: Sequence[Door | FwknopStanza], after: Sequence[Door | FwknopStanza], table: Mapping[str, Setting]
) -> Iterator[str]:
    """Yield which of the doors or stanzas were added, removed and changed."""
    old, new = ({each.name: each for each in tables} for tables in (before, after))
    added = [f"+ {kind} {name}: {_listed(_opens(each))}" for name, each in new.items() if name not in old]
    removed = [f"- {kind} {name}: {_listed(_opens(each))}" for name, each in old.items() if name not in new]
    differing = [(name, _differing(old[name], each, table)) for name, each in new.items() if name in old]
    changed = [f"~ {kind} {name}: {', '.join(settings)}" for name, settings in differing if settings]
    for lines in (added, removed, changed):
        yield from lines[:MOST_SHOWN]
        if len(lines) > MOST_SHOWN:
            yield f"{lines[0][0]} {len(lines) - MOST_SHOWN:,} more {kind}s"


def _settings(before: Configuration, after: Configuration) -> Iterator[str]:
    if before.gate.mode is not after.gate.mode:
        yield f"~ mode: {before.gate.mode} to {after.gate.mode}"
    for name, one, other, table in (
        ("gate", before.gate, after.gate, {key: setting for key, setting in GATE.items() if key != "mode"}),
        ("signed", before.signed, after.signed, SIGNED),
        ("fleet", before.fleet, after.fleet, FLEET),
        ("fwknop", before.fwknop, after.fwknop, FWKNOP),
    ):
        if one is None or other is None:
            if one is not other:
                yield f"{'+' if one is None else '-'} [{name}]"
        elif settings := _differing(one, other, table):
            yield f"~ [{name}]: {', '.join(settings)}"


def _differing(one: object, other: object, table: Mapping[str, Setting]) -> list[str]:
    """Return the keys of the settings that differ."""
    return [key for key, setting in table.items() if _value(one, setting) != _value(other, setting)]


def _value(table: object, setting: Setting) -> object:
    return _opens(table) if isinstance(table, Door) and setting.field == "opens" else getattr(table, setting.field)


def _opens(door: Door | FwknopStanza) -> tuple[OpenPort | Redirect | str, ...]:
    """Return what a door opens, with the ports that it forwards as redirects; of a stanza its doors."""
    if isinstance(door, FwknopStanza):
        return door.doors
    forwarded = {redirect.port for redirect in door.redirects}
    return (*(port for port in door.all_opens if port not in forwarded), *door.redirects)


def _ports(before: Configuration, after: Configuration) -> Iterator[str]:
    """Yield which ports one of the two alone hides: those that a file names, or all that it does not."""
    named = {port for each in (before, after) for port in (*each.gate.public, *_opened(each))}
    old, new = (_hidden(each, named) for each in (before, after))
    hidden, shown = _listed(_runs(new - old)), _listed(_runs(old - new))
    if before.gate.mode is not after.gate.mode:
        hidden = "every port that is not public" if after.gate.mode is Mode.STEALTH else hidden
        shown = "every port that no door opens" if before.gate.mode is Mode.STEALTH else shown
        shown = "every port" if after.gate.mode is Mode.OBSERVE else shown
    if hidden:
        yield f"newly hidden: {hidden}"
    if shown:
        yield f"no longer hidden: {shown}"


def _hidden(configuration: Configuration, named: AbstractSet[SetPort]) -> AbstractSet[SetPort]:
    """Return those of the named ports that a configuration hides."""
    if configuration.gate.mode is Mode.OBSERVE:
        return frozenset()
    opened = _opened(configuration)
    if configuration.gate.mode is not Mode.STEALTH:
        return opened
    return opened | {port for port in named if not isinstance(port, HostPort)} - {*configuration.gate.public}


def _opened(configuration: Configuration) -> AbstractSet[SetPort]:
    """Return what doors open, each port of a range by itself: the two configurations may have other ranges."""
    ports = {port for door in configuration.doors for port in door.all_opens}
    return {each for port in ports for each in (port.ports() if isinstance(port, PortRange) else (port,))}


def _runs(ports: AbstractSet[SetPort]) -> list[OpenPort]:
    """Return ports in order, successive ones as ranges."""
    runs: list[OpenPort] = []
    for port in sorted(ports, key=_in_order):
        before = runs[-1] if runs else None
        if not isinstance(port, HostPort) and isinstance(before, Port | PortRange) and _follows(port, before):
            runs[-1] = PortRange(port.protocol, before.number, port.number)
        else:
            runs.append(port)
    return runs


def _follows(port: Port, before: Port | PortRange) -> bool:
    last = before.last if isinstance(before, PortRange) else before.number
    return port.protocol is before.protocol and port.number == last + 1


def _in_order(port: SetPort) -> tuple[object, ...]:
    return (*port[:2], str(port[2:]))  # addresses of different families cannot be compared


def _listed(ports: Sequence[object]) -> str:
    more = f" and {len(ports) - MOST_SHOWN} more" if len(ports) > MOST_SHOWN else ""
    return ", ".join(map(str, ports[:MOST_SHOWN])) + more
