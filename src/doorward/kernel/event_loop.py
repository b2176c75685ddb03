"""Event loop for descriptors, signals and timers. It never wakes up without an event."""

from __future__ import annotations

import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable

LONGEST_WAIT_S = 86_400.0  # epoll counts milliseconds in 31 bits: 24.8 days at most


class EventLoop:
    """A selector, a heap of timers, and signals that are turned into calls outside of the handler."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._on_signal: dict[int, Callable[[], None]] = {}
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._running = False

    def now_s(self) -> float:
        """Return the time in s on the clock of the kernel's set timers: it neither jumps nor counts a suspend."""
        return time.monotonic()

    def on_readable(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call `call` whenever the descriptor is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def on_writable(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call `call` whenever the descriptor is writable; if it is also waited on for reading, pass a duplicate."""
        self._selector.register(descriptor, selectors.EVENT_WRITE, call)

    def unregister(self, descriptor: int) -> None:
        """Stop waiting on a descriptor."""
        self._selector.unregister(descriptor)

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        """Call once, at `when_s` or soon after."""
        heapq.heappush(self._timers, (when_s, next(self._numbers), call))

    def on_signal(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """Call `call` from the loop after the signal arrived."""
        if not self._on_signal:
            signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
            self.on_readable(self._wake_read.fileno(), self._signalled)
        self._on_signal[number] = call
        signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Dispatch events until `stop`."""
        self._running = True
        while self._running:
            for key, _ in self._selector.select(self._timeout_s()):
                # An earlier call may have unregistered it; its number may even be reused by now.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            while self._timers and self._timers[0][0] <= self.now_s():
                heapq.heappop(self._timers)[2]()

    def stop(self) -> None:
        """Return from `run` after the calls of this round."""
        self._running = False

    def close(self) -> None:
        """Close the descriptors."""
        if self._on_signal:
            signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _timeout_s(self) -> float | None:
        """Return how long to wait for events; None without a timer."""
        return min(max(0.0, self._timers[0][0] - self.now_s()), LONGEST_WAIT_S) if self._timers else None

    def _signalled(self) -> None:
        for number in self._wake_read.recv(4096):
            if number in self._on_signal:
                self._on_signal[number]()


class Alarm:
    """A timer that may be set several times: it calls at the earliest of the times set since its last call."""

    def __init__(self, loop: EventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._when_s = float("inf")
        self._timers_s: list[float] = []  # those that the loop has, the next one last

    def set(self, when_s: float) -> None:
        """Call at `when_s` or soon after; at infinity never."""
        self._when_s = min(self._when_s, when_s)
        if self._when_s < min(self._timers_s[-1:], default=float("inf")):  # otherwise a timer sets the next one
            self._timers_s.append(self._when_s)
            self._loop.at(self._when_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timers_s.pop()
        if self._loop.now_s() < self._when_s:
            self.set(self._when_s)
        else:
            self._when_s = float("inf")
            self._call()
