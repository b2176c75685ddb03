"""Carries bytes both ways between two descriptors and a connection, until both directions have ended."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress

CHUNK_BYTES = 256 << 10  # measured: more than a GB a second through a pipe; 64 KiB and a MiB are no faster


def relay(connection: socket.socket, source: int, sink: int) -> None:
    """Carry `source` into the connection and the connection into `sink`; the end of each is passed on.

    Returns when both directions have ended, or when nobody reads the sink any more. OSError: the connection broke.
    `sink` leads nowhere afterwards, for its reader to see the end.
    """
    # A thread, for a read of a pipe can be waited for in no other way that leaves the pipe as others share it; one
    # that does not hold the program up, for such a read may never return.
    upward = threading.Thread(target=_upward, args=(source, connection), daemon=True)
    upward.start()
    try:
        _downward(connection, sink)
    except BrokenPipeError:
        return
    finally:
        _lead_nowhere(sink)
    upward.join()


def _upward(source: int, connection: socket.socket) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with suppress(OSError):  # the connection is over, and the other direction learns how
        while count := _read(source, buffer):
            connection.sendall(buffer[:count])
        connection.shutdown(socket.SHUT_WR)


def _downward(connection: socket.socket, sink: int) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := connection.recv_into(buffer):
        written = 0
        while written < count:
            written += _write(sink, buffer[written:count])


def _read(source: int, buffer: memoryview) -> int:
    while True:
        try:
            return os.readv(source, [buffer])
        except BlockingIOError:  # whoever gave us the descriptor may have made it so, and shares it
            select.select([source], [], [])


def _write(sink: int, part: memoryview) -> int:
    try:
        return os.write(sink, part)
    except BlockingIOError:
        select.select([], [sink], [])
        return 0


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
