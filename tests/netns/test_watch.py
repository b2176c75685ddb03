"""`doorward watch` beside the real daemon, real knocks, and a terminal that is none or a real one."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from doorward.lab import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitors, running_daemon

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "1m"
[doors.web]
opens = ["8080/tcp"]
"""
SEQUENCE = ("7001", "7002:udp", "7003")


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


@contextmanager
def watching(daemon: RunningDaemon, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `doorward watch` until the end of the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = daemon.host.popen([*DOORWARD, "watch", *words], env=daemon.env, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(stream: IO[str] | None, count: int) -> list[str]:
    """Read lines, without the time before each."""
    assert stream is not None
    return [stream.readline().rstrip().split(" ", 1)[-1] for _ in range(count)]


def test_lines_tell_what_happens_until_the_daemon_ends(direct_lab: Lab, daemon: RunningDaemon) -> None:
    visitor = Visitors(direct_lab).fresh(4)
    daemon.run("open", "web", "192.0.2.9")
    with watching(daemon) as process:
        assert lines_of(process.stdout, 1) == ["2 doors, mode guard; 1 open"]
        visitor.knock(*SEQUENCE)
        assert lines_of(process.stdout, 1) == [f"opened ssh to {visitor} for 1m (22/tcp), by knock"]
        daemon.run("open", "ssh", str(visitor), "--for", "1h")
        daemon.run("close", "ssh", str(visitor))
        assert lines_of(process.stdout, 2) == [
            f"prolonged ssh for {visitor} to 1h more, by hand",
            f"closed ssh to {visitor}, by hand",
        ]
        visitor.knock(*range(7500, 7560))
        (refused,) = lines_of(process.stdout, 1)
        assert refused.startswith(f"refused {visitor}: more than 20 symbols a second")
        daemon.end()
        assert lines_of(process.stdout, 1) == ["ends; openings end by themselves"]
        assert process.wait(PATIENCE_S) == 1
        assert lines_of(process.stderr, 1) == ["the daemon ended"]


def test_json_lines_until_control_c(direct_lab: Lab, daemon: RunningDaemon) -> None:
    visitor = Visitors(direct_lab).fresh(6)
    with watching(daemon, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["event"], first["openings"]) == ("status", [])
        visitor.knock(*SEQUENCE)
        event = json.loads(process.stdout.readline())
        assert {"event": "opened", "door": "ssh", "address": str(visitor), "by": "knock"}.items() <= event.items()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_without_a_daemon_it_says_so(direct_lab: Lab, daemon: RunningDaemon) -> None:
    daemon.end()
    answer = daemon.run("watch", check=False)
    assert answer.returncode == 1
    assert "no daemon answers" in answer.stderr
