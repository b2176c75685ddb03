"""What Ctrl-C, SIGTERM and SIGHUP do while a lab stands: none of them may leave half of it behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Endings:
    """From `install` to `restore` the first signal has its effect, as an exception; impatient ones after it have none.

    In a thread other than the main one it does nothing, since handlers never interrupt such a thread.
    """

    def __init__(self) -> None:
        self._held = False
        self._came: int | None = None
        self._before: list[tuple[int, signal._HANDLER]] = []

    def install(self) -> None:
        """Take the signals over; what the caller ignores stays ignored."""
        if threading.current_thread() is threading.main_thread():
            found = [(number, signal.getsignal(number)) for number in ENDINGS]
            self._before = [(number, handler) for number, handler in found if handler not in (signal.SIG_IGN, None)]
            for number, _ in self._before:
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before:
            signal.signal(number, handler)
        self._before = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal that comes during this block have its effect after it."""
        early, self._held = self._came, True
        try:
            yield
        finally:
            self._held = False
            if early is None and self._came is not None:
                self._take_effect(self._came)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._came is None:
            self._came = number
            if not self._held:
                self._take_effect(number)

    def _take_effect(self, number: int) -> None:
        handler = dict(self._before)[number]
        if handler is signal.SIG_DFL:  # which would end the process without another word
            raise SystemExit(128 + number)
        if callable(handler):
            handler(number, None)
