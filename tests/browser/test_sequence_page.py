"""The page of `doorward share --page --sequence` in a real browser: its packets open the door of a real gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.lab.topology import Lab
from tests.support.browser import Browser
from tests.support.daemon import running_daemon
from tests.support.firefox import Firefox

pytestmark = pytest.mark.netns
CONFIG = """\
[doors.ssh]
knock = ["7001/tcp", "8001/udp", "9001/tcp", "8002/udp", "7002/tcp"]
opens = ["22/tcp"]
"""
ATTEMPTS = 5  # a machine that is busy repeats a packet now and then, as a person's network does


@pytest.mark.parametrize("kind", [Browser, pytest.param(Firefox, marks=pytest.mark.firefox)])
def test_sequence_opens_the_door(
    kind: type[Browser | Firefox], lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, client = lab.server, lab.client
    page = tmp_path / "knock.html"
    with running_daemon(server, tmp_path / "gate", CONFIG) as daemon, kind(tmp_path / "profile", client) as browser:
        for address, source in ((server.ipv4, client.ipv4), (server.ipv6, client.ipv6)):
            config = str(tmp_path / "doorward.toml")
            Path(config).write_text(CONFIG)
            assert main(["share", "--page", "--sequence", "ssh", "--host", str(address), "-c", config]) == 0
            page.write_text(capsys.readouterr().out)
            browser.open(f"file://{page}")
            for _ in range(ATTEMPTS):
                assert browser.evaluate("doorward.knock('ssh')") == "silent"
                if any(opening["address"] == str(source) for opening in daemon.openings()):
                    break
            assert str(source) in [opening["address"] for opening in daemon.openings()]
            assert "secret" in browser.evaluate("document.getElementById('foot').textContent")
            assert browser.evaluate("document.querySelectorAll('button:not([hidden])').length") == 1
