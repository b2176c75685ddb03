"""Child processes: results, errors and inherited descriptors."""

from __future__ import annotations

import os
import socket

import pytest

from doorward.errors import HostError, UsageError
from doorward.kernel.child_process import STANDARD, close_descriptors_except, recv, run_in_child
from tests.support.errors import raises


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_child_returns_the_result_of_the_call() -> None:
    assert run_in_child(lambda: {"answer": 42}) == {"answer": 42}


def test_doorward_error_is_raised_in_the_parent() -> None:
    def refuse() -> None:
        raise UsageError("unknown-door", "no such door")

    with raises(UsageError, "unknown-door"):
        run_in_child(refuse)


def test_crashed_child_is_reported() -> None:
    with raises(HostError, "child-failed"):
        run_in_child(lambda: os._exit(7))


@pytest.mark.parametrize("standard", [STANDARD, STANDARD[1:], ()])
def test_only_listed_descriptors_stay_open(standard: tuple[int, ...]) -> None:
    here, there = socket.socketpair()
    with here, there:
        pid = os.fork()
        if pid == 0:
            try:
                close_descriptors_except((*standard, here.fileno()))
                here.send(bytes(is_open(number) for number in (*STANDARD, there.fileno())))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert list(there.recv(100)) == [number in standard for number in STANDARD] + [False]


def test_reset_reads_as_end_of_stream() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        here.send(b"unread")
        there.close()
        assert recv(here, 100) == b""
        assert recv(here, 100) == b""
