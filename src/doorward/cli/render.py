"""The only printer: tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime


def line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def as_json(value: object) -> None:
    """Print a value as one line of JSON."""
    line(json.dumps(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns under their names."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def moment(seconds: float) -> str:
    """Write a moment (since the epoch) as the operator's clock shows it."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """Write a length of time in at most two units."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit}" + (f" {rest}{small_unit}" if rest else "")
    return f"{whole}s"
