"""Doors that let one connection in: the kernel removes the opening, and nothing but a knock brings it back."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.config.duration import rough_duration
from doorward.lab.topology import Lab
from doorward.model import Element, Packet, Port
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitor, Visitors, echoes, running_daemon
from tests.support.frames import FrameSender
from tests.support.one_connection import answers_held, reload, restart, used_by

pytestmark = pytest.mark.netns("nft", "knock")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp"]
opens = ["22/tcp"]
for = "10m"
once = true
[doors.pair]
knock = ["7001/tcp", "7003/udp"]
opens = ["23/tcp", "24/tcp"]
for = "10m"
once = true
[doors.open]
knock = ["7001/tcp", "7004/udp"]
opens = ["22/tcp"]
for = "10m"
"""
KNOCK, PAIR, OPEN = ("7001", "7002:udp"), ("7001", "7003:udp"), ("7001", "7004:udp")


@pytest.fixture(scope="module")
def standing_daemon(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    for port in (22, 23, 24):
        module_lab.server.start_greeter(port)
    with running_daemon(module_lab.server, tmp_path_factory.mktemp("gate"), CONFIG) as running:
        yield running


@pytest.fixture
def daemon(standing_daemon: RunningDaemon) -> RunningDaemon:
    standing_daemon.renew(CONFIG)
    return standing_daemon


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def visitors(module_lab: Lab) -> Visitors:
    return Visitors(module_lab)


@pytest.fixture
def visitor(visitors: Visitors, version: int) -> Visitor:
    return visitors.fresh(version)


def element(visitor: Visitor, port: str = "22/tcp") -> Element:
    return visitor.element(port)._replace(once=True)


def opened(daemon: RunningDaemon, visitor: Visitor) -> None:
    """Knock, and wait until the daemon has recorded it.

    Within a second after a repair it then asks whether the kernel still has the opening, before it answers here.
    """
    visitor.knock(*KNOCK)
    daemon.event("opened", door="ssh", address=str(visitor))
    daemon.openings()


def test_one_connection_enters(daemon: RunningDaemon, visitor: Visitor) -> None:
    opened(daemon, visitor)
    (shown,) = daemon.openings()
    assert shown["once"] is True
    assert "22/tcp once" in daemon.run("status").stdout
    with visitor.connect() as connection:
        by = used_by(connection)
        closed = daemon.event("closed", door="ssh", address=str(visitor), by=by)
        assert 0 <= closed["for_s"] < PATIENCE_S
        assert not visitor.gets_in()
        assert echoes(connection)
    assert daemon.openings() == []
    assert element(visitor) not in daemon.elements()
    (record,) = daemon.log("--address", visitor)
    assert record["closed_by"] == by
    assert f"; used after {rough_duration(closed['for_s'])} from port" in daemon.run("log").stdout
    assert "for one connection, which came after" in " ".join(daemon.run("explain", visitor).stdout.split())
    opened(daemon, visitor)
    visitor.connect().close()


def test_syn_is_sent_again_until_it_is_answered(daemon: RunningDaemon, visitor: Visitor) -> None:
    opened(daemon, visitor)
    connections: list[socket.socket] = []
    client = threading.Thread(target=lambda: connections.append(visitor.connect(timeout_s=PATIENCE_S)))
    with answers_held(daemon.host):
        client.start()
        daemon.event("closed", door="ssh", address=str(visitor))
        assert not visitor.gets_in()
    client.join()
    with connections[0] as connection:  # by the SYN that was sent again after a second
        assert echoes(connection)


def test_what_is_no_first_packet_of_a_connection_uses_nothing_up(
    module_lab: Lab, daemon: RunningDaemon, visitor: Visitor
) -> None:
    opened(daemon, visitor)
    frames = FrameSender(module_lab.client, module_lab.server)
    for flags in (16, 18, 4, 1, 0, 3, 6):
        frames.send(Packet(visitor.source.packed, Port.parse("22/tcp"), flags))
    frames.close()
    visitor.connect().close()


def test_other_ports_close_with_it(daemon: RunningDaemon, visitor: Visitor) -> None:
    visitor.knock(*PAIR)
    daemon.event("opened", door="pair", address=str(visitor))
    visitor.connect(24).close()
    daemon.event("closed", door="pair", address=str(visitor))
    assert not visitor.gets_in(23)
    assert daemon.elements() == {}


def test_other_opening_of_the_port_stays(daemon: RunningDaemon, visitor: Visitor) -> None:
    opened(daemon, visitor)
    visitor.knock(*OPEN)
    daemon.event("opened", door="open", address=str(visitor))
    for _ in range(3):
        visitor.connect().close()
    daemon.event("closed", door="ssh", address=str(visitor))
    assert [each["door"] for each in daemon.openings()] == ["open"]


def _kill(daemon: RunningDaemon) -> None:
    daemon.end(signal.SIGKILL)
    daemon.start()


def _flush(daemon: RunningDaemon) -> None:
    daemon.host.run(["nft", "flush", "ruleset"])
    daemon.message("restored after")


def _change(daemon: RunningDaemon) -> None:
    daemon.host.run(["nft", "flush", "chain", "inet", "doorward", "door"])
    daemon.message("restored after")


def _boot(daemon: RunningDaemon) -> None:
    """End with the host: the table is loaded from the file, and then the daemon starts."""
    daemon.end(signal.SIGKILL)
    daemon.host.run(["nft", "delete", "table", "inet", "doorward"])
    daemon.host.run(["nft", "-f", daemon.state / "gate.nft"])
    daemon.start()


def _without_table(daemon: RunningDaemon) -> None:
    daemon.end(signal.SIGKILL)
    daemon.host.run(["nft", "delete", "table", "inet", "doorward"])
    daemon.start()


AFTER = (reload, restart, _kill, _flush, _change, _boot, _without_table)


@pytest.mark.parametrize("happen", AFTER)
@pytest.mark.parametrize("version", [4], ids=["ipv4"], indirect=True)
def test_used_opening_stays_used(
    daemon: RunningDaemon, visitor: Visitor, happen: Callable[[RunningDaemon], None]
) -> None:
    opened(daemon, visitor)
    with visitor.connect() as connection:
        daemon.event("closed", address=str(visitor), by=used_by(connection))
        happen(daemon)
        assert element(visitor) not in daemon.elements()
        assert daemon.openings() == []
        assert not visitor.gets_in()
        assert echoes(connection)


@pytest.mark.parametrize("happen", AFTER)
@pytest.mark.parametrize("version", [4], ids=["ipv4"], indirect=True)
def test_what_another_program_may_have_hidden_is_not_restored(
    daemon: RunningDaemon, visitor: Visitor, happen: Callable[[RunningDaemon], None]
) -> None:
    opened(daemon, visitor)
    happen(daemon)
    is_kept = happen in (reload, restart, _kill)
    if not is_kept:
        daemon.event("closed", address=str(visitor), by="lost")
    assert (element(visitor) in daemon.elements()) == is_kept
    assert len(daemon.openings()) == is_kept
    assert visitor.gets_in() == is_kept
    assert not visitor.gets_in()


@pytest.mark.parametrize("version", [4], ids=["ipv4"], indirect=True)
def test_reload_without_such_doors_closes_them(daemon: RunningDaemon, visitor: Visitor) -> None:
    opened(daemon, visitor)
    daemon.reload(CONFIG.replace("once = true", ""))
    daemon.event("closed", address=str(visitor), by="lost")
    assert not visitor.gets_in()
    assert daemon.openings() == []
    visitor.knock(*KNOCK)
    daemon.event("opened", address=str(visitor))
    assert visitor.gets_in()
    assert visitor.gets_in()


@pytest.mark.parametrize("version", [4], ids=["ipv4"], indirect=True)
@pytest.mark.parametrize("is_table_lost", [False, True])
def test_connection_while_no_daemon_runs(daemon: RunningDaemon, visitor: Visitor, is_table_lost: bool) -> None:
    """The kernel removed it, and nobody recorded that."""
    opened(daemon, visitor)
    daemon.end(signal.SIGKILL)
    with visitor.connect():
        if is_table_lost:
            daemon.host.run(["nft", "delete", "table", "inet", "doorward"])
        daemon.start()
        daemon.event("closed", address=str(visitor), by="lost" if is_table_lost else "use")
        assert not visitor.gets_in()
    assert daemon.openings() == []


@pytest.mark.parametrize("version", [4], ids=["ipv4"], indirect=True)
def test_use_that_is_reported_late_does_not_end_a_new_opening(daemon: RunningDaemon, visitor: Visitor) -> None:
    """The daemon is stopped between the connection and its report, and the visitor knocks again."""
    opened(daemon, visitor)
    daemon.process.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        stack.enter_context(visitor.connect())
        visitor.knock(*KNOCK)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.event("prolonged", address=str(visitor))
        assert element(visitor) in daemon.elements()
        # Within 10 ms after the first connection its SYN is dropped, and sent again after a second.
        stack.enter_context(visitor.connect(timeout_s=PATIENCE_S))
        daemon.event("closed", address=str(visitor))
        assert not visitor.gets_in()


def test_repair_under_connections_brings_nothing_back(direct_lab: Lab, tmp_path: Path) -> None:
    """Each connects at about the moment at which the ruleset is restored, and once more after it."""
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:  # another would soon log no more repairs
        for visitor in Visitors(direct_lab).crowd(4, 5):
            visitor.knock(*KNOCK)
            daemon.event("opened", address=str(visitor))
            daemon.host.run(["nft", "flush", "table", "inet", "doorward"])  # the open sets stay
            visitor.gets_in()
            daemon.message("restored after")
            assert not visitor.gets_in()
            assert (element(visitor) in daemon.elements(), daemon.openings()) == (False, [])
