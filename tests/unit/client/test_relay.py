"""Relaying between pipes and a real connection: complete, both ways, whichever side ends first."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from random import Random

import pytest

from doorward.client.relay import CHUNK_BYTES, relay

PATIENCE_S = 30.0
BULK = Random(1).randbytes((1 << 20) + 7)


class Line:
    """A running relay: the user's pipes on one side, the server's connection on the other."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._connection = socket.create_connection(server.getsockname())
            self.server, _ = server.accept()
        self.server.settimeout(PATIENCE_S)
        source, self.given = os.pipe()
        self.taken, sink = os.pipe()
        self._inner = [source, sink]
        self.errors: list[OSError] = []
        self._thread = threading.Thread(target=self._run, args=(source, sink))
        self._thread.start()

    def _run(self, source: int, sink: int) -> None:
        try:
            relay(self._connection, source, sink)
        except OSError as error:
            self.errors.append(error)

    def read_all(self) -> bytes:
        """Read what the user is given, up to its end."""
        parts = []
        while part := os.read(self.taken, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    def server_reads_all(self) -> bytes:
        parts = []
        while part := self.server.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)

    def give(self, raw: bytes) -> None:
        while raw:
            raw = raw[os.write(self.given, raw) :]

    def stop_giving(self) -> None:
        os.close(self.given)
        self.given = -1

    def stop_taking(self) -> None:
        os.close(self.taken)
        self.taken = -1

    def has_ended(self) -> bool:
        self._thread.join(PATIENCE_S)
        return not self._thread.is_alive()

    def is_alive(self) -> bool:
        self._thread.join(0.01)
        return self._thread.is_alive()

    def close(self) -> None:
        if self.given >= 0:
            self.stop_giving()
        self.server.close()
        assert self.has_ended()
        self._connection.close()
        for descriptor in (*self._inner, self.taken):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def line() -> Iterator[Line]:
    carried = Line()
    yield carried
    carried.close()


def together(*acts: Callable[[], object]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_megabyte_each_way_at_once(line: Line) -> None:
    got: dict[str, bytes] = {}

    def give() -> None:
        line.give(BULK)
        line.stop_giving()

    def serve() -> None:
        line.server.sendall(BULK[::-1])
        line.server.shutdown(socket.SHUT_WR)

    together(
        give,
        serve,
        lambda: got.__setitem__("server", line.server_reads_all()),
        lambda: got.__setitem__("user", line.read_all()),
    )
    assert line.has_ended()
    assert {name: hashlib.sha256(raw).digest() for name, raw in got.items()} == {
        "server": hashlib.sha256(BULK).digest(),
        "user": hashlib.sha256(BULK[::-1]).digest(),
    }
    assert len(BULK) > 4 * CHUNK_BYTES


def test_user_ends_first_and_receives_the_answer(line: Line) -> None:
    line.give(b"a question")
    line.stop_giving()
    assert line.server_reads_all() == b"a question"
    line.server.sendall(b"an answer")
    line.server.close()
    assert line.read_all() == b"an answer"
    assert line.has_ended()
    assert line.errors == []


def test_server_ends_first_and_receives_the_rest(line: Line) -> None:
    line.server.sendall(b"goodbye")
    line.server.shutdown(socket.SHUT_WR)
    assert line.read_all() == b"goodbye"  # and its end: the sink was let go
    line.give(b"the rest")
    line.stop_giving()
    assert line.server_reads_all() == b"the rest"
    assert line.has_ended()


def test_bytes_are_relayed_immediately(line: Line) -> None:
    for number in range(20):
        line.give(bytes([number]))
        assert line.server.recv(1) == bytes([number])
        line.server.sendall(bytes([number]))
        assert os.read(line.taken, 1) == bytes([number])


def test_sink_without_a_reader_ends_the_relay(line: Line) -> None:
    line.stop_taking()
    line.server.sendall(b"for nobody")
    assert line.has_ended()  # though neither end is closed
    assert line.errors == []


def test_reset_by_the_server_is_an_error(line: Line) -> None:
    line.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.server.close()  # with a reset
    assert line.has_ended()
    assert [type(error) for error in line.errors] == [ConnectionResetError]
    assert line.read_all() == b""


def test_reset_during_a_write_is_an_error(line: Line) -> None:
    line.server.shutdown(socket.SHUT_WR)
    assert line.read_all() == b""
    line.server.close()
    while line.is_alive():  # the first byte meets a reset, one of the next the end
        line.give(b"x")
    assert line.errors == []


def test_non_blocking_descriptors_are_supported(line: Line) -> None:
    for descriptor in line._inner:
        os.set_blocking(descriptor, False)
    line.give(b"x")
    assert line.server.recv(9) == b"x"
    line.server.sendall(BULK)
    line.server.shutdown(socket.SHUT_WR)
    assert line.read_all() == BULK
