"""The examples of the commands that go with a running daemon, typed in a day at the gate."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.daemon.ledger import Ledger
from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.daemon import RunningDaemon, Visitor, running_daemon
from tests.support.examples import Seat, assert_printed, name_hosts
from tests.support.openings import opening

pytestmark = pytest.mark.netns("nft", "knock", "curl")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
[doors.db]
opens = ["5432/tcp"]
"""
KNOCK, SWEEP = ("7000", "8000:udp", "9000"), range(7500, 7560)


class Day:
    """A server with its daemon, an operator at it, and two who come by."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, folder: Path) -> None:
        self.lab, self.daemon = lab, daemon
        self.seat = Seat(lab.server, folder / "seat", daemon.env)
        self.guest, self.stranger = (Visitor(host, host.ipv4, lab.server.ipv4) for host in (lab.client, lab.stranger))

    def open(self, door: str, visitor: Visitor) -> None:
        self.daemon.run("open", door, visitor)


@pytest.fixture
def day(lab: Lab, tmp_path: Path) -> Iterator[Day]:
    name_hosts(lab)
    lab.server.start_greeter(22)
    with running_daemon(lab.server, tmp_path, CONFIG) as daemon:
        yield Day(lab, daemon, tmp_path)


@pytest.mark.console(
    "docs/reference/commands.md", "doorward status", "doorward close", "doorward watch", "doorward log"
)
def test_what_comes_and_goes(day: Day, console: Console) -> None:
    status, close, watch, log = console
    day.guest.knock(*KNOCK)
    day.daemon.event("opened")
    day.seat.type(status)
    with day.guest.connect():
        day.seat.type(close)
    os.mkfifo(day.seat.at / "watched")  # by which one knows that it watches
    watch = watch._replace(typed=watch.typed.replace("|", "| tee watched |"))
    with day.seat.typing(watch) as screen, (day.seat.at / "watched").open() as watched:
        assert "2 doors, mode guard; 0 open" in watched.readline()
        day.stranger.knock(*SWEEP)
        assert_printed(watch.printed, screen.line())
    day.seat.type(log)


@pytest.mark.console("docs/reference/commands.md", "doorward open", "doorward ban", "doorward unban")
def test_by_hand(day: Day, console: Console) -> None:
    open_, ban, unban = console
    day.seat.type(open_)
    assert day.guest.gets_in()
    day.open("ssh", day.stranger)
    day.seat.type(ban)
    day.stranger.knock(*KNOCK)
    assert not day.stranger.gets_in()
    day.seat.type(unban)
    day.stranger.knock(*KNOCK)
    assert day.stranger.gets_in()


@pytest.mark.console("docs/reference/commands.md", "doorward metrics")
def test_metrics(day: Day, console: Console) -> None:
    serve, public, everything = console
    day.seat.meant["/run/m.sock"] = str(day.seat.at / "metrics.sock")
    assert serve.typed.endswith(" &")
    with day.seat.typing(
        serve._replace(typed=serve.typed.removesuffix(" &"))
    ) as screen:  # the screen is the background
        assert screen.line() == "doorward: serving metrics at 127.0.0.1:9477\n"
        assert screen.line().startswith("doorward: serving metrics at unix:")
        day.seat.type(public)
        day.seat.type(everything)


@pytest.mark.console("docs/reference/commands.md", "doorward report")
def test_report(lab: Lab, console: Console, tmp_path: Path) -> None:
    (call,) = console
    figures = re.search(r"(\d+) openings by (\d+) people or addresses, ([\d,]+) refusals", call.printed)
    assert figures
    write_ledger(tmp_path / "ledger.sqlite3", *(int(figure.replace(",", "")) for figure in figures.groups()))
    seat = Seat(lab.server, tmp_path / "seat", {"STATE_DIRECTORY": tmp_path, "CONFIGURATION_DIRECTORY": tmp_path})
    seat.meant["/root"] = str(seat.at)
    seat.type(call)
    assert (seat.at / "doorward.html").read_text().startswith("<!doctype html>")


def write_ledger(path: Path, openings: int, people: int, refusals: int) -> None:
    """Write a ledger of the last hour."""
    now_s, ledger = time.time(), Ledger(path)
    with ledger.transaction():
        for number in range(openings):
            at_s, by = now_s - 3600 + number, f"key user{number % people}"
            ledger.opened(opening(since_s=at_s, until_s=at_s + 1, by=by))
            ledger.closed("ssh", ip_address("192.0.2.7"), at_s + 1, "time")
        for number in range(refusals):
            ledger.refused(None, ip_address("203.0.113.9"), now_s - number / 10, "rate limit exceeded")
    ledger.close()
