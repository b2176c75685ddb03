"""All terminal output: lines, tables and JSON. Untrusted text is escaped here, so it cannot control the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TextIO

from doorward.escape import visible
from doorward.json_form import json_line


def line(*texts: str) -> None:
    """Print each text as one line."""
    sys.stdout.writelines(f"{visible(text)}\n" for text in texts)


def error_line(*texts: str) -> None:
    """Print each text as one line on standard error."""
    sys.stderr.writelines(f"{visible(text)}\n" for text in texts)
    sys.stderr.flush()


def colored_line(text: str) -> None:
    """Print a line with color codes unescaped; the text must not contain untrusted input."""
    sys.stdout.write(text + "\n")


Part = str | tuple[str, str]  # a text, or a level and a text in its color
_COLORS = {"error": "31", "warning": "33", "note": "36", "good": "32"}


def add_color(parser: argparse.ArgumentParser) -> None:
    """Declare `--color WHEN`."""
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="colors (default: auto, on a terminal)"
    )


def has_colors(choice: str, stream: TextIO) -> bool:
    """Return whether to print colors to a stream: for `auto` if it is a terminal that may have them."""
    is_wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted if choice == "auto" else choice == "always"


class LevelPrinter:
    """Prints lines in which the words of a level have its color."""

    def __init__(self, choice: str, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._has_colors = has_colors(choice, self._stream)

    def line(self, *parts: Part) -> None:
        """Print the parts as one line."""
        self._stream.write("".join(map(self._shown, parts)) + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Part]]) -> None:
        """Print a table with aligned columns and a heading."""
        cells = [[_split(cell) for cell in row] for row in (head, *rows)]
        widths = [max(len(visible(text)) for _, text in column) for column in zip(*cells, strict=True)]
        for row in cells:
            while len(row) > 1 and not row[-1][1]:
                row.pop()
            padded = [
                (level, f"{visible(text):<{width}}  ") for (level, text), width in zip(row[:-1], widths, strict=False)
            ]
            self.line(*padded, row[-1])

    def _shown(self, part: Part) -> str:
        level, text = _split(part)
        return f"\x1b[{_COLORS[level]}m{visible(text)}\x1b[0m" if level and self._has_colors else visible(text)


def _split(part: Part) -> tuple[str, str]:
    """Return the level of a part, "" for none, and its text."""
    return ("", part) if isinstance(part, str) else part


def as_json(fields: Mapping[str, object]) -> None:
    """Print an object as one line of JSON, in the form of `json_form`."""
    line(json_line(fields))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table without colors."""
    LevelPrinter("never").table(head, rows)


def format_time(seconds: float) -> str:
    """Format seconds since the epoch as local time."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
