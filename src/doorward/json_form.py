"""The form of all JSON that doorward prints: an object a line, with the form's version, and times in ISO 8601. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1  # of the fields; it changes when one is removed or changes its meaning, not when one is added


def json_line(fields: Mapping[str, object]) -> str:
    """Return an object as JSON on one line of printable ASCII, with the version first."""
    from json import dumps

    version = {"version": VERSION}  # first, and replaced by no field, which may come from another host
    return dumps({**version, **fields, **version}).replace("\x7f", "\\u007f")


def iso_time(seconds: float) -> str:
    """Return seconds since the epoch as a time of ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def iso_times(fields: Mapping[str, object], *names: str) -> dict[str, object]:
    """Return the fields, with these from seconds since the epoch to ISO 8601; None, and what is missing, stays."""
    times = {name: iso_time(at_s) for name in names if isinstance(at_s := fields.get(name), int | float)}
    return {**fields, **times}
