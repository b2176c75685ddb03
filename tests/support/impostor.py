"""A process of another user that answers on the control socket in the daemon's place."""

from __future__ import annotations

import json
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.processes import NOBODY


@contextmanager
def as_another_user(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a process of the user nobody until the end of the block; gives its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child takes no lock of theirs
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def impostor(
    control: Path, answers: Mapping[str, Mapping[str, Any]], meanwhile: Callable[[], None] | None = None
) -> Iterator[None]:
    """Answer each command from `answers`, and call `meanwhile` again and again in another process of that user."""
    listener = socket.socket(socket.AF_UNIX)  # bound here, so that it is there at once; who listens is what counts

    def serve() -> None:
        listener.listen(64)
        os.write(ready, b".")
        while True:
            client, _ = listener.accept()
            with suppress(OSError), client, client.makefile("rb") as requests:
                for line in requests:
                    command = json.loads(line)["command"]
                    client.sendall(json.dumps(answers[command]).encode() + b"\n")

    def repeat() -> None:
        while meanwhile is not None:
            meanwhile()

    begun, ready = os.pipe()
    with listener, ExitStack() as stack:
        listener.bind(str(control))
        control.chmod(0o666)
        stack.enter_context(as_another_user(serve))
        assert os.read(begun, 1) == b"."
        if meanwhile is not None:
            stack.enter_context(as_another_user(repeat))
        yield
    for descriptor in (begun, ready):
        os.close(descriptor)
