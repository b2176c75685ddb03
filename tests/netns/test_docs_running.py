"""The pages about a gate that runs, typed: bans, numbers for Prometheus, the lines of `watch`."""

from __future__ import annotations

import http.client
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.daemon import PATIENCE_S
from tests.support.docs_session import DocsSession, docs_session

pytestmark = pytest.mark.netns("nft", "ssh", "/usr/sbin/sshd", "unshare")

CONFIG = (
    '[gate]\nmode = "guard"\n[doors.ssh]\nopens = ["22/tcp"]\n[doors.web]\nknock = ["7101/tcp"]\nopens = ["443/tcp"]\n'
)
# Replaces jq, which need not be installed here: this filter, and no other.
JQ = """\
import json, sys
assert sys.argv[1:] == ["-r", 'select(.event == "opened") | .address'], sys.argv
for line in sys.stdin:
    if (event := json.loads(line))["event"] == "opened":
        print(event["address"], flush=True)
"""


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        session.configure(CONFIG)
        session.start()
        yield session


def ended(process: subprocess.Popen[str]) -> int:
    """Press Ctrl-C: every program of the line hears it."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(PATIENCE_S)


def line_after(process: subprocess.Popen[str], happens: Callable[[int], object]) -> str:
    """Have something happen until a line comes, since nobody tells when the program has begun to listen."""
    assert process.stdout is not None
    for number in itertools.count():
        assert number < PATIENCE_S
        happens(number)
        if select.select([process.stdout], [], [], 1)[0]:
            return process.stdout.readline()
    raise AssertionError


@pytest.mark.console("docs/banning.md")
def test_banning(session: DocsSession, console: Console) -> None:
    ban, banned, unban = console
    assert session.compare(ban) == "203.0.113.9 is banned for 8h\n"
    assert "203.0.113.9" in session.compare(banned)
    session.compare(unban)
    assert session.compare(banned) == "no address is banned\n"


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def scraped(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


@pytest.mark.console("docs/metrics.md")
def test_numbers_for_prometheus(session: DocsSession, console: Console) -> None:
    folder = session.daemon.control.parent
    session.swaps["/run/doorward"] = str(folder)
    printed, tcp, both = console
    assert "\ndoorward_openings 0.0\n" in session.compare(printed)
    for call in (tcp, both):
        serving = session.begin(call)
        assert serving.stdout is not None
        for _ in range(call.typed.count("--listen")):
            assert serving.stdout.readline().startswith("doorward: serving metrics at ")
        seen = session.lab.server.call(scraped, http.client.HTTPConnection("127.0.0.1", 9477))
        assert "\ndoorward_doors 2.0\n" in seen
        assert "doorward_openings" not in seen
        if call == both:
            assert "\ndoorward_openings 0.0\n" in session.lab.server.call(scraped, _Unix(folder / "metrics.sock"))
        assert ended(serving) == 0


def scan(session: DocsSession, number: int) -> None:
    """Send fifty datagrams from an address that nobody knows."""
    source = f"10.9.0.{number + 1}"
    session.lab.client.add_addresses([source])

    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 0))
            for port in range(3000, 3050):
                sender.sendto(b"", (str(session.lab.server.ipv4), port))

    session.lab.client.call(go)


@pytest.mark.console("docs/watch.md")
def test_the_lines_of_watch(session: DocsSession, console: Console) -> None:
    session.program("jq", sys.executable, "-c", JQ)

    def opened(number: int) -> None:
        session.daemon.run("open", "ssh", f"192.0.2.{number + 10}")

    watching = session.begin(next(console))
    assert watching.stdout is not None
    assert watching.stdout.readline().endswith("2 doors, mode guard; 0 open\n")
    opened(0)
    assert "opened" in watching.stdout.readline()
    assert ended(watching) == 0
    refused = session.begin(next(console))
    assert "refused 10.9.0." in line_after(refused, lambda number: scan(session, number))
    ended(refused)
    addresses = session.begin(next(console))
    assert line_after(addresses, lambda number: opened(number + 1)).startswith("192.0.2.1")
    ended(addresses)
