"""What a page shows as printed, compared with what was printed."""

from __future__ import annotations

import re
from collections.abc import Mapping

LEFT_OUT = "…"
_ANY_LINES = r"(?:[^\n]*\n)*"
_ANY_WORDS = r"[^\n]+"


def is_shown(shown: str, printed: str, vary: Mapping[str, str] | None = None) -> bool:
    """Return whether `shown` is what was printed, but for blanks at the end of a line and blank lines around all.

    A line `…` matches any lines, also none; `…` within a line matches at least one character of that line.
    `vary` has the few texts that differ each time, and the expressions for what may be in their place.
    """
    vary = {LEFT_OUT: _ANY_WORDS, **(vary or {})}
    assert all(text in shown for text in vary if text != LEFT_OUT), vary
    lines = [_ANY_LINES if line == LEFT_OUT else _line(line, vary) for line in _lines(shown)]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def _line(shown: str, vary: Mapping[str, str]) -> str:
    known = re.compile("|".join(map(re.escape, vary)))
    fixed = map(re.escape, known.split(shown))
    varied = [vary[found] for found in known.findall(shown)] + [""]
    return "".join(map("".join, zip(fixed, varied, strict=True))) + "\n"
