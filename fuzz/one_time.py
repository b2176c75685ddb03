"""Files of one-time sequences, used up one line after the other."""

from __future__ import annotations

from doorward.knockd.one_time import ENCODING, ERRORS, OneTime, mark_used, sequences


def one(data: bytes) -> None:
    """Mark the first lines as used: each time it is gone, and nothing else changes."""
    due = _unused(data)
    for place, line in enumerate(due[:4]):
        data = mark_used(data, line.offset)
        assert _unused(data) == due[place + 1 :]


def _unused(data: bytes) -> tuple[OneTime, ...]:
    file = sequences(data.decode(ENCODING, ERRORS), "f")
    assert all(fault.what and fault.instead and "\n" not in str(fault) for fault in file.faults), file.faults
    assert all(data.count(b"\n", 0, line.offset) + 1 == line.line for line in file.unused)
    return file.unused
