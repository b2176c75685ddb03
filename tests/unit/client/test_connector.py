"""Connections to ports that are open, refuse, stay silent, or open a little late."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from doorward.client import connector
from doorward.client.connector import ATTEMPTS_S, Reply, open_connection, try_port
from doorward.client.sequence import Target
from tests.support.processes import pending_syns

LOOPBACK = {4: Target(socket.AF_INET, ("127.0.0.1", 0)), 6: Target(socket.AF_INET6, ("::1", 0, 0, 0))}
NOWHERE = Target(socket.AF_INET, ("255.255.255.255", 0))


@contextmanager
def listener(version: int = 4, backlog: int = 16) -> Iterator[socket.socket]:
    target = LOOPBACK[version]
    with socket.socket(target.family, socket.SOCK_STREAM) as server:
        server.bind(target.at(0))
        server.listen(backlog)
        yield server


def number_of(server: socket.socket) -> int:
    number: int = server.getsockname()[1]
    return number


@contextmanager
def bound() -> Iterator[int]:
    """A port that refuses connections; bound, so that no other program can use it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield number_of(held)


def accepted(server: socket.socket, ours: socket.socket) -> socket.socket:
    """Return the other end of this connection; under load an abandoned attempt may arrive first."""
    while True:
        theirs, name = server.accept()
        if name == ours.getsockname():
            return theirs
        theirs.close()


@contextmanager
def full() -> Iterator[socket.socket]:
    """A server whose accept queue is full: the kernel drops every further SYN."""
    with listener(backlog=0) as server, socket.create_connection(server.getsockname()):
        yield server


@pytest.mark.parametrize("version", [4, 6])
def test_open_port_returns_a_connection(version: int) -> None:
    with listener(version) as server:
        found = open_connection(LOOPBACK[version], number_of(server), 10)
        assert isinstance(found, socket.socket)
        with found, accepted(server, found) as theirs:
            assert found.getblocking()
            theirs.sendall(b"hello")
            assert found.recv(9) == b"hello"


def test_closed_port_is_refused_after_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "ATTEMPTS_S", (0.0, 0.001, 0.002))
    with bound() as port:
        assert open_connection(LOOPBACK[4], port, 60) is Reply.REFUSED


def test_closed_port_is_refused_within_a_short_timeout() -> None:
    with bound() as port:
        assert open_connection(LOOPBACK[4], port, 0.001) is Reply.REFUSED


def test_unreachable_host_is_refused() -> None:
    assert open_connection(NOWHERE, 9, 60) is Reply.REFUSED


def test_silent_port_uses_the_whole_timeout() -> None:
    with full() as server:
        began_s = time.monotonic()
        assert open_connection(LOOPBACK[4], number_of(server), 0.05) is Reply.SILENT
        assert time.monotonic() - began_s >= 0.05


def test_late_opening_is_reached_before_tcp_retransmits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusing port instead of a silent one: both lose early attempts."""
    monkeypatch.setattr(connector, "ATTEMPTS_S", (0.0, 0.6))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        opener = threading.Timer(0.02, server.listen)
        opener.start()
        found = open_connection(LOOPBACK[4], number_of(server), 60)
        assert isinstance(found, socket.socket)
        found.close()
        opener.join()


def test_one_attempt_is_left_before_tcp_retransmits() -> None:
    with full() as server:
        attempts = connector._Attempts(LOOPBACK[4], number_of(server))
        for _ in ATTEMPTS_S:
            attempts._start_next()
        assert pending_syns(number_of(server)) == len(ATTEMPTS_S)
        assert attempts.run(time.monotonic() - connector.SINGLE_S, connector.SINGLE_S + 0.05) is Reply.SILENT
        assert pending_syns(number_of(server)) == 1
        attempts.close()
        assert pending_syns(number_of(server)) == 0


def test_no_attempt_is_left_open() -> None:
    with full() as server:
        assert open_connection(LOOPBACK[4], number_of(server), 0.05) is Reply.SILENT
        assert pending_syns(number_of(server)) == 0


def test_try_port_distinguishes_open_refused_and_silent() -> None:
    with listener() as server:
        assert try_port(LOOPBACK[4], number_of(server), 10) is Reply.OPEN
    with bound() as port:
        assert try_port(LOOPBACK[4], port, 0.01) is Reply.REFUSED
    with full() as server:
        assert try_port(LOOPBACK[4], number_of(server), 0.01) is Reply.SILENT


def test_attempts_stay_below_limits_of_other_firewalls() -> None:
    assert ATTEMPTS_S[0] == 0  # a door that the kernel opens is open already
    assert len(ATTEMPTS_S) < 6  # `ufw limit` drops the sixth in 30 s
    assert list(ATTEMPTS_S) == sorted(ATTEMPTS_S)
    assert ATTEMPTS_S[-1] < connector.SINGLE_S < 1  # TCP repeats a SYN after a second
