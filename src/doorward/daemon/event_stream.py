"""Subscriptions to events. A slow subscriber never blocks the daemon; it misses events, which are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from doorward.daemon.log import as_json
from doorward.errors import NegativeResult
from doorward.kernel.socket_writer import SocketWriter

MAX_FOLLOWERS = 16  # at once; each has up to MAX_WAITING lines queued, which are shared
MAX_WAITING = 2000  # lines that wait for one subscriber; further ones are counted and dropped


class Subscribers:
    """All subscribers. `publish` costs nothing while there are none."""

    def __init__(self) -> None:
        self._following: set[Subscriber] = set()

    def publish(self, event: str, fields: Mapping[str, object]) -> None:
        """Send an event to all subscribers; the line is formatted once."""
        if self._following:
            line = _line(event, fields)
            for follower in tuple(self._following):
                follower.send(line)

    def subscribe(self, first: Mapping[str, Any]) -> Subscriber:
        """Return a subscriber that gets `first`, then every event from now on. NegativeResult: there are too many."""
        if len(self._following) >= MAX_FOLLOWERS:
            raise NegativeResult("too-many-subscribers", f"{MAX_FOLLOWERS} follow the events already; end one of them")
        follower = Subscriber(dict(first), self._following.discard)
        self._following.add(follower)
        return follower


class Subscriber:
    """A subscriber: an answer and the events after it, on a socket that its owner reads and closes."""

    def __init__(self, first: dict[str, Any], left: Callable[[Subscriber], None]) -> None:
        self.first, self._left = first, left
        self._writer: SocketWriter | None = None
        self._lost = 0

    def begin(self, writer: SocketWriter) -> None:
        """Write events from now on, after the answer. Its owner calls `on_drained` when all are written."""
        self._writer = writer

    def end(self) -> None:
        """Write no more."""
        self._writer = None
        self._left(self)

    def send(self, line: bytes) -> None:
        """Queue a line, or count it if too many wait."""
        if self._writer is None or self._lost or len(self._writer.waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._writer.write(line)

    def on_drained(self) -> None:
        """Report how many lines were left out."""
        if self._lost and self._writer is not None:
            count, self._lost = self._lost, 0
            self._writer.write(_line("lost", {"count": count}))


def _line(event: str, fields: Mapping[str, object]) -> bytes:
    return as_json(event, fields).encode() + b"\n"
