"""`doorward import` as a user calls it."""

from __future__ import annotations

import argparse
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from doorward.errors import ConfigError, HostError, UsageError

command = import_module("doorward.cli.import")  # `import` is no name that Python's own statement takes

KNOCKD = "[ssh]\nsequence = 7,8\ncommand = ufw allow from %IP% to any port ssh proto tcp\n"


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    status: int = command.run(parser.parse_args([str(word) for word in words]))
    return status


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "knockd.conf"
    path.write_text(KNOCKD)
    return path


def test_prints_the_new_file_and_says_what_to_check(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(old) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out)["doors"]["ssh"]["opens"] == ["22/tcp"]
    assert "doorward import: check: door 'ssh': stayed open until something closed it" in err


def test_writes_a_new_file_that_only_its_owner_reads(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = old.with_name("doorward.toml")
    assert run(old, "-o", new) == 0
    assert tomllib.loads(new.read_text())["doors"]["ssh"]["for"] == "1h"
    assert new.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().out == ""


def test_never_writes_over_a_file(old: Path) -> None:
    with pytest.raises(UsageError, match="already exists and is not overwritten"):
        run(old, "-o", old)
    assert old.read_text().startswith("[ssh]")


def test_an_old_file_in_latin_1(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_bytes(b"# caf\xe9\n" + old.read_bytes())
    assert run(old) == 0
    assert "22/tcp" in capsys.readouterr().out


def test_what_cannot_be_done(old: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        run(tmp_path / "none")
    with pytest.raises(HostError, match="Not a directory"):
        run(old, "-o", old / "doorward.toml")
    old.write_text("[a]\nsequence = 0\n")
    with pytest.raises(ConfigError, match=r"knockd\.conf:2: sequence: port 0 does not exist"):
        run(old, "-o", tmp_path / "new")
    assert not (tmp_path / "new").exists()


FWKNOP = "SOURCE 192.0.2.0/24\nOPEN_PORTS tcp/22\nKEY open-sesame\n"


def test_access_conf_is_known_by_its_lines(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_text(FWKNOP)
    assert run(old) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out)["doors"]["ssh"] == {"opens": ["22/tcp"], "for": "30s"}
    assert 'doors="ssh",from="192.0.2.0/24",for-max="5m" KIND KEY NAME' in err
    assert "sesame" not in out + err


def test_whose_file_it_is_can_be_said(old: Path) -> None:
    with pytest.raises(ConfigError, match="the line begins with no word that fwknopd knows"):
        run(old, "--from", "fwknop")
    old.write_text(FWKNOP)
    with pytest.raises(ConfigError, match="stands in no section"):
        run(old, "--from", "knockd")
    with pytest.raises(SystemExit):
        run(old, "--from", "iptables")


def test_a_file_of_neither(old: Path) -> None:
    old.write_text("# nothing\nhello\n")
    with pytest.raises(UsageError, match=r"neither a knockd\.conf nor an access\.conf"):
        run(old)
