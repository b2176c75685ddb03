"""Messages for a socket whose reader may be slow. Sending never blocks."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from doorward.kernel.event_loop import EventLoop


class SendQueue:
    """Sends messages in order, as its socket accepts them. It has no bound: the owner checks `len`."""

    def __init__(self, loop: EventLoop, on_empty: Callable[[], None], on_error: Callable[[], None]) -> None:
        """`on_empty` is called after the last message was sent, `on_error` when the socket takes no more."""
        self._loop, self._on_empty, self._on_error = loop, on_empty, on_error
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._out: socket.socket | None = None  # a duplicate of the socket, to wait for writing

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, sock: socket.socket) -> None:
        """Send to this socket from now on; its owner reads and closes it."""
        self._socket = sock
        self.flush()

    def end(self) -> None:
        """Drop the messages that wait, and the socket."""
        self._stop_waiting()
        self._waiting.clear()
        self._socket = None

    def send(self, message: bytes) -> None:
        """Queue a message, and send what the socket accepts now."""
        self._waiting.append(message)
        self.flush()

    def flush(self) -> None:
        """Send what the socket accepts now; the rest follows when it is writable."""
        while self._waiting and self._socket is not None:
            try:
                sent = self._socket.send(self._waiting[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if self._out is None:
                    self._out = self._socket.dup()
                    self._loop.on_writable(self._out.fileno(), self.flush)
                return
            except OSError:  # closed or shut down: the kernel would report it as writable forever
                self.end()
                self._on_error()
                return
            if rest := self._waiting.popleft()[sent:]:
                self._waiting.appendleft(rest)
            elif not self._waiting:
                self._on_empty()
        if self._socket is not None:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._out is not None:
            self._loop.unregister(self._out.fileno())
            self._out.close()
            self._out = None
