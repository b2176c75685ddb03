"""The process that reads strangers' bytes, and can do nothing else.

It is forked with the netfilter log's sockets and one to the daemon. Before it reads anything it has given up its
user, every capability and all but a few system calls: it can write no file, start no program and open no socket. It
sends what it understood in a fixed form; the daemon takes that form and nothing else. The daemon keeps the log's
sockets open and does not read them, so what comes while no reader runs waits in the kernel.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from doorward.errors import HostError, MalformedError
from doorward.kernel import privileges, seccomp
from doorward.kernel.child_process import Worker, close_descriptors_except, recv
from doorward.kernel.nflog import LogSocket, NflogEvent

WHATS = ("knock", "full", "fast", "step", "wrong")
_EVENT = struct.Struct("!IIBB16sQ")  # generation, state, which of WHATS, IP version, address, when in microseconds
_MOST_EVENTS = 1000  # a message
_MESSAGE_BYTES = _MOST_EVENTS * _EVENT.size
_READY, _OVERFLOW, _FAILED = b"R", b"O", b"F"
_HASTY_S = 1.0  # a reader that ends within it is followed by one that waits for so long


def pack_events(events: Sequence[NflogEvent]) -> bytes:
    """Give the message that tells of these events."""
    return b"".join(
        _EVENT.pack(
            int(generation, 16), state, WHATS.index(what), source.version, source.packed.ljust(16, b"\0"), at_us
        )
        for generation, what, state, source, at_us in events
    )


def parse_events(raw: bytes) -> list[NflogEvent]:
    """Read such a message. MalformedError for any other bytes."""
    if not raw or len(raw) % _EVENT.size:
        raise MalformedError(f"reader: a message of {len(raw)} bytes; events have {_EVENT.size} each")
    events = []
    for generation, state, what, version, address, at_us in _EVENT.iter_unpack(raw):
        if what >= len(WHATS) or version not in (4, 6) or (version == 4 and any(address[4:])):
            raise MalformedError("reader: invalid event")
        source = IPv4Address(address[:4]) if version == 4 else IPv6Address(address)
        events.append(NflogEvent(f"{generation:08x}", WHATS[what], state, source, at_us))
    return events


class NflogReader:
    """The daemon's side: to be used like the LogSockets that it takes over, of which the last is told first.

    A reader that ended, or that sent anything but events, is replaced; `loss` says why `read` last gave None.
    """

    def __init__(self, logs: Sequence[LogSocket[NflogEvent]]) -> None:
        self._logs = logs
        self._identity = privileges.service_identity()
        self._waiter = select.epoll()  # its descriptor stays the same, whoever reads
        self.loss = ""
        self._start(0.0)
        first = recv(self._worker.socket, _MESSAGE_BYTES)
        if first != _READY:
            self.close()
            reason = first.removeprefix(_FAILED).decode(errors="replace") or "it ended"
            raise HostError(f"the process that reads packets cannot give up its rights: {reason}")

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._waiter.fileno()

    def read(self) -> list[NflogEvent] | None:
        """Give events that wait; None where some were lost, as `loss` says."""
        raw = self._worker.receive(_MESSAGE_BYTES)
        if raw is None or raw == _READY:
            return []
        if raw == _OVERFLOW:
            self.loss = "the kernel's log overflowed"
            return None
        try:
            return parse_events(raw)
        except MalformedError:
            self._replace(raw)
            return None

    def close(self) -> None:
        """End the reader and give the log free."""
        self._end()
        self._waiter.close()
        for log in self._logs:
            log.close()

    def _start(self, wait_s: float) -> None:
        self._began_s = time.monotonic()
        self._worker = Worker("doorward-reader", lambda daemon: _read(self._logs, daemon, self._identity, wait_s))
        self._waiter.register(self._worker, select.EPOLLIN)

    def _replace(self, sent: bytes) -> None:
        status = self._end()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        what = "sent an invalid event" if sent else f"ended {how}"
        self.loss = f"the process that reads packets {what}; another one begins"
        self._start(_HASTY_S if time.monotonic() - self._began_s < _HASTY_S else 0.0)

    def _end(self) -> int:
        self._waiter.unregister(self._worker)
        return self._worker.close()


def give_up_everything(
    identity: privileges.Identity | None, logs: Sequence[LogSocket[Any]], daemon: socket.socket
) -> None:
    """Keep nothing but reading these logs and telling the daemon. OSError: the kernel refused a step."""
    close_descriptors_except([daemon.fileno(), *(log.fileno() for log in logs)])
    privileges.drop_privileges(identity, 0)
    privileges.exit_with_parent(signal.SIGKILL)
    machine = os.uname().machine
    if seccomp.is_supported(machine):
        program = seccomp.reader_filter(machine, [log.fileno() for log in logs], [daemon.fileno()])
        privileges.restrict_system_calls(program)


def _read(
    logs: Sequence[LogSocket[NflogEvent]], daemon: socket.socket, identity: privileges.Identity | None, wait_s: float
) -> None:
    try:
        give_up_everything(identity, logs, daemon)
    except OSError as error:
        daemon.send(_FAILED + str(error).encode())
        raise
    daemon.send(_READY)
    _forward(logs, daemon, wait_s)


def _forward(logs: Sequence[LogSocket[NflogEvent]], daemon: socket.socket, wait_s: float) -> None:
    """Tell the daemon what the logs tell, after a wait, until it is gone."""
    waiting = select.poll()
    waiting.register(daemon, 0)
    if waiting.poll(wait_s * 1000):
        return
    for log in logs:
        waiting.register(log, select.POLLIN)
    while daemon.fileno() not in dict(waiting.poll()):
        # Read in order and tell in reverse: whatever led to an event of the first was in the last before it.
        for events in reversed([log.read() for log in logs]):
            if events is None:
                daemon.send(_OVERFLOW)
                continue
            for start in range(0, len(events), _MOST_EVENTS):
                daemon.send(pack_events(events[start : start + _MOST_EVENTS]))
