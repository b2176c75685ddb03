"""What a compromised fleet process cannot do to the daemon."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorward.config.schema import Fleet, Fwknop, Gate, Signed
from doorward.daemon.fleet_process import FleetProcess
from doorward.daemon.fleet_sync import FleetSync
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.ruleset_loader import LoadResult
from doorward.fleet.protocol import LogMessage
from tests.support.in_process_daemon import InProcessDaemon


def test_a_fleet_process_does_not_flood_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", stream))
    sync = FleetSync(daemon.openings, daemon.bans)
    sync._child = cast(
        FleetProcess, SimpleNamespace(read=lambda: LogMessage("etcd-unavailable", "error", "etcd does not answer"))
    )
    for _ in range(1000):
        sync._on_message()
    daemon.close()
    assert 50 <= len(stream.getvalue().splitlines()) < 100


def test_used_packets_are_known_for_the_longest_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fwknop's clients they are accepted for longer than signed knocks."""
    windows = list[int]()
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    monkeypatch.setattr(FleetSync, "_start", lambda self: windows.append(self._settings[2]))
    for fwknop in (None, Fwknop()):
        loaded = SimpleNamespace(fleet=Fleet("home", ()), gate=Gate(name="one"), signed=Signed(), fwknop=fwknop)
        FleetSync(daemon.openings, daemon.bans).configure(cast(LoadResult, loaded), tmp_path)
    daemon.close()
    assert windows == [60_000, 120_000]
