"""Talk to the ssh-agent (draft-miller-ssh-agent): list its keys, request signatures. Replies are untrusted input."""

from __future__ import annotations

import os
import socket
import sys
from typing import NamedTuple

from doorward.errors import HostError, MalformedError, NegativeResult
from doorward.escape import printable
from doorward.signed.ssh_wire import SshReader, string

_LIST, _LIST_ANSWER = 11, 12
_SIGN, _SIGN_ANSWER = 13, 14
_FAILURES = frozenset({5, 30, 102})  # the draft's code, and those of older agents
_RSA_SHA2_512 = 4  # a flag; without it an agent signs with SHA-1, which is rejected everywhere

MAX_REPLY_BYTES = 256 << 10  # OpenSSH's limit; a longer reply is rejected
MAX_KEYS = 2048
MAX_COMMENT = 64  # characters; the rest is not shown
ANSWER_S = 15.0  # an agent answers in milliseconds, but a forwarded one answers through ssh
SIGN_S = 120.0  # time to find the token, or the confirmation dialog

_HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
_DEFAULT_PATH = "" if _HAS_UNIX_SOCKETS else r"\\.\pipe\openssh-ssh-agent"
_START = "`eval $(ssh-agent)` starts" if _HAS_UNIX_SOCKETS else "`Start-Service ssh-agent` starts"


class NoAgentError(HostError):
    """No agent can be reached."""


class AgentRefusedError(MalformedError):
    """The agent answered with a failure."""


class AgentKey(NamedTuple):
    """A key or certificate in the agent."""

    blob: bytes
    comment: str


class Agent:
    """A connection to the agent; close it, or use it in a `with`."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._channel = _connect(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise NoAgentError("no-agent", f"no ssh-agent answers at {path} ({reason}); {_START} another") from None

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def list_keys(self) -> list[AgentKey]:
        """Return the agent's keys; a locked agent reports none."""
        try:
            return parse_keys(self._ask(bytes([_LIST])))
        except MalformedError as error:
            raise HostError(
                "no-key-list", f"the agent at {self._path} returned no list of keys: {error}; is it an ssh-agent?"
            ) from None

    def sign(self, key: AgentKey, data: bytes) -> bytes:
        """Return the signature (RFC 4253 section 6.6) over `data`; the agent may ask for confirmation."""
        self._channel.settimeout(SIGN_S)
        request = b"".join((bytes([_SIGN]), string(key.blob), string(data), _RSA_SHA2_512.to_bytes(4)))
        try:
            return parse_signature(self._ask(request))
        except AgentRefusedError:
            raise NegativeResult(
                "agent-refused",
                f"the agent did not sign with {_key_text(key)}: it was refused or not confirmed, the security key was "
                "not touched, or the agent is locked (`ssh-add -X` unlocks it); try again, or use another --identity",
            ) from None
        except MalformedError as error:
            raise HostError(
                "no-signature", f"the agent at {self._path} returned no signature: {error}; is it an ssh-agent?"
            ) from None
        finally:
            self._channel.settimeout(ANSWER_S)

    def _ask(self, request: bytes) -> bytes:
        try:
            self._channel.sendall(string(request))
            length = int.from_bytes(self._recv_exactly(4))
            if length > MAX_REPLY_BYTES:
                raise MalformedError("reply-size", f"a reply of {length} bytes")
            return self._recv_exactly(length)
        except TimeoutError:
            raise HostError(
                "agent-timeout",
                f"the agent at {self._path} has not answered in time; if it asks for a touch or a confirmation, "
                "respond and try again, or restart the agent",
            ) from None
        except OSError as error:
            raise HostError(
                "agent-closed",
                f"the agent at {self._path} closed the connection: {error.strerror}; restart it and `ssh-add` again",
            ) from None

    def _recv_exactly(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            if not (part := self._channel.recv(length - len(received))):
                raise MalformedError("reply-truncated", "the connection ended in the middle of a reply")
            received += part
        return bytes(received)


def open_agent() -> Agent:
    """Connect to the agent at SSH_AUTH_SOCK. NoAgentError: it is not set, or no agent answers there."""
    if path := os.environ.get("SSH_AUTH_SOCK", "") or _DEFAULT_PATH:
        return Agent(path)
    raise NoAgentError("no-agent", f"no ssh-agent (SSH_AUTH_SOCK is not set); {_START} one")


def _connect(path: str) -> socket.socket | _Pipe:
    if sys.platform == "win32" or not _HAS_UNIX_SOCKETS:
        return _Pipe(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


class _Pipe:
    """The named pipe of OpenSSH's agent on Windows, with the part of a socket's interface that is used here."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115, PTH123 - closed by `close`
        self._timeout_s = ANSWER_S
        self._is_reading = self._is_closed = False

    def settimeout(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    def recv(self, length: int) -> bytes:
        """Read in a thread, because a read from a pipe has no timeout."""
        import threading  # no other agent needs it

        received: list[bytes | OSError] = []
        self._is_reading = True
        reader = threading.Thread(target=self._read, args=(length, received), daemon=True, name="agent reply")
        reader.start()
        reader.join(self._timeout_s)
        if not received:
            raise TimeoutError
        if isinstance(received[0], OSError):
            raise received[0]
        return received[0]

    def _read(self, length: int, received: list[bytes | OSError]) -> None:
        try:
            received.append(self._file.read(length))
        except OSError as error:
            received.append(error)
        self._is_reading = False
        if self._is_closed:
            self._file.close()

    def close(self) -> None:
        self._is_closed = True
        if not self._is_reading:  # else this would wait for the read
            self._file.close()


def parse_keys(reply: bytes) -> list[AgentKey]:
    """Parse the reply to a list request. MalformedError: not such a reply."""
    reader = _reader(reply, _LIST_ANSWER)
    count = reader.number(4)
    if count > MAX_KEYS:
        raise MalformedError("too-many-keys", f"a list of {count} keys")
    keys = [AgentKey(reader.string(), comment_text(reader.string())) for _ in range(count)]
    reader.expect_end()
    return keys


def parse_signature(reply: bytes) -> bytes:
    """Parse the reply to a sign request. AgentRefusedError: a failure; MalformedError: not such a reply."""
    reader = _reader(reply, _SIGN_ANSWER)
    signature = reader.string()
    reader.expect_end()
    return signature


def comment_text(comment: bytes) -> str:
    """Return an untrusted comment as text that is safe to print."""
    return printable(comment[: 4 * MAX_COMMENT].decode(errors="replace"), MAX_COMMENT)


def _key_text(key: AgentKey) -> str:
    return f"the key {key.comment!r}" if key.comment else "a key without a comment"


def _reader(reply: bytes, expected: int) -> SshReader:
    """Return a reader of the fields after the message type, which must be `expected`."""
    reader = SshReader(reply, "the reply")
    kind = reader.number(1)
    if kind in _FAILURES:
        raise AgentRefusedError("agent-refused", "the agent reported a failure")
    if kind != expected:
        raise MalformedError("reply-type", f"a reply of type {kind}")
    return reader
