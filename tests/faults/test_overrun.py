"""More right knocks at once than the netfilter log holds, and more than the log may tell: every opening is recorded."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from doorward.errors import NegativeResult
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.effort import EFFORT
from tests.support.frames import FrameSender
from tests.support.processes import family_of

pytestmark = pytest.mark.netns

CONFIG = """
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
KNOCK = [Port.parse(text) for text in ("7001/tcp", "7002/tcp")]
AT_ONCE = 10_000
TOO_MANY = min(20_000 * EFFORT, 40_000)  # the log's buffer holds some 10,000
PATIENCE_S = 60.0


def knock_from(lab: Lab, count: int) -> None:
    frames = FrameSender(lab.client, lab.server)
    for number in range(count):
        for port in KNOCK:
            frames.send(Packet((IPv4Address("10.64.0.1") + number).packed, port, 2))
    frames.close()


def await_openings(daemon: RunningDaemon, count: int) -> None:
    """Ask until the daemon has so many openings; no event tells of the last."""
    deadline_s, found = time.monotonic() + PATIENCE_S, 0
    while found != count:
        assert time.monotonic() < deadline_s, f"{found} of {count} openings"
        time.sleep(0.2)
        with suppress(NegativeResult):  # it records them, and answers later
            found = daemon.ask("stats")["openings"]
    assert len(daemon.openings()) == count


def test_ten_thousand_sources_knock_rightly_at_once(direct_lab: Lab, tmp_path: Path) -> None:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:
        knock_from(direct_lab, AT_ONCE)
        assert len(daemon.elements()) == AT_ONCE
        await_openings(daemon, AT_ONCE)
        assert len(daemon.log("--last", 2 * AT_ONCE)) == AT_ONCE
        logged = [event for event in daemon.events() if event["event"] == "opened"]
        left_out = daemon.message("these were left out: ")["message"]
        assert len(logged) < AT_ONCE
        assert "'opened'" in left_out


def test_a_log_that_overflows_costs_no_opening(direct_lab: Lab, tmp_path: Path) -> None:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:
        family = family_of(daemon.process.pid)
        for process in family:
            os.kill(process, signal.SIGSTOP)
        knock_from(direct_lab, TOO_MANY)
        for process in family:
            os.kill(process, signal.SIGCONT)
        daemon.message("reading the open sets back")
        await_openings(daemon, TOO_MANY)
        assert len(daemon.elements()) == TOO_MANY
        assert len(daemon.log("--last", 2 * TOO_MANY)) == TOO_MANY
        assert daemon.ask("status")["log_overflows"] >= 1
