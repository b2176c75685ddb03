"""The doors that a fleet keeps for all its gates, beside a gate's own file. Pure.

They may run no command: else whoever can write to etcd could run programs on every gate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from doorward.config import syntax
from doorward.config.lines import find_lines, line_of
from doorward.config.report import shown
from doorward.config.schema import Configuration
from doorward.config.toml import parse
from doorward.errors import ConfigError, Fault

_COMMANDS = ("on_open", "on_close")


class Text(NamedTuple):
    """A file's text, with its name for messages."""

    text: str
    file: str


def merged(own: Text, doors: Text) -> Configuration:
    """Give a gate's own configuration with the fleet's doors; ConfigError names the file of each fault."""
    documents = [syntax.load(*each) for each in (own, doors)]
    check(doors, documents[1], _doors(documents[0]))
    before = doors.text.rstrip("\n") + "\n"
    try:
        return parse(before + own.text, doors.file)
    except ConfigError as error:
        raise ConfigError([_at_its_place(fault, before.count("\n"), own.file) for fault in error.faults]) from None


def check(doors: Text, document: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse what is not only doors, doors with commands, and doors that the gate has itself."""
    lines = find_lines(doors.text)
    faults = [
        Fault(doors.file, line_of(lines, (name,)), f"{shown(name)} is not a fleet's", "leave only tables [doors.NAME]")
        for name in document
        if name != "doors"
    ]
    for door, table in _doors(document).items():
        place = ("doors", door)
        if door in own:
            what = f"a gate has a door {shown(door)} of its own"
            faults.append(Fault(doors.file, line_of(lines, place), what, "give one of them another name"))
        for word in _COMMANDS:
            if isinstance(table, dict) and word in table:
                what = f"door {shown(door)} runs a command, which a fleet's door may not"
                instead = "write that door into each gate's own file"
                faults.append(Fault(doors.file, line_of(lines, (*place, word)), what, instead))
    if not _doors(document) and not faults:
        faults.append(Fault(doors.file, 1, "there is no door", "write a table [doors.NAME] for each door"))
    if faults:
        raise ConfigError(faults)


def _doors(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("doors", {})
    return found if isinstance(found, dict) else {}


def _at_its_place(fault: Fault, lines: int, own: str) -> Fault:
    return fault if fault.line <= lines else fault._replace(file=own, line=fault.line - lines)
