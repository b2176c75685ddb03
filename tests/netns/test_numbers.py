"""What the daemon counts beside real knocks: openings by their way, who is in progress, how full the sets are."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, running_daemon

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


def test_metrics_are_printed_and_served(daemon: RunningDaemon) -> None:
    daemon.run("open", "ssh", "192.0.2.7")
    printed = daemon.run("metrics").stdout
    assert 'doorward_opened_total{by="hand",door="ssh"} 1.0' in printed.splitlines()

    socket_path = daemon.folder / "metrics.sock"
    process = daemon.host.popen(
        [*DOORWARD, "metrics", "--listen", f"unix:{socket_path}"], env=daemon.env, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"doorward: serves metrics at unix:{socket_path}\n"
        assert "doorward_up 1.0" in scraped(socket_path)
        daemon.end()
        deadline_s = time.monotonic() + PATIENCE_S
        while "doorward_up 0.0" not in (lines := scraped(socket_path)):  # what was told is good for a second
            assert time.monotonic() < deadline_s, lines
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert not socket_path.exists()
    finally:
        process.kill()
        process.communicate()
    assert daemon.run("metrics", check=False).returncode == 1
    refused = daemon.run("metrics", "--listen", "0.0.0.0:9477", check=False)
    assert (refused.returncode, "no place on this machine alone" in refused.stderr) == (2, True)


def scraped(path: Path) -> list[str]:
    """Ask as Prometheus does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with client.makefile() as answer:
            return answer.read().splitlines()
