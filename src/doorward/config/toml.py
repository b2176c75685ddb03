"""doorward's own file: TOML to a Configuration, or every fault of its meaning at once.

A setting is added in one place: a row in `GATE`, `DOOR`, `SIGNED` or `FLEET`, and its field in the schema or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from doorward.config import readers, rules, syntax
from doorward.config.lines import Keys
from doorward.config.report import Report, header, nearest, shown
from doorward.config.schema import Configuration, Fleet, Gate, Mode, Policy, Signed, WrongPort
from doorward.errors import ConfigError
from doorward.model import Door


@dataclass(frozen=True, slots=True)
class Setting:
    """Which field a key fills, and how its value is read; a list's elements are read by `each` first."""

    field: str
    read: Callable[[Any], object]
    each: Callable[[object], object] | None = None
    example: str = ""  # of a list


TABLES = ("gate", "doors", "signed", "fleet")

GATE = {
    "mode": Setting("mode", readers.choice(Mode)),
    "interfaces": Setting("interfaces", readers.interfaces, readers.interface, '["eth0"]'),
    "public": Setting("public", readers.public, readers.port_range, '["80/tcp", "8000-8100/tcp"]'),
    "wrong_port": Setting("wrong_port", readers.choice(WrongPort)),
    "ping": Setting("ping", readers.boolean),
    "capacity": Setting("capacity", readers.capacity),
    "name": Setting("name", readers.name),
    "control_group": Setting("control_group", readers.group),
    "accept_mark": Setting("accept_mark", readers.mark),
    "on_refuse": Setting("on_refuse", readers.command, readers.text, '["/usr/bin/logger", "%IP%: %REASON%"]'),
}

DOOR = {
    "knock": Setting("knock", readers.sequence, readers.port, '["7000/tcp", "8000/udp", "9000/tcp"]'),
    "within": Setting("within_ms", readers.duration(readers.MAX_WITHIN_MS)),
    "flags": Setting("flags", readers.flags, readers.text, '["syn", "!ack"]'),
    "opens": Setting("opens", readers.opened, readers.port, '["22/tcp"]'),
    "for": Setting("for_ms", readers.duration(readers.MAX_FOR_MS)),
    "target": Setting("target", readers.address),
    "on_open": Setting("on_open", readers.command, readers.text, '["/usr/bin/logger", "open to %IP%"]'),
    "on_close": Setting("on_close", readers.command, readers.text, '["/usr/bin/logger", "closed to %IP%"]'),
    "shared": Setting("shared", readers.boolean),
}

SIGNED = {
    "port": Setting("port", readers.datagram_port),
    "key": Setting("key", readers.file),
    "authorized_keys": Setting("authorized_keys", readers.file),
    "window": Setting("window_ms", readers.window),
}

FLEET = {
    "name": Setting("name", readers.name),
    "endpoints": Setting("endpoints", readers.endpoints, readers.endpoint, '["https://192.0.2.11:2379"]'),
    "ca": Setting("ca", readers.file),
    "certificate": Setting("certificate", readers.file),
    "key": Setting("key", readers.file),
    "user": Setting("user", readers.text),
    "password": Setting("password", readers.file),
    "policy": Setting("policy", readers.choice(Policy)),
    "timeout": Setting("timeout_ms", readers.patience),
    "plain": Setting("plain", readers.boolean),
    "for_max": Setting("for_max_ms", readers.duration(readers.MAX_FOR_MS)),
}

# What other programs, and haste, call the same thing.
OTHER_NAMES = {
    "door": "doors",
    "sequence": "knock",
    "seq_timeout": "within",
    "timeout": "within",
    "tcpflags": "flags",
    "port": "opens",
    "ports": "opens",
    "cmd_timeout": "for",
    "duration": "for",
}


def parse(text: str, file: str) -> Configuration:
    """Read a whole configuration; ConfigError holds all faults, or the first one of the syntax."""
    document = syntax.load(text, file)
    report = Report(file, text)
    _unknown(report, (), document, TABLES)
    gate = Gate(**_table(report, ("gate",), document.get("gate", {}), GATE))
    doors = _doors(report, document.get("doors", {}))
    signed = Signed(**_table(report, ("signed",), document["signed"], SIGNED)) if "signed" in document else None
    fleet = _fleet(report, document["fleet"]) if "fleet" in document else None
    rules.knocks_at_taken_ports(report, gate, doors, signed)
    rules.signed_port_is_taken(report, gate, doors, signed)
    rules.what_a_fleet_needs(report, gate, doors, fleet)
    if not doors and not report.faults:
        report.add(("doors",), "there is no door", "write a table [doors.NAME] for each door")
    if report.faults:
        raise ConfigError(report.faults)
    return Configuration(gate, tuple(doors), signed, fleet)


def _fleet(report: Report, table: object) -> Fleet:
    """Read the table; what it cannot do without is reported by its header."""
    values = _table(report, ("fleet",), table, FLEET)
    for key, example in (("name", '"example"'), ("endpoints", '["https://192.0.2.11:2379"]')):
        if isinstance(table, dict) and key not in table:
            report.add(("fleet",), f"[fleet] has no {key}", f"write {key} = {example} there")
    return Fleet(**({"name": "", "endpoints": ()} | values))


def _doors(report: Report, tables: object) -> list[Door]:
    """Read every door; one with faults is given with what was good, for the rules to look at."""
    if not isinstance(tables, dict):
        report.add(("doors",), f"doors is {shown(tables)}, not tables", "write a table [doors.NAME] for each door")
        return []
    doors, whole = [], []
    for name, table in tables.items():
        faults_before = len(report.faults)
        doors.append(_door(report, name, table))
        if len(report.faults) == faults_before:
            whole.append(doors[-1])
    rules.same_sequence_twice(report, whole)
    return doors


def _door(report: Report, name: str, table: object) -> Door:
    path = ("doors", name)
    if name in DOOR and not isinstance(table, dict):
        report.add(path, f"the setting {name!r} stands in [doors] itself", "write it below [doors.NAME]")
        return Door(name, (), ())
    try:
        readers.name(name)
    except ValueError as error:
        report.add_error(path, "the door's name", error)
    values = _table(report, path, table, DOOR)
    rules.what_a_door_does(report, path, table)
    return Door(name, **({"knock": (), "opens": ()} | values))


def _table(report: Report, path: Keys, table: object, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Give the fields whose settings are good; the rest is reported."""
    if not isinstance(table, dict):
        report.add(path, f"{shown(path[-1])} is {shown(table)}, not a table", f"write a table {header(path)}")
        return {}
    _unknown(report, path, table, settings)
    values: dict[str, Any] = {}
    for key, value in table.items():
        setting = settings.get(key)
        if setting is None:
            continue
        try:
            values[setting.field] = setting.read(_elements(report, (*path, key), value, setting))
        except _Reported:
            continue
        except ValueError as error:
            report.add_error((*path, key), key, error)
    return values


class _Reported(Exception):
    """A list has faults that the report already holds."""


def _elements(report: Report, path: Keys, value: object, setting: Setting) -> object:
    """Read the elements of a list, each fault at its own line; any other value is given as it is."""
    if setting.each is None:
        return value
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is no list; write {path[-1]} = {setting.example}")
    elements = []
    for index, element in enumerate(value):
        try:
            elements.append(setting.each(element))
        except ValueError as error:
            report.add_error((*path, str(index)), path[-1], error)
    if len(elements) < len(value):
        raise _Reported
    return elements


def _unknown(report: Report, path: Keys, table: Mapping[str, object], known: Collection[str]) -> None:
    """Report each key that is no setting here, with what was probably meant."""
    where = f" in {header(path)}" if path else ""
    for key in [key for key in table if key not in known]:
        kind = "setting" if path or not isinstance(table[key], dict) else "table"
        report.add((*path, key), f"unknown {kind} {shown(key)}{where}", _meant(key, known))


def _meant(key: str, known: Collection[str]) -> str:
    if OTHER_NAMES.get(key) in known:
        return f"write {OTHER_NAMES[key]!r} instead"
    for table, settings in (("[gate]", GATE), ("a table [doors.NAME]", DOOR), ("[signed]", SIGNED), ("[fleet]", FLEET)):
        if key in settings:
            return f"write it in {table}"
    near = nearest(key, known)
    return f"did you mean {near!r}?" if near else f"remove it, or write one of {', '.join(known)}"
