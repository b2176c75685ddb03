"""Relay bytes between two descriptors and a connection, until both directions have ended."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from io import FileIO

CHUNK_BYTES = 256 << 10  # more than 1 GB/s through a pipe; 64 KiB and 1 MiB are no faster


def relay(connection: socket.socket, source: int, sink: int) -> None:
    """Copy `source` to the connection and the connection to `sink`, passing on the end of each.

    Returns when both directions have ended, or when the sink has no reader. OSError: the connection broke.
    `sink` is /dev/null afterwards, so that its reader sees the end.
    """
    # A thread, because the pipe is shared and must not become non-blocking; a daemon thread, because its read may
    # never return.
    upward = threading.Thread(target=_send_all, args=(source, connection), daemon=True)
    upward.start()
    try:
        _receive_all(connection, sink)
    except BrokenPipeError:
        return
    finally:
        _point_at_null(sink)
    upward.join()


def _send_all(source: int, connection: socket.socket) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with suppress(OSError), FileIO(source, closefd=False) as file:  # the other direction reports how it ended
        while count := _read(file, buffer):
            connection.sendall(buffer[:count])
        connection.shutdown(socket.SHUT_WR)


def _receive_all(connection: socket.socket, sink: int) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := connection.recv_into(buffer):
        written = 0
        while written < count:
            written += _write(sink, buffer[written:count])


def _read(source: FileIO, buffer: memoryview) -> int:
    # None: a non-blocking descriptor, shared with the process that passed it.
    while (count := source.readinto(buffer)) is None:
        select.select([source], [], [])
    return count


def _write(sink: int, part: memoryview) -> int:
    try:
        return os.write(sink, part)
    except BlockingIOError:
        select.select([], [sink], [])
        return 0


def _point_at_null(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
