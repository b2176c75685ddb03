"""fwknop's file, imported as a user does it: the daemon runs with it, and the lines let in whom they say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, Visitors, running_daemon
from tests.support.signed import Signed, Signer, send

pytestmark = pytest.mark.netns("nft", "knock")

ACCESS = """
SOURCE             {near}
OPEN_PORTS         tcp/22
KEY_BASE64         c2hhcmVk
FW_ACCESS_TIMEOUT  300

SOURCE             203.0.113.0/24
OPEN_PORTS         tcp/22
KEY_BASE64         c2hhcmVkIHRvbw==
ACCESS_EXPIRE      01/01/2020
"""
LINE = "a line for each of its users: "


def test_imported_doors_open_with_the_printed_commands(direct_lab: Lab, tmp_path: Path) -> None:
    old = tmp_path / "access.conf"
    guest, other = Visitors(direct_lab).crowd(4, 2)
    old.write_text(ACCESS.format(near=guest))
    imported = subprocess.run([*DOORWARD, "import", old], capture_output=True, text=True, check=True)
    lines = [line.partition(LINE)[2] for line in imported.stderr.splitlines() if LINE in line]
    signers = [Signer("near"), Signer("far")]
    files = Signed(tmp_path / "configuration")
    files.authorize(*(line.replace("KIND KEY NAME", who.line) for line, who in zip(lines, signers, strict=True)))
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, imported.stdout) as daemon:
        daemon.message("accepting signed knocks")
        assert not guest.gets_in()
        send(direct_lab.client, guest.source, guest.server, signers[0].packet(files.server, "ssh"))
        opened = daemon.event("opened", address=str(guest))
        assert (opened["door"], opened["by"]) == ("ssh", "key near")
        assert guest.gets_in()
        send(direct_lab.client, other.source, other.server, signers[1].packet(files.server, "ssh-2"))
        assert "far" in daemon.event("refused", address=str(other))["reason"]
        assert not other.gets_in()
