"""The pages about the gate itself, typed on the server: how strong, beside another firewall, on trial, the report."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.docs_session import DocsSession, docs_session
from tests.support.documents import ROOT, Call
from tests.support.sample_ledger import CONFIGURATION, write_sample

pytestmark = pytest.mark.netns("nft", "ssh", "/usr/sbin/sshd", "unshare")

PAGE_OF_REPORT = ROOT / "docs/report.md"
WEAK = """\
[gate]
mode = "stealth"

[doors.ssh]
opens = ["22/tcp"]
knock = ["17341/tcp", "52018/udp"]
"""
TWO_DOORS = """
[gate]
mode = "{}"
[doors.ssh]
knock = ["4721/tcp", "11839/udp", "7306/tcp"]
opens = ["22/tcp"]
{}"""
ANOTHER = '[doors.web]\nknock = ["17341/tcp", "52018/udp", "9467/tcp"]\nopens = ["443/tcp"]\n'
DROP_BY_DEFAULT = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        tcp dport 443 accept
    }
}
"""


@pytest.fixture
def desk(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as desk:
        yield desk


@pytest.mark.console("docs/strength.md")
def test_how_strong_it_is(desk: DocsSession, console: Console) -> None:
    desk.configure(WEAK)
    for call in console:
        desk.compare(call)


@pytest.mark.console("docs/operations.md", "Another configuration, without locking yourself out")
def test_a_trial(desk: DocsSession, console: Console) -> None:
    desk.configure(TWO_DOORS.format("guard", ""))
    desk.start()
    copy, trial = console
    desk.compare(copy)
    (desk.home("#") / "new.toml").write_text(TWO_DOORS.format("stealth", ANOTHER))  # "and edit new.toml"
    desk.compare(trial)
    assert "doors.web" not in desk.daemon.config.read_text()
    desk.type(Call("#", "doorward confirm", ""))  # on the console, where it is taken at any time
    assert "doors.web" in desk.daemon.config.read_text()
    assert "doors.web" not in desk.daemon.config.with_name("doorward.toml.before").read_text()


@pytest.mark.console("docs/report.md")
def test_the_report(desk: DocsSession, console: Console) -> None:
    """Of a ledger of the last fortnight, whose sums differ with the hour."""
    desk.configure(CONFIGURATION)
    write_sample(desk.daemon.state / "ledger.sqlite3", time.time())
    desk.swaps["/root/doorward.html"] = str(desk.home("#") / "doorward.html")
    (call,) = console
    sums = {"125 openings by 6 people": r"[\d,]+ openings by \d people", "2,668 ": r"[\d,]+ ", "141 ": r"\d+ "}
    desk.compare(call, vary=sums)
    assert (desk.home("#") / "doorward.html").read_text().startswith("<!doctype html>")
    at_night = re.search(r"^    15 6 \* \* \*  root  (doorward report .*)$", PAGE_OF_REPORT.read_text(), re.MULTILINE)
    assert at_night
    desk.swaps["/var/lib/doorward"] = str(desk.daemon.state)
    assert desk.type(Call("#", at_night[1], "")) == ""
    assert (desk.daemon.state / "report.html").exists()


@pytest.mark.console("docs/firewalls.md")
def test_alongside_another_firewall(desk: DocsSession, console: Console) -> None:
    desk.lab.server.run(["nft", "-f", "-"], stdin=DROP_BY_DEFAULT)
    desk.configure(TWO_DOORS.format("stealth", ""))
    for call in console:
        desk.compare(call, status=1)
