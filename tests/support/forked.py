"""Start doorward's daemons as forks of a process that has imported them: most of a start's processor time is imports.

Each pytest process has one such process for each program. What it forks is pytest's own child, in a session and a
network namespace of its own; its interpreter has imported what the program imports at its start, and this module.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

from doorward.lab.namespace import NamespaceHost, enter

_ROOT = Path(__file__).parents[2]
_SET_CHILD_SUBREAPER = 36  # prctl(2)
_MESSAGE_BYTES = 1 << 17
_libc = ctypes.CDLL(None)
_one_at_a_time = threading.Lock()
Main = Callable[[list[str]], int]


class ForkedProcess:
    """`doorward` or `knockd` with these words on a host: what tests use of a Popen. Its errors go into a pipe."""

    def __init__(
        self, host: NamespaceHost, program: str, words: Sequence[object], env: Mapping[str, str], stdout: int
    ) -> None:
        self._argv, whole = list(map(str, words)), {**os.environ, **env}
        request = {"argv": self._argv, "namespace": str(host.path), "cwd": str(Path.cwd()), "env": whole}
        self.stdout: TextIO | None = None
        if stdout == subprocess.PIPE:
            self.stdout, out = _pipe()
        else:
            out = os.open(os.devnull, os.O_WRONLY)
        self.stderr, err = _pipe()
        with _one_at_a_time:
            parent = _parent(program)
            _libc.prctl(_SET_CHILD_SUBREAPER, 1)  # the child of a child that exits at once becomes this process's
            socket.send_fds(parent, [json.dumps(request).encode()], [out, err])
            self.pid = int(parent.recv(_MESSAGE_BYTES))
            assert parent.recv(_MESSAGE_BYTES) == b"adopted"
            _libc.prctl(_SET_CHILD_SUBREAPER, 0)
        for handle in (out, err):
            os.close(handle)
        self._status: int | None = None
        host._started.append(cast(Any, self))

    def poll(self) -> int | None:
        if self._status is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self._status = os.waitstatus_to_exitcode(ended[1])
        return self._status

    def wait(self, timeout_s: float | None = None) -> int:
        if self.poll() is None:
            handle = os.pidfd_open(self.pid)
            select.select([handle], [], [], timeout_s)
            os.close(handle)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self._argv, timeout_s or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self.wait()


def _pipe() -> tuple[TextIO, int]:
    """Return the ends of a pipe to read from and to write to."""
    ours, theirs = os.pipe()
    return os.fdopen(ours), theirs


@cache
def _parent(program: str) -> socket.socket:
    """Start the process that is forked; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", __name__, program, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, cwd=_ROOT)
    process.returncode = 0  # not waited for
    theirs.close()
    return ours


def _doorward() -> Main:
    from doorward.cli import run  # noqa: F401
    from doorward.cli.main import main

    return main


def _knockd() -> Main:
    from doorward.cli.knockd import main
    from doorward.knockd import engine, knockd_daemon  # noqa: F401

    return main


def main() -> int:
    """Fork for each request; in the child run the program."""
    program = {"doorward": _doorward, "knockd": _knockd}[sys.argv[1]]()
    gc.freeze()
    requests = socket.socket(fileno=int(sys.argv[2]))
    while True:
        raw, pipes, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
        if not raw:
            return 0
        if between := os.fork():
            os.waitpid(between, 0)
            requests.send(b"adopted")
            for pipe in pipes:
                os.close(pipe)
        elif pid := os.fork():
            requests.send(str(pid).encode())
            os._exit(0)
        else:
            requests.close()
            return program(_prepare(json.loads(raw), *pipes))


def _prepare(request: Mapping[str, Any], stdout: int, stderr: int) -> list[str]:
    """Make this process what the request says; return the program's arguments."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for number, handle in enumerate((null, stdout, stderr)):
        os.dup2(handle, number)
        os.close(handle)
    enter(Path(request["namespace"]))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    argv: list[str] = request["argv"]
    return argv


if __name__ == "__main__":
    sys.exit(main())
