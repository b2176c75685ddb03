"""`doorward report`: which file it writes, with which mode, and which it leaves alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.daemon.ledger import Ledger
from doorward.report.page import MARK
from tests.support.openings import opening
from tests.support.processes import as_nobody, needs_root

CONFIGURATION = '[doors.ssh]\nknock = ["17341/tcp", "52018/udp", "9467/tcp"]\nopens = ["22/tcp"]\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a ledger and a configuration; three openings, one of them long ago."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doorward.toml").write_text(CONFIGURATION)
    now_s = time.time()
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    for ago_s in (100 * 86_400, 8000, 10):
        at_s = now_s - ago_s
        ledger.opened(opening(since_s=at_s, until_s=at_s + 30, by="key ada@laptop"))
        if ago_s > 30:
            ledger.closed("ssh", opening().address, at_s + 30, "time")
    ledger.refused(None, opening().address, now_s - 60, "a scanner")
    ledger.close()
    return tmp_path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def contents(folder: Path) -> dict[str, bytes]:
    """Return each file's contents, without the two that SQLite creates next to the ledger."""
    files = (
        path for path in folder.iterdir() if path.is_file() and path.suffix not in (".sqlite3-wal", ".sqlite3-shm")
    )
    return {path.name: path.read_bytes() for path in files}


def test_page_is_private(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--html", "page.html"]) == 0
    page = folder / "page.html"
    assert page.read_text().startswith(MARK)
    assert "ada@laptop" in page.read_text()
    assert mode_of(page) == 0o600
    assert sorted(path.name for path in folder.iterdir() if "page" in path.name) == ["page.html"]
    printed = capsys.readouterr().out
    assert printed.startswith("page.html: 2 openings by 1 person or address, 1 refusal from 1 network, ")


def test_since(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for since, openings in (("1h", 1), ("7d", 2), ("365d", 3), ("999999d", 3)):
        assert main(["report", "--json", "--since", since]) == 0
        assert json.loads(capsys.readouterr().out)["openings"] == openings
    assert main(["report", "--json", "--since", "soon"]) == 2
    assert "doorward: --since: invalid duration 'soon'" in capsys.readouterr().err


def test_json_with_html(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--json", "--html", "page.html"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["open_now"], answer["refusals"], answer["users"][0]["person"]) == (1, 1, "ada@laptop")
    assert answer["notes"] >= 1
    assert (folder / "page.html").exists()


def test_the_page_on_standard_output(folder: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["report", "--html", "-"]) == 0
    assert capsysbinary.readouterr().out.startswith(MARK.encode())
    assert not (folder / "-").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no output given; use --html FILE or --json"),
        (["--html", "-", "--json"], "both write to standard output"),
        (["--html", "nowhere/page.html"], "No such file or directory; name a file in a directory that"),
        (["--html", "."], "not a regular file; remove it, or name another file"),
        (["--html", "doorward.toml"], "not a doorward report, so it is left alone"),
        (["--html", "ledger.sqlite3"], "not a doorward report, so it is left alone"),
        (["--html", "empty"], "not a doorward report, so it is left alone"),
        (["--html", "link.html"], "not a regular file"),
        (["--html", "page.html", "-c", "none.toml"], "none.toml: no such file"),
    ],
)
def test_wrong_calls(words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").touch()
    (folder / "link.html").symlink_to("elsewhere.html")
    before = contents(folder)
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_an_earlier_report_is_replaced_and_keeps_its_mode(folder: Path) -> None:
    page = folder / "page.html"
    assert main(["report", "--html", "page.html"]) == 0
    first = page.stat().st_ino
    page.chmod(0o640)
    with page.open("a") as file:
        file.write("old")
    assert main(["report", "--html", "page.html"]) == 0
    assert not page.read_text().endswith("old")
    assert mode_of(page) == 0o640
    assert page.stat().st_ino != first  # atomic: readers of the old page continue


@needs_root
def test_file_of_another_user_does_not_set_mode(folder: Path) -> None:
    page = folder / "page.html"
    page.write_text(MARK)
    page.chmod(0o666)
    os.chown(page, 65534, 65534)
    assert main(["report", "--html", "page.html"]) == 0
    assert (mode_of(page), page.stat().st_uid) == (0o600, os.geteuid())


@needs_root
def test_unreadable_ledger_is_reported(folder: Path) -> None:
    (folder / "ledger.sqlite3").chmod(0o600)
    folder.chmod(0o700)
    assert as_nobody(lambda: main(["report", "--json"])) == 2


def test_a_host_without_a_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "doorward.toml").unlink()
    assert main(["report", "--html", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] is None
    assert (
        f'There is no configuration at <code class="long">{folder}/doorward.toml</code>'
        in (folder / "page.html").read_text()
    )


def test_a_host_without_a_ledger(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ledger.sqlite3").unlink()
    assert main(["report", "--html", "page.html"]) == 2
    assert "no ledger; it begins when `doorward run` first starts" in capsys.readouterr().err
    assert not (folder / "page.html").exists()


def test_a_wrong_configuration_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "doorward.toml").write_text("[gate]\nmode = 1\n")
    assert main(["report", "--html", "page.html"]) == 2
    assert "doorward.toml:2: mode: 1 is unknown" in capsys.readouterr().err
    assert not (folder / "page.html").exists()
