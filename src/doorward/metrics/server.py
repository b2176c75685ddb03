"""A small HTTP server for Prometheus, on this machine only, and not in the daemon: who holds it up holds only this.

A port of the loopback can be read by every local user, and gets what is public. A socket's file has a group and a
mode, and gets everything.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, NamedTuple

from doorward.errors import HostError, UsageError
from doorward.metrics.families import CONTENT_TYPE, Exposition

MAX_CLIENTS = 8  # at once; more are turned away
PATIENCE_S = 10.0  # for the whole of a request and its answer
FRESH_S = 1.0  # the daemon is asked again after so long, however many ask
_LOCAL = {"127.0.0.1": socket.AF_INET, "localhost": socket.AF_INET, "[::1]": socket.AF_INET6}


class Listen(NamedTuple):
    """Where to listen: a socket's file, or a port of a loopback address."""

    family: socket.AddressFamily
    address: str
    port: int = 0


def parse_listen(text: str) -> Listen:
    """Read `unix:PATH`, `127.0.0.1:PORT`, `localhost:PORT` or `[::1]:PORT`. UsageError for anything else."""
    if text.startswith("unix:/"):
        return Listen(socket.AF_UNIX, text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if host not in _LOCAL or not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        examples = "unix:/run/doorward/metrics.sock or 127.0.0.1:9477"
        raise UsageError(f"--listen: {text!r} is no place on this machine alone; write {examples}")
    return Listen(_LOCAL[host], host.strip("[]").replace("localhost", "127.0.0.1"), int(port))


class Answers:
    """What is answered, made anew at most once a second."""

    def __init__(self, make: Callable[[], Exposition]) -> None:
        self._make, self._made, self._at_s = make, Exposition(b"", b""), float("-inf")
        self._lock = threading.Lock()

    def get(self) -> Exposition:
        """Give what was just made, or make it."""
        with self._lock:
            if time.monotonic() >= self._at_s + FRESH_S:
                self._made, self._at_s = self._make(), time.monotonic()
            return self._made


class Server(ThreadingHTTPServer):
    """Serves `/metrics` until `shutdown`."""

    daemon_threads = True
    request_queue_size = 2 * MAX_CLIENTS
    _file: Path | None = None  # that this server made

    def __init__(self, listen: Listen, answers: Answers) -> None:
        self.address_family, self.answers, self._listen = listen.family, answers, listen
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        try:
            super().__init__((listen.address, listen.port), _Handler)
        except OSError as error:
            where = listen.address if listen.family is socket.AF_UNIX else f"{listen.address}:{listen.port}"
            raise HostError(f"--listen: {where}: {error.strerror or error}; name another place") from None

    def server_bind(self) -> None:
        """Bind; a socket's file may be read by the group, and takes the place of one that nobody listens at."""
        if self._listen.family is not socket.AF_UNIX:
            TCPServer.server_bind(self)  # an HTTPServer would ask a name server for this machine's name
            return
        path = Path(self._listen.address)
        _remove_dead(path)
        before = os.umask(0o117)
        try:
            self.socket.bind(str(path))
        finally:
            os.umask(before)
        self._file = path
        self.server_name, self.server_port = str(path), 0

    def server_close(self) -> None:
        """Leave no socket behind."""
        super().server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, where there is room for one."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and cut off whoever takes longer than that, however he does it."""
        cut = threading.Timer(PATIENCE_S, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave in the middle."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "doorward", ""

    def do_GET(self) -> None:
        if self._is_foreign():
            self._answer(403, b"this server answers to names of this machine only\n", "text/plain")
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, b"there is /metrics only\n", "text/plain")
        else:
            found = self.server.answers.get()
            body = found.full if self.server.address_family is socket.AF_UNIX else found.public
            self._answer(200, body, CONTENT_TYPE)

    do_HEAD = do_GET  # noqa: N815 - the name is the base class's

    def log_message(self, *_: Any) -> None:
        """Keep no log of who asks."""

    def address_string(self) -> str:
        return "local"

    def _is_foreign(self) -> bool:
        """Tell whether a browser was led here by a name that somebody points to this machine."""
        host = self.headers.get("Host", "localhost")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return self.server.address_family is not socket.AF_UNIX and name not in _LOCAL

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _remove_dead(path: Path) -> None:
    """Take away what an ended server left. HostError where one listens, or where it is no socket."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if not path.is_socket() or probe.connect_ex(str(path)) == 0:
            raise HostError(f"--listen: {path} is taken; name another place")
    path.unlink()
