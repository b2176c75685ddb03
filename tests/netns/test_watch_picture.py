"""The live view as the manual shows it; `PICTURES=write pytest tests/netns/test_watch_picture.py` updates it."""

from __future__ import annotations

import asyncio
import os
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from textual.pilot import Pilot

from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from doorward.watch.tui import WatchApp
from tests.netns.test_watch import screen, until
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns("nft")

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "watch.svg"
CONFIG = """
[gate]
mode = "stealth"
public = ["80/tcp", "443/tcp"]
[doors.ssh]
knock = ["7001/tcp", "7002/tcp", "7003/tcp"]
within = "2m"
opens = ["22/tcp"]
for = "1m"
[doors.database]
opens = ["5432/tcp"]
[doors.mail]
knock = ["7101/tcp", "7102/tcp", "7103/tcp"]
opens = ["587/tcp", "993/tcp"]
for = "12s"
"""
SSH, MAIL = ((7001, 7002, 7003), (7101, 7102, 7103))
SENT = [  # by whom, to which ports
    ("198.51.100.23", SSH),
    ("2001:db8:5:7::21", SSH),
    ("198.51.100.40", SSH[:2]),
    ("2001:db8:9::c3", SSH[:1]),
    ("203.0.113.80", tuple(range(1000, 1060))),
    ("198.51.100.23", MAIL),
]


def send(lab: Lab, daemon: RunningDaemon) -> None:
    """Send all knocks, and open a door by hand."""
    frames = FrameSender(lab.client, lab.server)
    for source, ports in SENT:
        for port in ports:
            frames.send(Packet(ip_address(source).packed, Port.parse(f"{port}/tcp"), 2))
    frames.close()
    daemon.event("opened", door="mail")
    daemon.run("open", "database", "192.0.2.14", "--for", "8h")
    daemon.run("ban", "203.0.113.9", "--for", "8h")


def test_manual_picture(direct_lab: Lab, tmp_path: Path) -> None:
    async def story(pilot: Pilot[int], daemon: RunningDaemon) -> None:
        await until(pilot, lambda: "mode stealth" in screen(pilot.app))
        send(direct_lab, daemon)
        await until(pilot, lambda: "mail" in screen(pilot.app) and "4 open" in screen(pilot.app))
        await until(pilot, lambda: "203.0.113.9 " in screen(pilot.app))
        await until(pilot, lambda: "sequences              0/s        3" in screen(pilot.app))
        # Without the fonts, which a browser would fetch from elsewhere: any monospaced one will do.
        drawn = re.sub(r"@font-face \{.*?\}", "", pilot.app.export_screenshot(title="doorward watch"), flags=re.DOTALL)
        for word in ("database", "198.51.100.40", "2001:db8:5:7::21", "stealth"):
            assert word in drawn
        if os.environ.get("PICTURES") == "write":
            PICTURE.parent.mkdir(exist_ok=True)
            PICTURE.write_text(drawn)

    async def play(daemon: RunningDaemon) -> None:
        async with WatchApp(daemon.control).run_test(size=(110, 30)) as pilot:
            await story(pilot, daemon)

    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:
        asyncio.run(play(daemon))
    assert PICTURE.exists()
