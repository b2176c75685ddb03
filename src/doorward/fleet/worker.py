"""The main loop of the fleet process, which speaks to etcd: one thread decides (state.py), others read and write.

The process has no right but to connect. It requests opens and closes from the daemon, which accepts nothing but the
validated messages of protocol.py.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from doorward.errors import MalformedError
from doorward.fleet import protocol
from doorward.fleet.etcd import EtcdAccess, now_ms
from doorward.fleet.etcd_codec import KeyValue
from doorward.fleet.etcd_records import KeySpace, OpeningKey, fit, parse_key
from doorward.fleet.state import CloseHere, Effect, OpenHere, SharedOpeningTable
from doorward.fleet.state_db import FleetStateFile
from doorward.fleet.watcher import DuplicateName, Heartbeat, HeartbeatThread, KeyChanges, Snapshot, Unreachable, Watcher
from doorward.fleet.writer import (
    Answering,
    Conflict,
    DeleteKey,
    EtcdWriter,
    LogEntry,
    Publish,
    WriteFailed,
    Written,
    conflict_in,
    record,
)

FILE = "fleet.sqlite"  # in the state directory
LOG_SLOTS = 10_000  # records that the fleet stores per gate
_WRITERS, _CLAIMERS = 4, 2  # each waits for etcd most of the time
_PROOFS = 120
_MOST_NOTES = 1000  # waiting to be written; beyond it they are in the gate's own ledger only


class WorkerSettings(NamedTuple):
    """Settings of the process; `folder` is the daemon's state directory."""

    fleet: str
    gate: str
    access: EtcdAccess
    claims: EtcdAccess
    window_ms: int
    folder: Path


class FromDaemon(NamedTuple):
    """A message from the daemon."""

    message: protocol.Message


class FleetWorker:
    """The fleet process; `run` ends with the daemon."""

    def __init__(self, settings: WorkerSettings, daemon: socket.socket) -> None:
        self._settings, self._daemon = settings, daemon
        self._tree = KeySpace(settings.fleet)
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._openings = SharedOpeningTable(settings.gate)
        self._remembered = FleetStateFile(settings.folder / FILE)
        self._busy: set[OpeningKey] = set()  # a writer is working on it
        self._proofs: deque[Heartbeat] = deque(maxlen=_PROOFS)
        self._standing: list[protocol.Item] = []
        self._closed: list[OpeningKey] = []
        self._is_silent, self._was_told = False, False
        self._revision, self._slot, self._notes = 0, 0, 0
        self._troubles: dict[type, str] = {}  # task type: why the last one failed
        self._is_doubled = False
        self._state: protocol.State | None = None
        put = self._inbox.put
        self._watcher = Watcher(settings.access, self._tree, put)
        self._pulse = HeartbeatThread(settings.access, self._tree, settings.gate, self._watcher, put)
        made = [(settings.access, _WRITERS), (settings.claims, _CLAIMERS), (settings.access, 1)]
        writers = [
            EtcdWriter(access, self._tree, settings.gate, settings.window_ms, self._watcher, put)
            for access, count in made
            for _ in range(count)
        ]
        self._writers, self._claimers, self._office = writers[:_WRITERS], writers[_WRITERS:-1], writers[-1]

    def run(self) -> None:
        """Work until the daemon ends."""
        threading.excepthook = _end_all
        threading.Thread(target=self._listen, daemon=True).start()
        for writer in (*self._writers, *self._claimers, self._office):
            writer.start()
        while True:
            found = self._inbox.get()
            for each in found if isinstance(found, list) else [found]:
                self._HANDLERS[type(each)](self, each)
            self._remember()
            if isinstance(found, Heartbeat | Unreachable | Snapshot):
                self._tell_state()

    def _listen(self) -> None:
        while raw := _received(self._daemon):
            try:
                self._inbox.put(FromDaemon(protocol.parse(raw)))
            except MalformedError:
                break
        os._exit(0)  # the daemon is gone or sent a malformed message; it starts another process

    def _say(self, level: str, words: str) -> None:
        self._send(protocol.Say(level, fit(words, protocol.LONGEST_WORDS)))

    def _send(self, message: protocol.Message) -> None:
        try:
            self._daemon.send(protocol.pack(message))
        except OSError:
            os._exit(0)

    def _hear(self, heard: FromDaemon) -> None:
        message = heard.message
        if isinstance(message, protocol.Standing):
            self._begin(message)
        elif isinstance(message, protocol.Opened):
            now = now_ms()
            self._take([e for i in message.openings for e in self._openings.opened(i.key, i.until_ms, i.by, now)])
        elif isinstance(message, protocol.Closed):
            for key in message.keys:
                self._take(self._openings.closed(key, now_ms()))
        elif isinstance(message, protocol.Claim):
            self._claim(message)
        elif isinstance(message, protocol.Recorded):
            self._record(message)

    def _begin(self, message: protocol.Standing) -> None:
        self._standing += message.openings
        self._closed += message.closed
        if not message.is_last:
            return
        told, now = self._remembered.read(_offset_ms()), now_ms()
        self._openings.begin([(i.key, i.until_ms, i.by) for i in self._standing], self._closed, told, now)
        self._standing, self._closed = [], []
        self._watcher.start()
        self._pulse.start()

    def _claim(self, message: protocol.Claim) -> None:
        if self._is_silent:
            self._send(protocol.Claimed(message.number, None, "etcd gives no answer"))
            return
        self._claimers[message.number % len(self._claimers)].tasks.put(message)

    def _record(self, message: protocol.Recorded) -> None:
        if self._is_silent or self._notes >= _MOST_NOTES:
            return
        if self._slot % 100 == 0:  # counted by the hundred, so that a restart leaves a gap and overwrites nothing
            self._slot = self._remembered.count(100)
        fields = {**message._asdict(), "at_ms": time.time_ns() // 1_000_000, "gate": self._settings.gate}
        self._notes += 1
        self._office.tasks.put(LogEntry(self._slot % LOG_SLOTS, record(**fields)))
        self._slot += 1

    def _noted(self, _: LogEntry) -> None:
        self._notes -= 1
        self._troubles.pop(LogEntry, None)

    def _take(self, effects: Iterable[Effect]) -> None:
        """Apply effects; save the state first, so that it survives if this process is killed."""
        effects = list(effects)
        self._remember()
        opened: list[protocol.Item] = []
        closed: list[OpeningKey] = []
        for effect in effects:
            if isinstance(effect, OpenHere):
                opened.append(protocol.item(effect.key, now_ms() + effect.left_ms, effect.by, effect.for_ms))
            elif isinstance(effect, CloseHere):
                closed.append(effect.key)
            else:
                self._dispatch(effect.key)
        for keys in protocol.portions(closed):
            self._send(protocol.Closed(keys))
        for items in protocol.portions(opened):
            self._send(protocol.Opened(items))

    def _dispatch(self, key: OpeningKey) -> None:
        """Queue the write of a key, one task at a time; while etcd is unreachable it remains owed."""
        known = self._openings.get(key)
        if known is None or key in self._busy or self._is_silent or not self._openings.owes(key, now_ms()):
            return
        self._busy.add(key)
        erase = DeleteKey(key, known.revision)
        task = erase if known.is_closing else Publish(key, known.revision, known.until_ms, known.by)
        self._writers[hash(key) % _WRITERS].tasks.put(task)

    def _done(self, key: OpeningKey) -> None:
        self._busy.discard(key)
        self._dispatch(key)  # a change that came meanwhile

    def _taken(self, taken: Written) -> None:
        task = taken.task
        self._troubles.pop(type(task), None)
        if isinstance(task, Publish):
            self._openings.told(task.key, taken.revision, task.until_ms)
        else:
            self._openings.was_closed(task.key)
        self._done(task.key)

    def _differs(self, differs: Conflict) -> None:
        self._take(self._openings.differs(differs.task.key, differs.found, differs.revision, now_ms()))
        self._done(differs.task.key)

    def _failed(self, failed: WriteFailed) -> None:
        if isinstance(failed.task, Publish | DeleteKey):
            self._busy.discard(failed.task.key)  # retried at the next heartbeat
        elif isinstance(failed.task, LogEntry):
            self._notes -= 1
        kind = type(failed.task)
        if failed.why and failed.why != self._troubles.get(kind):
            self._troubles[kind] = failed.why
            self._say("error", failed.why)

    def _beat(self, beat: Heartbeat) -> None:
        self._proofs.append(beat)
        if self._is_silent or not self._was_told:
            self._say("info", f"in touch with the fleet {self._settings.fleet}")
            self._was_told = True
        self._is_silent = False
        self._openings.forget(now_ms())
        for key in [effect.key for effect in self._openings.owed(now_ms())]:
            self._dispatch(key)

    def _silent(self, silent: Unreachable) -> None:
        if not self._is_silent:
            self._say("warning", f"{silent.why.partition('; ')[0]}; this gate works alone meanwhile")
        self._is_silent = self._was_told = True

    def _other(self, _: DuplicateName) -> None:
        if not self._is_doubled:  # log it once: every heartbeat finds it
            self._say("error", f"another gate calls itself {self._settings.gate}; give each gate a name of its own")
        self._is_doubled = True

    def _snapshot(self, snapshot: Snapshot) -> None:
        self._revision = snapshot.revision
        found = []
        for entry in snapshot.entries:
            key, lease_ms = self._key(entry.key), snapshot.leases_ms.get(entry.lease)
            each = conflict_in(key, entry, self._oldest_ms(entry.revision), lease_ms) if key else None
            found += [each] if each else []
        self._take(self._openings.snapshot(found, snapshot.revision, now_ms()))

    def _changes(self, changes: KeyChanges) -> None:
        effects: list[Effect] = []
        now = now_ms()
        for entry, is_put in changes.changes:
            self._revision = max(self._revision, entry.revision)
            kind, _, rest = entry.key.removeprefix(self._tree.root).partition("/")
            if kind == "openings":
                effects += self._changed(entry, is_put, now)
            elif kind == "asks" and is_put:
                self._office.tasks.put(Answering(rest, entry.lease, self._described()))
        self._take(effects)

    def _changed(self, entry: KeyValue, is_put: bool, now: int) -> list[Effect]:
        key = self._key(entry.key)
        if key is None:
            return []
        if not is_put:
            return self._openings.deleted(key, entry.revision, now)
        found = conflict_in(key, entry, self._oldest_ms(entry.revision))
        return self._openings.put(found, now) if found else []

    def _key(self, key: str) -> OpeningKey | None:
        """Return the opening's key; None if it is malformed."""
        try:
            return parse_key(key.removeprefix(self._tree.under("openings", "")))
        except ValueError:
            return None

    def _oldest_ms(self, revision: int) -> int | None:
        """Return the greatest possible age of a revision; None if it is unknown."""
        for asked_ms, seen in reversed(self._proofs):
            if seen < revision:
                return now_ms() - asked_ms
        return None

    def _described(self) -> dict[str, object]:
        return {
            "wall_ms": time.time_ns() // 1_000_000,
            "openings": len(self._openings),
            "revision": self._revision,
        }

    def _remember(self) -> None:
        changed, self._openings.changed = self._openings.changed, set()
        if changed:
            before = self._remembered.trouble
            self._remembered.write([(key, self._openings.get(key)) for key in changed], _offset_ms())
            if self._remembered.trouble and not before:
                words = f"{self._settings.folder / FILE}: {self._remembered.trouble}; make room: until then a restart"
                self._say("error", f"{words} may open again what was closed elsewhere meanwhile")

    def _tell_state(self) -> None:
        owed = len(self._openings.owed(now_ms()))
        state = protocol.State(not self._is_silent, len(self._openings), owed, self._revision)
        if state != self._state:
            self._state = state
            self._send(state)

    _HANDLERS: ClassVar[dict[type, Callable[[FleetWorker, Any], None]]] = {
        FromDaemon: _hear,
        protocol.Claimed: _send,
        Written: _taken,
        Conflict: _differs,
        WriteFailed: _failed,
        Heartbeat: _beat,
        Unreachable: _silent,
        DuplicateName: _other,
        Snapshot: _snapshot,
        KeyChanges: _changes,
        LogEntry: _noted,
    }


def _end_all(args: threading.ExceptHookArgs) -> None:
    """Print a thread's uncaught exception and end the process; the daemon starts another."""
    threading.__excepthook__(args)
    os._exit(1)


def _offset_ms() -> int:
    """Return what to add to the monotonic clock for wall time."""
    return time.time_ns() // 1_000_000 - now_ms()


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(protocol.MESSAGE_BYTES)
    except OSError:
        return b""
