"""What the daemon counts beside real knocks: openings by their way, who is in progress, how full the sets are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab import Lab
from tests.support.daemon import RunningDaemon, Visitors, running_daemon

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
within = "10m"
opens = ["22/tcp"]
"""


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


def test_numbers_tell_what_happens(direct_lab: Lab, daemon: RunningDaemon) -> None:
    one, other, scanner = Visitors(direct_lab).crowd(4, 3)
    one.knock("7001", "7002:udp", "7003")
    daemon.event("opened", address=str(one))
    other.knock("7001", "7002:udp")
    scanner.knock(*range(7500, 7560))
    daemon.event("refused", address=str(scanner))
    daemon.run("open", "ssh", str(other))
    daemon.event("opened", address=str(other), by="hand")

    numbers = daemon.ask("numbers")
    assert numbers["events"] == [["opened", "ssh", "knock", 1], ["opened", "ssh", "hand", 1]]
    assert (numbers["doors"], numbers["openings"], numbers["refused"]) == (1, 2, {"fast": 1})
    assert numbers["counters"]["knocked"] == 1
    attempts = {attempt["address"]: attempt for attempt in numbers["attempts"]}
    assert attempts[str(other)]["knocks"] == 2
    assert 0 < attempts[str(other)]["left"] <= 600
    assert numbers["sets"]["open4"] in ({"elements": 2, "size": 65536}, {"elements": None, "size": 65536})
    told = sum(numbers["latency"]["counts"])
    assert told in (0, 1)  # 0 before Linux 5.18, which tells no moment
    assert 0 <= numbers["latency"]["sum"] < 10
