"""Find the line of each table and key in a TOML text, which tomllib does not report.

A tolerant scanner, not a parser: it is meant for texts that tomllib accepts, and returns some answer for any other,
never an error. Elements of lists and of `[[arrays]]` have the paths `(…, "0")`, `(…, "1")`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

Keys = tuple[str, ...]

MAX_DEPTH = 8  # no setting is deeper, and every part of a path is one more entry

_TOKEN = re.compile(
    r"""
      ^[ \t]*+ (?P<pair>[A-Za-z0-9_-]++) [ \t]*+ = [ \t]*+     # most lines: key = "text", a word, a list of texts
        (?: "[^"\\\n]*+" | [A-Za-z0-9_+.:-]++ | \[ [ \t]*+ (?: "[^"\\\n]*+" [ \t]*+ ,?+ [ \t]*+ )*+ \] )
        [ \t]*+ (?:\#[^\n]*+)? \r?\n
    | ^[ \t]*+ \[ [ \t]*+ (?P<header>[A-Za-z0-9_-]++ (?:\.[A-Za-z0-9_-]++)*+) [ \t]*+ \] [ \t]*+ (?:\#[^\n]*+)? \r?\n
    | (?P<newline>\n)
    | (?P<skip>[ \t\r]++ | \#[^\n]*+)
    | (?P<word> \"""(?: [^"\\]++ | \\. | "{1,2}(?!") )*+ (?:"{3,5})?
              | '''(?: [^']++ | '{1,2}(?!') )*+ (?:'{3,5})?
              | "(?: [^"\\\n]++ | \\[^\n] )*+ "?
              | '[^'\n]*+ '?
              | [A-Za-z0-9_+:-]++ )
    | (?P<mark>[][{}=,])
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def find_lines(text: str) -> dict[Keys, int]:
    """Return the line, counted from 1, on which each path of keys first appears."""
    scanner = _Scanner()
    line, counted_to = 1, 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("skip", None):
            continue
        line += text.count("\n", counted_to, token.start())
        counted_to = token.start()
        getattr(scanner, f"on_{kind}")(token[kind], line)
    return scanner.lines


def line_of(lines: Mapping[Keys, int], path: Keys) -> int:
    """Return the line of a path, or of the innermost table or list around it that has one."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


@dataclass(slots=True)
class _Open:
    """An array or inline table that is not closed yet."""

    path: Keys
    is_array: bool
    index: int = 0


@dataclass(slots=True)
class _Scanner:
    lines: dict[Keys, int] = field(default_factory=dict)
    table: Keys = ()
    keys: list[str] = field(default_factory=list)  # the parts of the key or header read so far
    path: Keys = ()  # of the value being read
    in_value: bool = False
    brackets: int = 0  # of the header being read: 1 a table, 2 an element of an array of tables
    stack: list[_Open] = field(default_factory=list)
    arrays: dict[Keys, int] = field(default_factory=dict)  # [[arrays]] and their last index

    def on_pair(self, key: str, line: int) -> None:
        self.note((*self.base(), key), line)

    def on_header(self, text: str, line: int) -> None:
        if self.stack:  # a list in a list, alone on its line
            self.on_word(text, line)
        else:
            self.enter(text.split("."), line)

    def on_newline(self, _: str, __: int) -> None:
        if not self.stack:
            self.in_value, self.brackets = False, 0
            self.keys.clear()

    def on_word(self, text: str, line: int) -> None:
        if not self.in_value:
            self.keys.append(_unquoted(text))
        else:
            self.note(self.value_path(), line)

    def on_mark(self, mark: str, line: int) -> None:
        if mark in "[{":
            self.open(mark, line)
        elif mark in "]}":
            self.close(line)
        elif mark == "=" and not self.in_value:
            self.path = self.note((*self.base(), *self.keys), line)
            self.in_value = True
        elif mark == "," and self.stack:
            self.next(self.stack[-1])

    def open(self, mark: str, line: int) -> None:
        if not self.in_value:
            self.brackets += mark == "["
            return
        path = self.note(self.value_path(), line)
        self.stack.append(_Open(path, is_array=mark == "["))
        self.in_value = mark == "["
        self.keys.clear()

    def close(self, line: int) -> None:
        if self.stack:
            self.path = self.stack.pop().path
            self.in_value = True
        elif self.brackets and self.keys:
            self.enter(self.keys, line, is_array=self.brackets > 1)
            self.brackets, self.keys = 0, []

    def next(self, within: _Open) -> None:
        within.index += 1
        self.in_value = within.is_array
        self.keys.clear()

    def enter(self, keys: list[str], line: int, *, is_array: bool = False) -> None:
        """Make a header's table the current one; below an array of tables, its last element."""
        path: Keys = ()
        for part in keys[:MAX_DEPTH]:
            path = (*path, str(self.arrays[path]), part) if path in self.arrays else (*path, part)
        if is_array:
            self.arrays[path] = self.arrays.get(path, -1) + 1
        if path in self.arrays:
            path = (*path, str(self.arrays[path]))
        self.table = self.note(path, line)

    def base(self) -> Keys:
        return self.stack[-1].path if self.stack else self.table

    def value_path(self) -> Keys:
        if self.stack and self.stack[-1].is_array:
            return (*self.stack[-1].path, str(self.stack[-1].index))
        return self.path

    def note(self, path: Keys, line: int) -> Keys:
        """Record the first line of a path and of all its parents."""
        path = path[:MAX_DEPTH]
        if path not in self.lines:
            for depth in range(1, len(path) + 1):
                self.lines.setdefault(path[:depth], line)
        return path


def _unquoted(text: str) -> str:
    if text[0] not in "\"'":
        return text
    try:
        return str(tomllib.loads(f"key = {text}")["key"])
    except tomllib.TOMLDecodeError:
        return text
