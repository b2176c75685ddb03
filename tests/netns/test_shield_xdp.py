"""The shield at XDP, which a veth runs too: what it drops there, and where it is attached."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from doorward.config.schema import Gate, Mode, Shield
from doorward.core.automaton import compile_doors
from doorward.core.tracker import BURST
from doorward.lab.topology import Lab
from doorward.model import Door, Packet, Port
from doorward.shield import attachment
from doorward.shield.attachment import ProgramLink
from doorward.shield.libbpf import Place, ShieldProgram
from doorward.shield.tables import compile_tables
from tests.support import shield_object
from tests.support.daemon import RunningDaemon, Visitors, running_daemon, until
from tests.support.frames import FrameSender
from tests.support.shields import attached, attachments, counted, drops_at_shield, loader_of, shield

pytestmark = pytest.mark.netns("nft", "knock")

CONFIG = """
[gate]
mode = "stealth"
shield = "xdp"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
"""
KNOCK = ("7001", "7002:udp", "7003")
KNOCK_PORTS = [Port.parse(text) for text in ("7001/tcp", "7002/udp", "7003/tcp")]
# UDP may be an answer, where the shield cannot ask conntrack.
WRONG = [Port.parse(text) for text in ("9/tcp", "22/tcp", "7002/tcp")]
GENERIC = 1 << 1  # XDP_FLAGS_SKB_MODE
NATIVE = 1  # XDP_ATTACHED_DRV
SYN = 2


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


@pytest.fixture
def frames(direct_lab: Lab) -> Iterator[FrameSender]:
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as frames:
        yield frames


def at_xdp(lab: Lab) -> dict[str, Any]:
    """Return what ip(8) shows of XDP at the server's interface."""
    [link] = json.loads(lab.server.ip("-j", "-d", "link", "show", lab.server.interface))
    found: dict[str, Any] = link.get("xdp", {})
    return found


def wrong_packets() -> list[Packet]:
    """Return packets of many sources that complete no knock."""
    return [Packet((IPv4Address("10.7.0.0") + n).packed, WRONG[n % len(WRONG)], SYN) for n in range(200)]


def test_packets_are_dropped_and_counted_once(daemon: RunningDaemon, direct_lab: Lab, frames: FrameSender) -> None:
    """So a source over the rate limit is one that would be over it without XDP."""
    assert attached(daemon) == shield(daemon)["at_xdp"] == [daemon.host.interface]
    assert shield(daemon)["no_xdp"] == ""
    assert at_xdp(direct_lab)["mode"] == NATIVE
    drops_at_shield(daemon, frames.send, wrong_packets())
    visitors = Visitors(direct_lab)
    for version in (4, 6):
        guest, stranger = visitors.crowd(version, 2)
        guest.knock_and_connect(*KNOCK).close()
        assert not stranger.gets_in()
    within, over = ip_address("10.8.0.1"), ip_address("10.8.0.2")
    for source, wrong in ((over, BURST + 1), (within, BURST - len(KNOCK))):
        for port in [*[WRONG[0]] * wrong, *KNOCK_PORTS]:
            frames.send(Packet(source.packed, port, SYN))
    daemon.event("opened", address=str(within), by="knock")
    assert over not in {element.address for element in daemon.elements()}
    counters = counted(daemon)
    assert (counters["knocked"], counters["raced"]) == (3, 0)
    assert 0 < counters["throttled"] <= 1 + len(KNOCK)


def test_program_at_xdp_is_replaced_and_detached(daemon: RunningDaemon, direct_lab: Lab, frames: FrameSender) -> None:
    """By a reload with other doors, one that wants no XDP, and the end of the loader."""
    attached(daemon)
    first, visitors = at_xdp(direct_lab)["prog"]["id"], Visitors(direct_lab)
    daemon.reload(CONFIG.replace("7003", "7005"))
    until(lambda: at_xdp(direct_lab)["prog"]["id"] != first)
    assert at_xdp(direct_lab)["mode"] == NATIVE
    drops_at_shield(daemon, frames.send, wrong_packets())
    visitors.fresh(4).knock_and_connect("7001", "7002:udp", "7005").close()

    daemon.reload(CONFIG.replace('"xdp"', '"on"'))
    until(lambda: not at_xdp(direct_lab))
    until(lambda: shield(daemon)["at_xdp"] == [])
    assert attachments(daemon) == 2
    drops_at_shield(daemon, frames.send, wrong_packets())
    visitors.fresh(4).knock_and_connect(*KNOCK).close()

    daemon.reload(CONFIG)
    until(lambda: at_xdp(direct_lab).get("mode") == NATIVE)
    os.kill(loader_of(daemon), signal.SIGKILL)
    daemon.message("its process ended")
    until(lambda: not at_xdp(direct_lab))
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_interfaces_without_xdp_drop_at_tcx(direct_lab: Lab, tmp_path: Path, frames: FrameSender) -> None:
    """One that has another program, in either mode, a bridge, and one with VLANs; another interface comes and goes."""
    shield_object.compiled()
    server, visitors = direct_lab.server, Visitors(direct_lab)
    server.start_greeter(22)
    doors = [Door("ssh", tuple(KNOCK_PORTS), (Port.parse("22/tcp"),))]
    gate = Gate(mode=Mode.STEALTH, shield=Shield.XDP)
    other = ShieldProgram(compile_tables(gate, compile_doors(doors), doors, [], b"key"), 1)  # without a deadline
    without = CONFIG.replace('"xdp"', '"on"')
    with closing(other), running_daemon(server, tmp_path, without) as daemon:
        attached(daemon)
        index = server.call(socket.if_nametoindex, server.interface)
        for mode in (attachment._NATIVE, GENERIC):
            with patch.object(attachment, "_NATIVE", mode):
                link = server.call(ProgramLink, other.program(Place.XDP), index, Place.XDP)
            with closing(link):
                daemon.reload(CONFIG)
                until(lambda: "another XDP program" in shield(daemon)["no_xdp"], lambda: shield(daemon))
                assert shield(daemon)["at_xdp"] == []
                if mode != GENERIC:  # in which Linux 6.18 hides the Ethernet header from tcx behind such a program
                    drops_at_shield(daemon, frames.send, wrong_packets())
                visitors.fresh(4).knock_and_connect(*KNOCK).close()
                server.ip("link", "add", "new0", "type", "veth", "peer", "name", "new1")
                until(lambda: shield(daemon)["at_xdp"] == ["new0", "new1"], lambda: shield(daemon))
                server.ip("link", "delete", "new0")
                until(lambda: shield(daemon)["at_xdp"] == [], lambda: shield(daemon))
                daemon.reload(without)
        daemon.reload(CONFIG)
        server.ip("link", "add", "br0", "type", "bridge")
        until(lambda: "runs no XDP programs" in shield(daemon)["no_xdp"], lambda: shield(daemon))
        until(lambda: shield(daemon)["at_xdp"] == [server.interface], lambda: shield(daemon))
        assert shield(daemon)["interfaces"] == sorted(["br0", server.interface])
        tag = f"ip link add link {server.interface} name tagged type vlan id 5".split()
        if server.run(tag, check=False).returncode == 0:  # else this kernel has no VLANs
            until(lambda: f"{server.interface} has VLANs" in shield(daemon)["no_xdp"], lambda: shield(daemon))
            assert not at_xdp(direct_lab)
