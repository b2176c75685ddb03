"""The daemon's metrics under real knocks: openings by their way, attempts in progress, how full the sets are."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, running_daemon, until

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


def test_metrics_count_what_happens(direct_lab: Lab, daemon: RunningDaemon) -> None:
    one, other, scanner = Visitors(direct_lab).crowd(4, 3)
    one.knock("7001", "7002:udp", "7003")
    daemon.event("opened", address=str(one))
    other.knock("7001", "7002:udp")
    scanner.knock(*range(7500, 7560))
    daemon.event("refused", address=str(scanner))
    daemon.run("open", "ssh", str(other))
    daemon.event("opened", address=str(other), by="hand")

    numbers = daemon.ask("stats")
    assert numbers["events"] == [["opened", "ssh", "knock", 1], ["opened", "ssh", "hand", 1]]
    assert (numbers["doors"], numbers["openings"], numbers["refused"]) == (1, 2, {"throttled": 1})
    assert numbers["counters"]["knocked"] == 1
    attempts = {attempt["address"]: attempt for attempt in numbers["attempts"]}
    assert attempts[str(other)]["knocks"] == 2
    assert 0 < attempts[str(other)]["left"] <= 600
    assert numbers["sets"]["open4"] in ({"elements": 2, "size": 65536}, {"elements": None, "size": 65536})
    recorded = sum(numbers["latency"]["counts"])
    assert recorded in (0, 1)  # 0 before Linux 5.18, which has no time stamp
    assert 0 <= numbers["latency"]["sum"] < 10


@contextmanager
def serving(daemon: RunningDaemon, *places: str) -> Iterator[subprocess.Popen[str]]:
    words = [word for place in places for word in ("--listen", place)]
    process = daemon.host.popen([*DOORWARD, "metrics", *words], env=daemon.env, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        for place in places:
            assert process.stderr.readline() == f"doorward: serving metrics at {place}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_no_knock_changes_what_every_local_user_can_read(direct_lab: Lab, daemon: RunningDaemon) -> None:
    """The attack: send a packet, look whether a number moved; so a sequence was found knock by knock."""
    daemon.reload(CONFIG.replace('"guard"', '"stealth"\nwrong_port = "known"'))
    full = daemon.folder / "metrics.sock"
    with serving(daemon, "127.0.0.1:9477", f"unix:{full}"):
        before = daemon.host.call(lambda: scraped("127.0.0.1"))
        begun, further, guest, wrong, fast = Visitors(direct_lab).crowd(4, 5)
        begun.knock("7001")
        further.knock("7001", "7002:udp")
        wrong.knock("7001", "7003")
        fast.knock(*["7002:udp"] * 60)
        guest.knock("7001", "7002:udp", "7003")
        daemon.event("opened", address=str(guest))
        until(lambda: 'doorward_packets_total{path="knocked"} 1.0' in scraped(full))
        everything = scraped(full)
        assert "doorward_openings 1.0" in everything
        assert 'doorward_opened_total{by="knock",door="ssh"} 1.0' in everything
        assert daemon.host.call(lambda: scraped("127.0.0.1")) == before
    assert "doorward_up 1.0" in before
    assert set(before) < set(everything)  # not by having nothing, nor by being older
    assert (stat.S_IMODE(full.stat().st_mode), full.stat().st_gid) == (0o660, os.getegid())


def test_metrics_are_printed_and_served(daemon: RunningDaemon) -> None:
    daemon.run("open", "ssh", "192.0.2.7")
    printed = daemon.run("metrics").stdout
    assert 'doorward_opened_total{by="hand",door="ssh"} 1.0' in printed.splitlines()

    socket_path = daemon.folder / "metrics.sock"
    with serving(daemon, f"unix:{socket_path}") as process:
        assert "doorward_up 1.0" in scraped(socket_path)
        daemon.end()
        until(lambda: "doorward_up 0.0" in scraped(socket_path))  # an answer is kept for a second
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert not socket_path.exists()
    assert daemon.run("metrics", check=False).returncode == 1
    refused = daemon.run("metrics", "--listen", "0.0.0.0:9477", check=False)
    assert (refused.returncode, "must be a UNIX socket or a loopback address" in refused.stderr) == (2, True)


def scraped(where: Path | str) -> list[str]:
    """Ask as Prometheus does, at a socket or an address; a date apart, all that is answered."""
    with socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(where) if isinstance(where, Path) else (where, 9477))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with client.makefile() as answer:
            return [line for line in answer.read().splitlines() if not line.startswith(("Date: ", "Content-Length: "))]
