"""Host names for log lines: in request order, bounded in time and number."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from doorward.kernel.event_loop import EventLoop
from doorward.knockd import reverse_dns as names_module
from doorward.knockd.reverse_dns import ReverseResolver

HERE, THERE = ip_address("127.0.0.1"), ip_address("192.0.2.1")


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    found = EventLoop()
    yield found
    found.close()


@pytest.fixture
def stopped(loop: EventLoop) -> Iterator[ReverseResolver]:
    """A resolver that never answers: its process is stopped."""
    names = ReverseResolver(loop)
    os.kill(names._resolver.pid, signal.SIGSTOP)
    yield names
    os.kill(names._resolver.pid, signal.SIGKILL)
    names.close()


def test_known_name_is_resolved(loop: EventLoop) -> None:
    names, got = ReverseResolver(loop), list[str | None]()
    for address in (None, HERE):
        names.call_in_order(address, got.append)
    assert got == [None]
    names.call_in_order(None, lambda _: loop.stop())
    loop.run()
    assert got[1] == "localhost"
    names.call_in_order(HERE, got.append)
    assert got[2] == "localhost", "known by now, so at once"
    names.close()


def test_line_waits_for_its_name_and_order_is_preserved(
    loop: EventLoop, stopped: ReverseResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "PATIENCE_S", 0.05)
    got: list[str] = []
    began_s = loop.now_s()
    stopped.call_in_order(THERE, lambda name: got.append(f"slow {name}"))
    stopped.call_in_order(None, lambda name: got.append(f"after {name}"))
    stopped.call_in_order(None, lambda _: loop.stop())
    assert got == []
    loop.run()
    assert got == ["slow None", "after None"]
    assert loop.now_s() - began_s >= names_module.PATIENCE_S


def test_lines_beyond_the_limit_are_written_without_names(
    stopped: ReverseResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "MAX_WAITING", 3)
    got: list[int] = []
    for number in range(5):
        stopped.call_in_order(THERE, lambda _, number=number: got.append(number))  # type: ignore[misc]
    assert got == [0, 1]


def test_address_beyond_the_pending_limit_is_not_resolved(
    stopped: ReverseResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "MAX_PENDING", 0)
    got: list[str | None] = []
    stopped.call_in_order(THERE, got.append)
    assert got == [None]


def test_close_writes_every_pending_line(loop: EventLoop) -> None:
    names, got = ReverseResolver(loop), list[int]()
    os.kill(names._resolver.pid, signal.SIGSTOP)
    for number in range(3):
        names.call_in_order(THERE, lambda _, number=number: got.append(number))  # type: ignore[misc]
    os.kill(names._resolver.pid, signal.SIGCONT)
    names.close()
    assert got == [0, 1, 2]
