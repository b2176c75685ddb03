"""The daemon's inside with signed knocks, which a test dates in milliseconds after a moment."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward.daemon import verifier_supervisor
from doorward.daemon.fleet_sync import FleetSync
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.signed_knocks import SignedKnocks
from doorward.signed.authorize import ValidKnock
from tests.support.in_process_daemon import InProcessDaemon


class SignedDaemon:
    """`now_ms` is the moment; `written` is the log, and `answered` the keys whose knocks were applied."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
        self.written = io.StringIO()
        self.daemon = InProcessDaemon(Ledger(folder / "ledger.sqlite3"), Log("json", self.written))
        self.daemon.openings.perform(self.daemon.openings.restore())
        self.signed = SignedKnocks(self.daemon.openings, self.daemon.bans, lambda: self.fleet, 60_000)
        self.fleet: FleetSync | None = None
        self.answered: list[str] = []
        monkeypatch.setattr(self.signed, "_applied", self.note_answers)
        self.now_ms = round(time.time() * 1000)

    def note_answers(self, knocks: list[ValidKnock]) -> None:
        """Note what is confirmed if its sender wants that."""
        self.answered += [knock.key for knock in knocks]

    def end(self) -> None:
        """End as a kill does: nothing is said to anybody."""
        self.signed.close()
        self.daemon.close()
