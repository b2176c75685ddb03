"""Write converted doors as doorward.toml, with notes as comments above the settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.knockd import KnockdDoor
from doorward.config.values import MAX_FOR_MS, MAX_WITHIN_MS
from doorward.escape import printable, toml_list, toml_text
from doorward.importer.firewall_ports import ParsedRule
from doorward.importer.shell_argument import PLACEHOLDER, as_argument
from doorward.model import DEFAULT_FLAGS, FlagFilter, Port

LONGEST_STEM = 50  # of a name, so that a number can be appended
_NO_SHELL = re.compile(
    r"true|doorward close [A-Za-z0-9_-]+ %IP%"
)  # commands generated here, not taken from the old file


class ImportNote(NamedTuple):
    """A note on a place, like `door 'ssh'` (None: the whole file); `check`: the operator has to act on it."""

    place: str | None
    check: bool
    text: str

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"{'check: ' if self.check else ''}{place}{self.text}"


@dataclass
class NewDoor:
    """A door of the new file while it is built; `rule` is the parsed Start_Command, or None."""

    name: str
    old: KnockdDoor
    rule: ParsedRule | None = None
    opens: tuple[Port, ...] = ()
    for_ms: int = 1000
    on_open: list[str] = field(default_factory=list)
    on_close: list[str] = field(default_factory=list)
    notes: list[ImportNote] = field(default_factory=list)

    def note(self, text: str, *, check: bool = False) -> None:
        """Add a note about this door."""
        self.notes.append(ImportNote(f"door {self.name!r}", check, text))

    @property
    def flags(self) -> FlagFilter:
        """The TCP flags that a knock packet must carry: the old file's, or doorward's default."""
        return self.old.flags if self.old.flags.mask else DEFAULT_FLAGS

    def key(self) -> object:
        """Return the key that must be unique among the doors of a file."""
        return (self.old.knock, self.old.within_ms, self.flags, self.old.target) if self.old.knock else self.name


def write(file: str, interface: str, doors: Sequence[NewDoor], notes: Iterable[ImportNote]) -> str:
    """Return the text of the file; an empty `interface` means all."""
    gate = ["", "[gate]", f"interfaces = {toml_list([interface])}"] if interface else []
    tables = [line for door in doors for line in _table(door)]
    return "\n".join([f"# Made from {toml_text(file)} by `doorward import`.", *comments(notes), *gate, *tables]) + "\n"


def unique_names(stems: Iterable[str]) -> Iterator[str]:
    """Yield each name, cut to LONGEST_STEM; a number makes a repeated one unique."""
    used: Counter[str] = Counter()
    taken: set[str] = set()
    for stem in stems:
        name = stem = stem[:LONGEST_STEM]
        while name in taken:
            used[stem] += 1
            name = f"{stem}-{used[stem] + 1}"
        taken.add(name)
        yield name


def firewall_note(opened: Iterable[Port]) -> Iterator[ImportNote]:
    """Yield the note on the operator's own firewall, if doors open ports."""
    ports = ", ".join(map(str, dict.fromkeys(opened)))
    if ports:
        yield ImportNote(
            None,
            True,
            f"doorward itself hides and opens {ports}. Start it first, then let your own firewall accept these ports "
            "for everyone: a packet must pass both",
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
    """Return the command and arguments that do what knockd's scripts did, with the address never in a shell's text.

    Raises ValueError if the address cannot be passed as an argument.
    """
    if len(scripts) == 1 and _NO_SHELL.fullmatch(scripts[0]):
        return scripts[0].split()
    text = "\n".join(scripts)
    return ["/bin/sh", "-c", as_argument(text), *(["doorward", PLACEHOLDER] if PLACEHOLDER in text else [])]


def comments(notes: Iterable[ImportNote]) -> Iterator[str]:
    """Yield each note as one comment line; control characters would end the comment or make the TOML invalid."""
    for note in notes:
        yield f"# {'Check: ' if note.check else ''}{printable(note.text)}"
