"""What other clients of etcd cannot do to the process that speaks to it."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

from doorward.fleet.etcd import EtcdAccess
from doorward.fleet.etcd_codec import KeyChange, KeyValue
from doorward.fleet.watcher import KeyChanges
from doorward.fleet.worker import FleetWorker, WorkerSettings


def test_a_flood_of_status_requests_does_not_fill_the_memory(tmp_path: Path) -> None:
    access = EtcdAccess(("http://127.0.0.1:1",), 1.0, None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        worker = FleetWorker(WorkerSettings("shop", "edge-1", access, access, 60_000, tmp_path), theirs)
        with closing(worker._state_db):
            asks = [KeyChange(KeyValue(f"/doorward/shop/asks/{n}", b"{}", n), is_put=True) for n in range(5000)]
            worker._on_changes(KeyChanges(asks))
            assert worker._log_writer.tasks.qsize() == 1000
