"""The shield as a filter of tc(8), as on kernels before 6.6: others stay, and none of its own remains."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.lab.topology import Lab
from doorward.model import Door, Port
from doorward.shield.attachment import ProgramLink, TcFilter, at_tcx, has_tcx
from doorward.shield.libbpf import Place, ShieldProgram
from doorward.shield.tables import compile_tables
from tests.support import shield_object
from tests.support.daemon import RunningDaemon, Visitors, until
from tests.support.shields import FINAL, attached, attachments, loader_of, shield, token_of

pytestmark = pytest.mark.netns("nft", "knock", "tc")

CONFIG = """
[gate]
mode = "stealth"
shield = "on"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
"""
KNOCK = ("7001", "7002:udp", "7003")
DIRECTIONS = "ingress", "egress"
OTHER = "protocol ip pref 7 u32 match ip protocol 132 0xff classid 1:1"


@pytest.fixture
def visitors(direct_lab: Lab) -> Visitors:
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    return Visitors(direct_lab)


@contextmanager
def running(lab: Lab, folder: Path) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(lab.server, folder, CONFIG)
    daemon.wrapper = (sys.executable, "-m", "tests.support.without_tcx")
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def tc(lab: Lab, words: str) -> str:
    return lab.server.run(["tc", *words.format(at=f"dev {lab.server.interface}").split()]).stdout


def kill(daemon: RunningDaemon) -> None:
    """Kill the daemon and the loader, which has no time to remove anything."""
    loader = loader_of(daemon)
    os.kill(loader, signal.SIGSTOP)
    daemon.process.kill()
    daemon.process.wait()
    os.kill(loader, signal.SIGKILL)


def filters(lab: Lab) -> list[str]:
    """Return the lines of the shield's filters, as tc(8) shows them."""
    shown = "".join(tc(lab, f"filter show {{at}} {direction}") for direction in DIRECTIONS)
    return [line for line in shown.splitlines() if "doorward-shield" in line]


def test_filter_does_what_the_link_does(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    with running(direct_lab, tmp_path) as daemon:
        assert attached(daemon) == [direct_lab.server.interface]
        for line in filters(direct_lab):
            assert line.startswith("filter protocol all pref 61440 bpf ")
            assert " direct-action " in line
        before = daemon.counters()
        assert not visitors.fresh(4).gets_in(2000)
        assert daemon.counters() == before
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
        guest = visitors.fresh(6)
        guest.knock(*KNOCK[:2])
        daemon.reload(CONFIG + "\n")
        assert attachments(daemon) == len(filters(direct_lab)) == 2
        guest.knock(KNOCK[2])
        assert guest.gets_in()
        os.kill(loader_of(daemon), signal.SIGKILL)
        daemon.message("its process ended")
        assert "clsact" not in tc(direct_lab, "qdisc show {at}")
        visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_killed_daemon_takes_the_filter_away(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    with running(direct_lab, tmp_path) as daemon:
        attached(daemon)
        daemon.end(signal.SIGKILL)
        until(lambda: "clsact" not in tc(direct_lab, "qdisc show {at}"))
        visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_other_filters_stay(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    """Through a start, a reload, a kill of all processes, which leaves the shield's, the next start, and `off`."""
    tc(direct_lab, "qdisc add {at} clsact")
    for direction in DIRECTIONS:
        tc(direct_lab, f"filter add {{at}} {direction} {OTHER}")
    others = [tc(direct_lab, f"filter show {{at}} {direction}") for direction in DIRECTIONS]
    with running(direct_lab, tmp_path) as daemon:
        attached(daemon)
        tc(direct_lab, "filter del {at} ingress pref 61440")
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
        daemon.reload(CONFIG + "\n")
        until(lambda: len(filters(direct_lab)) == 2)
        kill(daemon)
        assert len(filters(direct_lab)) == 2
        daemon.start()
        attached(daemon)
        assert len(filters(direct_lab)) == 2
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
        kill(daemon)
        daemon.run("off")
        assert [tc(direct_lab, f"filter show {{at}} {direction}") for direction in DIRECTIONS] == others


def test_token_of_another_filter_opens_nothing(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    with running(direct_lab, tmp_path) as daemon:
        attached(daemon)
        forged = token_of(daemon) | FINAL
        action = f"action skbedit priority {forged >> 16:x}:{forged & 0xFFFF:x} continue"
        try:
            tc(direct_lab, f"filter add {{at}} ingress pref 7 matchall {action}")
        except CalledProcessError as error:
            pytest.skip(f"this kernel has no skbedit: {error.stderr}")
        visitors.fresh(4).knock("7003")
        assert not visitors.fresh(4).gets_in()
        assert daemon.elements() == {}
        visitors.fresh(4).knock_and_connect(*KNOCK).close()


@contextmanager
def two_programs() -> Iterator[list[ShieldProgram]]:
    shield_object.compiled()
    doors = [Door("ssh", (Port.parse("7001/tcp"),), (Port.parse("22/tcp"),))]
    made = compile_tables(Gate(mode=Mode.STEALTH), compile_doors(doors), doors, [], b"key")
    with ExitStack() as stack:
        programs = [ShieldProgram(made, 1) for _ in range(2)]
        for program in programs:
            stack.callback(program.close)
        yield programs


def test_filter_at_egress_may_come_after_another(direct_lab: Lab) -> None:
    """Which could end the search, so that the shield does not see what this host sends."""
    server = direct_lab.server
    index = server.call(socket.if_nametoindex, server.interface)
    with two_programs() as programs:
        ours = server.call(TcFilter, programs[0].program(Place.EGRESS), index, Place.EGRESS)
        assert not server.call(ours.may_be_skipped)
        tc(direct_lab, f"filter add {{at}} egress {OTHER}")
        assert server.call(ours.may_be_skipped)
        server.call(ours.close)
        assert "u32" in tc(direct_lab, "filter show {at} egress")


def test_link_at_egress_comes_before_others(direct_lab: Lab) -> None:
    server = direct_lab.server
    index = server.call(socket.if_nametoindex, server.interface)
    if not has_tcx():
        pytest.skip("this kernel has no tcx")
    with (
        two_programs() as programs,
        closing(server.call(ProgramLink, programs[0].program(Place.EGRESS), index, Place.EGRESS)) as others,
    ):
        [other] = server.call(at_tcx, index, Place.EGRESS) or []
        assert not server.call(others.may_be_skipped)
        with closing(server.call(ProgramLink, programs[1].program(Place.EGRESS), index, Place.EGRESS)) as ours:
            assert (server.call(at_tcx, index, Place.EGRESS) or [])[1:] == [other]
            assert server.call(others.may_be_skipped)  # another may come before ours as well
            assert not server.call(ours.may_be_skipped)


def test_qdisc_without_egress_is_refused(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    """Its other direction would get the program that is for packets of this host."""
    tc(direct_lab, "qdisc add {at} ingress")
    with running(direct_lab, tmp_path) as daemon:
        until(lambda: "cannot be attached" in shield(daemon)["trouble"], lambda: shield(daemon))
        assert filters(direct_lab) == []
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
