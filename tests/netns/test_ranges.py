"""Doors that open a range of ports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Element, Port
from tests.support.daemon import PATIENCE_S, SILENCE_S, RunningDaemon, echoes, running_daemon
from tests.support.routed import both_families, connect, gets_in, knock

pytestmark = pytest.mark.netns("nft")

DOORS = """
[gate]
mode = "{mode}"
public = ["60002/udp", "49999/tcp"]
[doors.mosh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp", "60003-61000/udp", "50000-50010/tcp"]
[doors.other]
knock = ["7101/tcp", "7102/udp"]
opens = ["51000-51010/tcp"]
"""
KNOCK = ("7001", "7002/udp", "7003")
TCP_PORTS = (50000, 50005, 50010)


@contextmanager
def server(lab: Lab, folder: Path, mode: str) -> Iterator[RunningDaemon]:
    for port in (*TCP_PORTS, 49999, 50011, 51000):
        lab.server.start_greeter(port)
    with running_daemon(lab.server, folder, DOORS.format(mode=mode)) as daemon:
        yield daemon


def is_received(lab: Lab, sender: NamespaceHost, version: int, port: int) -> bool:
    """Return whether a datagram reaches a socket of the server."""
    address = str(lab.server.ipv4 if version == 4 else lab.server.ipv6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with lab.server.call(socket.socket, family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, port))
        receiver.settimeout(SILENCE_S)
        with sender.call(socket.socket, family, socket.SOCK_DGRAM) as sending:
            sending.sendto(b"mosh", (address, port))
        try:
            return receiver.recv(10) == b"mosh"
        except TimeoutError:
            return False


@both_families
@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_knock_opens_the_whole_range(lab: Lab, tmp_path: Path, mode: str, version: int) -> None:
    address = str(lab.server.ipv4 if version == 4 else lab.server.ipv6)
    client = lab.client.ipv4 if version == 4 else lab.client.ipv6
    with server(lab, tmp_path, mode) as daemon:
        assert not any(gets_in(lab.client, address, port) for port in TCP_PORTS)
        assert not any(is_received(lab, lab.client, version, port) for port in (60003, 60500, 61000))
        assert gets_in(lab.client, address, 49999)  # public, next to a range
        assert is_received(lab, lab.client, version, 60002)
        knock(lab.client, address, *KNOCK)
        opened = daemon.event("opened", door="mosh", address=str(client))
        assert opened["ports"] == ["22/tcp", "60003-61000/udp", "50000-50010/tcp"]
        assert all(gets_in(lab.client, address, port) for port in TCP_PORTS)
        assert all(is_received(lab, lab.client, version, port) for port in (60003, 60500, 61000))
        assert not gets_in(lab.client, address, 51000)
        assert not any(gets_in(lab.stranger, address, port) for port in TCP_PORTS)
        assert not is_received(lab, lab.stranger, version, 60500)
        assert is_received(lab, lab.client, version, 61001) == (mode == "guard")
        elements = {element.port for element in daemon.elements() if element.address == client}
        assert elements == {Port.parse("22/tcp"), Port.parse("60003/udp"), Port.parse("50000/tcp")}


def test_close_cut_and_restart(lab: Lab, tmp_path: Path) -> None:
    address = str(lab.server.ipv4)
    with server(lab, tmp_path, "guard") as daemon:
        daemon.run("open", "mosh", lab.client.ipv4)
        with connect(lab.client, address, 50005, PATIENCE_S) as connection:
            daemon.end()
            daemon.start()
            assert daemon.openings()[0]["ports"] == ["22/tcp", "60003-61000/udp", "50000-50010/tcp"]
            lab.server.run(["nft", "delete table inet doorward"])
            daemon.message("restored")
            assert gets_in(lab.client, address, 50010)
            assert echoes(connection)
            assert daemon.ask("close", door="mosh", address=str(lab.client.ipv4), cut=True)["cut"] >= 1
            assert not gets_in(lab.client, address, 50005)
            assert Element(lab.client.ipv4, Port.parse("50000/tcp")) not in daemon.elements()
        knock(lab.client, address, *KNOCK)
        assert gets_in(lab.client, address, 50005)


def test_reload_changes_how_far_openings_reach(lab: Lab, tmp_path: Path) -> None:
    address, text = str(lab.server.ipv4), DOORS.format(mode="guard")
    with server(lab, tmp_path, "guard") as daemon:
        assert gets_in(lab.stranger, address, 50011)
        daemon.run("open", "mosh", lab.client.ipv4)
        daemon.reload(text.replace("50000-50010", "50000-50011"))
        assert gets_in(lab.client, address, 50011)
        assert not gets_in(lab.stranger, address, 50011)
        daemon.reload(text.replace("50000-50010", "50000-50009"))
        assert gets_in(lab.client, address, 50005)
        assert gets_in(lab.stranger, address, 50010)  # no door names it any more
        assert not gets_in(lab.stranger, address, 50005)
        text = text.replace("51000-51010", "51000")
        daemon.reload(text)
        daemon.run("open", "other", lab.client.ipv4)
        daemon.reload(text.replace("50000-50010", "51000-51010").replace('opens = ["51000/', 'opens = ["51011/'))
        daemon.event("closed", door="other", by="lost")
        assert not gets_in(lab.client, address, 51000)


@both_families
def test_observe_and_ban(lab: Lab, tmp_path: Path, version: int) -> None:
    address = str(lab.server.ipv4 if version == 4 else lab.server.ipv6)
    client = lab.client.ipv4 if version == 4 else lab.client.ipv6
    with server(lab, tmp_path, "observe") as daemon:
        assert gets_in(lab.stranger, address, 50005)
        daemon.reload(DOORS.format(mode="stealth"))
        daemon.run("open", "mosh", client)
        assert gets_in(lab.client, address, 50005)
        daemon.run("ban", client)
        assert not gets_in(lab.client, address, 50005)


def test_reloads_hide_the_range_throughout(lab: Lab, tmp_path: Path) -> None:
    """Neither an opening nor a closed range changes while the ruleset is replaced, also by another range."""
    address = str(lab.server.ipv4)
    texts = [DOORS.format(mode="guard"), DOORS.format(mode="guard").replace("51000-51010", "51000-51009")]
    with server(lab, tmp_path, "guard") as daemon:
        knock(lab.client, address, *KNOCK)
        daemon.event("opened", door="mosh")
        for number in range(10):
            daemon.config.write_text(texts[number // 2 % 2])
            daemon.process.send_signal(1)
            for _ in range(10):
                with connect(lab.client, address, 50005, PATIENCE_S):
                    pass
                with lab.stranger.call(socket.socket) as stranger:
                    stranger.setblocking(False)
                    assert stranger.connect_ex((address, 50005)) == errno.EINPROGRESS
            daemon.await_notice("READY=1")
        established = lab.server.run(["ss", "-Htn", "dst", str(lab.stranger.ipv4)]).stdout
        assert established == ""
