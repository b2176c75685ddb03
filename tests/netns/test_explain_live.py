"""`doorward explain --live` and `doorward explain ADDRESS` on a server with the real daemon."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address
from typing import NamedTuple

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitor, Visitors, running_daemon, standing_lab

pytestmark = pytest.mark.netns("knock", "setpriv")

DOORS = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
for = "1500ms"
"""
KNOCK = ("7000", "8000:udp", "9000")


class Site(NamedTuple):
    lab: Lab
    daemon: RunningDaemon
    visitors: Visitors


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        lab = stack.enter_context(standing_lab())
        lab.server.start_greeter(22)
        daemon = stack.enter_context(running_daemon(lab.server, tmp_path_factory.mktemp("live"), DOORS))
        yield Site(lab, daemon, Visitors(lab))


class Watching:
    """The running command; its lines are read as they arrive."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def line(self, part: str) -> str:
        """Read up to the line that contains `part`, and return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return line
        raise AssertionError(f"no {part!r} in {self.lines}")

    def end(self) -> list[str]:
        """Press Ctrl-C, and return the lines printed after it."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        return self.process.stdout.read().splitlines()


@contextmanager
def watching(site: Site, visitor: Visitor, *words: str) -> Iterator[Watching]:
    command = [*DOORWARD, "explain", "--live", visitor, *words]
    process = site.lab.server.popen(command, env=site.daemon.env, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"doorward: watching {visitor}; ")
    try:
        yield Watching(process)
    finally:
        process.kill()
        process.wait(PATIENCE_S)


@pytest.mark.parametrize("version", [4, 6])
def test_live_packets_are_printed_as_they_arrive(site: Site, version: int) -> None:
    visitor = site.visitors.fresh(version)
    with watching(site, visitor) as live:
        visitor.knock("7000")
        assert (
            live.line("SYN 7000/tcp").split(maxsplit=1)[1]
            == "SYN 7000/tcp      knock 1 of 3 for ssh" + " " * 22 + "ssh 1/3\n"
        )
        visitor.knock("8443")
        assert "wrong: expected 8000/udp; back to the start" in " ".join(live.line("8443/tcp").split())
        visitor.knock("8000:udp", "9000")
        live.line("SYN 9000/tcp")
        output = live.end()
        assert live.process.wait(PATIENCE_S) == 1
    assert output[0].startswith("=> a packet to 8443/tcp between knocks 1 and 2 reset the progress")


@pytest.mark.parametrize("version", [4, 6])
def test_live_successful_knock(site: Site, version: int) -> None:
    visitor = site.visitors.fresh(version)
    with watching(site, visitor, "--json") as live:
        visitor.knock_and_connect(*KNOCK).close()
        site.daemon.event("opened", address=str(visitor))
        (line,) = live.end()
        assert live.process.wait(PATIENCE_S) == 0
    answer = json.loads(line)
    assert (answer["conclusion"]["kind"], answer["door"], answer["opened"]) == ("connected", "ssh", True)
    assert [row["verdict"] for row in answer["packets"]][:4] == ["forward", "forward", "opens", "enters"]


def test_live_second_address_of_same_network(site: Site) -> None:
    """The client changes its temporary address during the knock."""
    visitor = site.visitors.fresh(6)
    other = IPv6Address(int(visitor.source) + 1)
    site.lab.client.add_addresses([other])
    with watching(site, visitor) as live:
        visitor.knock("7000")
        site.lab.client.call(send_datagram, str(other), str(visitor.server), 8000)
        assert live.line("8000/udp").split(maxsplit=2)[2].startswith(f"from {other}:")
        visitor.knock("9000")
        live.line("SYN 9000/tcp")
        output = " ".join(" ".join(live.end()).split())
    assert f"=> knocks 1 and 3 came from {visitor}, knock 2 from {other}: two addresses of one client" in output


def send_datagram(source: str, to: str, port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(b"\0", (to, port))


def test_live_ends_after_for(site: Site) -> None:
    visitor = site.visitors.fresh(4)
    done = site.daemon.run("explain", "--live", visitor, "--for", "100ms", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"=> no packet from {visitor} was seen"


def test_live_needs_cap_net_raw(site: Site) -> None:
    command = ["setpriv", "--bounding-set", "-net_raw", *DOORWARD, "explain", "--live", "192.0.2.2"]
    done = site.lab.server.run(command, env=site.daemon.env, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "doorward: capturing packets needs CAP_NET_RAW; run doorward as root or give it that capability\n"
    )


def test_openings_from_ledger(site: Site) -> None:
    visitor = site.visitors.fresh(4)
    assert explained(site, visitor) == (
        1,
        f"=> no knock from {visitor} was ever completed: the ledger has none",
    )
    visitor.knock(*KNOCK)
    site.daemon.event("opened", address=str(visitor))
    status, line = explained(site, visitor)
    assert status == 0
    assert line.startswith("=> door ssh opened at ")
    assert "and is open for " in line
    site.daemon.event("closed", address=str(visitor), by="time")
    status, line = explained(site, visitor)
    assert status == 0
    assert line.endswith("by knock, and closed after 1.5 s")
    answer = json.loads(site.daemon.run("explain", visitor, "--json", check=False).stdout)
    assert answer["conclusion"]["kind"] == "is_over"
    assert [record["event"] for record in answer["records"]] == ["opened"]


def test_refusal_from_ledger(site: Site) -> None:
    visitor = site.visitors.fresh(4)
    visitor.knock(*map(str, range(3000, 3050)))
    site.daemon.event("refused", address=str(visitor))
    status, line = explained(site, visitor)
    assert status == 1
    assert "the last knock was rejected at " in line
    assert "rate limit exceeded" in line


def explained(site: Site, visitor: Visitor) -> tuple[int, str]:
    """Explain an address from the ledger; return the exit status and the diagnosis, unwrapped."""
    done = site.daemon.run("explain", visitor, check=False)
    text = done.stdout[done.stdout.index("=> ") :].split("   hint: ")[0]
    return done.returncode, " ".join(text.split())
