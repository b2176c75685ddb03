"""A client for etcd 3.4 and newer over its JSON gateway: several endpoints, TLS, user and password, watches.

(etcd3gw on PyPI uses the gateway too, but can neither authenticate nor fail over to another endpoint.)

A connection belongs to one thread; threads share an `EtcdAccess`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import stat
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from doorward.config.files import read_text, trusted_owners
from doorward.config.schema import Fleet
from doorward.errors import HostError, MalformedError, UsageError
from doorward.fleet import etcd_codec
from doorward.fleet.etcd_codec import Message, RangeResult, TransactionResult, WatchMessage

MAX_ANSWER_BYTES = 64 << 20  # a page of 1000 openings is under a megabyte
MAX_LINE_BYTES = 16 << 20  # one watch message; etcd itself sends a few megabytes at most
PAGE = 1000
_UNAVAILABLE = (4, 14)  # gRPC: deadline exceeded, unavailable: another endpoint may answer
_TOKEN_EXPIRED = ("invalid auth token", "revision in header is old", "user name is empty")
# A broken link sends no notice: the kernel probes the peer every second and gives up after three.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))


class EtcdUnavailableError(HostError):
    """No endpoint answered."""


class EtcdRejectedError(HostError):
    """etcd rejected a request."""


class CompactedError(HostError):
    """The requested revision was compacted away."""


@dataclass
class EtcdAccess:
    """Endpoints and credentials of etcd, and the authentication token, which all connections share."""

    endpoints: tuple[str, ...]
    timeout_s: float
    tls: ssl.SSLContext | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class _Answer(NamedTuple):
    status: int
    raw: bytes


class Etcd:
    """One connection, to the endpoint that answered last."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._index = 0
        self._connection: http.client.HTTPConnection | None = None

    @property
    def endpoint(self) -> str:
        """Return the endpoint that is tried first."""
        return self._access.endpoints[self._index]

    def prefer(self, endpoint: str) -> None:
        """Try this endpoint first from now on."""
        if endpoint != self.endpoint:
            self.close()
            self._index = self._access.endpoints.index(endpoint)

    def next_endpoint(self) -> None:
        """Try the next endpoint first from now on."""
        self.close()
        self._index = (self._index + 1) % len(self._access.endpoints)

    def range(self, key: str, end: str = "", *, limit: int = 0, at: int = 0, newest_first: bool = False) -> RangeResult:
        """Return the keys of a range. `at`: as of that revision; `limit` 0: all of them, in one answer."""
        body = etcd_codec.key_range(key, end) | {"limit": str(limit), "revision": str(at)}
        if newest_first:
            body |= {"sort_order": "DESCEND", "sort_target": "MOD"}
        return etcd_codec.parse_range(self.call("kv/range", body))

    def prefix(self, prefix: str) -> RangeResult:
        """Return all keys with a prefix, as of one revision."""
        end = etcd_codec.prefix_end(prefix)
        page = self.range(prefix, end, limit=PAGE)
        entries, is_complete = list(page.entries), page.is_complete
        while not is_complete:
            more = self.range(entries[-1].key + "\0", end, limit=PAGE, at=page.revision)
            entries, is_complete = entries + more.entries, more.is_complete
        return RangeResult(entries, page.revision)

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write a key; return the revision."""
        return etcd_codec.header_revision(self.call("kv/put", etcd_codec.put(key, value, lease)))

    def delete(self, key: str, end: str = "") -> int:
        """Delete a key, or those up to but not including `end`; return how many existed."""
        return etcd_codec.int64(self.call("kv/deleterange", etcd_codec.key_range(key, end)), "deleted")

    def txn(
        self, conditions: Sequence[tuple[str, int]], then: Sequence[Message], otherwise: Sequence[Message] = ()
    ) -> TransactionResult:
        """Do `then` if each key was last written at its revision (0: does not exist), else `otherwise`."""
        return etcd_codec.parse_transaction(self.call("kv/txn", etcd_codec.txn(conditions, then, otherwise)))

    def grant(self, ttl_s: int) -> int:
        """Create a lease of `ttl_s` seconds; return its ID."""
        return etcd_codec.int64(self.call("lease/grant", {"TTL": str(ttl_s)}), "ID")

    def revoke(self, lease: int) -> None:
        """Revoke a lease, which deletes its keys."""
        self.call("lease/revoke", {"ID": str(lease)})

    def left_s(self, lease: int) -> int:
        """Return the whole seconds that a lease has left; -1 if it has expired."""
        return etcd_codec.int64(self.call("lease/timetolive", {"ID": str(lease)}), "TTL")

    def keep_alive(self, lease: int) -> bool:
        """Renew a lease; return False if it has expired."""
        return etcd_codec.int64(etcd_codec.child(self.call("lease/keepalive", {"ID": str(lease)}), "result"), "TTL") > 0

    def call(self, path: str, body: Message) -> Message:
        """Send a request; EtcdUnavailableError if no endpoint answers, EtcdRejectedError if etcd rejects it."""
        why = ""
        for _ in self._access.endpoints:
            try:
                return self._authorized(path, body)
            except (EtcdUnavailableError, OSError, http.client.HTTPException, MalformedError) as error:
                why = f"{self.endpoint}: {_reason(error)}"
                self.next_endpoint()
        raise EtcdUnavailableError(
            "etcd-unavailable", f"etcd does not answer ({why}); is it running, and can this host reach it?"
        )

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _authorized(self, path: str, body: Message) -> Message:
        token = self._token()
        try:
            return _result(self._exchange(path, body, token))
        except EtcdRejectedError as error:
            if not (token and any(words in str(error) for words in _TOKEN_EXPIRED)):
                raise
        return _result(self._exchange(path, body, self._token(token)))

    def _token(self, old: str = "") -> str:
        """Return the token; request a new one if it is still `old`."""
        access = self._access
        if not access.user:
            return ""
        with access.lock:
            if access.token == old:
                who = {"name": access.user, "password": access.password}
                access.token = str(_result(self._exchange("auth/authenticate", who, "")).get("token", ""))
            return access.token

    def _exchange(self, path: str, body: Message, token: str) -> _Answer:
        is_reused = self._connection is not None
        try:
            return self._send_once(path, body, token)
        except (http.client.RemoteDisconnected, ConnectionError):
            self.close()
            if not is_reused:
                raise
        return self._send_once(path, body, token)  # the server may have closed an idle connection

    def _send_once(self, path: str, body: Message, token: str) -> _Answer:
        if self._connection is None:
            self._connection = connect(self._access, self.endpoint)
        try:
            response = _send(self._connection, path, [body], token)
            raw = response.read(MAX_ANSWER_BYTES + 1)
        except BaseException:
            self.close()  # a late answer must not be read as the next one
            raise
        if len(raw) > MAX_ANSWER_BYTES:
            self.close()
            raise MalformedError("answer-too-long", "etcd: the answer is too long")
        return _Answer(response.status, raw)

    @contextlib.contextmanager
    def watch(self, ranges: Sequence[tuple[str, str, int]]) -> Iterator[EtcdWatch]:
        """Watch ranges (key, end, first revision) at the current endpoint; errors as for `call`.

        A range's watch ID is its index, from 1.
        """
        connection = None
        try:
            connection = connect(self._access, self.endpoint)
            bodies = [
                {"create_request": etcd_codec.key_range(key, end) | {"start_revision": str(since), "watch_id": str(n)}}
                for n, (key, end, since) in enumerate(ranges, 1)
            ]
            token = self._token()
            response = _send(connection, "watch", bodies, token)
            if response.status != http.client.OK:
                with self._access.lock:
                    self._access.token = ""  # it may be the reason: the next try requests a new one
                _result(_Answer(response.status, response.read(MAX_ANSWER_BYTES)))
            yield EtcdWatch(connection, response)
        except (OSError, http.client.HTTPException, MalformedError) as error:
            raise EtcdUnavailableError(
                "etcd-unavailable", f"etcd does not answer ({self.endpoint}: {_reason(error)})"
            ) from None
        finally:
            if connection is not None:
                connection.close()


class EtcdWatch:
    """A stream of changes in some ranges."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def read(self, timeout_s: float | None = None) -> WatchMessage:
        """Wait for a message and return it.

        CompactedError; EtcdUnavailableError when the watch ended or no message came in time: then it has ended, too.
        """
        try:
            self._connection.sock.settimeout(timeout_s)
            line = self._response.readline(MAX_LINE_BYTES)
            message = (
                etcd_codec.parse_watch(etcd_codec.parse(line))
                if line.endswith(b"\n")
                else WatchMessage([], 0, ended="it is over")
            )
        except (OSError, http.client.HTTPException, MalformedError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: `stop` closed the connection meanwhile.
            raise EtcdUnavailableError("etcd-unavailable", f"etcd does not answer: {_reason(error)}") from None
        if message.compacted:
            raise CompactedError("revision-compacted", f"etcd compacted the revisions before {message.compacted}")
        if message.ended:
            raise EtcdUnavailableError("watch-ended", f"etcd ended the watch: {message.ended}")
        return message

    def stop(self) -> None:
        """Make `read` return, from another thread."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)


def connect(access: EtcdAccess, endpoint: str) -> http.client.HTTPConnection:
    """Return a connection to one endpoint; raise OSError if that fails."""
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or 2379
    if parts.scheme == "https":
        made: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=access.timeout_s, context=access.tls
        )
    else:
        made = http.client.HTTPConnection(host, port, timeout=access.timeout_s)
    made.connect()
    made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        made.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _send(
    connection: http.client.HTTPConnection, path: str, bodies: Sequence[Message], token: str
) -> http.client.HTTPResponse:
    # A node without a leader then answers with an error instead of waiting.
    headers = {"Grpc-Metadata-hasleader": "true", **({"Authorization": token} if token else {})}
    connection.request("POST", f"/v3/{path}", "".join(map(json.dumps, bodies)).encode(), headers)
    return connection.getresponse()


def _result(answer: _Answer) -> Message:
    if not answer.raw and answer.status == http.client.OK:
        return {}
    if answer.status == http.client.BAD_REQUEST and not answer.raw.startswith(b"{"):  # plain text of the gateway
        raise EtcdRejectedError(
            "etcd-rejected", f"etcd rejected the request: {answer.raw[:200].decode(errors='replace').strip()}"
        )
    message = etcd_codec.parse(answer.raw)
    if answer.status == http.client.OK and "error" not in message:
        return message
    reason = message.get("message") or message.get("error") or f"status {answer.status}"
    text = str(reason)[:200]
    if message.get("code") in _UNAVAILABLE or answer.status == http.client.SERVICE_UNAVAILABLE:
        raise EtcdUnavailableError("etcd-unavailable", text)
    raise EtcdRejectedError("etcd-rejected", f"etcd rejected the request: {text}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def now_ms() -> int:
    """Return CLOCK_MONOTONIC, which all processes of a host share, in milliseconds."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Return the time since the epoch in milliseconds; the clocks of two hosts may differ."""
    return time.time_ns() // 1_000_000


_MAX_PASSWORD = 1024
_MIN_TIMEOUT_S = 1.0  # for everything but signed knocks, for which a client waits


def read_access(fleet: Fleet, directory: Path, gate: str = "") -> EtcdAccess:
    """Return how to reach etcd; UsageError if a file is missing, invalid or readable by others.

    Gates start with different endpoints, chosen by name.
    """
    first = zlib.crc32(gate.encode()) % len(fleet.endpoints)
    endpoints = fleet.endpoints[first:] + fleet.endpoints[:first]
    is_encrypted = any(endpoint.startswith("https:") for endpoint in endpoints)
    return EtcdAccess(
        endpoints,
        max(_MIN_TIMEOUT_S, fleet.timeout_ms / 1000),
        _context(fleet, directory) if is_encrypted else None,
        fleet.user,
        _password(directory / fleet.password) if fleet.password else "",
    )


def claim_access(access: EtcdAccess, fleet: Fleet) -> EtcdAccess:
    """Return the same access for signed knocks, with the configured timeout."""
    return EtcdAccess(access.endpoints, fleet.timeout_ms / 1000, access.tls, access.user, access.password)


def _context(fleet: Fleet, directory: Path) -> ssl.SSLContext:
    ca = directory / fleet.ca if fleet.ca else None
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise UsageError("invalid-ca", f"{ca}: not a CA certificate ({_why(error)}); expected a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if fleet.certificate:
        certificate, key = directory / fleet.certificate, directory / fleet.key
        _reject_exposed(key)
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            what = f"{certificate} and {key}: not a certificate with its private key ({_why(error)})"
            raise UsageError(
                "invalid-certificate", f"{what}; write both as PEM, the key without a passphrase"
            ) from None
    return context


def _password(path: Path) -> str:
    _reject_exposed(path)
    password = read_text(path, trusted_owners()).strip()
    if not 1 <= len(password) <= _MAX_PASSWORD or not password.isprintable():
        raise UsageError(
            "invalid-password", f"{path}: invalid password: expected one line of at most {_MAX_PASSWORD} characters"
        )
    return password


def _reject_exposed(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError("unreadable-file", f"{path}: {error.strerror}; it is configured in [fleet]") from None
    if mode & stat.S_IROTH:
        raise UsageError("readable-by-others", f"{path}: other users can read it; run `chmod o-r {path}`")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)
