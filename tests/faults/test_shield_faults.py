"""The shield under kills, reloads during a flood, a kernel without BTF, and two processors at once."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.kernel.child_process import run_in_child
from doorward.lab.topology import Lab
from doorward.model import Door, Element, Packet, Port
from doorward.shield import tables
from tests.support import shield_object, shields
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitors, running_daemon, until
from tests.support.effort import EFFORT
from tests.support.frames import FrameSender
from tests.support.shields import RunnableProgram, attached, attachments, loader_of, shield

pytestmark = pytest.mark.netns("nft", "knock")

CONFIG = """
[gate]
mode = "stealth"
shield = "on"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
PORTS = [Port.parse(text) for text in ("7001/tcp", "7002/udp", "7003/tcp")]
KNOCK = ("7001", "7002:udp", "7003")
SSH = Port.parse("22/tcp")
KILLS = 2 * EFFORT
LATEST_S = 0.12
KNOCKS = 200 * EFFORT
PPS = 40_000  # as in test_floods
WITHOUT_BTF = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh")


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        attached(running)
        yield running


@pytest.fixture
def visitors(direct_lab: Lab) -> Visitors:
    return Visitors(direct_lab)


def dropped(daemon: RunningDaemon) -> int:
    """Return what the shield has dropped; a reload makes it report."""
    daemon.reload(CONFIG)
    return int(shield(daemon)["counters"].get("dropped", 0))


def test_killed_at_random_moments(daemon: RunningDaemon, visitors: Visitors) -> None:
    """The daemon or the loader, during reloads: the gate goes on, and the next start has one shield."""
    chance = random.Random(1)
    daemon.message("mode stealth; ")
    for number in range(KILLS):
        victim = loader_of(daemon) if number % 2 else daemon.process.pid
        killing = threading.Timer(chance.uniform(0, LATEST_S), os.kill, (victim, signal.SIGKILL))
        killing.start()
        while killing.is_alive():
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        if number % 2:
            daemon.message("its process ended")
        else:
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: attachments(daemon) == 0)
        assert not visitors.fresh(4).gets_in()
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
        daemon.end()
        daemon.start()
        daemon.message("mode stealth; ")  # a reload may have said READY=1 too
        attached(daemon)
        visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_reload_during_a_flood_loses_no_knock(daemon: RunningDaemon, direct_lab: Lab) -> None:
    """Nor does a packet of the flood, or one wrong packet between, open anything."""
    words: list[object] = ["--interface", direct_lab.client.interface, "--mac", direct_lab.server.mac]
    words += ["--destination", direct_lab.server.ipv4, "--ports", "7001,7003,22", "--pps", PPS, "--mode", "random"]
    flood = [sys.executable, "-m", "bench.flood", *words, "--sources", 1 << 16, "--seconds", 60]
    flooding = direct_lab.client.popen(flood)
    until(lambda: dropped(daemon) > 1000)
    honest, wrong = (ip_address(f"10.{n}.0.1") for n in (30, 31))
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as frames:
        for number in range(KNOCKS):
            for part in range(len(PORTS)):
                if number % 20 == part:  # in the middle of a knock, wherever that is
                    daemon.process.send_signal(signal.SIGHUP)
                frames.send(Packet((honest + number).packed, PORTS[part], 2))
                frames.send(Packet((wrong + number).packed, PORTS[part], 2))
                if part == 0:
                    frames.send(Packet((wrong + number).packed, SSH, 2))
                    frames.send(Packet((wrong + number).packed, Port.parse("9/tcp"), 2))
                time.sleep(0.001)
    assert flooding.poll() is None, "the flood ended first"
    flooding.terminate()
    flooding.wait(PATIENCE_S)
    assert daemon.elements().keys() == {Element(honest + number, SSH) for number in range(KNOCKS)}
    assert shield(daemon)["trouble"] == ""


def test_kernel_without_btf(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    """The object has its own; what the kernel has is not asked for."""
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    running = RunningDaemon(direct_lab.server, tmp_path, CONFIG)
    running.wrapper = WITHOUT_BTF
    try:
        running.start()
        attached(running)
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
    finally:
        running.close()


def test_two_processors_lose_nothing_that_is_not_counted() -> None:
    """Both send whole knocks from the same sources: whatever the order, one of the two completes."""
    shield_object.compiled()
    first, second = PORTS[0], PORTS[2]
    doors = [Door("ssh", (first, second), (SSH,))]
    made = tables.compile_tables(Gate(mode=Mode.STEALTH), compile_doors(doors), doors, [], b"key")
    program = RunnableProgram(made, 1 << 10)
    sources = [(IPv4Address("10.0.0.1") + number).packed for number in range(1500)]

    def knock() -> set[bytes]:
        knocks = {source: [shields.frame(source, port) for port in (first, second)] for source in sources}
        return {source for source, frames in knocks.items() if [program.run(frame)[1] for frame in frames][-1]}

    try:
        program.set_local(shields.SERVER[4], is_local=True)
        program.renew(0, 100_000)
        with ThreadPoolExecutor(2) as pool:
            completed = [*pool.map(lambda _: run_in_child(knock), range(2))]
        counters = program.counters()
        incomplete = set(sources).difference(*completed)
        assert len(incomplete) <= counters["raced"] + counters["evicted"] + counters["no_room"] < len(sources)
        assert counters["dropped"] + counters["knocked"] == 4 * len(sources)
    finally:
        program.close()
