"""What the daemon makes of events, whatever the process that reads packets sends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorward.core.openings import on_open, on_signed_close, signed_opening
from doorward.core.signed_rules import DatedKnock
from doorward.daemon.knock_events import KnockEvents
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.nflog_reader import WHATS, NflogReader
from doorward.daemon.stats import EventStats
from doorward.kernel.nflog import NflogEvent
from tests.support.in_process_daemon import InProcessDaemon
from tests.support.openings import element


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[InProcessDaemon]:
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    yield daemon
    daemon.close()


def test_a_sequence_that_completed_before_a_close_is_read_back(daemon: InProcessDaemon) -> None:
    home, ssh = ip_address("192.0.2.7"), daemon.doors["ssh"]
    signed, now_s = DatedKnock("ada", "ssh", home, 100), daemon.loop.now_s()
    daemon.openings.perform(on_open(daemon.table, ssh, signed_opening(ssh, signed, 600.0, "key ada", now_s), now_s))
    daemon.openings.perform(on_signed_close(daemon.table, signed, "key ada", now_s))
    assert daemon.has() == {}  # with what the sequence had set in the meantime
    reader = cast(NflogReader, SimpleNamespace(read=lambda: [NflogEvent("0123abcd", "knock", 7, home)], loss=""))
    events = KnockEvents(reader, daemon.openings, daemon.gate, daemon.bans, EventStats())
    events._states = {"0123abcd": {7: ("ssh",)}}
    events.read()
    assert daemon.has() == {element("192.0.2.7 22/tcp"): 30}


def test_no_kind_of_event_ends_the_daemon(daemon: InProcessDaemon) -> None:
    events = [NflogEvent("0123abcd", what, 7, ip_address("192.0.2.7"), 1 << 63) for what in WHATS]
    reader = cast(NflogReader, SimpleNamespace(read=lambda: events, loss=""))
    stats = EventStats()
    KnockEvents(reader, daemon.openings, daemon.gate, daemon.bans, stats).read()
    assert stats.refused == {"full": 1, "throttled": 1}
    assert [record.event for record in read_records(daemon.ledger.path, 0, 10)] == ["refused", "refused"]
