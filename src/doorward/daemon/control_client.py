"""The commands' side of the control socket: ask the daemon, or follow its events."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from doorward.daemon import off_switch
from doorward.errors import NegativeResult, UsageError
from doorward.kernel import peer

MAX_ANSWER_BYTES = 1 << 26  # 65,536 openings take some 16 MiB
_PATIENCE_S = 10.0  # for an answer
Answer = dict[str, Any]
_TURNED_AWAY = "{} turned this call away; it answers root and [gate] control_group only, and 64 clients at once"


def default_path() -> Path:
    """Return the socket's path: in RUNTIME_DIRECTORY, or in /run/doorward."""
    folders = os.environ.get("RUNTIME_DIRECTORY", "")
    return Path(folders.split(":")[0] or "/run/doorward") / "control.sock"


def answering(path: Path) -> int | None:
    """Return the process that listens on the control socket, or None."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        probe.connect(str(path))
        return peer.credentials(probe)[0]
    return None


def ask(
    path: Path, request: Answer, *, descriptor: int | None = None, patience_s: float | None = _PATIENCE_S
) -> Answer:
    """Send a request to the daemon, and return the answer. NegativeResult: no daemon runs, or the answer is no.

    `descriptor` is an open file that is sent with the request.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(patience_s)
        with _asked(sock, path, request, descriptor) as replies:
            return _first(path, replies)


def _asked(sock: socket.socket, path: Path, request: Answer, descriptor: int | None = None) -> BinaryIO:
    """Connect and send a request; return the stream of answers."""
    with _refusals(path):
        sock.connect(str(path))
        _judge_listener(sock, path)
        line = json.dumps(request).encode() + b"\n"
        sent = 0 if descriptor is None else socket.send_fds(sock, [line], [descriptor])
        sock.sendall(line[sent:])
        return sock.makefile("rb")


def _judge_listener(sock: socket.socket, path: Path) -> None:
    """Raise UsageError if neither root nor the owner of the socket's directory listens: it is not the daemon."""
    user, owner = peer.credentials(sock)[1], path.parent.stat().st_uid
    if user not in (0, owner):
        who = f"user {user} listens here, and the daemon is root or user {owner}, who owns {path.parent}"
        raise UsageError("foreign-listener", f"{path}: {who}; end that process and start doorward again")


def _first(path: Path, replies: BinaryIO) -> Answer:
    with _refusals(path):
        raw = replies.readline(MAX_ANSWER_BYTES)
    if not raw:
        raise UsageError("turned-away", _TURNED_AWAY.format(path))
    answer = _parse_answer(path, raw)
    if "error" in answer:
        kind = NegativeResult if answer.get("exit_status") == 1 else UsageError
        raise kind(str(answer.get("code", "unknown-error")), str(answer["error"]))
    return answer


class _Object(Answer):
    """An object in the daemon's answer; a missing member raises UsageError, as from a daemon of another version."""

    def __missing__(self, key: str) -> NoReturn:
        raise UsageError(
            "missing-member",
            f"the daemon's answer has no {key!r}; restart the daemon, or install the version that it runs",
        )


def _parse_answer(path: Path, raw: bytes) -> Answer:
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(answer := json.loads(raw, object_hook=_Object), dict):
            return answer
    raise UsageError(
        "invalid-answer", f"{path}: the answer is not one line of JSON; restart the daemon that listens there"
    )


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, ConnectionResetError, BrokenPipeError):
        raise UsageError("turned-away", _TURNED_AWAY.format(path)) from None
    except OSError as error:
        off_switch.refuse_if_off()  # then `doorward run` would start none
        raise NegativeResult(
            "no-daemon",
            f"no daemon answers at {path} ({error.strerror or error}); start it with `systemctl start doorward` "
            "(without systemd: `doorward run`)",
        ) from None


class EventClient:
    """A subscription to the daemon's events: `first` is the answer to `status`; iterate for later events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(_PATIENCE_S)
            self._replies = _asked(self._socket, path, {"command": "follow"})
            self.first = _first(path, self._replies)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)

    def __iter__(self) -> Iterator[Answer]:
        """Yield events until the daemon ends or `stop` is called."""
        with contextlib.suppress(OSError):
            while line := self._replies.readline(MAX_ANSWER_BYTES):
                yield _parse_answer(self._path, line)

    def stop(self) -> None:
        """End the iteration, from another thread too."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()
