"""The event stream: every event in order; a slow subscriber receives the number that it missed, and blocks nobody."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from doorward.daemon.control_client import EventClient
from doorward.daemon.control_socket import ControlServer
from doorward.daemon.event_stream import MAX_FOLLOWERS, MAX_WAITING, Subscribers
from doorward.errors import NegativeResult
from doorward.kernel.event_loop import EventLoop
from tests.support.errors import raises

STATUS = {"summary": "1 door, mode guard", "openings": []}


class Serving:
    """A control server whose one answer is to follow; its loop runs in a thread, and does what it is given there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.loop = EventLoop()
        self.followers = Subscribers()
        self._ours, self._theirs = socket.socketpair()
        self._calls: list[Callable[[], None]] = []
        self.server = ControlServer(self.path, self.loop, lambda _: self.followers.subscribe(STATUS))
        self.loop.on_readable(self._theirs.fileno(), self._called)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def _called(self) -> None:
        self._theirs.recv(1)
        while self._calls:
            self._calls.pop(0)()

    def do(self, call: Callable[[], None]) -> None:
        """Have the loop do something, and wait until it has."""
        done = threading.Event()
        self._calls += [call, done.set]
        self._ours.send(b"!")
        assert done.wait(15)

    def tell(self, first: int, last: int, size: int = 0) -> None:
        """Tell of events with these numbers."""

        def tell() -> None:
            for n in range(first, last):
                self.followers.publish("refused", {"n": n, "x": "x" * size})

        self.do(tell)

    def end(self) -> None:
        self.do(self.loop.stop)
        self._thread.join()
        self.server.close()
        self.loop.close()
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    with tempfile.TemporaryDirectory() as folder:  # short, for a socket's path has 107 bytes
        serving = Serving(Path(folder))
        yield serving
        serving.end()


def read(events: Iterator[dict[str, Any]], count: int) -> list[Any]:
    """Return the number in each event, or what else it is."""
    found = [next(events) for _ in range(count)]
    return [event.get("n", (event["event"], event.get("count"))) for event in found]


def test_subscribers_receive_every_later_event(serving: Serving) -> None:
    serving.tell(0, 5)
    with closing(EventClient(serving.path)) as one:
        assert one.first == STATUS
        serving.tell(5, 10)
        with closing(EventClient(serving.path)) as other:
            serving.tell(10, 15)
            assert read(iter(other), 5) == [*range(10, 15)]
        assert read(iter(one), 10) == [*range(5, 15)]
        event = {"event": "refused", "n": 15, "x": ""}
        serving.tell(15, 16)
        assert next(iter(one)).items() > event.items()


def test_slow_subscriber_misses_events_that_are_counted(serving: Serving) -> None:
    with closing(EventClient(serving.path)) as slow, closing(EventClient(serving.path)) as quick:
        begun_s = time.monotonic()
        sent, events = 0, iter(quick)
        for first in range(0, 3 * MAX_WAITING, MAX_WAITING // 4):
            serving.tell(first, first + MAX_WAITING // 4, size=1000)
            sent = first + MAX_WAITING // 4
            assert read(events, MAX_WAITING // 4) == [*range(first, sent)]
        assert time.monotonic() - begun_s < 30  # nothing waited for the one that did not read
        numbers = []
        for event in slow:
            if event["event"] == "lost":
                break
            numbers.append(event["n"])
        assert numbers == [*range(len(numbers))]
        assert len(numbers) >= MAX_WAITING
        assert event["count"] == sent - len(numbers)
        serving.tell(sent, sent + 3)
        assert read(iter(slow), 3) == [sent, sent + 1, sent + 2]


def test_a_line_that_fits_the_socket_in_part_comes_whole(serving: Serving) -> None:
    with closing(EventClient(serving.path)) as reader:
        serving.tell(0, 20, size=300_000)
        assert read(iter(reader), 20) == [*range(20)]


def test_subscribers_are_bounded_and_one_that_leaves_makes_room(serving: Serving) -> None:
    with ExitStack() as stack:
        followers = [stack.enter_context(closing(EventClient(serving.path))) for _ in range(MAX_FOLLOWERS)]
        with raises(NegativeResult, "too-many-subscribers"):
            EventClient(serving.path)
        followers[0].stop()
        assert list(followers[0]) == []
        serving.do(lambda: None)  # it has read that one left
        with closing(EventClient(serving.path)) as late:
            serving.tell(0, 1)
            assert read(iter(late), 1) == [0]


def test_unresponsive_subscriber_is_dropped(serving: Serving) -> None:
    with closing(EventClient(serving.path)) as deaf, closing(EventClient(serving.path)) as other:
        serving.tell(0, MAX_WAITING, size=1000)
        deaf._socket.shutdown(socket.SHUT_RD)
        events = iter(other)
        assert read(events, MAX_WAITING) == [*range(MAX_WAITING)]
        serving.tell(MAX_WAITING, MAX_WAITING + 1)
        assert read(events, 1) == [MAX_WAITING]
        assert len(serving.followers._following) == 1


def test_subscriber_may_send_no_further_request(serving: Serving) -> None:
    with closing(EventClient(serving.path)) as reader:
        reader._socket.sendall(b'{"command": "status"}\n')
        assert list(reader) == []


def test_silent_subscriber_is_kept(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.daemon.control_socket._PATIENCE_S", 0.05)
    with closing(EventClient(serving.path)) as reader:
        reader._socket.settimeout(15)
        woken = threading.Event()
        serving.do(lambda: serving.loop.at(serving.loop.now_s() + 0.3, woken.set))
        assert woken.wait(15)
        serving.tell(0, 1)
        assert read(iter(reader), 1) == [0]


def test_following_ends_with_the_server() -> None:
    with tempfile.TemporaryDirectory() as folder:
        serving = Serving(Path(folder))
        with closing(EventClient(serving.path)) as reader:
            serving.tell(0, 1)
            serving.end()
            assert [json.dumps(event["n"]) for event in reader] == ["0"]
