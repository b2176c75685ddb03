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
def session(lab: Lab) -> Iterator[DocsSession]:
    with docs_session(lab) as session:
        yield session


@pytest.mark.console("docs/strength.md")
def test_how_strong_it_is(session: DocsSession, console: Console) -> None:
    session.configure(WEAK)
    for call in console:
        session.compare(call)


@pytest.mark.console("docs/operations.md", "Another configuration, without locking yourself out")
def test_a_trial(session: DocsSession, console: Console) -> None:
    session.configure(TWO_DOORS.format("guard", ""))
    session.start()
    copy, trial = console
    session.compare(copy)
    (session.home("#") / "new.toml").write_text(TWO_DOORS.format("stealth", ANOTHER))  # "and edit new.toml"
    session.compare(trial)
    assert "doors.web" not in session.daemon.config.read_text()
    session.type(Call("#", "doorward confirm", ""))  # on the console, where it is taken at any time
    assert "doors.web" in session.daemon.config.read_text()
    assert "doors.web" not in session.daemon.config.with_name("doorward.toml.before").read_text()


@pytest.mark.console("docs/report.md")
def test_the_report(session: DocsSession, console: Console) -> None:
    """Of a ledger of the last fortnight, whose sums differ with the hour."""
    session.configure(CONFIGURATION)
    write_sample(session.daemon.state / "ledger.sqlite3", time.time())
    session.swaps["/root/doorward.html"] = str(session.home("#") / "doorward.html")
    (call,) = console
    sums = {"125 openings by 6 people": r"[\d,]+ openings by \d people", "2,668 ": r"[\d,]+ ", "141 ": r"\d+ "}
    session.compare(call, vary=sums)
    assert (session.home("#") / "doorward.html").read_text().startswith("<!doctype html>")
    at_night = re.search(r"^15 6 \* \* \*  root  (doorward report .*)$", PAGE_OF_REPORT.read_text(), re.MULTILINE)
    assert at_night
    session.swaps["/var/lib/doorward"] = str(session.daemon.state)
    assert session.type(Call("#", at_night[1], "")) == ""
    assert (session.daemon.state / "report.html").exists()


@pytest.mark.console("docs/firewalls.md")
def test_alongside_another_firewall(session: DocsSession, console: Console) -> None:
    session.lab.server.run(["nft", "-f", "-"], stdin=DROP_BY_DEFAULT)
    session.configure(TWO_DOORS.format("stealth", ""))
    for call in console:
        session.compare(call, status=1)
