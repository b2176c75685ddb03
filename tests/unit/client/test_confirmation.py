"""What the client makes of confirmations that are lost, duplicated, forged, late, or for another address."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from doorward.cli import confirmation as cli
from doorward.cli.knock_options import KnockPlan
from doorward.client import confirmation
from doorward.client.confirmation import AwaitedReply, ReplyListener
from doorward.client.connector import open_connection
from doorward.client.hosts import KnownHost
from doorward.client.sequence import Target
from doorward.errors import NegativeResult
from doorward.model import DEFAULT_SIGNED_PORT, Port, Source
from doorward.signed.message import CLOSE, CONFIRM, Request
from doorward.signed.reply import Confirmation, ReplySecret, seal_reply

SECRET, OTHER = ReplySecret(bytes(range(32))), ReplySecret(bytes(32))
SOURCE = ip_address("203.0.113.9")
PLAN = KnockPlan(KnownHost("home", "192.0.2.1", {"ssh": (), "db": ()}), ("ssh",), ())


class Gate:
    """A gate that answers as a test wants, over loopback."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.listener, self.clients = ReplyListener(), list[Any]()

    def knock(
        self,
        door: str = "ssh",
        asked: Source | None = None,
        flags: int = CONFIRM,
        ago_s: float = 0.0,
        port: Port = DEFAULT_SIGNED_PORT,
    ) -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(self.socket.getsockname())
        self.clients.append(client.getsockname())
        request = Request(0, bytes(8), bytes(12), bytes(12), None, asked, flags)
        target = Target(socket.AF_INET, ("192.0.2.1", 0))
        sent_s = time.monotonic() - ago_s
        self.listener.expect(client, AwaitedReply(door, "laptop", "10.0.0.5", target, port, request, SECRET, sent_s))

    def answer(self, datagram: bytes, client: int = -1) -> None:
        self.socket.sendto(datagram, self.clients[client])

    def confirm(
        self, source: Source = SOURCE, left_s: int | None = 30, secret: ReplySecret = SECRET, ahead_s: float = 0.0
    ) -> bytes:
        time_ms = round((time.time() + ahead_s) * 1000)
        datagram = seal_reply(secret, Confirmation(source, left_s, time_ms), os.urandom(16))
        self.answer(datagram)
        return datagram


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with closing(gate.socket), closing(gate.listener):
        yield gate


def test_a_confirmation_ends_the_wait(gate: Gate) -> None:
    gate.knock()
    gate.confirm()
    begun_s = time.monotonic()
    (reply,) = gate.listener.wait(60)
    assert time.monotonic() - begun_s < 30
    assert reply.confirmation[:2] == (SOURCE, 30)
    assert abs(reply.ahead_s) < 5
    assert gate.listener.sockets() == []


def test_what_is_forged_or_damaged_is_ignored(gate: Gate) -> None:
    gate.knock()
    datagram = gate.confirm(secret=OTHER)
    for garbage in (b"", b"x", bytes(80), bytes(81), bytes(1400), datagram[:-1], datagram + b"x"):
        gate.answer(garbage)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:  # right, but from another port
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(seal_reply(SECRET, Confirmation(SOURCE, 30, 0), bytes(16)), gate.clients[0])
    assert gate.listener.wait(0.2) == []
    gate.confirm()
    assert len(gate.listener.wait(60)) == 1


def test_a_duplicate_counts_once(gate: Gate) -> None:
    gate.knock()
    gate.answer(gate.confirm())
    assert len(gate.listener.wait(60)) == 1
    assert gate.listener.read() == []


def test_a_flood_of_garbage_is_bounded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmation, "_MAX_DATAGRAMS", 10)
    gate.knock()
    for _ in range(20):
        gate.answer(bytes(80))
    assert gate.listener.wait(60) == []
    assert gate.listener.sockets() == []


def test_a_late_one_is_ignored(gate: Gate) -> None:
    gate.knock(ago_s=3.5)
    gate.confirm()
    assert gate.listener.wait(0.2) == []


def test_sockets_of_old_knocks_are_closed(gate: Gate) -> None:
    for _ in range(3):
        gate.knock(ago_s=10)
    gate.knock()
    assert len(gate.listener.sockets()) == 1


@pytest.mark.parametrize(
    ("asked", "flags", "source", "left_s", "fits"),
    [
        (None, CONFIRM, SOURCE, 30, True),
        (None, CONFIRM, SOURCE, 0, True),
        (None, CONFIRM, ip_network("203.0.113.0/24"), 30, False),
        (None, CONFIRM, SOURCE, None, False),  # closed, and it was to open
        (SOURCE, CONFIRM, SOURCE, 30, True),
        (SOURCE, CONFIRM, ip_address("203.0.113.10"), 30, False),
        (ip_network("203.0.113.0/24"), CONFIRM, ip_network("203.0.113.0/24"), 30, True),
        (None, CONFIRM | CLOSE, SOURCE, None, True),
        (None, CONFIRM | CLOSE, SOURCE, 30, False),
    ],
)
def test_it_is_for_what_was_asked(
    gate: Gate, asked: Source | None, flags: int, source: Source, left_s: int | None, fits: bool
) -> None:
    gate.knock(asked=asked, flags=flags)
    gate.confirm(source, left_s)
    assert len(gate.listener.wait(60 if fits else 0.2)) == fits


def test_one_address_of_the_host_is_enough(gate: Gate) -> None:
    """The other may have no route back; each door has one confirmation, and the rest gets a moment."""
    gate.knock()
    gate.knock()
    gate.confirm()
    begun_s = time.monotonic()
    assert len(gate.listener.wait(60)) == 1
    assert time.monotonic() - begun_s < 30


def test_report(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.knock()
    gate.confirm(left_s=30)
    cli.report(PLAN, gate.listener, pytest.fail)
    assert capsys.readouterr().out.startswith(f"open for {SOURCE} for 30 s (")


PORTS = tuple(Port.parse(f"{number}/udp") for number in (62201, 443, 53))
THREE_PORTS = PLAN._replace(host=PLAN.host._replace(signed_ports=PORTS))


def test_without_a_confirmation_the_next_port_is_tried(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ReplyListener.wait, "__defaults__", (0.05,))
    others = iter(PORTS[1:])
    gate.knock(port=PORTS[0])

    def knock_again() -> None:
        gate.knock(port=next(others))
        gate.confirm()

    cli.report(THREE_PORTS, gate.listener, knock_again)
    assert re.fullmatch(rf"open for {SOURCE} for 30 s \(\d+\.\d ms, 443/udp\)\n", capsys.readouterr().out)
    assert list(others) == [PORTS[2]]


def test_each_port_is_tried_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplyListener.wait, "__defaults__", (0.05,))
    others = iter(PORTS[1:])
    gate.knock(port=PORTS[0])
    with pytest.raises(NegativeResult) as raised:
        cli.report(THREE_PORTS, gate.listener, lambda: gate.knock(port=next(others)))
    assert "no confirmation within 1 s at any of 3 ports; check" in str(raised.value)
    for port in PORTS:
        assert f"10.0.0.5 to 192.0.2.1 {port}" in str(raised.value)


def test_a_port_that_confirms_one_door_is_not_left_for_another(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network passes it, so the rejected door would be rejected at another port, too."""
    monkeypatch.setattr(ReplyListener.wait, "__defaults__", (0.05,))
    gate.knock("db", port=PORTS[0])
    gate.knock("ssh", port=PORTS[0])
    gate.confirm()
    with pytest.raises(NegativeResult):
        cli.report(THREE_PORTS._replace(doors=("ssh", "db")), gate.listener, pytest.fail)
    assert capsys.readouterr().out.startswith("ssh: open for")


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (0, f"accepted for {SOURCE}"),
        (600, f"open for {SOURCE} for 10m"),
        (None, f"closed what this key opened for {SOURCE}"),
    ],
)
def test_what_is_printed(gate: Gate, left_s: int | None, text: str) -> None:
    gate.knock(flags=CONFIRM | (CLOSE if left_s is None else 0))
    gate.confirm(left_s=left_s)
    (line,) = cli.describe(PLAN._replace(doors=("ssh", "db")), gate.listener.wait(60))
    assert line.startswith(f"ssh: {text} (")


@pytest.mark.parametrize(("ahead_s", "way"), [(25.0, "behind"), (-25.0, "ahead of"), (15.0, "")])
def test_a_clock_that_is_off_is_a_warning(
    gate: Gate, capsys: pytest.CaptureFixture[str], ahead_s: float, way: str
) -> None:
    gate.knock()
    gate.confirm(ahead_s=ahead_s)
    cli.report(PLAN, gate.listener, pytest.fail)
    warning = capsys.readouterr().err
    assert (f"this machine's clock is 25s {way} the gate's" in warning) == bool(way)


@pytest.mark.parametrize("is_synchronized", [True, False, None])
def test_what_to_check_has_this_machines_evidence(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, is_synchronized: bool | None
) -> None:
    monkeypatch.setattr(cli, "is_synchronized", lambda: is_synchronized)
    monkeypatch.setattr(confirmation, "PATIENCE_S", 0.05)
    monkeypatch.setattr(gate.listener, "wait", list)
    gate.knock("shh")
    with pytest.raises(NegativeResult) as raised:
        cli.report(PLAN, gate.listener, pytest.fail)
    lines = str(raised.value).splitlines()
    assert lines[1].startswith("  1. the clock: this machine's is not") == (is_synchronized is False)
    text = str(raised.value)
    for evidence in ("10.0.0.5 to 192.0.2.1 62201/udp", "allows laptop", "the door 'shh'", "known here: ssh, db"):
        assert evidence in text
    assert ("the clocks: this machine's is synchronized" in text) == (is_synchronized is True)


def test_a_confirmation_starts_an_attempt_at_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other attempt would follow for a minute: the door opens when it arrives."""
    from doorward.client import connector

    monkeypatch.setattr(connector, "ATTEMPTS_S", (60.0,))
    gate.knock()
    with socket.create_server(("127.0.0.1", 0)) as server:
        gate.confirm()
        target = Target(socket.AF_INET, ("127.0.0.1", 0))
        found = open_connection(target, server.getsockname()[1], 30, gate.listener)
        assert isinstance(found, socket.socket)
        found.close()


def test_garbage_starts_no_attempt(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    gate.knock()
    for _ in range(50):
        gate.answer(bytes(80))
    from doorward.client import connector

    monkeypatch.setattr(connector, "ATTEMPTS_S", (60.0,))
    monkeypatch.setattr(connector._Attempts, "_start_next", lambda _: started.append(1))
    open_connection(SimpleNamespace(at=lambda _: None), 1, 0.2, gate.listener)  # type: ignore[arg-type]
    assert started == []
