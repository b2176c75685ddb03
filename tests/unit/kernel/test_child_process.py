"""Processes of doorward's own: what they inherit, and how they answer."""

from __future__ import annotations

import os
import socket

import pytest

from doorward.errors import HostError, UsageError
from doorward.kernel.child_process import STANDARD, close_descriptors_except, recv, run_in_child


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_child_gives_what_the_call_gives() -> None:
    assert run_in_child(lambda: {"answer": 42}) == {"answer": 42}


def test_an_error_of_doorwards_own_is_raised_here() -> None:
    def refuse() -> None:
        raise UsageError("no such door")

    with pytest.raises(UsageError, match="no such door"):
        run_in_child(refuse)


def test_a_child_that_breaks_is_told_of() -> None:
    with pytest.raises(HostError, match="exited with status 7"):
        run_in_child(lambda: os._exit(7))


@pytest.mark.parametrize("standard", [STANDARD, STANDARD[1:], ()])
def test_only_what_is_named_stays_open(standard: tuple[int, ...]) -> None:
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


def test_a_reset_is_an_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        here.send(b"unread")
        there.close()
        assert recv(here, 100) == b""
        assert recv(here, 100) == b""
