"""Subscriptions to events. A slow subscriber never blocks the daemon; it misses events, which are counted."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from doorward.daemon.log import as_json
from doorward.errors import NegativeResult
from doorward.kernel.event_loop import EventLoop

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
        self._loop, self._left = loop, left
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._out: socket.socket | None = None  # a duplicate of the socket, to wait for writing

    def begin(self, sock: socket.socket) -> None:
        """Write to this socket from now on. The answer was sent already."""
        self._socket = sock
        self._write()

    def end(self) -> None:
        """Write no more."""
        self._stop_waiting_for_write()
        self._socket = None
        self._waiting.clear()
        self._left(self)

    def send(self, line: bytes) -> None:
        """Queue a line, or count it if too many wait."""
        if self._lost or len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(line)
        self._write()

    def _write(self) -> None:
        """Write what the socket accepts now; the rest follows when it is writable."""
        if self._socket is None:
            return
        try:
            self._empty(self._socket)
        except BlockingIOError:
            pass
        except OSError:  # it was closed or shut down: the kernel would report it as writable forever
            self.end()
            return
        if not self._waiting:
            self._stop_waiting_for_write()
        elif self._out is None:
            self._out = self._socket.dup()
            self._loop.on_writable(self._out.fileno(), self._write)

    def _empty(self, sock: socket.socket) -> None:
        while self._waiting:
            sent = sock.send(self._waiting[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            rest = self._waiting.popleft()[sent:]
            if rest:
                self._waiting.appendleft(rest)
            elif self._lost and not self._waiting:
                self._waiting.append(_line("lost", {"count": self._lost}))
                self._lost = 0

    def _stop_waiting_for_write(self) -> None:
        if self._out is not None:
            self._loop.unregister(self._out.fileno())
            self._out.close()
            self._out = None


def _line(event: str, fields: Mapping[str, object]) -> bytes:
    return as_json(event, fields).encode() + b"\n"
