"""Writes converted doors as doorward.toml, each with its notes as comments above its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.knockd import KnockdDoor
from doorward.config.values import MAX_FOR_MS, MAX_WITHIN_MS
from doorward.importer.firewall_ports import ParsedRule
from doorward.importer.shell_argument import PLACE, as_argument
from doorward.model import DEFAULT_FLAGS, FlagFilter, Port

_NO_SHELL = re.compile(r"true|doorward close [A-Za-z0-9_-]+ %IP%")  # what is made here, not taken from the old file


class ImportNote(NamedTuple):
    """Something to know about a door (None: about all); `check` where the reader has to look."""

    door: str | None
    check: bool
    text: str

    def __str__(self) -> str:
        door = f"door {self.door!r}: " if self.door else ""
        return f"{'check: ' if self.check else ''}{door}{self.text}"


@dataclass
class NewDoor:
    """A door of the new file while it is made; `rule` is what Start_Command does, if that is understood."""

    name: str
    old: KnockdDoor
    rule: ParsedRule | None = None
    opens: tuple[Port, ...] = ()
    for_ms: int = 1000
    on_open: list[str] = field(default_factory=list)
    on_close: list[str] = field(default_factory=list)
    notes: list[ImportNote] = field(default_factory=list)

    def note(self, text: str, *, check: bool = False) -> None:
        """Keep a note about this door."""
        self.notes.append(ImportNote(self.name, check, text))

    @property
    def flags(self) -> FlagFilter:
        """Which TCP packets count: the file's own filter, doorward's default where it has none."""
        return self.old.flags if self.old.flags.mask else DEFAULT_FLAGS

    def key(self) -> object:
        """Give what no two doors of one file may share; doors without a sequence share nothing."""
        return (self.old.knock, self.old.within_ms, self.flags, self.old.target) if self.old.knock else self.name


def write(file: str, interface: str, doors: Sequence[NewDoor], notes: Iterable[ImportNote]) -> str:
    """Give the whole text; `interface` empty: all."""
    gate = ["", "[gate]", f"interfaces = {toml_list([interface])}"] if interface else []
    tables = [line for door in doors for line in _table(door)]
    return "\n".join([f"# Made from {toml_text(file)} by `doorward import`.", *comments(notes), *gate, *tables]) + "\n"


def own_firewall(opened: Iterable[Port]) -> Iterator[ImportNote]:
    """Say what becomes of the operator's own firewall where doors open ports."""
    ports = ", ".join(map(str, dict.fromkeys(opened)))
    if ports:
        yield ImportNote(
            None,
            True,
            f"doorward itself hides and opens {ports}. Start it first, then let your own firewall accept these ports "
            "for everyone: a packet must pass both",
        )
        yield ImportNote(
            None, False, "better: the kernel opens and closes at once, for IPv4 and IPv6, and no rule is left over"
        )


def _table(door: NewDoor) -> Iterator[str]:
    old = door.old
    yield from ("", f"[doors.{door.name}]", *comments(door.notes))
    if old.knock:
        yield f"knock = {toml_list(map(str, old.knock))}"
    yield f'within = "{format_duration(min(old.within_ms, MAX_WITHIN_MS))}"'
    if door.flags != DEFAULT_FLAGS:
        yield f"flags = {toml_list(str(door.flags).split(','))}"
    if old.target is not None:
        yield f'target = "{old.target}"'
    if door.opens:
        yield f"opens = {toml_list(map(str, door.opens))}"
    for key, scripts in (("on_open", door.on_open), ("on_close", door.on_close)):
        if scripts:
            yield f"{key} = {toml_list(argv(scripts))}"
    yield f'for = "{format_duration(min(door.for_ms, MAX_FOR_MS))}"'


def argv(scripts: Sequence[str]) -> list[str]:
    """Return the program and the words that do what knockd's scripts did. The address is never in a shell's text.

    ValueError: the shell cannot be given it as an argument.
    """
    if len(scripts) == 1 and _NO_SHELL.fullmatch(scripts[0]):
        return scripts[0].split()
    text = "\n".join(scripts)
    return ["/bin/sh", "-c", as_argument(text), *(["doorward", PLACE] if PLACE in text else [])]


def comments(notes: Iterable[ImportNote]) -> Iterator[str]:
    """Write notes on one line each; a control character would end a comment, or the file's being TOML."""
    for note in notes:
        words = "".join(letter if letter.isprintable() else "?" for letter in note.text)
        yield f"# {'Check: ' if note.check else ''}{words}"


def toml_list(words: Iterable[str]) -> str:
    """Write a TOML list of strings."""
    return f"[{', '.join(map(toml_text, words))}]"


def toml_text(word: str) -> str:
    """Write a TOML string: as JSON's, but without surrogate pairs, and with DEL escaped."""
    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")
