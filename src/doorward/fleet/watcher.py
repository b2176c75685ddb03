"""The threads that read etcd: one watches every change, one checks every second that etcd answers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from doorward.errors import DoorwardError
from doorward.fleet import etcd_codec
from doorward.fleet.etcd import CompactedError, Etcd, EtcdAccess, EtcdUnavailableError, EtcdWatch, now_ms
from doorward.fleet.etcd_codec import KeyChange, KeyValue
from doorward.fleet.etcd_records import KeySpace

BEAT_S = 1.0
PRESENCE_LEASE_S = 5  # a gate without a heartbeat for this long is away
_MAX_LEASES_ASKED = 1000  # leases whose remaining time is requested; beyond it the wall clock is trusted
_PAUSES_S = (0.05, 0.2, 0.5, 1.0)


class Snapshot(NamedTuple):
    """All closes, all openings at a revision, and the remaining milliseconds of each of their leases."""

    closes: list[KeyValue]
    entries: list[KeyValue]
    revision: int
    leases_ms: dict[int, int]


class KeyChanges(NamedTuple):
    """Changes, in order."""

    changes: list[KeyChange]


class Heartbeat(NamedTuple):
    """etcd answered: a request made at `asked_ms` saw this revision."""

    asked_ms: int
    revision: int


class Unreachable(NamedTuple):
    """etcd did not answer."""

    why: str


class DuplicateName(NamedTuple):
    """Another gate uses the same name."""


class Watcher(threading.Thread):
    """Read all openings, then watch; after an interruption resume, or read all again if etcd compacted the rest."""

    def __init__(self, access: EtcdAccess, tree: KeySpace, inbox: Callable[[object], None]) -> None:
        super().__init__(daemon=True)
        self._etcd, self._tree, self._inbox = Etcd(access), tree, inbox
        prefixes = [tree.under(directory, "") for directory in ("openings", "asks", "closes")]
        self._ranges = [(prefix, etcd_codec.prefix_end(prefix)) for prefix in prefixes]
        self._next: dict[int, int] = {}  # range ID: the revision to resume from
        self._watch: EtcdWatch | None = None
        self._retry = threading.Event()

    @property
    def endpoint(self) -> str:
        """Return the endpoint that is watched."""
        return self._etcd.endpoint

    def abandon(self, endpoint: str) -> None:
        """Stop watching an endpoint that no longer answers, if it is still the watched one."""
        watch = self._watch
        if watch is not None and self.endpoint == endpoint:
            watch.stop()

    def retry_now(self) -> None:
        """Skip the pause before the next try, since etcd answers."""
        self._retry.set()

    def run(self) -> None:
        """Watch until the process ends."""
        tries = 0
        while True:
            self._retry.clear()
            self._has_received = False
            try:
                if not self._next:
                    self._read_all()
                self._watch_changes()
            except CompactedError:
                self._next = {}
            except DoorwardError as error:
                if not isinstance(error, EtcdUnavailableError):
                    self._inbox(Unreachable(str(error)))
                self._etcd.next_endpoint()
            tries = 0 if self._has_received else tries + 1
            self._retry.wait(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])

    def _read_all(self) -> None:
        closes = self._etcd.prefix(self._ranges[2][0])  # first: they count for all openings that are read
        openings = self._etcd.prefix(self._ranges[0][0])
        leases = sorted({entry.lease for entry in openings.entries if entry.lease})[:_MAX_LEASES_ASKED]
        left_ms = {lease: 1000 * self._etcd.left_s(lease) for lease in leases}
        self._inbox(Snapshot(closes.entries, openings.entries, openings.revision, left_ms))
        self._next = dict.fromkeys((1, 2), openings.revision + 1) | {3: closes.revision + 1}

    def _watch_changes(self) -> None:
        with self._etcd.watch([(*key_range, self._next[n]) for n, key_range in enumerate(self._ranges, 1)]) as watch:
            self._watch = watch
            try:
                while True:
                    message = watch.read()
                    self._has_received = True
                    if message.changes:
                        self._inbox(KeyChanges(message.changes))
                        # Per range: one may be ahead of another when the connection breaks.
                        self._next[message.watch] = max(change.entry.revision for change in message.changes) + 1
            finally:
                self._watch = None


class HeartbeatThread(threading.Thread):
    """Report this gate as up, and check that etcd answers, at the endpoint that the watcher uses."""

    def __init__(
        self, access: EtcdAccess, tree: KeySpace, gate: str, watcher: Watcher, inbox: Callable[[object], None]
    ) -> None:
        super().__init__(daemon=True)
        self._etcd, self._watcher, self._inbox = Etcd(access), watcher, inbox
        self._key, self._member = tree.under("gates", gate), tree.under("members", gate)
        self._token = secrets.token_hex(8).encode()
        self._lease = 0
        self._is_member = False

    def run(self) -> None:
        """Send heartbeats until the process ends."""
        while True:
            began_s = time.monotonic()
            endpoint = self._watcher.endpoint
            self._etcd.prefer(endpoint)
            try:
                self._inbox(self._beat())
                self._watcher.retry_now()
            except DoorwardError as error:
                self._inbox(Unreachable(str(error)))
            if self._etcd.endpoint != endpoint:
                self._watcher.abandon(endpoint)
            time.sleep(max(0.0, began_s + BEAT_S - time.monotonic()))

    def _beat(self) -> Heartbeat:
        asked_ms = now_ms()
        if not (self._lease and self._etcd.keep_alive(self._lease)):
            self._lease = self._etcd.grant(PRESENCE_LEASE_S)
            self._etcd.put(self._key, self._token, self._lease)
        presence = self._etcd.range(self._key)  # only a node with a quorum answers
        if not self._is_member:
            self._etcd.txn([(self._member, 0)], [etcd_codec.to_put(self._member, b"{}")])
            self._is_member = True
        if not presence.entries:
            self._lease = 0
        elif presence.entries[0].value != self._token:
            self._inbox(DuplicateName())
        return Heartbeat(asked_ms, presence.revision)
