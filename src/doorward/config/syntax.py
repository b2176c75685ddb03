"""TOML text to plain tables; a fault of syntax becomes a message that says what to write instead."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from doorward.errors import ConfigError, Fault

_ONE_TABLE = "the table stands twice: put its settings into one of the two, or rename one"
_ONE_SETTING = "the setting stands twice: remove one of the two"

# How tomllib's messages begin, and what the operator should do then.
_REMEDIES = {
    "Invalid value": 'write text in double quotes, like mode = "stealth"',
    "Invalid initial character for a key part": "write the key as a plain word or in double quotes",
    "Invalid statement": "write KEY = VALUE, [TABLE] or # a comment",
    "Invalid date": 'write text in double quotes, like within = "15s"',
    "Expected '=' after a key": "write KEY = VALUE",
    "Expected newline or end of document": "write one setting a line, and text in double quotes",
    "Expected ']' at the end of a table declaration": "end the table's name with ]",
    "Expected ']]' at the end of an array declaration": "write [TABLE] in single brackets",
    "Unclosed array": 'separate the elements with commas, write text in double quotes and end the list with "]"',
    "Unclosed inline table": 'separate the settings with commas and end the table with "}"',
    "Unterminated string": "close the quotes",
    "Illegal character '\\n'": "close the quotes on the same line",
    "Illegal character": "take the character out",
    "Unescaped '\\' in a string": "write \\\\ for a backslash, or use single quotes",
    "Cannot overwrite a value": _ONE_SETTING,
    "Duplicate inline table key": _ONE_SETTING,
    "Cannot declare": _ONE_TABLE,
    "Cannot redefine namespace": _ONE_TABLE,
    "Cannot mutate immutable namespace": "put all settings of the table into one place",
}
_ANY_REMEDY = "correct the TOML here (https://toml.io)"
_PLACE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_TUPLE = re.compile(r"\('.*',?\)")
_PART = re.compile(r"'([^']*)'")


def load(text: str, file: str) -> dict[str, Any]:
    """Read TOML; ConfigError holds the first fault of its syntax."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_fault(text, file, str(error))]) from None
    except RecursionError:
        raise ConfigError([Fault(file, 1, "lists or tables nest too deep", "write plain lists")]) from None
    except ValueError:  # int() refuses numbers of thousands of digits
        raise ConfigError([Fault(file, 1, "a number has thousands of digits", "write a shorter number")]) from None


def _fault(text: str, file: str, message: str) -> Fault:
    last_line = text.rstrip("\n").count("\n") + 1
    match = _PLACE.fullmatch(message)
    if match is None:
        return Fault(file, last_line, message, _ANY_REMEDY)
    if match["line"] is None:
        return Fault(file, last_line, f"{match['what']} (end of the file)", _remedy(match["what"]))
    what = f"{_plain(match['what'])} (column {match['column']})"
    return Fault(file, int(match["line"]), what, _remedy(match["what"]))


def _plain(what: str) -> str:
    """Name tables as the operator wrote them, not as tuples."""
    return _TUPLE.sub(lambda match: f"[{'.'.join(_PART.findall(match[0]))}]", what)


def _remedy(what: str) -> str:
    return next((remedy for start, remedy in _REMEDIES.items() if what.startswith(start)), _ANY_REMEDY)
