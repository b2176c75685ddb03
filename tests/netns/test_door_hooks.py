"""Doors that run commands, and doors that look at an address which this host routes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from doorward.lab.topology import CLIENT_NET, Lab
from tests.support.daemon import RunningDaemon, Visitor, Visitors, running_daemon
from tests.support.programs import KNOCK

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
for = "1s"
on_open = ["/bin/sh", "-c", "echo open $0 > {said}", "%IP%"]
on_close = ["/bin/sh", "-c", "echo close $0 > {said}", "%IP%"]
[doors.wake]
knock = ["7101/tcp", "7102/tcp"]
on_open = ["/bin/sh", "-c", "echo wake $0 > {said}", "%IP%"]
[doors.routed]
knock = ["7201/tcp", "7202/tcp"]
target = "{target}"
on_open = ["/bin/sh", "-c", "echo routed $0 > {said}", "%IP%"]
"""


@pytest.fixture
def said(tmp_path: Path) -> Iterator[TextIO]:
    """What the commands say, line by line as they run."""
    os.mkfifo(tmp_path / "said")
    with os.fdopen(os.open(tmp_path / "said", os.O_RDWR), "r") as lines:
        yield lines


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path, said: TextIO) -> Iterator[RunningDaemon]:
    text = CONFIG.format(said=tmp_path / "said", target="192.0.2.7")
    with running_daemon(direct_lab.server, tmp_path, text) as running:
        yield running


@pytest.fixture(params=[4, 6])
def visitor(direct_lab: Lab, request: pytest.FixtureRequest) -> Visitor:
    return Visitors(direct_lab).fresh(request.param)


def test_a_door_runs_one_command_on_opening_and_one_at_its_end(
    daemon: RunningDaemon, visitor: Visitor, said: TextIO
) -> None:
    visitor.knock("7001", "7002")
    daemon.event("opened", address=str(visitor))
    visitor.knock("7001", "7002")
    daemon.event("prolonged", address=str(visitor))
    assert [said.readline(), said.readline()] == [f"open {visitor}\n", f"close {visitor}\n"]


def test_door_that_opens_nothing_runs_at_every_knock(daemon: RunningDaemon, visitor: Visitor, said: TextIO) -> None:
    for _ in range(2):
        visitor.knock("7101", "7102")
        assert said.readline() == f"wake {visitor}\n"
    assert daemon.openings() == []


def test_what_is_owed_is_run_late_after_a_kill(daemon: RunningDaemon, visitor: Visitor, said: TextIO) -> None:
    visitor.knock("7001", "7002")
    assert said.readline() == f"open {visitor}\n"
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    daemon.await_end(visitor.element())  # the kernel closed the door; nobody ran the command
    daemon.start()
    assert said.readline() == f"close {visitor}\n"


SLOW = """
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
for = "1h"
on_close = ["/bin/sh", "-c", "echo close $0 > {said}; read line < {gate}", "%IP%"]
"""


def test_an_unfinished_command_is_run_again_and_its_opening_never_comes_back(
    direct_lab: Lab, tmp_path: Path, said: TextIO, visitor: Visitor
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        running_daemon(direct_lab.server, tmp_path, SLOW.format(said=tmp_path / "said", gate=gate)) as daemon,
        os.fdopen(os.open(gate, os.O_RDWR), "w") as let_end,
    ):
        visitor.knock("7001", "7002")
        daemon.event("opened", address=str(visitor))
        daemon.ask("close", door="ssh", address=str(visitor.source))
        assert said.readline() == f"close {visitor}\n"
        daemon.process.kill()
        daemon.process.wait()
        daemon.host.run(["nft", "delete", "table", "inet", "doorward"])  # as a reboot does
        let_end.write("\n")  # of the daemon that was killed
        let_end.flush()
        daemon.start()
        assert said.readline() == f"close {visitor}\n"
        assert daemon.openings() == []
        assert not daemon.elements()
        assert [r["closed"] for r in daemon.log()] == [None]  # still owed
        let_end.write("\n")
        let_end.flush()
        assert daemon.end() == 0  # which waits for it
        assert [r["closed_by"] for r in daemon.log()] == ["time"]


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_a_door_with_a_target_sees_what_is_routed_there_only(
    lab: Lab, tmp_path: Path, said: TextIO, version: int
) -> None:
    target = lab.server.ipv4 if version == 4 else lab.server.ipv6
    client, own = (lab.client.ipv4, CLIENT_NET.ipv4[1]) if version == 4 else (lab.client.ipv6, CLIENT_NET.ipv6[1])
    with running_daemon(lab.router, tmp_path, CONFIG.format(said=tmp_path / "said", target=target)) as daemon:
        lab.client.run([KNOCK, str(own), "7201", "7202"])  # at the router itself: not that door
        lab.client.run([KNOCK, str(target), "7201", "7202"])
        assert said.readline() == f"routed {client}\n"
        assert [record["door"] for record in daemon.log()] == ["routed"]
