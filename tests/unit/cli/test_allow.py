"""`doorward allow`: a line more in authorized_keys, and nothing else."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorward.cli.allow import edit
from doorward.cli.main import main
from doorward.signed.authorized_keys import append_key, parse
from tests.support.signed import Signed, Signer

CONFIG = '[signed]\n[doors.ssh]\nopens = ["22/tcp"]\n[doors.db]\nopens = ["5432/tcp"]\n'
PHONE, LAPTOP = Signer("phone"), Signer("laptop")
UNNAMED = PHONE.line.removesuffix("phone")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "doorward.toml").write_text(CONFIG)
    path = Signed(tmp_path).keys_file
    path.write_text(f"# who may knock\n\n{LAPTOP.line}  # Ann's\nnonsense")
    return path


def allow(keys: Path, *words: str) -> int:
    return main(["allow", *words, "-c", str(keys.with_name("doorward.toml"))])


def test_line_is_added_and_the_rest_is_kept(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, status = keys.read_text(), keys.stat()
    assert allow(keys, f" {PHONE.line} ", "--doors", "ssh,db", "--for-max", "1h") == 0
    assert keys.read_text() == f'{before}\ndoors="ssh,db",for-max="1h" {PHONE.line}\n'
    assert keys.stat().st_mode == status.st_mode
    printed = capsys.readouterr().out
    assert printed == f"{keys}:5: phone ({PHONE.key.fingerprint_text}) opens db, ssh for at most 1h\n"
    added = parse(keys.read_text(), "")[0].lines[-1]
    assert (added.options.doors, added.options.for_max_ms) == (frozenset({"ssh", "db"}), 3_600_000)


def test_without_limits(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert allow(keys, PHONE.line) == 0
    assert keys.read_text().endswith(f"\n{PHONE.line}\n")
    assert "opens every door for the door's own time" in capsys.readouterr().out


def test_missing_file_is_made(keys: Path) -> None:
    keys.unlink()
    assert allow(keys, PHONE.line) == 0
    assert keys.read_text().splitlines()[-1] == PHONE.line
    assert not stat.S_IMODE(keys.stat().st_mode) & stat.S_IROTH


def test_concurrent_editors_lose_nothing(keys: Path) -> None:
    before, lines = keys.read_text(), [Signer(f"phone{number}").line for number in range(8)]
    with ThreadPoolExecutor(len(lines)) as editors:
        for line in lines:
            editors.submit(edit, keys, lambda text, line=line: append_key(text, "", line, {}))
    assert keys.read_text().startswith(f"{before}\n")
    assert sorted(keys.read_text().splitlines()[-len(lines) :]) == sorted(lines)


def test_linked_file_is_changed_where_it_is(keys: Path) -> None:
    target = keys.rename(keys.with_name("elsewhere"))
    keys.symlink_to(target)
    assert allow(keys, PHONE.line) == 0
    assert keys.is_symlink()
    assert target.read_text().endswith(f"\n{PHONE.line}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_owner_and_mode_are_kept(keys: Path) -> None:
    os.chown(keys, 0, 1)
    keys.chmod(0o640)
    assert allow(keys, PHONE.line) == 0
    status = keys.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 1, 0o640)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([LAPTOP.line], ":5: line 3 has the same key; remove one of the two lines"),
        ([f"{UNNAMED}laptop  # Ann's"], ':5: line 3 has a key of the same name, "laptop  # Ann\'s"; change the name'),
        ([f"{UNNAMED}{LAPTOP.key.fingerprint_text}"], ":5: line 3 has a key of the same name, 'SHA256:"),
        ([f"{PHONE.line}\n{Signer('x').line}"], ":5: control characters in the key; copy it as one line"),
        ([f"{PHONE.line}\u2028x"], "control characters in the key"),
        ([f'cert-authority,principals="*" {PHONE.line}'], "is not the kind of a key; write KIND KEY NAME"),
        ([f'doors="db" {PHONE.line}'], "is not the kind of a key"),
        ([""], "'' is not the kind of a key"),
        (["id_ed25519.pub"], "id_ed25519.pub is a file; quote its line"),
        ([PHONE.line[:40]], "the key is truncated: 2 bytes left"),
        (["ssh-dss AAAA"], "ssh-dss keys are too weak"),
        ([PHONE.line, "--doors", "shs"], "--doors: unknown door 'shs'; did you mean 'ssh'?"),
        ([PHONE.line, "--doors", 'ssh",cert-authority,from="*'], "--doors: unknown door"),
        ([PHONE.line, "--doors", ""], "--doors: unknown door ''"),
        ([PHONE.line, "--for-max", "1"], "--for-max: "),
        ([PHONE.line, "--for-max", '1h",cert-authority,from="*'], "--for-max: "),
        ([PHONE.line, "--for-max", "100000d"], "--for-max: "),
    ],
)
def test_rejected_lines_change_nothing(
    keys: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = keys.read_bytes(), keys.stat().st_ino
    assert allow(keys, *words) == 2
    assert message in capsys.readouterr().err
    assert (keys.read_bytes(), keys.stat().st_ino) == before


def test_signed_knocks_that_are_off(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.with_name("doorward.toml").write_text(CONFIG.replace("[signed]\n", ""))
    assert allow(keys, PHONE.line) == 2
    assert "no [signed] table" in capsys.readouterr().err
