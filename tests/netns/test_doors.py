"""Doors as a client meets them: Debian's `knock`, the real daemon, the real kernel, IPv4 and IPv6."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from doorward.lab.topology import CLIENT_NET, Lab
from doorward.model import Packet, Port
from tests.support.daemon import PATIENCE_S, SLOWNESS, RunningDaemon, Visitor, Visitors, running_daemon, standing_lab
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns("knock")

DOORS = """
[gate]
mode = "{mode}"
[doors.main]
knock = ["7001/tcp", "8001/udp", "9001/tcp"]
opens = ["22/tcp"]
[doors.sibling]
knock = ["7001/tcp", "8001/udp", "9002/tcp"]
opens = ["23/tcp"]
[doors.short]
knock = ["7101/tcp", "7102/tcp"]
opens = ["24/tcp"]
[doors.long]
knock = ["7101/tcp", "7102/tcp", "7103/tcp"]
opens = ["25/tcp"]
[doors.hasty]
knock = ["7201/tcp", "7202/tcp", "7203/tcp"]
within = "500ms"
opens = ["26/tcp"]
[doors.brief]
knock = ["7301/tcp", "7302/udp"]
opens = ["27/tcp"]
for = "1200ms"
"""
SEQUENCE = ("7001", "8001:udp", "9001")
PORTS = (22, 23, 24, 25, 26, 27)
SYN, SYN_ACK, FIN, ACK, RST, NULL, XMAS = 2, 18, 1, 16, 4, 0, 41


class Site:
    """A server with doors, and who comes to it."""

    def __init__(self, lab: Lab, daemon: RunningDaemon) -> None:
        self.lab, self.daemon = lab, daemon
        self.visitors = Visitors(lab)
        for port in PORTS:
            lab.server.start_greeter(port)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mode = getattr(request, "param", "guard")
    folder = tmp_path_factory.mktemp("doors")
    with standing_lab() as lab, running_daemon(lab.server, folder, DOORS.format(mode=mode)) as daemon:
        yield Site(lab, daemon)


both_modes = pytest.mark.parametrize("site", ["guard", "stealth"], indirect=True, scope="module")


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def visitor(site: Site, version: int) -> Visitor:
    return site.visitors.fresh(version)


def stays_out(site: Site, visitor: Visitor, port: int = 22) -> bool:
    return visitor.element(f"{port}/tcp") not in site.daemon.elements() and not visitor.gets_in(port)


@both_modes
def test_in_order_opens_at_once_a_hundred_times(site: Site) -> None:
    # Ten sources a family: none knocks so often that it is taken for a scanner.
    known = [v for pair in zip(site.visitors.crowd(4, 10), site.visitors.crowd(6, 10), strict=True) for v in pair]
    for visitor in known * 5:
        visitor.knock_and_connect(*SEQUENCE).close()  # TimeoutError where the first SYN was dropped
        site.daemon.event("opened", door="main", address=str(visitor), ports=["22/tcp"], by="knock")
        site.daemon.ask("close", door="main", address=str(visitor))
        assert visitor.element() not in site.daemon.elements()


@pytest.mark.parametrize(
    "knock",
    [
        ["9001", "8001:udp", "7001"],
        ["8001:udp", "7001", "9001"],
        ["7001", "9001"],
        ["7001", "8001", "9001"],  # the right numbers, the wrong protocol
        ["7001", "6666", "8001:udp", "9001"],  # a wrong port that no door knows
        ["7001", "8001:udp", "7202", "9001"],  # a wrong port of another door
        ["7001", "8001:udp", "6666:udp", "9001"],
        ["7001", "8001:udp", "7001", "9001"],  # back to the first knock
        [],
    ],
    ids=" ".join,
)
def test_anything_else_opens_nothing(site: Site, visitor: Visitor, knock: list[str]) -> None:
    if knock:
        visitor.knock(*knock)
    assert stays_out(site, visitor)
    visitor.knock_and_connect(*SEQUENCE).close()  # and spoils nothing


@pytest.mark.parametrize(
    "knock",
    [
        ["7001", "7001", "8001:udp", "8001:udp", "9001", "9001"],
        ["6666", *SEQUENCE],
        ["7001", "8001:udp", "6666", *SEQUENCE],
        ["7001", "8001:udp", *SEQUENCE],
        ["7001", "22", "8001:udp", "22", "9001"],  # the door's own port is not a knock
        ["7001", "8001:udp", "9002", *SEQUENCE],
    ],
    ids=" ".join,
)
def test_a_whole_sequence_at_the_end_opens(site: Site, visitor: Visitor, knock: list[str]) -> None:
    visitor.knock_and_connect(*knock).close()


@pytest.mark.parametrize(("delay_ms", "opens"), [(150, True), (300, False)])
def test_the_deadline_counts_from_the_first_knock(site: Site, visitor: Visitor, delay_ms: int, opens: bool) -> None:
    visitor.knock(
        7201, 7202, 7203, delay_ms=delay_ms
    )  # 300 or 600 ms of 500: no single pause is longer than the deadline
    assert visitor.gets_in(26) == opens


def test_a_repeated_first_knock_does_not_move_the_deadline(site: Site, visitor: Visitor) -> None:
    visitor.knock(7201, 7201, 7202, 7203, delay_ms=200)
    assert stays_out(site, visitor, 26)


@both_modes
def test_packets_whose_flags_do_not_match_are_ignored(site: Site, visitor: Visitor) -> None:
    router = replace(site.lab.server, mac=CLIENT_NET.station("", "", 1).mac)
    frames, source = FrameSender(site.lab.client, router), visitor.source.packed

    def send(port: str, *all_flags: int) -> None:
        for number, flags in enumerate(all_flags):
            frames.send(Packet(source, Port.parse(port), flags), 50_000 + number)

    odd = (ACK, FIN, SYN_ACK, RST, NULL, XMAS)
    visitor.knock(7001)
    send("6666/tcp", *odd)  # no symbol: nothing is reset
    send("7001/tcp", *odd)
    visitor.knock("8001:udp")
    send("9001/tcp", *odd)  # no symbol: nothing opens
    assert stays_out(site, visitor)
    visitor.knock(9001)
    assert visitor.gets_in()
    frames.close()


def test_doors_with_a_shared_prefix(site: Site, visitor: Visitor) -> None:
    visitor.knock("7001", "8001:udp", "9002")
    assert stays_out(site, visitor)
    assert visitor.gets_in(23)
    visitor.knock(*SEQUENCE)
    assert visitor.gets_in()


def test_a_sequence_that_begins_another(site: Site, visitor: Visitor) -> None:
    visitor.knock_and_connect(7101, 7102, port=24).close()
    assert stays_out(site, visitor, 25)
    visitor.knock_and_connect(7103, port=25).close()


@both_modes
def test_a_connection_outlives_the_opening(site: Site, visitor: Visitor) -> None:
    with visitor.knock_and_connect("7301", "7302:udp", port=27) as connection:
        lines = connection.makefile("rw")
        assert lines.readline() == f"welcome, {visitor}\n"
        site.daemon.event("closed", door="brief", address=str(visitor), by="time")
        assert stays_out(site, visitor, 27)
        connection.settimeout(PATIENCE_S)
        lines.write("still here\n")
        lines.flush()
        assert lines.readline() == "still here\n"


def test_opening_again_prolongs_the_one_entry(site: Site, visitor: Visitor) -> None:
    visitor.knock("7301", "7302:udp")
    first = site.daemon.event("opened", door="brief", address=str(visitor))
    stood = next(o for o in site.daemon.openings() if o["address"] == str(visitor))
    visitor.knock(6666, delay_ms=700)  # knock waits after each port: 700 of 1,200 ms
    visitor.knock("7301", "7302:udp")
    site.daemon.event("prolonged", door="brief", address=str(visitor))
    (again,) = (o for o in site.daemon.openings() if o["address"] == str(visitor))
    assert again["since"] == pytest.approx(stood["since"], abs=0.01)
    assert again["until"] > stood["until"] + 0.5
    assert site.daemon.elements()[visitor.element("27/tcp")] > 0.8
    closed = site.daemon.event("closed", door="brief", address=str(visitor), by="time")
    assert 1.8 < closed["for_s"] < 4
    assert first["for_s"] == pytest.approx(1.2, abs=0.05)
    assert len(site.daemon.log("--address", visitor)) == 1
    assert stays_out(site, visitor, 27)


def test_two_hundred_simultaneous_clients_all_get_in(site: Site) -> None:
    crowd = [*site.visitors.crowd(4, 100), *site.visitors.crowd(6, 100)]
    knocking = [visitor.start_knock(*SEQUENCE, delay_ms=500) for visitor in crowd]
    assert [process.wait(20 * SLOWNESS) for process in knocking] == [0] * len(crowd)
    with ExitStack() as stack:
        for visitor in crowd:
            stack.enter_context(visitor.connect())
    for visitor in crowd:
        assert visitor.element() in site.daemon.elements()
    until_logged = {str(visitor) for visitor in crowd}
    while until_logged:
        until_logged.discard(site.daemon.event("opened", door="main")["address"])


def test_open_and_close_by_hand(site: Site, visitor: Visitor) -> None:
    daemon = site.daemon
    assert daemon.run("open", "main", visitor, "--for", "10m").stdout == f"main is open to {visitor} (22/tcp) for 10m\n"
    daemon.event("opened", door="main", address=str(visitor), by="hand")
    assert visitor.gets_in()
    assert daemon.elements()[visitor.element()] == pytest.approx(600, abs=5)
    assert ["main", str(visitor), "22/tcp", "hand"] in [
        row.split()[:4] for row in daemon.run("status").stdout.splitlines()
    ]
    visitor.knock(*SEQUENCE)  # a knock for 30 s does not shorten the ten minutes
    daemon.event("prolonged", door="main", address=str(visitor), by="knock")
    daemon.ask("status")  # answered once the knock is dealt with
    assert daemon.elements()[visitor.element()] == pytest.approx(600, abs=10)
    assert daemon.run("close", "main", visitor).stdout == f"main is closed to {visitor}\n"
    assert stays_out(site, visitor)
    again = daemon.run("close", "main", visitor, check=False)
    assert (again.returncode, "is not open to" in again.stderr) == (1, True)
    unknown = daemon.run("open", "mian", visitor, check=False)
    assert (unknown.returncode, "did you mean 'main'?" in unknown.stderr) == (2, True)


@both_modes
def test_close_cut_ends_what_is_established(site: Site, visitor: Visitor) -> None:
    with visitor.knock_and_connect(*SEQUENCE) as connection, visitor.connect() as other:
        for each in (connection, other):
            each.settimeout(PATIENCE_S)
            assert each.recv(100) == f"welcome, {visitor}\n".encode()
        site.daemon.event("opened", door="main", address=str(visitor))
        assert site.daemon.run("close", "main", visitor, "--cut").stdout.endswith("; 2 connections cut\n")
        for each in (connection, other):
            assert ended(each)
    assert stays_out(site, visitor)


def ended(connection: socket.socket) -> bool:
    """Return whether the connection was reset, now or as the answer to what is written."""
    try:
        connection.sendall(b"anybody there?\n")
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def test_a_close_without_cut_leaves_what_is_established(site: Site, visitor: Visitor) -> None:
    with visitor.knock_and_connect(*SEQUENCE) as connection:
        connection.settimeout(PATIENCE_S)
        lines = connection.makefile("rw")
        lines.readline()
        site.daemon.event("opened", door="main", address=str(visitor))
        site.daemon.run("close", "main", visitor)
        lines.write("still here\n")
        lines.flush()
        assert lines.readline() == "still here\n"


@both_modes
def test_another_client_stays_outside(site: Site, visitor: Visitor) -> None:
    visitor.knock_and_connect(*SEQUENCE).close()
    host = site.lab.stranger
    stranger = Visitor(host, host.ipv4 if visitor.source.version == 4 else host.ipv6, visitor.server)
    assert not stranger.gets_in()
    assert visitor.gets_in()
