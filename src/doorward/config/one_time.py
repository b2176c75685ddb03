"""Files of one-time sequences: one sequence a line; a used one begins with `#`."""

from __future__ import annotations

from typing import NamedTuple

from doorward.config.knockd_values import WHITESPACE, sequence
from doorward.errors import Fault
from doorward.model import Port

MARK = b"#"
ENCODING = "utf-8"
ERRORS = "surrogateescape"  # knockd reads bytes: a comment may be in any encoding, and offsets must stay true


class OneTime(NamedTuple):
    """A sequence that was not used yet; `offset` is where its line begins, in bytes."""

    line: int
    offset: int
    knock: tuple[Port, ...]


class OneTimeFile(NamedTuple):
    """The unused sequences in the order in which they are due, and the lines that are none."""

    unused: tuple[OneTime, ...]
    faults: tuple[Fault, ...]


def sequences(text: str, file: str) -> OneTimeFile:
    """Read a file's text, decoded with `ENCODING` and `ERRORS`; lines with faults are passed over."""
    unused: list[OneTime] = []
    faults: list[Fault] = []
    offset = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip(WHITESPACE)
        if words and not words.startswith("#"):
            try:
                unused.append(OneTime(number, offset, sequence(words)))
            except (ValueError, ExceptionGroup) as error:
                faults += _faults(file, number, error)
        offset += len(line.encode(ENCODING, ERRORS)) + 1
    return OneTimeFile(tuple(unused), tuple(faults))


def mark_used(raw: bytes, offset: int) -> bytes:
    """Give the file with a `#` over the first byte of the line at `offset`, as knockd marks it.

    ValueError where no unused line begins there: the file has changed since it was read.
    """
    begins = offset == 0 or raw[offset - 1 : offset] == b"\n"
    line = raw[offset:].split(b"\n", 1)[0].strip(WHITESPACE.encode())
    if offset < 0 or not begins or not line or line.startswith(MARK):
        raise ValueError(f"no unused line begins at byte {offset}; read the file again")
    return raw[:offset] + MARK + raw[offset + 1 :]


def _faults(file: str, line: int, error: ValueError | ExceptionGroup[ValueError]) -> list[Fault]:
    errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    parts = (str(single).rpartition("; ") for single in errors)
    return [Fault(file, line, what, instead) for what, _, instead in parts]
