"""What Ctrl-C, SIGTERM and SIGHUP do while a lab stands: none of them may leave half of it behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], object]


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class Endings:
    """A context manager: the first signal has its effect, as an exception; the impatient ones after it have none.

    In a thread other than the main one it does nothing, since handlers never interrupt such a thread.
    """

    def __init__(self) -> None:
        self._held = False
        self._came: int | None = None
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ENDINGS:
                handler = signal.getsignal(number)
                if callable(handler) or handler is signal.SIG_DFL:  # what the caller ignores stays ignored
                    self._before[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal that comes during this block have its effect after it."""
        early, self._held = self._came, True
        try:
            yield
        finally:
            self._held = False
            if self._came is not None and early is None:
                self._raise(self._came)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self._came = self._came is None, self._came or number
        if first and not self._held:
            self._raise(number)

    def _raise(self, number: int) -> None:
        handler = self._before[number]
        (_leave if handler is signal.SIG_DFL else handler)(number, None)
