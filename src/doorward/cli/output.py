"""All terminal output: lines, tables and JSON. Untrusted text is escaped here, so it cannot control the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

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


def as_json(fields: Mapping[str, object]) -> None:
    """Print an object as one line of JSON, in the form of `json_form`."""
    line(json_line(fields))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with aligned columns and a heading."""
    shown = [[visible(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def format_time(seconds: float) -> str:
    """Format seconds since the epoch as local time."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
