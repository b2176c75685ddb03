"""What a compromised verifier cannot do to the daemon."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.daemon import signed_knocks
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.signed_knocks import SignedKnocks
from doorward.daemon.verifier import REJECTIONS_AT_ONCE, Rejection, Verifier, VerifierReport
from doorward.signed.authorize import KnockClose, KnockRejection
from tests.support.in_process_daemon import InProcessDaemon

REPORT = VerifierReport(
    [], [Rejection(ip_address("192.0.2.7"), KnockRejection("key", "unknown key"))] * 40, {"key": 40}
)


class Endless:
    """A verifier that always has another report."""

    reads = 0

    def read(self) -> VerifierReport:
        self.reads += 1
        assert self.reads < 1000
        return REPORT


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[InProcessDaemon]:
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    yield daemon
    daemon.close()


def test_a_verifier_that_sends_without_a_pause_holds_up_nobody(
    daemon: InProcessDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_knocks, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000)
    verifier: Any = Endless()
    signed._verifier = cast(Verifier, verifier)
    signed._on_report()
    assert signed.counts == {"key": 40 * verifier.reads}  # all are counted
    records = list(read_records(daemon.ledger.path, 0, 10_000))
    assert 2 * REJECTIONS_AT_ONCE <= len(records) < 4 * REJECTIONS_AT_ONCE  # some are recorded
    signed._verifier = None
    signed.close()


class Once:
    """A verifier that has one report."""

    def __init__(self, report: VerifierReport) -> None:
        self.reports = [report]

    def read(self) -> VerifierReport | None:
        return self.reports.pop() if self.reports else None


def test_knock_that_closes_is_rejected_and_not_claimed(
    daemon: InProcessDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_knocks, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000)
    close = KnockClose("ssh", ip_address("192.0.2.7"), "laptop", bytes(12), bytes(16), 1_800_000_000_000)
    signed._verifier = cast(Verifier, Once(VerifierReport([close], [], {})))
    signed._on_report()
    assert signed.counts == {"close-unsupported": 1}
    assert list(sqlite3.connect(daemon.ledger.path).execute("SELECT * FROM seen")) == []
    (record,) = list(read_records(daemon.ledger.path, 0, 10))
    assert "packet from key laptop rejected: this version cannot close a door by a knock" in str(record)
    signed._verifier = None
    signed.close()
