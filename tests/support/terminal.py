"""A terminal with a shell in it, in which a test types as a person does; what it shows is kept."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from doorward.lab.namespace import NamespaceHost

WIDTH, HEIGHT = 400, 50  # no line is so long that the shell would break it
# Colours, and what a display that changes writes over: everything before a return to the line's beginning.
_UNSEEN = re.compile(r"[^\n]*\r(?:\x1b\[K)?|\x1b\[[0-9;?]*[A-Za-z]|\x1b[78]")


class Terminal:
    """A context manager around a program on a host of a lab that has this terminal as its own."""

    def __init__(self, host: NamespaceHost, command: Iterable[object]) -> None:
        self._host, self._command = host, command
        self._seen = ""

    def __enter__(self) -> Self:
        self._handle, inner = os.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        words = ("setsid", "--ctty", "--wait", *self._command)
        handles = {"stdin": inner, "stdout": inner, "stderr": inner}
        self._process = self._host.popen(words, env={"TERM": "dumb"}, **handles)
        os.close(inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)  # hangs up
        self._process.wait(60)

    def send(self, text: str) -> None:
        """Press these keys."""
        os.write(self._handle, text.encode())

    def until(self, pattern: str, patience_s: float) -> str:
        """Return what is shown up to this, which is not given out a second time. AssertionError: it is not shown."""
        deadline_s = time.monotonic() + patience_s
        while not (found := re.search(pattern, self._seen)):
            left_s = max(0.0, deadline_s - time.monotonic())
            assert select.select([self._handle], [], [], left_s)[0], f"{pattern!r} is not shown, but: {self._seen}"
            try:
                self._seen += os.read(self._handle, 65536).decode(errors="replace")
            except OSError:  # nobody has the other end any more
                raise AssertionError(f"the end; {pattern!r} was not shown, but: {self._seen}") from None
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return _UNSEEN.sub("", re.sub(r"\r+\n", "\n", shown))
