"""Child processes: run a function in a child and receive its result."""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn, TypeVar

from doorward.errors import DoorwardError, HostError
from doorward.kernel import privileges

T = TypeVar("T")
STANDARD = (0, 1, 2)  # input, output, errors


def run_in_child(call: Callable[[], T], within_s: float | None = None) -> T:
    """Return the result of `call` in a child process, or raise its DoorwardError. HostError: the child crashed.

    A child with a time limit ends with this process, and is killed at the limit: TimeoutError.
    """
    receive, send = os.pipe()
    parent = None if within_s is None else os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        if within_s is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
            privileges.exit_with_parent(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        send_result(send, call)
    os.close(send)
    try:
        with os.fdopen(receive, "rb") as pipe:
            raw = pipe.read() if within_s is None else _read_within(pipe, within_s)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    outcome: T = result_of(pid, raw)
    return outcome


def _read_within(pipe: BinaryIO, within_s: float) -> bytes:
    raw, deadline_s = b"", time.monotonic() + within_s
    while select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        part = os.read(pipe.fileno(), 1 << 16)
        if not part:
            return raw
        raw += part
    raise TimeoutError


def child_main(name: str, work: Callable[[], None]) -> NoReturn:
    """Run `work` in this process, a child that lives as long as the daemon, then exit; ps(1) shows `name`."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        # These signals are for the daemon, whose exit ends this child too.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        faulthandler.disable()  # if enabled, its handler needs system calls that seccomp denies
        privileges.set_process_name(name)
        gc.freeze()  # the daemon's memory stays shared as long as nothing writes to it
        work()
        status = 0
    finally:
        os._exit(status)


class Worker:
    """A child that lives as long as the daemon, and a socket to it that keeps the bounds of messages."""

    def __init__(self, name: str, work: Callable[[socket.socket], None]) -> None:
        """Start it with `child_main`; `work` gets the child's end of the socket."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            child_main(name, lambda: work(theirs))
        theirs.close()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    def receive(self, size: int) -> bytes | None:
        """Return the next message; None if none is waiting, b"" if the child has exited."""
        try:
            return recv(self.socket, size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def receive_with_descriptors(self, size: int) -> tuple[bytes, list[int]] | None:
        """Return the next message, as `receive` does, and the descriptor that came with it, if one did."""
        try:
            raw, descriptors, _, _ = socket.recv_fds(self.socket, size, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b"", []
        return raw, descriptors

    def close(self) -> int:
        """Kill the child; return its exit code, negative for a signal."""
        self.socket.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def send_result(send: int, call: Callable[[], T]) -> NoReturn:
    """Send the result of `call`, or its DoorwardError, into the pipe `send`, and exit this child process."""
    status = 1
    try:
        outcome: T | DoorwardError
        try:
            outcome = call()
        except DoorwardError as error:
            outcome = error
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(outcome, pipe)
        status = 0
    except BrokenPipeError:  # the parent is gone
        pass
    except BaseException:
        traceback.print_exc()  # a bug in doorward; the parent reports the consequence
    finally:
        os._exit(status)


def result_of(pid: int, raw: bytes) -> Any:
    """Wait for a child that sent `raw`; return its result, or raise its DoorwardError. HostError: it crashed."""
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise HostError(
            "child-failed", f"a child process exited with status {code}; nothing was changed; is there memory left?"
        )
    outcome = pickle.loads(raw)  # noqa: S301 - from our own child, over our own pipe
    if isinstance(outcome, DoorwardError):
        raise outcome
    return outcome


def close_descriptors_except(descriptors: Iterable[int]) -> None:
    """Close all descriptors that this child inherited except these: sockets above all, some of which act as locks."""
    start = 0
    for descriptor in sorted(set(descriptors)):
        if start < descriptor:  # Python 3.11 treats closerange(0, 0) as "all"
            os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def recv(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """Receive one message; b"" if the peer has exited (it resets the connection if it left messages unread)."""
    try:
        return sock.recv(size, flags)
    except ConnectionResetError:
        return b""
