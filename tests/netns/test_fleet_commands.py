"""What an operator asks of a whole fleet."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consoles import Console
from tests.support.daemon import until
from tests.support.examples import Seat
from tests.support.fleet import Fleet, running_fleet

pytestmark = pytest.mark.netns("nft")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(Fleet(tmp_path, gates=2, nodes=1)) as fleet:
        yield fleet


@pytest.mark.console("docs/reference/commands.md", "doorward fleet")
def test_status_close_log_and_forget(fleet: Fleet, console: Console, tmp_path: Path) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    shown = json.loads(first.run("status", "--fleet", "--json").stdout)["gates"]
    assert [(g["gate"], g["state"], g["openings"]) for g in shown] == [
        ("edge-1", "up", 1),
        ("edge-2", "up", 1),
    ]
    assert all(abs(gate["offset_ms"]) < 1000 for gate in shown)
    assert "fleet example: 2 of 2 gates up, 1 open" in first.run("status", "--fleet").stdout
    assert "fleet example: in touch; " in first.run("status").stdout
    first.end(signal.SIGKILL)
    assert "ssh is closed to" in first.run("close", "ssh", guest, "--fleet").stdout  # no daemon runs there
    second.event("closed", address=str(guest), by="fleet")
    nobody = first.run("close", "ssh", guest, "--fleet", check=False)
    assert (nobody.returncode, "on any gate" in nobody.stderr) == (1, True)
    while "edge-1  away" not in (output := second.run("status", "--fleet").stdout):
        assert "edge-1  silent" in output  # until its lease is over, which no event tells: each question is a process
        time.sleep(0.3)
    assert "1 of 2 gates up" in output
    for gate in ("edge-2", "edge-9", ""):  # up, unknown
        assert second.run("fleet", "forget", gate, check=False).returncode == 1
    (forget,) = console
    Seat(second.host, tmp_path / "seat", second.env).type(forget)
    assert "1 of 1 gates up" in second.run("status", "--fleet").stdout
    until(lambda: len(second.run("log", "--fleet", "--json").stdout.splitlines()) == 2)
    rows = map(json.loads, second.run("log", "--fleet", "--json").stdout.splitlines())
    assert [(row["gate"], row["event"], row["address"], row["words"]) for row in rows] == [
        ("edge-1", "opened", str(guest), "knock"),
        ("edge-2", "closed", str(guest), "fleet"),
    ]
    assert second.run("log", "--fleet", "--address", "192.0.2.1").stdout == ""
    assert f"edge-1      opened   {guest}" in second.run("log", "--fleet", "--last", "5").stdout


def test_ban_closes_fleet_wide_and_blocks_locally(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    first.run("ban", guest)
    second.event("closed", address=str(guest), by="fleet")
    second.run("open", "ssh", guest)
    other = fleet.visitor(second)
    fleet.knock(other)  # announced later by the same gate
    first.event("opened", address=str(other))
    assert {opening["address"] for opening in first.openings()} == {str(other)}
