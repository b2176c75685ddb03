"""`doorward status`: every door with its ports, open or closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorward.cli.main import main

OPENING = {"door": "ssh", "address": "192.0.2.7", "ports": ["22/tcp"], "by": "key ada", "since": 0, "until": 2**40}
ANSWER: dict[str, Any] = {
    "pid": 4711, "summary": "2 doors, mode guard", "openings": [OPENING], "counters": {}, "ledger_trouble": "",
    "doors": [["ssh", ["22/tcp"], 30], ["web", ["80/tcp", "443/tcp"], 30]], "door_count": 2,
}  # fmt: skip


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return what is printed for the daemon's answer, with single spaces."""
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))

    def lines(**of: Any) -> list[str]:
        monkeypatch.setattr("doorward.cli.status.ask", lambda *_: ANSWER | of)
        assert main(["status"]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_closed_doors_follow_the_open_ones(status: Callable[..., Any]) -> None:
    head, ssh, web, last = status()
    assert head == "door address ports opened by since left"
    assert ssh.startswith("ssh 192.0.2.7 22/tcp key ada ")
    assert (web, last) == ("web closed 80/tcp 443/tcp", "2 doors, mode guard, process 4711")


def test_nothing_is_open(status: Callable[..., Any]) -> None:
    assert status(openings=[])[:3] == ["door address ports", "ssh closed 22/tcp", "web closed 80/tcp 443/tcp"]


def test_many_doors_are_counted(status: Callable[..., Any]) -> None:
    doors = [[f"d{number}", ["22/tcp"], 30] for number in range(200)]
    lines = status(openings=[], doors=doors, door_count=100_000)
    assert lines[-2:] == ["… 99,980 more doors", "2 doors, mode guard, process 4711"]


def test_an_older_daemon_sends_no_doors(status: Callable[..., Any]) -> None:
    assert status(doors=[], door_count=0)[1].startswith("ssh 192.0.2.7")
