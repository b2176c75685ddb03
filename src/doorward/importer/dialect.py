"""Which program's configuration a text is: knockd's, with its [sections], or fwknop's, with its words."""

from __future__ import annotations

from enum import StrEnum

from doorward.importer import fwknop_conf


class Dialect(StrEnum):
    """Whose file `doorward import` reads."""

    KNOCKD = "knockd"
    FWKNOP = "fwknop"


def dialect_of(text: str) -> Dialect | None:
    """Tell by the first line that only one of the two would have; None where no line is such."""
    for line in text.split("\n"):
        words = line.strip()
        if words.startswith("[") and words.endswith("]"):
            return Dialect.KNOCKD
        if fwknop_conf.first_word(words) in fwknop_conf.WORDS:
            return Dialect.FWKNOP
    return None
