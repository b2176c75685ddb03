"""The main loop of the fleet process, which speaks to etcd: one thread decides (state.py), others read and write.

The process has no right but to connect. It requests opens and closes from the daemon, which accepts nothing but the
validated messages of protocol.py.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from doorward.errors import MalformedError
from doorward.escape import printable
from doorward.fleet import protocol
from doorward.fleet.etcd import EtcdAccess, now_ms, wall_ms
from doorward.fleet.etcd_codec import KeyValue
from doorward.fleet.etcd_records import KeySpace, OpeningKey, latest_date_ms, parse_close, parse_key
from doorward.fleet.state import MAX_KNOWN, CloseHere, Effect, OpenHere, PublishOpening, SharedOpeningTable
from doorward.fleet.state_db import FleetStateFile
from doorward.fleet.watcher import DuplicateName, Heartbeat, HeartbeatThread, KeyChanges, Snapshot, Unreachable, Watcher
from doorward.fleet.writer import (
    AnnounceClose,
    Conflict,
    DeleteKey,
    EtcdWriter,
    LogEntry,
    Publish,
    StatusAnswer,
    WriteFailed,
    Written,
    observe,
    pack_record,
)

STATE_FILE = "fleet.sqlite"  # in the state directory
LOG_SLOTS = 10_000  # records that the fleet stores per gate
_WRITERS, _CLAIMERS = 4, 2  # each waits for etcd most of the time
_MAX_HEARTBEATS = 120  # two minutes; the age of an older revision is unknown
_MAX_QUEUED = 1000  # records and answers waiting to be written; beyond it records are in the gate's own ledger only


class WorkerSettings(NamedTuple):
    """Settings of the process; `directory` is the daemon's state directory."""

    fleet: str
    gate: str
    access: EtcdAccess
    claims: EtcdAccess
    window_ms: int
    directory: Path


class FleetWorker:
    """The fleet process; `run` ends with the daemon."""

    def __init__(self, settings: WorkerSettings, daemon: socket.socket) -> None:
        self._settings, self._daemon = settings, daemon
        self._tree = KeySpace(settings.fleet)
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._openings = SharedOpeningTable(settings.gate)
        self._state_db = FleetStateFile(settings.directory / STATE_FILE)
        self._in_progress: set[OpeningKey] = set()  # a writer is working on it
        self._heartbeats: deque[Heartbeat] = deque(maxlen=_MAX_HEARTBEATS)
        self._claims: dict[int, protocol.Claim] = {}  # until a claimer has answered
        self._initial: list[protocol.Item] = []
        self._initial_closed: list[protocol.Close] = []
        self._is_unreachable = self._has_reported = self._has_duplicate = self._is_full = False
        self._revision, self._slot, self._queued_records = 0, 0, 0
        self._openings_revision = 0  # of the last change of an opening that was read; other changes may be read earlier
        self._last_errors: dict[type, str] = {}  # task type: why the last one failed
        self._state: protocol.State | None = None
        put = self._inbox.put
        self._watcher = Watcher(settings.access, self._tree, put)
        self._heartbeat = HeartbeatThread(settings.access, self._tree, settings.gate, self._watcher, put)
        self._mark = f"{settings.gate} {secrets.token_hex(8)}".encode()  # of this process, at the closes that it claims
        made = [(settings.access, _WRITERS), (settings.claims, _CLAIMERS), (settings.access, 1)]
        writers = [
            EtcdWriter(access, self._tree, settings.gate, self._mark, settings.window_ms, self._watcher, put)
            for access, count in made
            for _ in range(count)
        ]
        self._writers, self._claimers, self._log_writer = writers[:_WRITERS], writers[_WRITERS:-1], writers[-1]

    def run(self) -> None:
        """Work until the daemon ends."""
        threading.excepthook = _exit_on_exception
        threading.Thread(target=self._listen, daemon=True).start()
        for writer in (*self._writers, *self._claimers, self._log_writer):
            writer.start()
        while True:
            received = self._inbox.get()
            for message in received if isinstance(received, list) else [received]:
                self._HANDLERS[type(message)](self, message)
            self._save_state()
            if isinstance(received, Heartbeat | Unreachable | Snapshot):
                self._send_state()

    def _listen(self) -> None:
        while raw := _receive(self._daemon):
            try:
                self._inbox.put(protocol.parse(raw))
            except MalformedError:
                break
        os._exit(0)  # the daemon is gone or sent a malformed message; it starts another process

    def _log(self, code: str, level: str, text: str) -> None:
        self._send(protocol.LogMessage(code, level, printable(text, protocol.MAX_LINE_LENGTH)))

    def _send(self, message: protocol.Message) -> None:
        try:
            self._daemon.send(protocol.pack(message))
        except OSError:
            os._exit(0)

    def _on_opened(self, message: protocol.Opened) -> None:
        now, openings = now_ms(), self._openings
        self._apply([e for i in message.openings for e in openings.on_opened(i.key, i.until_ms, i.by, now, i.dated_ms)])

    def _on_closed(self, message: protocol.Closed) -> None:
        for close in message.closes:
            self._apply(self._openings.on_close(*close, now_ms()))

    def _on_start(self, message: protocol.OpeningsSnapshot) -> None:
        self._initial += message.openings
        self._initial_closed += message.closed
        if not message.is_last:
            return
        saved, now = self._state_db.read(_wall_offset_ms()), now_ms()
        self._openings.restore(self._initial, self._initial_closed, saved, now)
        self._initial, self._initial_closed = [], []
        self._watcher.start()
        self._heartbeat.start()

    def _claim(self, message: protocol.Claim) -> None:
        if self._is_unreachable:
            self._send(protocol.Claimed(message.number, None, "etcd does not answer"))
            return
        self._claims[message.number] = message
        self._claimers[message.number % len(self._claimers)].tasks.put(message)

    def _on_claimed(self, claimed: protocol.Claimed) -> None:
        """Pass an answer on to the daemon, which closes then, and may open the door again before etcd reports that."""
        for knock, outcome in zip(self._claims.pop(claimed.number).knocks, claimed.outcomes or (), strict=False):
            if knock.is_close and outcome == "new":
                self._openings.on_signed_close(knock.key, knock.dated_ms, now_ms())
        self._send(claimed)

    def _record(self, message: protocol.Recorded) -> None:
        if self._is_unreachable or self._queued_records >= _MAX_QUEUED:
            return
        if self._slot % 100 == 0:  # counted by the hundred, so that a restart leaves a gap and overwrites nothing
            self._slot = self._state_db.add_to_count(100)
        fields = {**message._asdict(), "at_ms": wall_ms(), "gate": self._settings.gate}
        self._queued_records += 1
        self._log_writer.tasks.put(LogEntry(self._slot % LOG_SLOTS, pack_record(**fields)))
        self._slot += 1

    def _on_done(self, task: LogEntry | AnnounceClose) -> None:
        self._queued_records -= isinstance(task, LogEntry)
        self._last_errors.pop(type(task), None)

    def _apply(self, effects: Iterable[Effect]) -> None:
        """Apply effects; save the state first, so that it survives if this process is killed.

        Closes are sent first, so an opening that one of them ended is left out.
        """
        effects = list(effects)
        self._save_state()
        opened: dict[OpeningKey, protocol.Item] = {}
        closed: list[protocol.Close] = []
        for effect in effects:
            if isinstance(effect, OpenHere):
                until_ms = now_ms() + effect.left_ms
                item = protocol.build_item(effect.key, until_ms, effect.by, effect.for_ms, effect.dated_ms)
                opened[effect.key] = item
            elif isinstance(effect, CloseHere):
                closed.append(protocol.Close(*effect))
                if effect.key in opened and opened[effect.key].dated_ms <= effect.dated_ms:
                    del opened[effect.key]
            else:
                self._dispatch(effect.key)
        for closes in protocol.batches(closed):
            self._send(protocol.Closed(closes))
        for items in protocol.batches(list(opened.values())):
            self._send(protocol.Opened(items))

    def _dispatch(self, key: OpeningKey) -> None:
        """Queue the write of a key, one task at a time; while etcd is unreachable it remains owed."""
        known = self._openings.get(key)
        if known is None or key in self._in_progress or self._is_unreachable or not self._openings.owes(key, now_ms()):
            return
        self._in_progress.add(key)
        erase = DeleteKey(key, known.revision)
        write = Publish(key, known.revision, known.until_ms, known.by, known.dated_ms)
        task = erase if known.is_closing else write
        self._writers[hash(key) % _WRITERS].tasks.put(task)

    def _release(self, key: OpeningKey) -> None:
        self._in_progress.discard(key)
        self._dispatch(key)  # a change that came meanwhile

    def _on_written(self, written: Written) -> None:
        task = written.task
        self._last_errors.pop(type(task), None)
        if isinstance(task, Publish):
            self._openings.on_written(task.key, written.revision, task.until_ms, task.dated_ms)
        else:
            self._openings.on_erased(task.key)
        self._release(task.key)

    def _on_conflict(self, conflict: Conflict) -> None:
        """Handle a conflict; of a value that the watcher has reported only the revision, since what followed counts."""
        observed = conflict.observed if conflict.revision > self._openings_revision else None
        self._apply(self._openings.on_conflict(conflict.task.key, observed, conflict.revision, now_ms()))
        self._release(conflict.task.key)

    def _on_failure(self, failed: WriteFailed) -> None:
        if isinstance(failed.task, Publish | DeleteKey):
            self._in_progress.discard(failed.task.key)  # retried at the next heartbeat
        elif isinstance(failed.task, AnnounceClose):
            self._openings.owed_closes.setdefault(*failed.task)
        elif isinstance(failed.task, LogEntry):
            self._queued_records -= 1
        kind = type(failed.task)
        if failed.why and failed.why != self._last_errors.get(kind):
            self._last_errors[kind] = failed.why
            self._log("fleet-write-failed", "error", failed.why)

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        self._heartbeats.append(beat)
        if self._is_unreachable or not self._has_reported:
            self._log("fleet-connected", "info", f"connected to the fleet {self._settings.fleet}")
            self._has_reported = True
        self._is_unreachable = False
        self._openings.prune(now_ms())
        self._log_ignored()
        while self._openings.owed_closes:
            close = AnnounceClose(*self._openings.owed_closes.popitem())
            self._writers[hash(close.key) % _WRITERS].tasks.put(close)
        for key in [effect.key for effect in self._openings.owed(now_ms())]:
            self._dispatch(key)

    def _log_ignored(self) -> None:
        """Log it once that openings of other gates are ignored, until they fit again."""
        ignored, self._openings.ignored = self._openings.ignored, 0
        if ignored and not self._is_full:
            limit = f"etcd has more than {MAX_KNOWN:,} openings of this fleet"
            self._log(
                "fleet-full", "error", f"{limit}; further ones of other gates are ignored: find out what writes them"
            )
        self._is_full = bool(ignored)

    def _on_unreachable(self, unreachable: Unreachable) -> None:
        if not self._is_unreachable:
            self._log(
                "fleet-unreachable", "warning", f"{unreachable.why.partition('; ')[0]}; this gate continues alone"
            )
        self._is_unreachable = self._has_reported = True

    def _on_duplicate_name(self, _: DuplicateName) -> None:
        if not self._has_duplicate:  # log it once: every heartbeat finds it
            what = f"another gate is named {self._settings.gate}, too"
            self._log("duplicate-gate-name", "error", f"{what}; give each gate a unique name")
        self._has_duplicate = True

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self._revision = self._openings_revision = snapshot.revision
        self._apply([effect for entry in snapshot.closes for effect in self._on_signed_close(entry)])
        openings = []
        for entry in snapshot.entries:
            key, lease_ms = self._opening_key(entry.key), snapshot.leases_ms.get(entry.lease)
            age_ms = self._max_age_ms(entry.revision)
            opening = observe(key, entry, self._settings.window_ms, age_ms, lease_ms) if key else None
            openings += [opening] if opening else []
        self._apply(self._openings.on_snapshot(openings, snapshot.revision, now_ms()))

    def _on_changes(self, changes: KeyChanges) -> None:
        effects: list[Effect] = []
        now = now_ms()
        for entry, is_put in changes.changes:
            self._revision = max(self._revision, entry.revision)
            directory, _, rest = entry.key.removeprefix(self._tree.root).partition("/")
            if directory == "openings":
                self._openings_revision = entry.revision
                effects += self._on_change(entry, is_put, now)
            elif directory == "closes" and is_put:
                effects += self._on_signed_close(entry)
            elif directory == "asks" and is_put and self._log_writer.tasks.qsize() < _MAX_QUEUED:
                self._log_writer.tasks.put(StatusAnswer(rest, entry.lease, self._status()))
        self._apply(effects)

    def _on_change(self, entry: KeyValue, is_put: bool, now: int) -> list[Effect]:
        key = self._opening_key(entry.key)
        if key is None:
            return []
        if not is_put:
            return self._openings.on_deleted(key, entry.revision, now)
        observed = observe(key, entry, self._settings.window_ms, self._max_age_ms(entry.revision))
        return self._openings.on_put(observed, now) if observed else []

    def _on_signed_close(self, entry: KeyValue) -> list[Effect]:
        """Handle a close that was claimed by another gate, or by this process, whose daemon applies it with the answer.

        Who claimed it deletes the opening's key; should that fail, the others do, at their next heartbeats.
        """
        try:
            key, dated_ms = parse_close(entry.key.removeprefix(self._tree.under("closes", "")))
        except ValueError:
            return []
        if dated_ms > latest_date_ms(wall_ms(), self._settings.window_ms):  # forged: it would close the door for years
            return []
        effects = self._openings.on_signed_close(key, dated_ms, now_ms())
        if entry.value == self._mark:
            return [PublishOpening(key)]  # if that is still owed
        return [effect for effect in effects if isinstance(effect, CloseHere)]

    def _opening_key(self, key: str) -> OpeningKey | None:
        """Return the opening's key; None if it is malformed."""
        try:
            return parse_key(key.removeprefix(self._tree.under("openings", "")))
        except ValueError:
            return None

    def _max_age_ms(self, revision: int) -> int | None:
        """Return the greatest possible age of a revision; None if it is unknown."""
        for asked_ms, seen in reversed(self._heartbeats):
            if seen < revision:
                return now_ms() - asked_ms
        return None

    def _status(self) -> dict[str, object]:
        return {"wall_ms": wall_ms(), "openings": len(self._openings), "revision": self._revision}

    def _save_state(self) -> None:
        changed, self._openings.changed = self._openings.changed, set()
        if changed:
            last_error = self._state_db.error
            self._state_db.write([(key, self._openings.get(key)) for key in changed], _wall_offset_ms())
            if self._state_db.error and not last_error:
                text = f"{self._settings.directory / STATE_FILE}: {self._state_db.error}; free disk space: a restart"
                self._log("fleet-state-not-saved", "error", f"{text} may reopen what other gates closed")

    def _send_state(self) -> None:
        owed = len(self._openings.owed(now_ms())) + len(self._openings.owed_closes)
        state = protocol.State(not self._is_unreachable, len(self._openings), owed, self._revision)
        if state != self._state:
            self._state = state
            self._send(state)

    _HANDLERS: ClassVar[dict[type, Callable[[FleetWorker, Any], None]]] = {
        protocol.OpeningsSnapshot: _on_start,
        protocol.Opened: _on_opened,
        protocol.Closed: _on_closed,
        protocol.Claim: _claim,
        protocol.Recorded: _record,
        protocol.Claimed: _on_claimed,
        Written: _on_written,
        Conflict: _on_conflict,
        WriteFailed: _on_failure,
        Heartbeat: _on_heartbeat,
        Unreachable: _on_unreachable,
        DuplicateName: _on_duplicate_name,
        Snapshot: _on_snapshot,
        KeyChanges: _on_changes,
        LogEntry: _on_done,
        AnnounceClose: _on_done,
    }


def _exit_on_exception(args: threading.ExceptHookArgs) -> None:
    """Print a thread's uncaught exception and end the process; the daemon starts another."""
    threading.__excepthook__(args)
    os._exit(1)


def _wall_offset_ms() -> int:
    """Return what to add to the monotonic clock for wall time."""
    return wall_ms() - now_ms()


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(protocol.MESSAGE_BYTES)
    except OSError:
        return b""
