"""The host changes under the daemon: its wall clock is stepped, its interface goes and comes back."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import LATE_S, PATIENCE_S, RunningDaemon, Visitors, seconds_of
from tests.support.signed import Signed, Signer, send
from tests.support.stepped_clock import step_to

pytestmark = pytest.mark.netns("knock")

CONFIG = """
[gate]
interfaces = ["{interface}"]
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "{for_}"
on_open = ["/bin/true"]
on_close = ["/bin/echo", "closed for", "%IP%"]
"""
SEQUENCE = ("7001", "7002:udp", "7003")
HOURS_S = 3 * 3600.0
CLOSE_S = 0.2  # by which two clocks are read at different moments


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S], ids=["forward", "back"])
@pytest.mark.parametrize("restart", [None, signal.SIGTERM, signal.SIGKILL], ids=["stays", "restarted", "killed"])
def test_a_stepped_clock_neither_prolongs_nor_cuts(
    direct_lab: Lab, tmp_path: Path, step_s: float, restart: signal.Signals | None
) -> None:
    clock = tmp_path / "step"
    step_to(clock, 0)
    direct_lab.server.start_greeter(22)
    visitor = Visitors(direct_lab).fresh(4)
    daemon = RunningDaemon(direct_lab.server, tmp_path, CONFIG.format(interface=direct_lab.server.interface, for_="4s"))
    daemon.wrapper = (sys.executable, "-m", "tests.support.stepped_clock", str(clock))
    daemon.start()
    began_s = time.monotonic()
    visitor.knock(*SEQUENCE)
    daemon.event("opened", address=str(visitor))
    earliest_s, latest_s = began_s + 4 - CLOSE_S, time.monotonic() + 4 + CLOSE_S  # the kernel opened it meanwhile
    step_to(clock, step_s)
    if restart is not None:
        daemon.end(restart)
        daemon.start()
    [opening] = daemon.openings()
    assert earliest_s < opening["until"] - (time.time() + step_s) + time.monotonic() < latest_s
    asked_s = time.monotonic()
    left_s = daemon.elements()[visitor.element()]
    assert asked_s + left_s < latest_s
    assert time.monotonic() + left_s > earliest_s
    assert visitor.gets_in()
    closed = daemon.event("closed", address=str(visitor))
    assert earliest_s < time.monotonic() < latest_s + LATE_S
    assert closed["by"] == "time"
    daemon.message(f"closed for {visitor}")
    assert not visitor.gets_in()
    [record] = [r for r in daemon.log() if r["event"] == "opened"]
    assert seconds_of(record["closed"]) - seconds_of(record["at"]) == pytest.approx(4, abs=LATE_S)
    daemon.close()


def test_a_clock_that_was_ahead_at_a_start_shuts_no_signed_knock_out_once_it_is_right(
    direct_lab: Lab, tmp_path: Path
) -> None:
    clock, laptop = tmp_path / "step", Signer()
    step_to(clock, 365 * 86_400)
    files = Signed(tmp_path / "configuration", laptop)
    guest = Visitors(direct_lab).fresh(4)
    text = '[gate]\nmode = "guard"\n[signed]\nwindow = "1s"\n[doors.ssh]\nopens = ["22/tcp"]\nfor = "10m"\n'
    daemon = RunningDaemon(direct_lab.server, tmp_path, text)
    daemon.wrapper = (sys.executable, "-m", "tests.support.stepped_clock", str(clock))
    daemon.start()
    daemon.message("accepting signed knocks")
    step_to(clock, 0)
    daemon.end()
    daemon.start()
    daemon.message("the clock was ahead")
    daemon.message("accepting signed knocks")
    deadline_s = time.monotonic() + PATIENCE_S
    while not daemon.openings():
        assert time.monotonic() < deadline_s, daemon.lines
        send(direct_lab.client, guest.source, guest.server, laptop.packet(files.server))
        time.sleep(0.15)  # the gate takes ten a second
    daemon.close()


def test_an_interface_that_goes_and_comes_back(direct_lab: Lab, tmp_path: Path) -> None:
    client, server = direct_lab.client, direct_lab.server
    server.start_greeter(22)
    before = Visitors(direct_lab).fresh(4)
    daemon = RunningDaemon(server, tmp_path, CONFIG.format(interface=server.interface, for_="10m"))
    daemon.start()
    before.knock(*SEQUENCE)
    daemon.event("opened", address=str(before))
    server.ip("link", "delete", server.interface)  # and its peer, the client's
    assert daemon.elements().keys() == {before.element()}
    peer = f"peer name {client.interface} netns {client.namespace} address {client.mac}"
    server.ip("link", *f"add {server.interface} address {server.mac} type veth {peer}".split())
    for host, other in ((server, client), (client, server)):
        lines = [f"link set {host.interface} up", f"address add {host.ipv4}/24 dev {host.interface}"]
        lines += [f"address add {host.ipv6}/64 dev {host.interface} nodad", f"route add 0.0.0.0/0 via {other.ipv4}"]
        host.ip(batch=[*lines, f"route add ::/0 via {other.ipv6}"])
    again, other_one = Visitors(direct_lab).crowd(4, 2)
    assert again.source == before.source
    assert again.gets_in()
    assert not other_one.gets_in()
    other_one.knock(*SEQUENCE)
    daemon.event("opened", address=str(other_one))
    assert other_one.gets_in()
    daemon.close()
