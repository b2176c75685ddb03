"""The event loop, as lists of calls in order."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from doorward.kernel.event_loop import Alarm, EventLoop
from tests.support.processes import open_descriptors

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    loop = EventLoop()
    yield loop
    loop.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def test_timers_fire_in_order_and_equal_ones_in_order_of_creation(loop: EventLoop) -> None:
    calls: list[str] = []
    now_s = loop.now_s()
    for name, after_s in ("c", 0.02), ("a", -5.0), ("d", 0.02), ("b", 0.0):
        loop.at(now_s + after_s, lambda name=name: calls.append(name))  # type: ignore[misc]
    loop.at(now_s + 0.03, loop.stop)
    loop.run()
    assert calls == ["a", "b", "c", "d"]


def test_timer_months_ahead_does_not_stop_the_loop(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    """epoll accepts at most 31 bits of milliseconds, 24.8 days."""
    here, there = pair
    loop.at(loop.now_s() + 365 * 86_400, lambda: None)
    loop.on_readable(here.fileno(), loop.stop)
    there.send(b"x")
    loop.run()


def test_interrupted_wait_is_resumed(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.kernel.event_loop.LONGEST_WAIT_S", 0.005)
    due_s = loop.now_s() + 0.03
    loop.at(due_s, loop.stop)
    loop.run()
    assert loop.now_s() >= due_s


def test_no_timer_fires_early(loop: EventLoop) -> None:
    due_s = loop.now_s() + 0.05
    late_s: list[float] = []
    loop.at(due_s, lambda: late_s.append(loop.now_s() - due_s))
    loop.at(due_s, loop.stop)
    loop.run()
    assert len(late_s) == 1
    assert late_s[0] >= 0


def test_timer_may_set_another_timer(loop: EventLoop) -> None:
    calls: list[int] = []

    def again(times: int) -> None:
        calls.append(times)
        loop.at(loop.now_s(), lambda: again(times - 1)) if times else loop.stop()

    loop.at(0.0, lambda: again(3))
    loop.run()
    assert calls == [3, 2, 1, 0]


def test_descriptor_calls_while_readable(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    heard: list[bytes] = []

    def read() -> None:
        heard.append(here.recv(1))
        if heard[-1] == b"!":
            loop.unregister(here.fileno())
            there.send(b"unheard")
            loop.at(loop.now_s() + 0.01, loop.stop)

    loop.on_readable(here.fileno(), read)
    there.send(b"ab!")
    loop.run()
    assert heard == [b"a", b"b", b"!"]


def test_flood_does_not_delay_timers(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    there.send(b"never read")
    rounds: list[int] = []
    loop.on_readable(here.fileno(), lambda: rounds.append(1))
    loop.at(loop.now_s() + 0.02, loop.stop)
    loop.run()
    assert rounds


def test_stop_takes_effect_after_the_round(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    calls: list[str] = []

    def read() -> None:
        calls.append("read")
        loop.stop()

    loop.on_readable(here.fileno(), read)
    loop.at(0.0, lambda: calls.append("due"))
    loop.at(loop.now_s() + 3600, lambda: calls.append("later"))
    there.send(b"x")
    loop.run()
    assert calls == ["read", "due"]
    loop.run()  # it can be run again
    assert calls == ["read", "due", "read"]


def test_signals_become_calls_outside_the_handler(loop: EventLoop) -> None:
    calls: list[str] = []
    loop.on_signal(signal.SIGUSR1, lambda: calls.append("one"))
    loop.on_signal(signal.SIGUSR2, lambda: calls.append("two"))
    loop.on_signal(signal.SIGHUP, loop.stop)
    for number in signal.SIGUSR2, signal.SIGUSR1:
        os.kill(os.getpid(), number)
    assert calls == []  # before the loop runs
    loop.at(0.0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.at(loop.now_s() + 0.01, lambda: os.kill(os.getpid(), signal.SIGHUP))
    loop.run()
    assert calls == ["two", "one", "one"]


def test_signal_wakes_an_idle_loop(loop: EventLoop) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    child = os.fork()
    if child == 0:
        os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(0)
    loop.run()
    os.waitpid(child, 0)


def test_many_signals_at_once_do_not_block_the_handler(loop: EventLoop) -> None:
    calls: list[int] = []
    loop.on_signal(signal.SIGUSR1, lambda: calls.append(1))
    for _ in range(5000):
        os.kill(os.getpid(), signal.SIGUSR1)
    loop.at(loop.now_s() + 0.05, loop.stop)
    loop.run()
    assert calls


def test_the_clock_never_goes_back_and_does_not_jump(loop: EventLoop) -> None:
    assert abs(loop.now_s() - time.monotonic()) < 1
    seen = [loop.now_s() for _ in range(100)]
    assert seen == sorted(seen)


def test_close_releases_all_descriptors() -> None:
    handler = signal.getsignal(signal.SIGUSR1)
    before = open_descriptors()
    loop = EventLoop()
    loop.on_signal(signal.SIGUSR1, lambda: None)
    loop.close()
    assert open_descriptors() == before
    assert signal.set_wakeup_fd(-1) == -1
    signal.signal(signal.SIGUSR1, handler)


def test_unregistered_descriptor_gets_no_earlier_events(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A new descriptor may reuse the number of one that was closed in the same round."""
    here, there = pair
    calls: list[str] = []

    def next_owner() -> None:
        calls.append("the next owner")
        loop.stop()

    def take_over(own: socket.socket, other: socket.socket) -> None:
        calls.append("first")
        own.recv(16)
        loop.unregister(other.fileno())
        loop.on_readable(other.fileno(), next_owner)

    loop.on_readable(here.fileno(), lambda: take_over(here, there))
    loop.on_readable(there.fileno(), lambda: take_over(there, here))
    loop.at(loop.now_s() + 1, loop.stop)
    here.send(b"to there")
    there.send(b"to here")
    loop.run()
    assert calls == ["first", "the next owner"]


def test_alarm_calls_once_at_the_earliest_time(loop: EventLoop) -> None:
    calls: list[str] = []
    alarm = Alarm(loop, lambda: calls.append("alarm"))
    now_s = loop.now_s()
    for after_s in 0.02, 0.01, float("inf"), 0.03:
        alarm.set(now_s + after_s)
    loop.at(now_s + 0.015, lambda: calls.append("between"))
    loop.at(now_s + 0.04, loop.stop)
    loop.run()
    assert calls == ["alarm", "between"]


def test_alarm_set_again_and_again_keeps_one_timer(loop: EventLoop) -> None:
    """A door that is open for an hour, while others open and close."""
    rounds: list[int] = []

    def ring() -> None:
        rounds.append(len(rounds))
        alarm.set(now_s + 3600)
        alarm.set(loop.now_s()) if len(rounds) < 100 else loop.stop()

    now_s = loop.now_s()
    alarm = Alarm(loop, ring)
    alarm.set(now_s)
    loop.run()
    assert (len(rounds), len(loop._timers)) == (100, 1)


def test_alarm_set_later_after_its_call_waits_for_that(loop: EventLoop) -> None:
    late_s: list[float] = []
    now_s = loop.now_s()
    alarm = Alarm(loop, lambda: late_s.append(loop.now_s() - now_s))
    alarm.set(now_s + 0.02)
    alarm.set(now_s + 0.01)
    loop.at(now_s + 0.015, lambda: alarm.set(now_s + 0.03))
    loop.at(now_s + 0.04, loop.stop)
    loop.run()
    assert len(late_s) == 2
    assert late_s[1] >= 0.03
