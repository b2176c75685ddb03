"""Text for numbers, times and durations. Pure."""

from __future__ import annotations

from datetime import datetime

_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"), (1, "s", 1, ""))


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


def span(seconds: float) -> str:
    """Return a duration in at most two units."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small_unit in _UNITS:
        if whole >= size:
            rest = whole % size // smaller
            return _length(whole // size, unit) + (f" {_length(rest, small_unit)}" if rest else "")
    return "under 1 s"


def _length(number: int, unit: str) -> str:
    return count(number, "day", "days") if unit == "d" else f"{number} {unit}"
