"""Processes of doorward's own: a function called in a child, and what one process hears of another."""

from __future__ import annotations

import os
import pickle
import signal
import socket
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


def received(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """Receive one message; nothing where the other process has ended (a reset, where it left messages unread)."""
    try:
        return sock.recv(size, flags)
    except ConnectionResetError:
        return b""


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
