"""Parse doorward.toml into a Configuration, reporting every invalid setting at once.

To add a setting, add a row to its table's dictionary (`GATE`, `DOOR`, …), and its field in the schema or the model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from doorward.config import validate, values
from doorward.config.diagnostics import ErrorCollector, header, nearest, shown
from doorward.config.schema import (
    Configuration,
    EtcdOutagePolicy,
    Fleet,
    Fwknop,
    FwknopStanza,
    Gate,
    Hmac,
    Mode,
    Shield,
    Signed,
    WrongPort,
)
from doorward.config.toml_positions import Keys
from doorward.errors import ConfigError, ConfigFault, InvalidValueError
from doorward.model import Door, HostPort, Port, PortRange, Redirect, as_signed_ports

_ONE_TABLE = "duplicate table: put its settings into one of the two, or rename one"
_ONE_SETTING = "duplicate setting: remove one of the two"

# How tomllib's messages begin, and the remedy for each.
_REMEDIES = {
    "Invalid value": 'write text in double quotes, like mode = "stealth"',
    "Invalid initial character for a key part": "write the key as a plain word or in double quotes",
    "Invalid statement": "write KEY = VALUE, [TABLE] or # a comment",
    "Invalid date": 'write text in double quotes, like within = "15s"',
    "Expected '=' after a key": "write KEY = VALUE",
    "Expected newline or end of document": "write one setting per line, and text in double quotes",
    "Expected ']' at the end of a table declaration": "end the table's name with ]",
    "Expected ']]' at the end of an array declaration": "write [TABLE] in single brackets",
    "Unclosed array": 'separate the elements with commas, write text in double quotes and end the list with "]"',
    "Unclosed inline table": 'separate the settings with commas and end the table with "}"',
    "Unterminated string": "close the quotes",
    "Illegal character '\\n'": "close the quotes on the same line",
    "Illegal character": "remove the character",
    "Unescaped '\\' in a string": "write \\\\ for a backslash, or use single quotes",
    "Cannot overwrite a value": _ONE_SETTING,
    "Duplicate inline table key": _ONE_SETTING,
    "Cannot declare": _ONE_TABLE,
    "Cannot redefine namespace": _ONE_TABLE,
    "Cannot mutate immutable namespace": "put all settings of the table into one place",
}
# What knockd.conf has and TOML has not.
_KNOCKD = re.compile(r"^\s*(\[options\]|(one_time_)?sequences?\s*=\s*[\w/])", re.IGNORECASE | re.MULTILINE)
_ANY_REMEDY = "correct the TOML here (https://toml.io)"
_PLACE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_TUPLE = re.compile(r"\('.*',?\)")
_PART = re.compile(r"'([^']*)'")


def load(text: str, file: str) -> dict[str, Any]:
    """Parse TOML. Raises ConfigError with the first syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_fault(text, file, str(error))]) from None
    except RecursionError:
        raise ConfigError(
            [ConfigFault("nested-too-deep", file, 1, "lists or tables nest too deep", "write plain lists")]
        ) from None
    except ValueError:  # int() rejects numbers of thousands of digits
        raise ConfigError(
            [ConfigFault("number-too-long", file, 1, "a number has thousands of digits", "write a shorter number")]
        ) from None


def _fault(text: str, file: str, message: str) -> ConfigFault:
    last_line = text.rstrip("\n").count("\n") + 1
    if _KNOCKD.search(text):
        remedy = f"convert it: `doorward import {file} -o doorward.toml`"
        return ConfigFault("knockd-file", file, 1, "this is a configuration of knockd, not of doorward", remedy)
    match = _PLACE.fullmatch(message)
    if match is None:
        return ConfigFault("not-toml", file, last_line, message, _ANY_REMEDY)
    if match["line"] is None:
        return ConfigFault(
            "unexpected-end", file, last_line, f"{match['what']} (end of the file)", _remedy(match["what"])
        )
    fault = f"{_plain(match['what'])} (column {match['column']})"
    return ConfigFault("not-toml", file, int(match["line"]), fault, _remedy(match["what"]))


def _plain(fault: str) -> str:
    """Write table names as the operator did, not as tuples."""
    return _TUPLE.sub(lambda match: f"[{'.'.join(_PART.findall(match[0]))}]", fault)


def _remedy(fault: str) -> str:
    return next((remedy for start, remedy in _REMEDIES.items() if fault.startswith(start)), _ANY_REMEDY)


@dataclass(frozen=True, slots=True)
class Setting:
    """The field that a key sets, and the converter of its value; `element` converts the elements of a list first.

    `is_list_optional`: a single element may be written without its list.
    """

    field: str
    read: Callable[[Any], object]
    element: Callable[[object], object] | None = None
    example: str = ""  # of a list
    is_list_optional: bool = False


TABLES = ("gate", "doors", "signed", "fleet", "fwknop")

GATE = {
    "mode": Setting("mode", values.choice(Mode)),
    "interfaces": Setting("interfaces", values.interfaces, values.interface, '["eth0"]'),
    "public": Setting("public", values.public, values.port_range, '["80/tcp", "8000-8100/tcp"]'),
    "wrong_port": Setting("wrong_port", values.choice(WrongPort)),
    "ping": Setting("ping", values.boolean),
    "capacity": Setting("capacity", values.capacity),
    "name": Setting("name", values.name),
    "address": Setting("address", values.host),
    "control_group": Setting("control_group", values.group),
    "accept_mark": Setting("accept_mark", values.mark),
    "on_refuse": Setting("on_refuse", values.command, values.text, '["/usr/bin/logger", "%IP%: %REASON%"]'),
    "shield": Setting("shield", values.choice(Shield)),
}

DOOR = {
    "knock": Setting("knock", values.sequence, values.port, '["7000/tcp", "8000/udp", "9000/tcp"]'),
    "within": Setting("within_ms", values.duration(values.MAX_WITHIN_MS)),
    "flags": Setting("flags", values.flags, values.text, '["syn", "!ack"]'),
    "opens": Setting("opens", values.opens, values.open_port, '["22/tcp"]'),
    "for": Setting("for_ms", values.duration(values.MAX_FOR_MS)),
    "masquerade": Setting("masquerade", values.boolean),
    "target": Setting("target", values.address),
    "on_open": Setting("on_open", values.command, values.text, '["/usr/bin/logger", "open to %IP%"]'),
    "on_close": Setting("on_close", values.command, values.text, '["/usr/bin/logger", "closed to %IP%"]'),
    "shared": Setting("shared", values.boolean),
    "once": Setting("once", values.boolean),
}

SIGNED = {
    "port": Setting("ports", as_signed_ports, values.port, '["62201/udp", "443/udp"]', is_list_optional=True),
    "key": Setting("key", values.file),
    "authorized_keys": Setting("authorized_keys", values.file),
    "window": Setting("window_ms", values.window),
    "confirm": Setting("confirm", values.boolean),
    "browser": Setting("browser", values.boolean),
}

FLEET = {
    "name": Setting("name", values.name),
    "endpoints": Setting("endpoints", values.endpoints, values.endpoint, '["https://192.0.2.11:2379"]'),
    "ca": Setting("ca", values.file),
    "certificate": Setting("certificate", values.file),
    "key": Setting("key", values.file),
    "user": Setting("user", values.text),
    "password": Setting("password", values.file),
    "policy": Setting("policy", values.choice(EtcdOutagePolicy)),
    "timeout": Setting("timeout_ms", values.timeout),
    "plain": Setting("plain", values.boolean),
    "for_max": Setting("for_max_ms", values.duration(values.MAX_FOR_MS)),
}

FWKNOP = {
    "port": Setting("port", values.udp_port),
    "keys": Setting("keys", values.file),
    "window": Setting("window_ms", values.window),
}

STANZA = {
    "doors": Setting("doors", values.distinct, values.name, '["ssh"]'),
    "ports": Setting("ports", values.opens, values.port, '["22/tcp"]'),
    "from": Setting("sources", values.distinct, values.network4, '["192.0.2.0/24"]'),
    "for": Setting("for_ms", values.duration(values.MAX_FOR_MS)),
    "for_max": Setting("for_max_ms", values.duration(values.MAX_FOR_MS)),
    "username": Setting("username", values.text),
    "require_source_address": Setting("require_source_address", values.boolean),
    "expires": Setting("expires_s", values.moment),
    "hmac": Setting("hmac", values.choice(Hmac)),
    "insecure_no_hmac": Setting("insecure_no_hmac", values.boolean),
}

# What other programs call the same setting, and common slips.
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
    """Parse a whole configuration. Raises ConfigError with all faults, or the first syntax error."""
    document = load(text, file)
    report = ErrorCollector(file, text)
    _unknown(report, (), document, TABLES)
    gate = Gate(**_table(report, ("gate",), document.get("gate", {}), GATE))
    doors = _doors(report, document.get("doors", {}))
    signed = Signed(**_table(report, ("signed",), document["signed"], SIGNED)) if "signed" in document else None
    fleet = _fleet(report, document["fleet"]) if "fleet" in document else None
    fwknop = _fwknop(report, document["fwknop"]) if "fwknop" in document else None
    configuration = Configuration(gate, tuple(doors), signed, fleet, fwknop)
    validate.check_targets(report, doors)
    validate.check_redirects(report, doors)
    validate.check_ranges(report, configuration)
    validate.check_knock_ports(report, configuration)
    validate.check_signed_ports(report, configuration)
    validate.check_fleet(report, gate, doors, fleet)
    validate.check_fwknop(report, configuration)
    if not doors and not report.faults:
        report.add("no-door", ("doors",), "no door is defined", "write a table [doors.NAME] for each door")
    if report.faults:
        raise ConfigError(report.faults)
    return configuration


def _fleet(report: ErrorCollector, table: object) -> Fleet:
    """Convert the table [fleet]; missing required settings are reported at its header."""
    fields = _table(report, ("fleet",), table, FLEET)
    for key, example in (("name", '"example"'), ("endpoints", '["https://192.0.2.11:2379"]')):
        if isinstance(table, dict) and key not in table:
            report.add("missing-setting", ("fleet",), f"[fleet] has no {key}", f"write {key} = {example} there")
    return Fleet(**({"name": "", "endpoints": ()} | fields))


def _fwknop(report: ErrorCollector, table: object) -> Fwknop:
    """Convert the table [fwknop] with its stanzas."""
    path, tables = ("fwknop", "stanzas"), {}
    if isinstance(table, dict):
        table, tables = {key: value for key, value in table.items() if key != "stanzas"}, table.get("stanzas", {})
    fields = _table(report, ("fwknop",), table, FWKNOP)
    if not isinstance(tables, dict):
        what = f"stanzas is {shown(tables)}, not tables"
        report.add("stanzas-not-tables", path, what, "write a table [fwknop.stanzas.NAME] for each shared key")
        tables = {}
    stanzas = []
    for name, stanza in tables.items():
        try:
            values.name(name)
        except InvalidValueError as error:
            report.add_error((*path, name), "the stanza's name", error)
        stanzas.append(FwknopStanza(name, **_table(report, (*path, name), stanza, STANZA)))
    return Fwknop(**fields, stanzas=tuple(stanzas))


def _doors(report: ErrorCollector, tables: object) -> list[Door]:
    """Convert every door; one with faults keeps its valid settings, so that `validate` can check them."""
    if not isinstance(tables, dict):
        report.add(
            "doors-not-tables",
            ("doors",),
            f"doors is {shown(tables)}, not tables",
            "write a table [doors.NAME] for each door",
        )
        return []
    doors, whole = [], []
    for name, table in tables.items():
        faults_before = len(report.faults)
        doors.append(_door(report, name, table))
        if len(report.faults) == faults_before:
            whole.append(doors[-1])
    validate.check_unique_sequences(report, whole)
    return doors


def _door(report: ErrorCollector, name: str, table: object) -> Door:
    path = ("doors", name)
    if name in DOOR and not isinstance(table, dict):
        report.add(
            "setting-outside-door", path, f"the setting {name!r} is directly in [doors]", "write it below [doors.NAME]"
        )
        return Door(name, (), ())
    try:
        values.name(name)
    except InvalidValueError as error:
        report.add_error(path, "the door's name", error)
    fields = _table(report, path, table, DOOR)
    validate.check_door(report, path, table)
    opens = fields.pop("opens", ())
    redirects = tuple(item for item in opens if isinstance(item, Redirect))
    behind = tuple(item for item in opens if isinstance(item, HostPort))
    for port in {each.port for each in redirects}.intersection(item for item in opens if isinstance(item, Port)):
        fault = f"opens: {port} is forwarded, and open itself"
        report.add("redirect-conflict", (*path, "opens"), fault, "write one of the two")
    ranges = tuple(item for item in opens if isinstance(item, PortRange))
    local = [getattr(item, "port", item) for item in opens if isinstance(item, Port | Redirect)]
    fields |= {"opens": tuple(dict.fromkeys(local)), "behind": behind, "ranges": ranges, "redirects": redirects}
    door = Door(name, **({"knock": ()} | fields))
    validate.check_once(report, door, opens)
    return door


def _table(report: ErrorCollector, path: Keys, table: object, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the fields with valid settings; report the others."""
    if not isinstance(table, dict):
        report.add(
            "not-a-table", path, f"{shown(path[-1])} is {shown(table)}, not a table", f"write a table {header(path)}"
        )
        return {}
    _unknown(report, path, table, settings)
    fields: dict[str, Any] = {}
    for key, value in table.items():
        setting = settings.get(key)
        if setting is None:
            continue
        try:
            fields[setting.field] = setting.read(_convert_elements(report, (*path, key), value, setting))
        except _Reported:
            continue
        except InvalidValueError as error:
            report.add_error((*path, key), key, error)
    return fields


class _Reported(Exception):
    """A list has faults that were reported already."""


def _convert_elements(report: ErrorCollector, path: Keys, value: object, setting: Setting) -> object:
    """Convert the elements of a list, reporting each fault at its own line; return any other value unchanged."""
    if setting.element is None:
        return value
    if setting.is_list_optional and not isinstance(value, list):
        return [setting.element(value)]
    if not isinstance(value, list):
        raise InvalidValueError("not-a-list", f"{shown(value)} is not a list; write {path[-1]} = {setting.example}")
    elements = []
    for index, element in enumerate(value):
        try:
            elements.append(setting.element(element))
        except InvalidValueError as error:
            report.add_error((*path, str(index)), path[-1], error)
    if len(elements) < len(value):
        raise _Reported
    return elements


def _unknown(report: ErrorCollector, path: Keys, table: Mapping[str, object], known: Collection[str]) -> None:
    """Report each unknown key, with the setting that was probably meant."""
    where = f" in {header(path)}" if path else ""
    for key in [key for key in table if key not in known]:
        noun = "setting" if path or not isinstance(table[key], dict) else "table"
        report.add("unknown-key", (*path, key), f"unknown {noun} {shown(key)}{where}", _remedy_for_key(key, known))


def _remedy_for_key(key: str, known: Collection[str]) -> str:
    if OTHER_NAMES.get(key) in known:
        return f"write {OTHER_NAMES[key]!r} instead"
    for table, settings in (
        ("[gate]", GATE),
        ("a table [doors.NAME]", DOOR),
        ("[signed]", SIGNED),
        ("[fleet]", FLEET),
        ("[fwknop]", FWKNOP),
        ("a table [fwknop.stanzas.NAME]", STANZA),
    ):
        # A stanza's names, such as `doors` and `open`, have other meanings outside [fwknop].
        if key in settings and (settings is not STANZA or known is FWKNOP):
            return f"write it in {table}"
    near = nearest(key, known)
    return f"did you mean {near!r}?" if near else f"remove it, or write one of {', '.join(known)}"
