"""A reload of the same doors loses no knock in progress, and repairs the maps that it fills again."""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.lab.topology import Lab
from doorward.model import Door, HostPort, Packet, Port, PortRange, Protocol, Redirect, elements_of
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import TABLE, Ruleset, compile_ruleset
from tests.support.daemon import SLOWNESS, RunningDaemon, running_daemon
from tests.support.effort import EFFORT
from tests.support.frames import FrameSender, ip_packet
from tests.support.openings import door
from tests.support.processes import own_namespace

pytestmark = pytest.mark.netns("nft")

KNOCKS = round(min(10_000 * EFFORT, 40_000) / SLOWNESS)  # of three packets each
# While older kernels exchange an element for its like, a packet may find neither; from Linux 6.17 on it looks again.
MAY_MISS = 0 if tuple(map(int, platform.release().split(".")[:2])) >= (6, 17) else KNOCKS // 1000
FIRST = IPv4Address("10.20.0.1")
SSH = door("ssh", "22/tcp", "7001/tcp 7002/udp 7003/tcp", for_ms=600_000)
CONFIG = """
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
INSIDE = HostPort(*Port.parse("22/tcp"), IPv4Address("10.7.0.2"))
AWAY = SSH._replace(
    opens=(Port.parse("22/tcp"), Port.parse("2222/tcp")),
    behind=(INSIDE,),
    ranges=(PortRange(Protocol.UDP, 60000, 61000),),
    redirects=(Redirect(Port.parse("2222/tcp"), INSIDE),),
)
TWICE = door("twice", "25/tcp", "7001/tcp 7001/tcp 7002/udp")  # so that there are failure links


def ruleset(mode: Mode, first: Door = SSH) -> Ruleset:
    doors = [first, TWICE]
    return compile_ruleset(doors, compile_doors(doors), Gate(mode), 1 << 18)


@contextmanager
def reloading(lab: Lab, gate: Ruleset) -> Iterator[list[int]]:
    """Load the same gate again and again until the end of the block; gives the count in a list."""
    done, over = [0], threading.Event()

    def load() -> None:
        filter_ = NftFirewall()
        while not over.is_set():
            filter_.load(gate, {})
            done[0] += 1

    thread = threading.Thread(target=lab.server.call, args=(load,))
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("mode", "opened_door"),
    [(Mode.GUARD, SSH), (Mode.STEALTH, SSH), (Mode.STEALTH, AWAY)],
    ids=["guard", "stealth", "away"],
)
def test_no_knock_is_lost(direct_lab: Lab, mode: Mode, opened_door: Door) -> None:
    gate = ruleset(mode, opened_door)
    direct_lab.server.call(NftFirewall().load, gate, {})
    sources = [FIRST + number for number in range(KNOCKS)]
    packets = [
        ip_packet(Packet(source.packed, port, 2), direct_lab.server.ipv4) for source in sources for port in SSH.knock
    ]
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as frames, reloading(direct_lab, gate) as done:
        for packet in packets:
            frames.send_raw(packet)
    assert done[0] > 5
    opened = direct_lab.server.call(NftFirewall().elements).keys()
    lost = [source for source in sources if not opened >= {*elements_of([opened_door], source)}]
    assert len(lost) <= MAY_MISS, lost


def test_no_knock_is_lost_to_the_next_daemon(direct_lab: Lab, tmp_path: Path) -> None:
    """Knocks while the daemon is killed and starts again, four times."""
    sources: list[IPv4Address] = []
    with (
        running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon,
        closing(FrameSender(direct_lab.client, direct_lab.server)) as frames,
        ThreadPoolExecutor(1) as other,
    ):
        daemon.message("mode guard; ")
        restarted = other.submit(restart, daemon, 4)
        while not restarted.done() and len(sources) < KNOCKS:
            sources.append(FIRST + len(sources))
            for port in SSH.knock:
                frames.send(Packet(sources[-1].packed, port, 2))
        restarted.result()
        lost = {*sources} - {element.address for element in daemon.elements()}
    assert len(lost) <= MAY_MISS, lost


def restart(daemon: RunningDaemon, times: int) -> None:
    for _ in range(times):
        daemon.end(signal.SIGKILL)
        daemon.start()


@pytest.mark.parametrize(
    "harm",
    [
        "flush map {} delta",
        "flush map {} opens",
        "add element {} opens {{ 0:7001 : accept, 0:7002 : accept }}",  # no room to fill it again
        "flush map {0} opens; delete map {0} number; delete map {0} fail",
    ],
)
def test_map_changed_by_another_program_is_repaired(harm: str) -> None:
    gate = ruleset(Mode.GUARD)
    with own_namespace():
        filter_ = NftFirewall()
        filter_.load(gate, {})
        fresh = filter_.run(f"list table {TABLE}")
        if "delete" in harm:
            filter_.run(f"flush table {TABLE}")
        filter_.run(harm.format(TABLE))
        assert filter_.run(f"list table {TABLE}") != fresh
        filter_.load(gate, {})
        assert sorted(filter_.run(f"list table {TABLE}").splitlines()) == sorted(fresh.splitlines())
