"""`doorward import` on the command line."""

from __future__ import annotations

import argparse
import tomllib
from base64 import b64decode
from importlib import import_module
from pathlib import Path

import pytest

from doorward.errors import ConfigError, HostError, UsageError
from tests.support.errors import raises

command = import_module("doorward.cli.import")  # Python's own statement cannot import a module named `import`

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


def test_prints_new_file_and_notes(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(old) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out)["doors"]["ssh"]["opens"] == ["22/tcp"]
    assert "doorward import: check: door 'ssh': stayed open until something closed it" in err


def test_new_file_is_private(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = old.with_name("doorward.toml")
    assert run(old, "-o", new) == 0
    assert tomllib.loads(new.read_text())["doors"]["ssh"]["for"] == "1h"
    assert new.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().out == ""


def test_existing_file_is_not_overwritten(old: Path) -> None:
    with raises(UsageError, "file-exists"):
        run(old, "-o", old)
    assert old.read_text().startswith("[ssh]")


def test_output_is_not_the_file_of_the_keys(tmp_path: Path) -> None:
    access = tmp_path / "access.conf"
    access.write_text("SOURCE ANY\nOPEN_PORTS tcp/22\nKEY abcdefgh\nHMAC_KEY ijklmnop\n")
    with raises(UsageError, "output-is-keys"):
        run(access, "-o", tmp_path / "fwknop.keys")
    assert list(tmp_path.iterdir()) == [access]


def test_latin_1_file(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_bytes(b"# caf\xe9\n" + old.read_bytes())
    assert run(old) == 0
    assert "22/tcp" in capsys.readouterr().out


def test_invalid_input_files(old: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unreadable-file"):
        run(tmp_path / "none")
    with raises(HostError, "unwritable-file"):
        run(old, "-o", old / "doorward.toml")
    old.write_text("[a]\nsequence = 0\n")
    with raises(ConfigError, "port-range"):
        run(old, "-o", tmp_path / "new")
    assert not (tmp_path / "new").exists()


FWKNOP = "SOURCE 192.0.2.0/24\nOPEN_PORTS tcp/22\nKEY open-sesame\n"


@pytest.mark.parametrize("existing", ["fwknop.keys", "doorward.toml"])
def test_of_keys_and_configuration_both_are_written_or_none(old: Path, tmp_path: Path, existing: str) -> None:
    old.write_text(FWKNOP + "HMAC_KEY another\n")
    path = tmp_path / "new" / existing
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with raises(UsageError, "file-exists"):
        run(old, "-o", path.parent / "doorward.toml")
    assert list(path.parent.iterdir()) == [path]
    assert not (tmp_path / "elsewhere").exists()


def test_access_conf_is_detected(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_text(FWKNOP)
    assert run(old) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out)["doors"]["ssh"] == {"opens": ["22/tcp"], "for": "30s"}
    assert 'doors="ssh",from="192.0.2.0/24",for-max="5m" KIND KEY NAME' in err
    assert "sesame" not in out + err


@pytest.mark.parametrize("passphrase", [b"caf\xe9", b"caf\xc3\xa9", b"caf\xe9\xa0", b"\xc3\xa0 \xe9\xc3\xa0"])
def test_a_passphrase_keeps_its_bytes_in_any_encoding(old: Path, passphrase: bytes) -> None:
    old.write_bytes(FWKNOP.replace("open-sesame", "%b").encode() % passphrase + b"HMAC_KEY another\n")
    assert run(old, "-o", old.with_name("doorward.toml")) == 0
    _, key, hmac = old.with_name("fwknop.keys").read_text().splitlines()[-1].split()
    assert (b64decode(key), b64decode(hmac)) == (passphrase, b"another")


def test_from_option_overrides_detection(old: Path) -> None:
    with raises(ConfigError, "unknown-keyword"):
        run(old, "--from", "fwknop")
    old.write_text(FWKNOP)
    with raises(ConfigError, "outside-section"):
        run(old, "--from", "knockd")
    with pytest.raises(SystemExit):
        run(old, "--from", "iptables")


def test_unknown_file_type(old: Path) -> None:
    old.write_text("# nothing\nhello\n")
    with raises(UsageError, "unknown-format"):
        run(old)
