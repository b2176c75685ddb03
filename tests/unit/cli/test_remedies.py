"""Messages name what helps: the file, the command and the option that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.model import Port
from doorward.verify.findings import Observations, VerifyRequest, find_problems
from doorward.verify.nmap_xml import PortAnswer, PortResult
from doorward.verify.port_set import parse_ports

KNOCKD = "[options]\n  UseSyslog\n[openSSH]\n  sequence = 7000,8000\n  command = /bin/true\n"
TWO_FAULTS = '[doors.x]\nknock = ["8000/icmp", "70000/tcp", "9000/tcp"]\nopens = ["22/tcp"]\n'
RANGE = '[doors.x]\nopens = ["22/tcp"]\nknock = ["60000-61000/udp"]\n'
QUOTED = '[gate]\ncapacity = "1000"\n[doors.x]\nopens = ["22/tcp"]\n'


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no daemon, no configuration and no known host."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "words", "named"),
    [
        (RANGE, "check -c FILE", "`public`"),
        (QUOTED, "check -c FILE", "without quotes"),
        (KNOCKD, "check -c FILE", "`doorward import FILE"),
        (KNOCKD, "apply FILE", "`doorward import FILE"),
        ("", "check", "`sudo doorward init`"),
        ("", "status", "`systemctl start doorward`"),
        ("", "open ssh 192.0.2.7", "`systemctl start doorward`"),
        ("", "knock", "required: HOST\n"),
        ("", "proxy", "required: HOST, PORT\n"),
        ("", "verify", "required: HOST\n"),
        ("", "knock box", "`doorward init`"),
        ("", "knock box 7000,8000", ": 7000 8000\n"),
        ("", "knock box:7000", ": box 7000\n"),
        ("", "add http://box/", "doorward://"),
        ("", "log --last 0", "at least 1"),
    ],
)
def test_the_remedy_is_named(text: str, words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("FILE").write_text(text)
    try:
        status = main(words.split())
    except SystemExit as end:  # argparse's
        status = int(end.code or 0)
    said = capsys.readouterr().err
    assert (status in (1, 2), named in said) == (True, True), said
    assert all(line.startswith("doorward") or "usage:" in said for line in said.splitlines() if "FILE" not in line)


@pytest.mark.parametrize("words", ["apply none.toml", "key -c none.toml", "check -c none.toml"])
def test_no_option_is_named_that_the_command_has_not(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert " -c " not in capsys.readouterr().err


def test_two_faults_of_a_line_are_sorted_by_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("FILE").write_text(TWO_FAULTS)
    assert main(["check", "-c", "FILE"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert ("8000/icmp" in first, "70000" in second) == (True, True)


@pytest.mark.parametrize("answer", [PortAnswer.OPEN, PortAnswer.CLOSED])
def test_verify_names_the_ports_that_may_be_meant_to_be_public(answer: PortAnswer) -> None:
    """In stealth, a public port on which nothing listens refuses."""
    before = {port: PortResult(answer, "") for port in parse_ports("80,443")}
    before[Port.parse("81/tcp")] = PortResult(PortAnswer.SILENT, "")
    (finding,) = find_problems(VerifyRequest(frozenset(before)), Observations(before))
    assert "--expect 80,443" in finding.instead
