"""`doorward people` and `doorward revoke`: who is in authorized_keys, and who no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.cli.main import main
from tests.support.signed import Signed, Signer

CONFIG = '[signed]\n[doors.ssh]\nopens = ["22/tcp"]\n'
PHONE, LAPTOP, OLD = Signer("phone"), Signer("laptop"), Signer("ann")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "doorward.toml").write_text(CONFIG)
    path = Signed(tmp_path).keys_file
    laptop = f'doors="ssh",for-max="1h",expiry-time="20300101Z" {LAPTOP.line}'
    path.write_text(f"# who may knock\n{PHONE.line}\n\n  {laptop}\n# the end")
    return path


def call(keys: Path, *words: str) -> int:
    return main([*words, "-c", str(keys.with_name("doorward.toml"))])


def test_people_are_listed(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(keys, "people") == 0
    head, phone, laptop = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["name", "opens", "for", "at", "most", "until", "key"]
    assert phone == f"phone every door the door's time no expiry {PHONE.key.fingerprint_text}".split()
    assert laptop[:3] + laptop[-1:] == ["laptop", "ssh", "1h", LAPTOP.key.fingerprint_text]


def test_an_invalid_line_is_shown(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.write_text(f"nonsense\n{PHONE.line}\n")
    assert call(keys, "people") == 2
    out, err = capsys.readouterr()
    assert "phone" in out
    assert err.startswith(f"{keys}:1: ")


@pytest.mark.parametrize("name", ["laptop", LAPTOP.key.fingerprint_text], ids=["name", "fingerprint"])
def test_a_key_is_removed_and_the_rest_is_kept(keys: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert call(keys, "revoke", name) == 0
    assert keys.read_text() == f"# who may knock\n{PHONE.line}\n\n# the end"
    printed = capsys.readouterr().out
    assert printed == f"removed laptop ({LAPTOP.key.fingerprint_text}), which opened ssh for at most 1h\n"


def test_every_key_of_a_name_is_removed(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = OLD.line.replace(" ann", " phone")
    keys.write_text(f"{PHONE.line}\n{other}\n{LAPTOP.line}\n")
    assert call(keys, "revoke", "phone") == 0
    assert keys.read_text() == f"{LAPTOP.line}\n"
    assert capsys.readouterr().out.count("removed phone") == 2


def test_a_repeated_key_does_not_become_valid(keys: Path) -> None:
    again = PHONE.line.replace(" phone", " spare")
    keys.write_text(f"{PHONE.line}\n{again}\n# the laptop\n{LAPTOP.line}\n{PHONE.line}\nnonsense\n")
    assert call(keys, "revoke", "phone") == 0
    assert keys.read_text() == f"# the laptop\n{LAPTOP.line}\nnonsense\n"


@pytest.mark.parametrize(("name", "hint"), [("phon", "did you mean 'phone'?"), ("zz", "`doorward people` lists them")])
def test_an_unknown_name_changes_nothing(keys: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    before = keys.read_bytes(), keys.stat().st_ino
    assert call(keys, "revoke", name) == 1
    assert f"no key {name!r}; {hint}" in capsys.readouterr().err
    assert (keys.read_bytes(), keys.stat().st_ino) == before
