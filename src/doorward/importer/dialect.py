"""Detect whether a configuration file is knockd's, with its [sections], or fwknop's, with its keywords."""

from __future__ import annotations

from enum import StrEnum

from doorward.importer import fwknop_conf


class Dialect(StrEnum):
    """The format of a file for `doorward import`."""

    KNOCKD = "knockd"
    FWKNOP = "fwknop"


def detect_dialect(text: str) -> Dialect | None:
    """Return the format, by the first line that only one of the two has, or None if there is no such line."""
    for line in text.split("\n"):
        words = line.strip()
        if words.startswith("[") and words.endswith("]"):
            return Dialect.KNOCKD
        if fwknop_conf.first_word(words) in fwknop_conf.WORDS:
            return Dialect.FWKNOP
    return None
