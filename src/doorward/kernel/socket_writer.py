"""Writes to a socket without blocking: what the peer does not read yet waits, and the caller bounds how much."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from doorward.kernel.event_loop import EventLoop


class SocketWriter:
    """Writes messages in order. `drained` is called when all are written, `failed` if the peer is gone."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        drained: Callable[[], None] = lambda: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop, self._socket, self._drained, self._failed = loop, sock, drained, failed
        self.waiting: deque[memoryview] = deque()
        self._out: socket.socket | None = None  # a duplicate of the socket, while waiting for writing

    def write(self, message: bytes) -> None:
        """Write a message now, or when the socket accepts it."""
        self.waiting.append(memoryview(message))
        self._flush()  # also while waiting: of a peer that reads no more the kernel reports nothing else

    def close(self) -> None:
        """Write no more. The socket stays open."""
        self.waiting.clear()
        if self._out is not None:
            self._loop.unregister(self._out.fileno())
            self._out.close()
            self._out = None

    def _flush(self) -> None:
        try:
            while self.waiting:
                sent = self._socket.send(self.waiting[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                if rest := self.waiting.popleft()[sent:]:
                    self.waiting.appendleft(rest)
        except BlockingIOError:
            if self._out is None:
                self._out = self._socket.dup()
                self._loop.on_writable(self._out.fileno(), self._flush)
            return
        except OSError:  # it was closed or shut down: the kernel would report it as writable forever
            self.close()
            self._failed()
            return
        self.close()
        self._drained()
