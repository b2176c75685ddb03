"""What the process that speaks to etcd makes of what etcd has, whoever wrote it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.fleet import protocol
from doorward.fleet.etcd import EtcdAccess, now_ms
from doorward.fleet.etcd_codec import KeyChange, KeyValue
from doorward.fleet.etcd_records import KeySpace, OpeningKey, StoredOpening, pack
from doorward.fleet.protocol import Close, Closed, KnockClaim, Opened
from doorward.fleet.watcher import Heartbeat, KeyChanges
from doorward.fleet.worker import FleetWorker, WorkerSettings
from doorward.fleet.writer import AnnounceClose, Conflict, Publish, WriteFailed, observe

ADA = OpeningKey("ssh", ip_address("192.0.2.7"), "ada".ljust(24, "0"))
HOUR_MS = 3_600_000
TREE = KeySpace("shop")


class Process:
    """A process whose threads do not run, and what it sent to the daemon."""

    def __init__(self, folder: Path, daemon: socket.socket, own: socket.socket) -> None:
        access = EtcdAccess(("http://127.0.0.1:1",), 1.0, None)
        self.worker = FleetWorker(WorkerSettings("shop", "edge-1", access, access, 60_000, folder), own)
        self.now_ms, self._daemon, self._revision = time.time_ns() // 1_000_000, daemon, 0

    def change(self, *changes: tuple[str, bytes | None]) -> None:
        """Receive writes, or (None) deletes, in one message of the watch."""
        entries = [KeyValue(key, value or b"", self._revision + n) for n, (key, value) in enumerate(changes, 1)]
        self._revision += len(changes)
        is_put = [value is not None for _, value in changes]
        self.worker._on_changes(KeyChanges(list(map(KeyChange, entries, is_put))))

    def opened(self, dated: int) -> tuple[str, bytes]:
        until_ms = self.now_ms + HOUR_MS
        stored = StoredOpening(HOUR_MS, until_ms, 0, "key ada", "edge-2", self.now_ms + dated)
        return TREE.opening(ADA), pack(stored, ADA)

    def closed(self, dated: int, mark: bytes = b"edge-2 1") -> tuple[str, bytes]:
        return TREE.close(ADA, self.now_ms + dated), mark

    def sent(self) -> list[protocol.Message]:
        messages = []
        while True:
            try:
                messages.append(protocol.parse(self._daemon.recv(protocol.MESSAGE_BYTES, socket.MSG_DONTWAIT)))
            except BlockingIOError:
                return messages


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        process = Process(tmp_path, ours, theirs)
        with closing(process.worker._state_db):
            yield process


def test_a_flood_of_status_requests_does_not_fill_the_memory(process: Process) -> None:
    process.change(*((f"/doorward/shop/asks/{n}", b"{}") for n in range(5000)))
    assert process.worker._log_writer.tasks.qsize() == 1000


@pytest.mark.parametrize("is_signed", [True, False])
def test_opening_that_ended_in_the_same_message_is_not_opened(process: Process, is_signed: bool) -> None:
    """As after a partition, when all that happened meanwhile comes at once."""
    process.change(process.opened(1), process.closed(2) if is_signed else (TREE.opening(ADA), None))
    dated_ms = process.now_ms + (2 if is_signed else 1)
    assert process.sent() == [Closed([Close(ADA, dated_ms, is_signed)])]
    process.change(process.closed(3), process.opened(4))
    assert [type(message) for message in process.sent()] == [Closed, Opened]


def test_closes_that_no_gate_accepts_are_ignored(process: Process) -> None:
    place = f"/doorward/shop/closes/{ADA}"
    process.change(
        process.closed(130_000),
        process.opened(130_000),  # nor such openings, which no close could end
        (f"{place}/9007199254740992", b""),
        (f"{place}/0", b""),
        (f"{place}/{'0' * 16}", b""),
        ("/doorward/shop/closes/ssh/192.0.2.7/0000000000000001", b""),
        ("/doorward/shop/closes/\udcff", b""),
        ("/doorward/shop/closes/", b""),
    )
    assert process.sent() == []
    process.change(process.opened(1))
    assert [type(message) for message in process.sent()] == [Opened]


def test_own_close_is_known_before_the_daemon_applies_it(process: Process) -> None:
    """Otherwise an opening that follows at once would last at other gates for as long as the one that was closed."""
    worker, claim = process.worker, KnockClaim("00" * 16, ADA, process.now_ms + 2, is_close=True)
    process.change(process.opened(1))
    process.sent()
    worker._claim(protocol.Claim(1, [claim]))
    worker._on_claimed(protocol.Claimed(1, ["new"], ""))
    assert process.sent() == [protocol.Claimed(1, ["new"], "")]
    known = worker._openings.get(ADA)
    assert known is not None
    assert not known.is_open
    process.change(process.closed(2, worker._mark))  # then etcd reports it: the daemon has closed already
    assert process.sent() == []
    assert worker._in_progress == {ADA}  # and its key is deleted


def test_close_of_another_gate_leaves_its_key_to_that_gate_for_a_second(process: Process) -> None:
    process.change(process.opened(1))
    process.change(process.closed(2))
    assert process.worker._in_progress == set()
    assert [effect.key for effect in process.worker._openings.owed(0)] == [ADA]


@pytest.mark.parametrize("is_reopened", [False, True])
def test_conflict_that_is_answered_after_a_later_close_undoes_nothing(process: Process, is_reopened: bool) -> None:
    """As of a write whose answer was lost: it was repeated, and conflicts with itself."""
    worker, (name, value) = process.worker, process.opened(1)
    late, newer = (
        Conflict(Publish(ADA, 0, 0, "key ada"), observe(ADA, KeyValue(name, value, revision), 60_000), revision)
        for revision in (1, 3)
    )
    process.change((name, value), (name, None))
    if is_reopened:
        worker._on_opened(Opened([protocol.Item(ADA, now_ms() + HOUR_MS // 2, "key ada", HOUR_MS, process.now_ms + 1)]))
    process.sent()
    worker._on_conflict(late)
    assert process.sent() == []
    assert (worker._openings.get(ADA) is not None) == worker._openings.owes(ADA, now_ms()) == is_reopened
    worker._on_conflict(newer)  # the watcher has still to report that
    assert [type(message) for message in process.sent()] == [Opened]


def test_close_that_was_not_claimed_is_announced_by_the_next_heartbeat(process: Process) -> None:
    worker = process.worker
    worker._on_closed(Closed([Close(ADA, 7, is_signed=True)]))
    worker._send_state()
    worker._on_heartbeat(Heartbeat(0, 1))
    worker._send_state()
    assert [message.owed for message in process.sent() if isinstance(message, protocol.State)] == [1, 0]
    tasks = [writer.tasks.get_nowait() for writer in worker._writers if writer.tasks.qsize()]
    assert tasks == [AnnounceClose(ADA, 7)]


def test_failed_announcement_of_a_close_is_repeated_and_logged_again_after_a_success(process: Process) -> None:
    worker, task = process.worker, AnnounceClose(ADA, 7)
    for results in [WriteFailed(task, "no space")] * 2, [task, WriteFailed(task, "no space")]:
        for result in results:
            worker._HANDLERS[type(result)](worker, result)
        assert worker._openings.owed_closes == {ADA: 7}
        assert [type(message) for message in process.sent()] == [protocol.LogMessage]
