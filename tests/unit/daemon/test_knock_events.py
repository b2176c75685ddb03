"""What the daemon makes of events, whatever the process that reads packets sends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorward.daemon.knock_events import KnockEvents
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.nflog_reader import WHATS, NflogReader
from doorward.daemon.stats import EventStats
from doorward.kernel.nflog import NflogEvent
from tests.support.in_process_daemon import InProcessDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[InProcessDaemon]:
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    yield daemon
    daemon.close()


def test_no_kind_of_event_ends_the_daemon(daemon: InProcessDaemon) -> None:
    events = [NflogEvent("0123abcd", what, 7, ip_address("192.0.2.7"), 1 << 63) for what in WHATS]
    reader = cast(NflogReader, SimpleNamespace(read=lambda: events, loss=""))
    stats = EventStats()
    KnockEvents(reader, daemon.openings, daemon.gate, daemon.bans, stats).read()
    assert stats.refused == {"full": 1, "throttled": 1}
    assert [record.event for record in read_records(daemon.ledger.path, 0, 10)] == ["refused", "refused"]
