"""The page of `doorward share --page` in Firefox: run by `scripts/firefox`, its last result in docs/browser.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.lab.topology import Lab
from doorward.signed.authorize import ValidKnock
from tests.support.browser_gate import BrowserGate
from tests.support.firefox import Firefox
from tests.support.signed import Signed

pytestmark = [pytest.mark.netns, pytest.mark.firefox]
TOO_WIDE = (
    "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)"
)


@pytest.fixture
def gate(lab: Lab, tmp_path: Path) -> Iterator[BrowserGate]:
    (tmp_path / "doorward.toml").write_text('[signed]\n[doors.ssh]\nopens = ["22/tcp"]\n')
    with BrowserGate(lab.server, Signed(tmp_path).server) as gate:
        yield gate


def test_page_knocks(lab: Lab, gate: BrowserGate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = (str(lab.server.ipv4), str(lab.server.ipv6))
    assert main(["share", "--page", "ssh", "--host", *addresses, "-c", str(tmp_path / "doorward.toml")]) == 0
    (tmp_path / "knock.html").write_text(capsys.readouterr().out)
    with Firefox(tmp_path / "profile", lab.client) as browser:
        browser.open(f"file://{tmp_path / 'knock.html'}")
        line = browser.evaluate("doorward.line()")
        assert line.startswith("ssh-ed25519 ")
        browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        for width in (1280, 390, 320):
            browser.look(width)
            assert browser.evaluate(TOO_WIDE) == []
        assert browser.evaluate("doorward.knock('ssh')") == "silent"  # its key is not allowed
        gate.authorize(line)
        gate.verdicts()
        for lost in (0, 2):
            gate.loses = lost
            assert browser.evaluate("doorward.knock('ssh')") == "confirmed"
        assert browser.evaluate("doorward.close('ssh')") == "confirmed"
        assert {knock.is_close for knock in gate.verdicts() if isinstance(knock, ValidKnock)} == {False, True}
    with Firefox(tmp_path / "profile", lab.client) as browser:  # after a restart
        browser.open(f"file://{tmp_path / 'knock.html'}")
        assert browser.evaluate("doorward.line()") == line
        gate.confirms = False
        assert browser.evaluate("doorward.knock('ssh')") == "silent"
        sources = {received.source for received in gate.received.values()}
        assert sources == {str(lab.client.ipv4), str(lab.client.ipv6)}
        lab.client.ip("link", "set", lab.client.interface, "down")
        assert browser.evaluate("doorward.knock('ssh')") == "blocked"
    assert gate.malformed == []
