"""The sandboxed process that parses untrusted input from the netfilter log.

It is forked with the log's sockets and one to the daemon. Before it reads anything it gives up its user, every
capability and all but a few system calls: it can neither write files nor start programs nor open sockets. It sends
events in a fixed format, and the daemon accepts nothing else. The daemon keeps the log's sockets open without reading
them, so messages that arrive while no reader runs wait in the kernel.
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

WHATS = ("knock", "full", "throttled", "step", "wrong", "used")
# Generation, state, which of WHATS, IP version, address, when in microseconds, source port.
_EVENT = struct.Struct("!IIBB16sQH")
_MOST_EVENTS = 1000  # per message
_MESSAGE_BYTES = _MOST_EVENTS * _EVENT.size
_READY, _OVERFLOW, _FAILED = b"R", b"O", b"F"
_HASTY_S = 1.0  # the successor of a reader that ended within this time waits as long first


def pack_events(events: Sequence[NflogEvent]) -> bytes:
    """Return the message with these events."""
    return b"".join(
        _EVENT.pack(
            int(generation, 16), state, WHATS.index(what), source.version, source.packed.ljust(16, b"\0"), at_us, port
        )
        for generation, what, state, source, at_us, port in events
    )


def parse_events(raw: bytes) -> list[NflogEvent]:
    """Parse such a message. MalformedError: it is anything else."""
    if not raw or len(raw) % _EVENT.size:
        raise MalformedError("event-size", f"reader: a message of {len(raw)} bytes; events have {_EVENT.size} each")
    events = []
    for generation, state, what, version, address, at_us, port in _EVENT.iter_unpack(raw):
        if what >= len(WHATS) or version not in (4, 6) or (version == 4 and any(address[4:])):
            raise MalformedError("invalid-event", "reader: invalid event")
        source = IPv4Address(address[:4]) if version == 4 else IPv6Address(address)
        events.append(NflogEvent(f"{generation:08x}", WHATS[what], state, source, at_us, port))
    return events


class NflogReader:
    """The daemon's side; it replaces the LogSockets that it owns, and reports the events of the last one first.

    A reader that ended, or that sent anything but events, is replaced; `loss` is why `read` last returned None.
    """

    def __init__(self, logs: Sequence[LogSocket[NflogEvent]]) -> None:
        self._logs = logs
        self._identity = privileges.service_identity()
        self._waiter = select.epoll()  # its descriptor stays the same when the reader is replaced
        self.loss = ""
        self._start(0.0)
        first = recv(self._worker.socket, _MESSAGE_BYTES)
        if first != _READY:
            self.close()
            reason = first.removeprefix(_FAILED).decode(errors="replace") or "it ended"
            raise HostError("sandbox-failed", f"the process that reads packets cannot give up its rights: {reason}")

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._waiter.fileno()

    def read(self) -> list[NflogEvent] | None:
        """Return the waiting events; None if some were lost, for the reason in `loss`."""
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
        """End the reader and close the log."""
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
        self.loss = f"the process that reads packets {what}; restarting it"
        self._start(_HASTY_S if time.monotonic() - self._began_s < _HASTY_S else 0.0)

    def _end(self) -> int:
        self._waiter.unregister(self._worker)
        return self._worker.close()


def give_up_everything(
    identity: privileges.Identity | None, logs: Sequence[LogSocket[Any]], daemon: socket.socket
) -> None:
    """Drop all rights but to read these logs and write to the daemon. OSError: the kernel refused a step."""
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
    """Forward events to the daemon until it exits, after a wait."""
    waiting = select.poll()
    waiting.register(daemon, 0)
    if waiting.poll(wait_s * 1000):
        return
    for log in logs:
        waiting.register(log, select.POLLIN)
    while daemon.fileno() not in dict(waiting.poll()):
        # Read in order and forward in reverse: what led to an event of the first log is in the last log before it.
        for events in reversed([log.read() for log in logs]):
            if events is None:
                daemon.send(_OVERFLOW)
                continue
            for start in range(0, len(events), _MOST_EVENTS):
                daemon.send(pack_events(events[start : start + _MOST_EVENTS]))
