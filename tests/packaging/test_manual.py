"""The manual pages: two linters find nothing in them, and they say what the commands say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.cli.main import COMMANDS, overview
from doorward.config.schema import Gate
from manual import groff
from manual.markdown import of_document
from tests.conftest import unavailable


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    subprocess.run([sys.executable, "-m", "manual", folder], check=True)
    return folder


def run(*words: object) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(words[0])) is None:
        unavailable(f"not installed: {words[0]}")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "78", "MAN_KEEP_FORMATTING": "", "MANROFFSEQ": ""}
    return subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)


def shown(share: Path, page: str) -> str:
    """Return a page as a reader sees it, in one line."""
    return " ".join(run("man", "--nh", "--nj", "-l", share / "man" / f"man{page[-1]}" / page).stdout.split())


def test_every_command_has_a_page(share: Path) -> None:
    pages = {path.name for path in (share / "man").rglob("*.?")}
    own = {"doorward.1", "doorward.toml.5", "knockd.1", "knock.1"}
    assert pages == own | {f"doorward-{name}.1" for name in COMMANDS}


def test_mandoc_finds_nothing(share: Path) -> None:
    done = run("mandoc", "-T", "lint", "-W", "warning", *sorted((share / "man").rglob("*.?")))
    assert (done.returncode, done.stdout) == (0, "")


def test_man_warns_of_nothing(share: Path) -> None:
    for page in sorted((share / "man").rglob("*.?")):
        done = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)
        assert (done.returncode, done.stderr) == (0, ""), page


def test_pages_say_what_help_says(share: Path) -> None:
    every = shown(share, "doorward.1")
    for line in overview().splitlines():
        if row := re.fullmatch(r"  (\S+) +(.*)", line):
            assert f"doorward-{row[1]}(1) {row[2]}" in every
    one = shown(share, "doorward-open.1")
    assert "SYNOPSIS doorward open [-h] [--for T] [--json] DOOR ADDRESS" in one
    assert "--for T how long, like 90s, 10m, 8h (default: the door's)" in one
    assert "EXIT STATUS 0 open, 1 no daemon is running" in one
    assert "-i, --interface <int> network interface to listen on" in shown(share, "knockd.1")


@pytest.mark.parametrize("name", COMMANDS)
def test_pages_of_commands_have_every_section(name: str, share: Path) -> None:
    source = (share / "man/man1" / f"doorward-{name}.1").read_text()
    sections = re.findall(r'^\.SH "(.*)"$', source, re.MULTILINE)
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert {"OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"} <= set(sections)
    about = source.partition('"DESCRIPTION"')[2].partition(".SH")[0]
    assert 15 <= len(about.split()) <= 90


def test_every_setting_is_explained(share: Path) -> None:
    page = shown(share, "doorward.toml.5")
    assert [name for name in Gate.__dataclass_fields__ if not re.search(rf" {name} \([^;]+; default: ", page)] == []
    assert "A WHOLE FILE [gate] mode" in page
    assert "(how)" not in page
    assert "[doors.NAME]" in page


def test_a_document_becomes_a_page() -> None:
    document = (
        "# Title\n\nSee [`a`](b.md) ([why](c.md)) and\n.dots\n\n- one\n- two\n  lines\n\n"
        "## `x` y\n\n| s | type | default | range | meaning |\n"
    )
    document += "| --- | --- | --- | --- | --- |\n| `p` | text | none | to 9 | a \\| b |\n\n```\n.code \\ 'x'\n```\n"
    assert of_document(document).splitlines() == [
        '.SH "DESCRIPTION"',
        ".PP",
        r"See \fBa\fR and .dots",
        r".IP \(bu 2",
        "one",
        r".IP \(bu 2",
        "two lines",
        '.SH "x Y"',
        ".TP",
        r"\fBp\fR (text: to 9; default: none)",
        "a | b",
        *(".PP", ".RS 4", ".nf", r"\&.code \e \(aqx\(aq", ".fi", ".RE"),
    ]


@pytest.mark.parametrize("text", [".TH x", "'so /etc/passwd", "\\fBx", "a-b ^~`"])
def test_text_is_never_taken_for_a_request(text: str) -> None:
    page = groff.page(
        groff.title("x", 1, "2026-01-01", "x", "x"), groff.heading("name") + groff.line(groff.plain(text)) + "\n"
    )
    lines = subprocess.run(
        ["man", "-E", "ascii", "-l", "-"], input=page, capture_output=True, text=True, check=True
    ).stdout
    assert text in lines
