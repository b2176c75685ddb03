"""Subscriptions to events. A slow subscriber never blocks the daemon; it misses events, which are counted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from doorward.daemon.log import as_json
from doorward.errors import NegativeResult
from doorward.kernel.event_loop import EventLoop
from doorward.kernel.send_queue import SendQueue

MAX_FOLLOWERS = 16  # at once; each has up to MAX_WAITING lines queued, which are shared
MAX_WAITING = 2000  # lines that wait for one subscriber; further ones are counted and dropped


class Subscribers:
    """All subscribers. `publish` costs nothing while there are none."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
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
        follower = Subscriber(self._loop, dict(first), self._following.discard)
        self._following.add(follower)
        return follower


class Subscriber:
    """A subscriber: an answer and the events after it, on a socket that its owner reads and closes."""

    def __init__(self, loop: EventLoop, first: dict[str, Any], left: Callable[[Subscriber], None]) -> None:
        self.first = first
        self._left, self._lost = left, 0
        self._queue = SendQueue(loop, self._report_lost, self.end)

    def begin(self, sock: socket.socket) -> None:
        """Write to this socket from now on. The answer was sent already."""
        self._queue.begin(sock)

    def end(self) -> None:
        """Write no more."""
        self._queue.end()
        self._left(self)

    def send(self, line: bytes) -> None:
        """Queue a line, or count it if too many wait."""
        if self._lost or len(self._queue) >= MAX_WAITING:
            self._lost += 1
            self._queue.flush()
        else:
            self._queue.send(line)

    def _report_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._queue.send(_line("lost", {"count": lost}))


def _line(event: str, fields: Mapping[str, object]) -> bytes:
    return as_json(event, fields).encode() + b"\n"
