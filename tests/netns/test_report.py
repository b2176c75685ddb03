"""The report of what a running daemon recorded of real packets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import Visitors, running_daemon
from tests.support.report_page import Read

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
"""


def test_report_of_a_running_daemon(direct_lab: Lab, tmp_path: Path) -> None:
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:
        knocker, by_hand = (Visitors(direct_lab).fresh(version) for version in (4, 6))
        knocker.knock("7001", "7002:udp", "7003")
        daemon.event("opened", address=str(knocker))
        daemon.run("open", "ssh", by_hand)
        knocker.knock(*range(9001, 9061))  # a scanner
        daemon.event("refused", address=str(knocker))

        page = tmp_path / "report.html"
        answer = json.loads(daemon.run("report", "--json", "--html", page).stdout)

    assert (answer["openings"], answer["open_now"], answer["refusals"]) == (2, 2, 1)
    assert [(user["door"], user["person"], user["by"]) for user in answer["users"]] == [
        ("ssh", str(by_hand), "hand"),
        ("ssh", str(knocker), "knock"),
    ]
    text = Read(page.read_text()).text
    assert f"{knocker} knock 1" in text
    assert f"{by_hand} opened by hand 1" in text
    assert "rate limit exceeded (more than 20 knock packets/s); progress reset 1" in text
    assert "700" not in text  # no port of the sequence
