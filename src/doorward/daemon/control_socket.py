"""The control socket: one line of JSON in, one line of JSON out.

It answers root; members of [gate] control_group may open and close doors, and METRICS_USER may read the stats. A
subscriber gets one more line per event after the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from doorward.config.files import group_id
from doorward.daemon.control_client import Answer, answering
from doorward.daemon.event_stream import Subscriber
from doorward.errors import DoorwardError, HostError, MalformedError
from doorward.kernel import peer
from doorward.kernel.event_loop import EventLoop
from doorward.kernel.socket_writer import SocketWriter

MAX_REQUEST_BYTES = 1 << 16
MAX_CLIENTS = 64  # at once; commands last milliseconds
_PATIENCE_S = 10.0  # an idle client is disconnected after this time
METRICS_USER = "doorward-metrics"  # of the metrics unit; made by systemd/doorward.sysusers.conf
MAX_READERS = 4  # of MAX_CLIENTS, so that a compromised metrics server leaves room for root
_MAX_PIPELINED = 8  # requests of METRICS_USER that are answered at once


def parse_request(line: bytes) -> dict[str, Any]:
    """Parse a request, an object with a text `command`. MalformedError: it is anything else."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedError("invalid-request", "the request is not one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise MalformedError("invalid-request", 'the request needs a "command"')
    return request


class DeferredReply:
    """An answer that is not ready yet; other clients do not wait for it."""

    _answer: Answer | None = None
    _tell: Callable[[Answer], None] | None = None

    def give_outcome(self, call: Callable[[], Answer]) -> None:
        """Answer with the result of `call`, or with its error."""
        try:
            self._answer = call()
        except DoorwardError as error:
            self._answer = _refusal(error)
        if self._tell is not None:
            self._tell(self._answer)

    def when_ready(self, tell: Callable[[Answer], None]) -> None:
        """Call `tell` with the answer."""
        self._tell = tell
        if self._answer is not None:
            tell(self._answer)


Reply = Answer | DeferredReply | Subscriber


def _refusal(error: DoorwardError) -> Answer:
    return {"error": str(error), "code": error.code, "exit_status": error.exit_status}


class ControlServer:
    """Accepts clients, checks their credentials, and answers their requests with `answer`.

    A request may carry one open file, as "descriptor" (or None), which is closed after it. "is_owner" is set for root
    and the daemon's own user, "is_reader" for METRICS_USER.
    """

    def __init__(self, path: Path, loop: EventLoop, answer: Callable[[Mapping[str, Any]], Reply]) -> None:
        self._path = path
        self._loop = loop
        self._answer = answer
        self._group: int | None = None
        self._reader: int | None = None
        self._clients: set[_Client] = set()
        self._readers: set[_Client] = set()  # of the clients
        self._socket = _listen(path)
        loop.on_readable(self._socket.fileno(), self._accept)

    def admit_group(self, name: str | None) -> None:
        """Admit the members of a group, besides root and METRICS_USER. HostError: there is no such group."""
        self._group, (self._reader, readers) = group_id(name), _user_and_group(METRICS_USER)
        groups = [group for group in dict.fromkeys((self._group, readers)) if group is not None]
        mode = (0o600, 0o660, 0o666)[len(groups)]  # a file has one group; credentials are checked in any case
        try:
            os.chown(self._path, -1, groups[0] if len(groups) == 1 else 0)
        except PermissionError:  # a user can assign files to its own groups only
            mode = 0o666 if groups else 0o600
        self._path.chmod(mode)

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        for client in tuple(self._clients):
            client.close()
        self._loop.unregister(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return
        rank = self._rank_of(client)
        is_reader = rank is not None and rank["is_reader"]
        if rank is None or len(self._clients) >= MAX_CLIENTS or (is_reader and len(self._readers) >= MAX_READERS):
            client.close()
            return
        client.setblocking(False)

        def reply(line: bytes, descriptor: int | None) -> Reply:
            try:
                return self._answer(parse_request(line) | {"descriptor": descriptor, **rank})
            except DoorwardError as error:
                return _refusal(error)

        accepted = _Client(client, self._loop, reply, self._forget, is_reader=is_reader)
        self._clients.add(accepted)
        if is_reader:
            self._readers.add(accepted)

    def _forget(self, client: _Client) -> None:
        self._clients.discard(client)
        self._readers.discard(client)

    def _rank_of(self, client: socket.socket) -> dict[str, bool] | None:
        """Return a client's rights, as they are added to its requests; None: it has none."""
        _, user, group = peer.credentials(client)
        groups = {group, *peer.groups(client)}
        if user in (0, os.geteuid()):
            return {"is_owner": True, "is_reader": False}
        if self._group in groups:
            return {"is_owner": False, "is_reader": False}
        return {"is_owner": False, "is_reader": True} if user == self._reader else None


class _Client:
    """One connection: reads a line, answers, waits for the next."""

    def __init__(
        self,
        sock: socket.socket,
        loop: EventLoop,
        reply: Callable[[bytes, int | None], Reply],
        left: Callable[[_Client], None],
        *,
        is_reader: bool,
    ) -> None:
        self._socket, self._loop, self._reply, self._left = sock, loop, reply, left
        self._is_reader = is_reader
        self._writer = SocketWriter(loop, sock, self._on_written, self.close)
        self._buffer = b""
        self._descriptors: list[int] = []
        self._waits = self._has_ended = False
        self._follower: Subscriber | None = None
        self._heard_s = loop.now_s()
        loop.on_readable(sock.fileno(), self._read)
        loop.at(self._heard_s + _PATIENCE_S, self._check_idle)

    def _read(self) -> None:
        try:
            part, came, _, _ = socket.recv_fds(self._socket, MAX_REQUEST_BYTES, 1)
        except OSError:
            part, came = b"", []
        self._descriptors += came
        self._heard_s = self._loop.now_s()
        self._buffer += part
        lines = self._buffer.split(b"\n")
        self._buffer = lines.pop()
        if self._is_reader and len(lines) > _MAX_PIPELINED:
            self.close()
            return
        for line in lines:
            # An answer would come between two parts of an event; and only one answer for each client waits to be read.
            if self._follower is not None or self._writer.waiting:
                self.close()
                return
            answer = self._reply(line, self._descriptors[0] if self._descriptors else None)
            self._drop_descriptors()
            if isinstance(answer, DeferredReply):
                self._waits = True
                answer.when_ready(self._send_late)
            elif isinstance(answer, Subscriber):
                self._follow(answer)
            else:
                self._send(answer)
            if self._socket.fileno() < 0:
                return
        if len(self._buffer) > MAX_REQUEST_BYTES or len(self._descriptors) > 1:
            self.close()
        elif not part:
            self._end()

    def _follow(self, follower: Subscriber) -> None:
        self._follower = follower
        if self._waits:
            self.close()
            return
        self._send(follower.first)
        follower.begin(self._writer)

    def _end(self) -> None:
        """Disconnect a client that sends nothing more, once it has read its answer."""
        if not self._writer.waiting or self._follower is not None:
            self.close()
        elif not self._has_ended:
            self._has_ended = True
            self._loop.unregister(self._socket.fileno())

    def _send_late(self, answer: Answer) -> None:
        self._waits = False
        self._heard_s = self._loop.now_s()
        if self._socket.fileno() >= 0:
            self._send(answer)

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _send(self, answer: Answer) -> None:
        self._writer.write(json.dumps(answer).encode() + b"\n")

    def _on_written(self) -> None:
        self._heard_s = self._loop.now_s()
        if self._follower is not None:
            self._follower.on_drained()
        elif self._has_ended:
            self.close()

    def _check_idle(self) -> None:
        if self._socket.fileno() < 0:
            return
        if self._loop.now_s() - self._heard_s < _PATIENCE_S:
            self._loop.at(self._heard_s + _PATIENCE_S, self._check_idle)
        elif self._waits or self._follower:  # for the daemon, which will answer
            self._loop.at(self._loop.now_s() + _PATIENCE_S, self._check_idle)
        else:
            self.close()

    def close(self) -> None:
        """Disconnect this client."""
        if self._socket.fileno() >= 0:
            self._drop_descriptors()
            if self._follower is not None:
                self._follower.end()
            self._writer.close()
            if not self._has_ended:
                self._loop.unregister(self._socket.fileno())
            self._socket.close()
            self._left(self)


def _user_and_group(name: str) -> tuple[int, int] | tuple[None, None]:
    """Return the IDs of a user and its group, if the host has such a user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None, None
    return found.pw_uid, found.pw_gid


def _listen(path: Path) -> socket.socket:
    """Bind the socket; it replaces that of a daemon that died."""
    if (holder := answering(path)) is not None:
        raise HostError("other-daemon", f"another doorward, process {holder}, answers at {path}; stop it first")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o022)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.umask(0o177)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        remedy = "let doorward write there, or name another RUNTIME_DIRECTORY"
        raise HostError("socket-unavailable", f"{path}: {error.strerror or error}; {remedy}") from None
    finally:
        os.umask(before)
    return listener
