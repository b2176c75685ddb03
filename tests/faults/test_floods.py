"""Honest knocks during each kind of flood: all get in, nobody else does, and the daemon has not grown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitor, Visitors, running_daemon, until
from tests.support.effort import EFFORT
from tests.support.processes import descriptors_of, family_of, resident_bytes

pytestmark = pytest.mark.netns("knock")

CONFIG = """
[gate]
mode = "{mode}"
[doors.ssh]
knock = ["7001/tcp", "7002/tcp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
SEQUENCE = ("7001", "7002", "7003")
HONEST = 10 * EFFORT
# The client's wire has a queue of 1,000 packets. Faster floods fill it, and then lose knocks before the server sees
# them; what the gate itself bears is measured in bench/siege.py, at full speed.
PPS = 40_000
SOURCES = 65_536
LONGEST_FLOOD_S = 60.0  # it is ended when all have knocked
ALL_PORTS = range(1, 65536, 64)
GROWTH_BYTES = 4 << 20

FLOODS = {
    "first port": ("random", (7001,)),
    "later ports": ("random", (7002, 7003)),
    "all ports": ("random", ALL_PORTS),
    "the hidden port": ("random", (22,)),
    "one source alternating": ("alternate", (7001, 7009)),
}


@pytest.mark.parametrize("mode", ["guard", "stealth"])
@pytest.mark.parametrize("flood", FLOODS)
def test_honest_knocks_during_a_flood(direct_lab: Lab, tmp_path: Path, flood: str, mode: str) -> None:
    direct_lab.server.start_greeter(22)
    crowd = Visitors(direct_lab).crowd(4, HONEST)
    with running_daemon(direct_lab.server, tmp_path, CONFIG.format(mode=mode)) as daemon:
        assert gets_in_during(crowd[0])
        daemon.ask("status")
        before = size_of(daemon)  # all parts have started, and have done their work once
        kind, ports = FLOODS[flood]
        words: list[object] = [
            "--interface",
            direct_lab.client.interface,
            "--mac",
            direct_lab.server.mac,
            "--mode",
            kind,
        ]
        words += ["--destination", direct_lab.server.ipv4, "--ports", ",".join(map(str, ports)), "--pps", PPS]
        command = [sys.executable, "-m", "bench.flood", *words, "--sources", SOURCES, "--seconds", LONGEST_FLOOD_S]
        quiet = sent_by(direct_lab)
        flooding = direct_lab.client.popen(command)
        let_in = []
        for number, visitor in enumerate(crowd, 1):  # from an almost empty table to a full one
            until(lambda: sent_by(direct_lab) > quiet + number * SOURCES // HONEST)  # noqa: B023 - called at once
            let_in += [visitor] * gets_in_during(visitor)
        assert flooding.poll() is None, "the flood ended first"
        flooding.terminate()
        flooding.wait(PATIENCE_S)
        assert let_in == crowd
        until(lambda: {o["address"] for o in daemon.openings()} == {str(visitor) for visitor in crowd})
        assert {str(element.address) for element in daemon.elements()} == {str(visitor) for visitor in crowd}
        after = size_of(daemon)
        assert after[0] <= before[0] + 1  # the connection that asked last may not be closed yet
        assert after[1] < before[1] + GROWTH_BYTES


def sent_by(lab: Lab) -> int:
    """Count the packets that the client has sent."""
    counters = lab.client.call(Path("/proc/thread-self/net/dev").read_text).split(f"{lab.client.interface}:")[1]
    return int(counters.split()[9])


def gets_in_during(visitor: Visitor) -> bool:
    """Knock and connect; TCP repeats a SYN that the flood crowded out of the wire's queue."""
    try:
        visitor.knock(*SEQUENCE)
        visitor.connect(timeout_s=3.5).close()
    except TimeoutError:
        return False
    return True


def size_of(daemon: RunningDaemon) -> tuple[int, int]:
    """Return the descriptors and the resident bytes of the daemon and its children."""
    while True:
        family = family_of(daemon.process.pid)
        try:
            return sum(map(descriptors_of, family)), sum(map(resident_bytes, family))
        except FileNotFoundError:  # one has just ended
            daemon.ask("status")
