"""Calling a function in a child process: what it took of memory and rights is gone with it."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import TypeVar

from doorward.errors import DoorwardError, HostError

T = TypeVar("T")


def in_child(call: Callable[[], T]) -> T:
    """Give what `call` gives, or raise its DoorwardError; waits for the child. HostError where it breaks."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(send, call)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise HostError(f"a process ended with status {code}; is there memory left?")
    outcome: T | DoorwardError = pickle.loads(raw)  # noqa: S301 - from our own child, over our own pipe
    if isinstance(outcome, DoorwardError):
        raise outcome
    return outcome


def _child(send: int, call: Callable[[], T]) -> None:
    status = 1
    signal.set_wakeup_fd(-1)
    try:
        outcome: T | DoorwardError
        try:
            outcome = call()
        except DoorwardError as error:
            outcome = error
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(outcome, pipe)
        status = 0
    except BaseException:
        traceback.print_exc()  # a fault of doorward's own: the parent says what follows from it
    finally:
        os._exit(status)
