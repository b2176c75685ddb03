"""Text for numbers and times. Pure."""

from __future__ import annotations

from datetime import datetime


def count(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def short(number: int) -> str:
    """Return a number in at most four characters, for small cells."""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            whole = number / size
            return f"{whole:.0f}{unit}" if whole >= 10 else f"{int(whole * 10) / 10:g}{unit}"
    return str(number)


def moment(when: datetime) -> str:
    """Return a time to the minute, without its year."""
    return f"{when.day} {when:%b %H:%M}"


def dated(when: datetime) -> str:
    """Return a time to the minute, with its year."""
    return f"{when.day} {when:%b %Y, %H:%M}"
