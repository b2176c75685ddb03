"""docs/fail2ban.md: its filter finds every refusal in the daemon's own lines, and nothing else; by the real program."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.cli.main import build_parser
from doorward.core.openings import log_fields
from doorward.daemon.knock_events import _REJECTIONS
from doorward.daemon.log import Log
from doorward.model import Opening, Port
from tests.conftest import unavailable
from tests.support.documents import ROOT, blocks

PAGE = ROOT / "docs/fail2ban.md"
ACTION, JAIL, FILTER = (block.text for block in blocks(PAGE, "ini"))
SIGNED = "signed knock: key laptop may not open the door db"


def lines(*, stamped: bool) -> str:
    """Have the daemon's log write what it writes; in the journal lines have no time of their own."""
    stream = io.StringIO()
    log = Log("text", stream)
    log._stamp = stamped
    log.message("started", "2 doors, mode guard; 0 open")
    log.event("refused", {"address": "203.0.113.9", "door": None, "reason": _REJECTIONS["throttled"]})
    log.event("refused", {"address": "2001:db8::9", "door": "db", "reason": SIGNED})
    opening = Opening("ssh", ip_address("192.0.2.7"), (Port.parse("22/tcp"),), 0.0, 30.0, "knock")
    log.event("opened", log_fields(opening, 30.0, "knock"))
    log.event("refused", {"address": "192.0.2.8", "door": "ssh", "reason": _REJECTIONS["full"]})
    return stream.getvalue()


def found(text: str, folder: Path) -> list[str]:
    """Ask fail2ban which addresses failed."""
    if shutil.which("fail2ban-regex") is None:
        unavailable("not installed: fail2ban-regex (fail2ban)")
    (folder / "log").write_text(text)
    (folder / "doorward.conf").write_text(FILTER)
    command = ["fail2ban-regex", "-o", "ip", str(folder / "log"), str(folder / "doorward.conf")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_filter_finds_refusals_in_a_file(tmp_path: Path) -> None:
    assert found(lines(stamped=True), tmp_path) == ["203.0.113.9", "2001:db8::9"]


def test_the_filter_finds_refusals_in_the_journal(tmp_path: Path) -> None:
    """As fail2ban puts a record of the journal together: host, program and process before the message."""
    written = lines(stamped=False).splitlines(keepends=True)
    journal = "".join(f"2026-05-01T12:00:09 host doorward[4711]: {line}" for line in written)
    assert found(journal, tmp_path) == ["203.0.113.9", "2001:db8::9"]


def test_the_lines_on_the_page_are_found_too(tmp_path: Path) -> None:
    (shown,) = (block.text for block in blocks(PAGE, "text"))
    dated = re.sub(r"^(?=.)", "2026-05-01T12:00:09+0200 ", shown, flags=re.MULTILINE)
    assert found(dated, tmp_path) == ["203.0.113.9", "198.51.100.9"]


@pytest.mark.parametrize("name", ["actionban", "actionunban"])
def test_the_action_calls_doorward_as_it_is(name: str) -> None:
    match = re.search(rf"^{name} = doorward (.*?)(?: \|\| true)?$", ACTION, re.MULTILINE)
    assert match
    command, *words = match[1].replace("<ip>", "203.0.113.9").replace("<bantime>", "3600").split()
    assert build_parser(command).parse_args(words).address == "203.0.113.9"
    assert "\nbanaction = doorward\n" in JAIL
