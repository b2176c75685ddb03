"""Who follows the events, as they come. Nobody who reads slowly holds the daemon: for him lines are left out."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from doorward.daemon.log import as_json
from doorward.errors import NegativeResult
from doorward.kernel.event_loop import EventLoop

MAX_FOLLOWERS = 16  # at once; each may keep MAX_WAITING lines, which are shared
MAX_WAITING = 2000  # lines that wait for one reader; what comes beyond them is counted and not kept


class Subscribers:
    """All who follow. `publish` costs nothing while there are none."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._following: set[Subscriber] = set()

    def publish(self, event: str, fields: Mapping[str, object]) -> None:
        """Send an event to all; the line is made once."""
        if self._following:
            line = _line(event, fields)
            for follower in tuple(self._following):
                follower.send(line)

    def subscribe(self, first: Mapping[str, Any]) -> Subscriber:
        """Give one who follows: who asked gets `first`, then every event from now on. AnswerNo where there are many."""
        if len(self._following) >= MAX_FOLLOWERS:
            raise NegativeResult(f"{MAX_FOLLOWERS} follow the events already; end one of them")
        follower = Subscriber(self._loop, dict(first), self._following.discard)
        self._following.add(follower)
        return follower


class Subscriber:
    """One who follows: an answer, and what comes after it, on a socket that is another's to read and to close."""

    def __init__(self, loop: EventLoop, first: dict[str, Any], left: Callable[[Subscriber], None]) -> None:
        self.first = first
        self._loop, self._left = loop, left
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._out: socket.socket | None = None  # the same socket, by the number that is waited on for writing

    def begin(self, sock: socket.socket) -> None:
        """Write to this socket from now on. It has the answer already."""
        self._socket = sock
        self._write()

    def end(self) -> None:
        """Write no more."""
        self._stop_waiting_for_write()
        self._socket = None
        self._waiting.clear()
        self._left(self)

    def send(self, line: bytes) -> None:
        """Hand over a line, or count it where too many wait."""
        if self._lost or len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(line)
        self._write()

    def _write(self) -> None:
        """Write what the socket takes now, and come back for the rest."""
        if self._socket is None:
            return
        try:
            self._empty(self._socket)
        except BlockingIOError:
            pass
        except OSError:  # it is gone, or reads no more: else the kernel would call it writable for ever
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
