"""What the page of `doorward share --page` shows in Firefox; tests/browser/test_knock_gate.py knocks with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.lab.topology import Lab
from tests.support.firefox import Firefox
from tests.support.signed import Signed

pytestmark = [pytest.mark.netns, pytest.mark.firefox]
TOO_WIDE = (
    "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)"
)


def test_page_fits_and_reports_that_there_is_no_network(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, server = lab.client, lab.server
    (tmp_path / "doorward.toml").write_text('[signed]\n[doors.ssh]\nopens = ["22/tcp"]\n')
    Signed(tmp_path)
    words = ("ssh", "--host", str(server.ipv4), str(server.ipv6), "--link", "ssh=ssh://alice@192.0.2.7")
    assert main(["share", "--page", *words, "-c", str(tmp_path / "doorward.toml")]) == 0
    (tmp_path / "knock.html").write_text(capsys.readouterr().out)
    with Firefox(tmp_path / "profile", client) as browser:
        browser.open(f"file://{tmp_path / 'knock.html'}")
        assert browser.evaluate("doorward.knock('ssh')") == "silent"  # there is no gate
        browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        browser.evaluate("document.querySelector('[aria-expanded]').click()")
        for width in (1280, 390, 320):
            browser.look(width)
            assert browser.evaluate(TOO_WIDE) == []
        client.ip("link", "set", client.interface, "down")
        assert browser.evaluate("doorward.knock('ssh')") == "blocked"
