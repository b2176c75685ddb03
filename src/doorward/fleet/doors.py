"""The tasks around the doors that a fleet keeps in etcd, and around roll calls."""

from __future__ import annotations

from typing import NamedTuple


class Answering(NamedTuple):
    """Answer a roll call, with its lease."""

    ask: str
    lease: int
    answer: dict[str, object]


class Telling(NamedTuple):
    """Tell the fleet which version of its doors is in force here, or why it is not."""

    version: int
    fault: str


class Bringing(NamedTuple):
    """Bring the doors that stand, as the pointer to them says."""

    current: bytes


class Brought(NamedTuple):
    """They are in the file that the daemon reads."""

    version: int
