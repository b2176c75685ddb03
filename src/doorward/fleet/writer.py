"""The threads that write to etcd: openings, closes, claims of signed knocks, records.

Each processes its own queue of tasks in order and puts the results into the inbox.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from doorward.errors import DoorwardError, MalformedError
from doorward.escape import printable
from doorward.fleet import etcd_codec, etcd_records
from doorward.fleet.etcd import Etcd, EtcdAccess, EtcdRejectedError, EtcdUnavailableError, now_ms, wall_ms
from doorward.fleet.etcd_records import LEASE_MARGIN_S, MAX_TEXT_LENGTH, KeySpace, OpeningKey, StoredOpening
from doorward.fleet.protocol import MAX_LINE_LENGTH, Claim, Claimed, ClaimOutcome, KnockClaim
from doorward.fleet.state import SeenOpening
from doorward.fleet.watcher import Watcher

_LEASE_ROUND_S = 5  # openings that end within this time share a lease: half the writes, and fewer leases
_MAX_BATCH = 64  # etcd accepts 128 operations per transaction
_LEASE_LOST = "lease not found"
T = TypeVar("T")


class Publish(NamedTuple):
    """Publish an opening; its key was last known at `revision`."""

    key: OpeningKey
    revision: int
    until_ms: int
    by: str
    dated_ms: int = 0


class DeleteKey(NamedTuple):
    """Publish that an opening was closed."""

    key: OpeningKey
    revision: int


class AnnounceClose(NamedTuple):
    """Publish a close by a signed knock that could not be claimed."""

    key: OpeningKey
    dated_ms: int


class LogEntry(NamedTuple):
    """Store a record in its slot."""

    slot: int
    record: bytes


class StatusAnswer(NamedTuple):
    """Answer a status request, under its lease."""

    ask: str
    lease: int
    answer: dict[str, object]


class Written(NamedTuple):
    """The task succeeded: etcd has the key at this revision or (0) no longer has it."""

    task: Publish | DeleteKey
    revision: int


class Conflict(NamedTuple):
    """The key had changed: `observed` is its value at `revision` (0: does not exist), None if malformed."""

    task: Publish | DeleteKey
    observed: SeenOpening | None
    revision: int


class _ClaimSteps(NamedTuple):
    """How to claim a knock: its key and value, the write of both, that of a close, and the look at closes.

    `written`: the keys that it writes.
    """

    key: str
    value: bytes
    written: list[str]
    mark: etcd_codec.Message
    close: etcd_codec.Message | None
    look: etcd_codec.Message


class WriteFailed(NamedTuple):
    """The task failed. `why`: what to log; empty if etcd did not answer, which the heartbeat reports."""

    task: Any
    why: str


class EtcdWriter(threading.Thread):
    """One thread with a connection of its own; results go to `inbox`."""

    def __init__(
        self,
        access: EtcdAccess,
        tree: KeySpace,
        gate: str,
        mark: bytes,
        window_ms: int,
        watcher: Watcher,
        inbox: Callable[[object], None],
    ) -> None:
        super().__init__(daemon=True)
        self._watcher = watcher
        self._etcd, self._tree, self._gate, self._inbox = Etcd(access), tree, gate, inbox
        self._mark, self._window_ms = mark, window_ms
        self._leases: dict[str, tuple[int, int, int]] = {}  # purpose: ID, its earliest and its latest possible end
        self.tasks: queue.SimpleQueue[object] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            tasks = [self.tasks.get()]
            with contextlib.suppress(queue.Empty):  # all that wait, at once
                while len(tasks) < _MAX_BATCH:
                    tasks.append(self.tasks.get_nowait())
            self._etcd.prefer(self._watcher.endpoint)  # it is known to have a quorum
            self._inbox(self._work(tasks))

    def _work(self, tasks: list[object]) -> list[object]:
        """Perform the tasks: all openings in one transaction, or each by itself if the key of one has changed."""
        results: list[object] = []
        openings = [task for task in tasks if isinstance(task, Publish)]
        if len(openings) > 1:
            with contextlib.suppress(DoorwardError):
                results += self._with_new_leases(lambda: self._publish_all(openings))
        if results:
            tasks = [task for task in tasks if not isinstance(task, Publish)]
        return [*results, *(result for task in tasks if (result := self._perform(task)) is not None)]

    def _perform(self, task: object) -> object:
        try:
            return self._dispatch(task)
        except DoorwardError as error:
            if isinstance(task, Claim):
                return Claimed(task.number, None, printable(str(error), MAX_LINE_LENGTH))
            return WriteFailed(task, "" if isinstance(error, EtcdUnavailableError) else str(error))

    def _dispatch(self, task: object) -> object:
        if isinstance(task, Publish):
            return self._with_new_leases(lambda: self._publish(task))
        if isinstance(task, DeleteKey):
            return self._delete(task)
        if isinstance(task, Claim):
            return self._with_new_leases(lambda: self._claim(task))
        if isinstance(task, AnnounceClose):
            return self._with_new_leases(lambda: self._announce(task))
        if isinstance(task, LogEntry):
            return self._with_new_leases(lambda: self._write_record(task))
        if isinstance(task, StatusAnswer):
            self._etcd.put(self._tree.under("answers", task.ask, self._gate), pack_record(**task.answer), task.lease)
        return None

    def _with_new_leases(self, call: Callable[[], T]) -> T:
        """Retry once with new leases if etcd lost the known ones (it was restored from a backup)."""
        try:
            return call()
        except EtcdRejectedError as error:
            if _LEASE_LOST not in str(error):
                raise
            self._leases.clear()
            return call()

    def _publish(self, task: Publish) -> object:
        if task.until_ms <= now_ms():
            return WriteFailed(task, "")  # it has ended
        return self._commit(task, [self._put(task)], self._tree.opening(task.key))

    def _publish_all(self, tasks: list[Publish]) -> list[object]:
        """Write all openings; return nothing if one of them has ended or its key has changed."""
        if any(task.until_ms <= now_ms() for task in tasks):
            return []
        conditions = [(self._tree.opening(task.key), task.revision) for task in tasks]
        done = self._etcd.txn(conditions, [self._put(task) for task in tasks])
        return [Written(task, done.revision) for task in tasks] if done.succeeded else []

    def _put(self, task: Publish) -> etcd_codec.Message:
        left_ms = task.until_ms - now_ms()
        lease, ends_ms = self._lease(str(left_ms // 1000 // _LEASE_ROUND_S), task.until_ms, _LEASE_ROUND_S)
        left_ms = max(1, task.until_ms - now_ms())
        until_ms = wall_ms() + left_ms
        spare_ms = max(0, ends_ms - task.until_ms)
        by = printable(task.by, MAX_TEXT_LENGTH)
        shared = StoredOpening(left_ms, until_ms, spare_ms, by, self._gate, task.dated_ms)
        return etcd_codec.to_put(self._tree.opening(task.key), etcd_records.pack(shared, task.key), lease)

    def _delete(self, task: DeleteKey) -> object:
        key = self._tree.opening(task.key)
        return self._commit(task, [etcd_codec.to_delete(key)], key)

    def _commit(self, task: Publish | DeleteKey, then: list[etcd_codec.Message], key: str) -> object:
        done = self._etcd.txn([(key, task.revision)], then, [etcd_codec.to_read(key)])
        if done.succeeded:
            return Written(task, done.revision if isinstance(task, Publish) else 0)
        for current in done.entries(0, 1):
            return Conflict(task, observe(task.key, current, self._window_ms), current.revision)
        return Conflict(task, None, 0)

    def _claim(self, task: Claim) -> Claimed:
        """Claim knocks, each with the date of a close, or with a look at the closes that are dated as late as an open.

        That is one transaction: whichever of a close and an earlier open comes first to etcd, the open is closed.
        """
        lease, token = self._claim_lease(), secrets.token_hex(8)
        steps = [self._claim_steps(knock, f"{token} {index}", lease) for index, knock in enumerate(task.knocks)]
        written = [key for each in steps for key in each.written]
        # All at once; each by itself if one is not new, or if a key occurs twice, which etcd rejects.
        if len(steps) > 1 and len(set(written)) == len(written):
            writes = [write for each in steps for write in (each.mark, each.close or each.look)]
            done = self._etcd.txn([(each.key, 0) for each in steps], writes)
            if done.succeeded:
                found = [
                    [] if each.close else done.entries(2 * number + 1, len(writes)) for number, each in enumerate(steps)
                ]
                return Claimed(task.number, ["closed" if closes else "new" for closes in found], "")
        return Claimed(task.number, [self._claim_one(each) for each in steps], "")

    def _claim_steps(self, knock: KnockClaim, token: str, lease: int) -> _ClaimSteps:
        key, mine = self._tree.under("seen", knock.id), f"{self._gate} {token}".encode()
        first = self._tree.close(knock.key, knock.dated_ms)
        end = self._tree.close(knock.key, etcd_records.latest_date_ms(wall_ms(), self._window_ms) + 1)
        close = etcd_codec.to_put(first, self._mark, lease) if knock.is_close else None
        mark, look = etcd_codec.to_put(key, mine, lease), etcd_codec.to_read(first, end)
        return _ClaimSteps(key, mine, [key, first] if knock.is_close else [key], mark, close, look)

    def _claim_one(self, steps: _ClaimSteps) -> ClaimOutcome:
        both = [etcd_codec.to_read(steps.key), steps.look]
        done = self._etcd.txn([(steps.key, 0)], [steps.mark, steps.close or steps.look], both)
        # Its own value: the answer was lost, and the claim repeated at another endpoint. It still belongs to this gate.
        if not done.succeeded and [entry.value for entry in done.entries(0, 2)] != [steps.value]:
            return "used"
        return "new" if steps.close or not done.entries(1, 2) else "closed"

    def _claim_lease(self) -> int:
        # Two clocks may differ by the window, so a packet can be fresh somewhere for twice as long; and a margin.
        return self._lease("seen", now_ms() + 2 * self._window_ms + 30_000, 60)[0]

    def _announce(self, task: AnnounceClose) -> AnnounceClose:
        self._etcd.put(self._tree.close(task.key, task.dated_ms), self._mark, self._claim_lease())
        return task

    def _write_record(self, task: LogEntry) -> LogEntry:
        lease, _ = self._lease("log", now_ms() + LOG_RETENTION_S * 1000, 86_400)
        self._etcd.put(self._tree.under("log", self._gate, f"{task.slot:06}"), task.record, lease)
        return task

    def _lease(self, kind: str, until_ms: int, round_s: int) -> tuple[int, int]:
        """Return a lease that ends soon after `until_ms`, and its latest possible end."""
        least_ms, most_ms = until_ms + LEASE_MARGIN_S * 1000, until_ms + (LEASE_MARGIN_S + 2 * round_s) * 1000
        number, first_ms, last_ms = self._leases.get(kind, (0, 0, 0))
        if not (number and least_ms <= first_ms <= most_ms):
            began_ms = now_ms()
            ttl_s = -(-(until_ms - began_ms) // 1000) + LEASE_MARGIN_S + round_s
            number = self._etcd.grant(ttl_s)
            first_ms, last_ms = began_ms + ttl_s * 1000, now_ms() + ttl_s * 1000
            self._leases[kind] = (number, first_ms, last_ms)
            while len(self._leases) > _MAX_LEASES:
                del self._leases[next(iter(self._leases))]
        return number, last_ms


_MAX_LEASES = 1000  # remembered to be used again; beyond it the oldest is dropped, and ends by itself
LOG_RETENTION_S = 7 * 86_400


def observe(
    key: OpeningKey,
    entry: etcd_codec.KeyValue,
    window_ms: int,
    oldest_ms: int | None = None,
    lease_ms: int | None = None,
) -> SeenOpening | None:
    """Return an opening as stored in etcd; None if it is malformed, or dated so late that no close would end it."""
    try:
        read, shared = etcd_records.parse(str(key), entry.value)
    except MalformedError:
        return None
    if shared.dated_ms > etcd_records.latest_date_ms(wall_ms(), window_ms):
        return None
    left_ms = etcd_records.remaining_ms(shared, wall_ms(), oldest_ms, lease_ms)
    return SeenOpening(
        read, entry.revision, shared.gate, shared.by, left_ms, shared.for_ms, entry.created, shared.dated_ms
    )


def pack_record(**fields: object) -> bytes:
    """Return the stored form of a record."""
    return json.dumps(fields).encode()
