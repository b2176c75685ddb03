"""What a compromised fleet process cannot do to the daemon."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from doorward.daemon.fleet_process import FleetProcess
from doorward.daemon.fleet_sync import FleetSync
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
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
