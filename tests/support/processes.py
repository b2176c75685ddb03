"""Children, other users and network namespaces for tests that need them."""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from doorward.lab.namespace import CLONE_NEWNET, enter

T = TypeVar("T")
NOBODY = 65534
ENDING_S = 20.0  # in which a lab removes its namespaces
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_libc = ctypes.CDLL(None, use_errno=True)


def as_nobody(function: Callable[[], T], groups: Sequence[int] = ()) -> T:
    """Call a function in a child that is nobody, a member of `groups`; its value or exception comes back."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child takes no lock of theirs
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                outcome: tuple[bool, object] = True, function()
            except Exception as error:
                outcome = False, error
            with os.fdopen(send, "wb") as pipe:
                pickle.dump(outcome, pipe)
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(pid, 0)
    succeeded, value = pickle.loads(raw)  # noqa: S301 - from our own child
    if not succeeded:
        raise value
    result: T = value
    return result


def without_root(function: Callable[[], T]) -> T:
    """Call a function as a user who is not root: this one, or nobody where the tests run as root."""
    return as_nobody(function) if os.geteuid() == 0 else function()


@contextmanager
def running(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program for the block, with its output in a pipe; then end it in order, also after a failure."""
    pipes = {"stdout": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(list(map(str, command)), **pipes) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()  # no effect once it has been waited for
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def repeating(step: Callable[[], object]) -> Iterator[None]:
    """Call `step` again and again in a thread until the block ends, also by a failure."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            step()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def own_namespace() -> Iterator[None]:
    """Move this thread into a fresh network namespace, and back; the namespace ends with its last socket."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(CLONE_NEWNET):
            reason = f"no network namespace ({os.strerror(ctypes.get_errno())}); needs CAP_SYS_ADMIN"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
        try:
            yield
        finally:
            enter(Path(f"/proc/self/fd/{home}"))
    finally:
        os.close(home)


def pending_syns(port: int) -> int:
    """Count the TCP sockets of this network namespace that wait for an answer from a port, over IPv4."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


def open_descriptors() -> int:
    """Count this process's open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def family_of(pid: int) -> list[int]:
    """Return a process and its descendants, the process first."""
    family = [pid]
    for member in family:  # grows while it is read
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            family += map(int, children.read_text().split())
    return family


def descriptors_of(pid: int) -> int:
    """Count a process's open descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
