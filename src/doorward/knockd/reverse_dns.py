"""Resolve host names for the log (`-l`) in a separate process, so that a slow resolver cannot block the daemon.

A resolver's answers are untrusted input, so that process runs as nobody.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from doorward.kernel import privileges
from doorward.kernel.child_process import STANDARD, Worker, close_descriptors_except, recv
from doorward.kernel.event_loop import Alarm, EventLoop
from doorward.model import Source

PATIENCE_S = 1.0  # how long a line, and those after it, waits for its name; commands do not wait
CACHE_S = 60.0  # a name is looked up once a minute at most
MAX_NAMES = 4096  # beyond it the oldest is evicted, and looked up again
MAX_WAITING = 8192  # waiting lines; beyond it the oldest is written without its name
MAX_PENDING = 64  # pending look-ups; beyond it a line has no name: attackers choose the addresses
RESOLVER_THREADS = 8  # concurrent look-ups, so that a slow one does not delay the others
_NOBODY = privileges.Identity("nobody", 65534, 65534, ())
_MESSAGE_BYTES = 1 << 12
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")  # RFC 952, and the underscore that resolvers accept

NameCallback = Callable[[str | None], None]


class _WaitingCall(NamedTuple):
    address: Source | None
    until_s: float
    call: NameCallback


class _CachedName(NamedTuple):
    name: str | None
    until_s: float


class ReverseResolver:
    """Resolves names in request order, on the event loop."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._cache: OrderedDict[Source, _CachedName] = OrderedDict()
        self._pending: dict[str, Source] = {}
        self._waiting: deque[_WaitingCall] = deque()
        self._alarm = Alarm(loop, self._run_due)
        self._resolver = Worker("knockd-names", _serve)
        self._resolver.socket.setblocking(False)
        loop.on_readable(self._resolver.fileno(), self._read)

    def call_in_order(self, address: Source | None, call: NameCallback) -> None:
        """Call with the address's name (None: unknown) once all earlier calls were made.

        It is called without the name if resolving takes longer than PATIENCE_S.
        """
        if address is not None:
            self._request(address)
        self._waiting.append(_WaitingCall(address, self._loop.now_s() + PATIENCE_S, call))
        self._run_due()

    def close(self) -> None:
        """Make all pending calls, and end the process."""
        self._pending.clear()
        self._run_due()
        if self._resolver.fileno() >= 0:
            self._loop.unregister(self._resolver.fileno())
            self._resolver.close()

    def _request(self, address: Source) -> None:
        answer, text = self._cache.get(address), str(address)
        if text in self._pending or (answer is not None and self._loop.now_s() < answer.until_s):
            return
        self._cache.pop(address, None)
        if len(self._pending) < MAX_PENDING:
            with suppress(OSError):  # the process has ended: no name then
                self._resolver.socket.send(text.encode())
                self._pending[text] = address

    def _read(self) -> None:
        raw = recv(self._resolver.socket, _MESSAGE_BYTES)
        if not raw:  # the process has ended: no more names
            self.close()
            return
        text, _, name = raw.decode("ascii", "replace").partition(" ")
        if (address := self._pending.pop(text, None)) is not None:
            self._cache[address] = _CachedName(name if _NAME.fullmatch(name) else None, self._loop.now_s() + CACHE_S)
            if len(self._cache) > MAX_NAMES:
                self._cache.popitem(last=False)
            self._run_due()

    def _run_due(self) -> None:
        while self._waiting and self._is_due(self._waiting[0]):
            address, _, call = self._waiting.popleft()
            answer = self._cache.get(address) if address is not None else None
            call(answer.name if answer is not None else None)
        if self._waiting:
            self._alarm.set(self._waiting[0].until_s)

    def _is_due(self, turn: _WaitingCall) -> bool:
        awaited = turn.address is not None and str(turn.address) in self._pending
        return not awaited or turn.until_s <= self._loop.now_s() or len(self._waiting) > MAX_WAITING


def _serve(sock: socket.socket) -> None:
    """Resolve names until the daemon is gone, even during a look-up."""
    close_descriptors_except((*STANDARD, sock.fileno()))
    "".encode("idna")  # loads the codec for look-ups now: the user nobody may be unable to read its file
    privileges.drop_privileges(_NOBODY if os.geteuid() == 0 else None, 0)
    for _ in range(RESOLVER_THREADS - 1):
        threading.Thread(target=_look_up, args=(sock,), daemon=True).start()
    _look_up(sock)


def _look_up(sock: socket.socket) -> None:
    while address := recv(sock, _MESSAGE_BYTES):
        try:
            name = socket.gethostbyaddr(address.decode())[0]
        except OSError:
            name = ""
        try:
            sock.send(address + b" " + name.encode("ascii", "replace"))
        except OSError:
            break
    os._exit(0)
