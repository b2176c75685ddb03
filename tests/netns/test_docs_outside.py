"""The pages about what is seen of a host, typed: `verify` from outside, `explain` over what tcpdump captured."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.packets.datalink import strip_link_header
from doorward.packets.decode import decode_flow
from doorward.packets.pcap import CaptureFile
from tests.support.consoles import Console
from tests.support.daemon import PATIENCE_S, Visitor
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import ROOT, Call, blocks

pytestmark = pytest.mark.netns("nft", "nmap", "tcpdump", "ssh", "/usr/sbin/sshd", "unshare")

STEALTH = """
[gate]
mode = "stealth"
public = ["80/tcp", "443/tcp"]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
for = "2s"
"""


@pytest.fixture
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        yield session


@pytest.mark.console("docs/verify.md")
def test_what_a_stranger_sees(session: DocsSession, console: Console) -> None:
    """Here packets go out faster, the door closes after 2 s, and the page leaves out rows."""
    for port in (80, 443):
        session.lab.server.start_greeter(port)
    session.configure(STEALTH)
    session.start()
    sequence = "ssh:7000/tcp,8000/udp,9000/tcp"
    session.type(Call("$", f"doorward add home --address {session.lab.server.ipv4} --door {sequence}", ""))
    session.swaps["--expect 80,443"] = "--expect 80,443 --rate 60000"
    (call,) = console
    vary = {
        "in 45s": r"in \d+s",
        "29.9 to 31.0 s": r"\d+\.\d to \d+\.\d s",
        "          (and so on, up to 65535)": r"(?: +\d+ \.{64}\s*){14}",
    }
    session.compare(call, at="$", vary=vary)
    assert (session.home("$") / "home.svg").read_text().startswith("<svg")


def read_on(process: subprocess.Popen[str], part: str) -> str:
    """Read what a program writes, to a line that has this part."""
    assert process.stdout is not None
    return next(line for line in process.stdout if part in line)


def ended(process: subprocess.Popen[str]) -> int:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
    return process.wait(PATIENCE_S)


def knock(visitor: Visitor, *ports: int) -> None:
    for port in ports:
        kind = socket.SOCK_DGRAM if port == 8000 else socket.SOCK_STREAM
        with visitor.host.call(socket.socket, socket.AF_INET, kind) as knocker:
            knocker.bind((str(visitor.source), 0))
            knocker.setblocking(False)
            knocker.connect_ex((str(visitor.server), port))
            if kind == socket.SOCK_DGRAM:
                knocker.send(b"\0")


def await_packets(path: Path, port: int, count: int) -> None:
    """Wait until a capture has so many packets to a port; tcpdump tells nobody."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        with path.open("rb") as file:
            flows = [decode_flow(strip_link_header(frame.link, frame.data).packet) for frame in CaptureFile(file)]
        if sum(flow.port is not None and flow.port.number == port for flow in flows) >= count:
            return
        assert time.monotonic() < deadline_s, flows
        time.sleep(0.02)


@pytest.mark.console("docs/explain.md")
def test_why_a_knock_failed(session: DocsSession, console: Console) -> None:
    """Here `within` is a second, not to wait so long; tcpdump writes at once, so that one sees when it has all."""
    config = next(blocks(ROOT / "docs/explain.md", "toml")).text
    session.configure(config.replace('within = "5s"', 'within = "1s"'))
    session.start()
    visitor = Visitor(session.lab.client, ip_address("192.0.2.7"), session.lab.server.ipv4)
    session.lab.client.add_addresses([visitor.source])
    session.swaps["tcpdump "] = "tcpdump -U --immediate-mode "
    capture = session.begin(next(console))
    read_on(capture, "listening on")
    knock(visitor, 7000, 8000)
    time.sleep(1.2)  # too slow: that is what the page shows
    knock(visitor, 9000)
    with suppress(TimeoutError):
        visitor.connect(22, 1.5)  # TCP sends a lost SYN again after a second
    await_packets(session.home("#") / "knock.pcap", 22, 2)
    assert ended(capture) == 0
    moments = ("0.000", "0.010", "6.200", "6.480", "7.490")
    vary = {
        **dict.fromkeys(moments, r"\d\.\d{3}"),
        "2026-05-01 12:00:09": r"20[\d-]{8} [\d:]{8}",
        "6.2 s after the first (within 5s):     ": r"\d+\.\d+ s after the first \(within 1s\): +",
        "6.2 s after the first; `within` is 5s": r"\d+\.\d+ s after the first; `within` is 1s",
    }
    session.compare(next(console), vary=vary, status=1)
    live = session.begin(next(console))
    read_on(live, "watching 192.0.2.7")
    knock(visitor, 7000, 8000, 9000)
    read_on(live, "SYN 9000/tcp")
    assert ended(live) in (0, 1)
    session.daemon.event("opened", address=str(visitor))
    assert "=> door ssh opened at " in session.compare(next(console))
