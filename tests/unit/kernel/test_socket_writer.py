"""A writer that never blocks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from doorward.kernel.event_loop import EventLoop
from doorward.kernel.socket_writer import SocketWriter


class Pair:
    """A writer, and the other end of its socket; `events` are its calls."""

    def __init__(self) -> None:
        self.loop, self.events = EventLoop(), list[str]()
        self.ours, self.theirs = socket.socketpair()
        self.writer = SocketWriter(self.loop, self.ours, lambda: self._on("drained"), lambda: self._on("failed"))

    def _on(self, event: str) -> None:
        self.events.append(event)
        self.loop.stop()

    def read(self, count: int) -> bytes:
        """Read with the loop running."""
        read = bytearray()

        def take() -> None:
            read.extend(self.theirs.recv(1 << 20))
            if len(read) >= count:
                self.loop.stop()

        self.loop.on_readable(self.theirs.fileno(), take)
        while len(read) < count:
            self.loop.run()
        self.loop.unregister(self.theirs.fileno())
        return bytes(read)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.writer.close()
    pair.ours.close()
    pair.theirs.close()
    pair.loop.close()


def test_what_fits_is_written_at_once(pair: Pair) -> None:
    pair.writer.write(b"one ")
    pair.writer.write(b"two")
    assert pair.theirs.recv(100) == b"one two"
    assert pair.events == ["drained", "drained"]


def test_what_does_not_fit_is_written_when_the_peer_reads(pair: Pair) -> None:
    messages = [bytes([number]) * 1_000_000 for number in range(4)]
    for message in messages:
        pair.writer.write(message)
    assert len(pair.writer.waiting) == 4  # a part of the first was sent
    assert pair.events == []
    assert pair.read(4_000_000) == b"".join(messages)
    assert not pair.writer.waiting
    assert pair.events == ["drained"]


def test_peer_that_is_gone(pair: Pair) -> None:
    pair.writer.write(b"x" * 1_000_000)
    pair.theirs.shutdown(socket.SHUT_RD)
    pair.writer.write(b"y")
    assert pair.events == ["failed"]
    assert not pair.writer.waiting
