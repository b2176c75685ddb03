"""`doorward key server`: one line of output, and a key that is created once."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from doorward.cli import key
from doorward.cli.main import main
from doorward.daemon import key_files
from doorward.kernel.privileges import Identity
from doorward.signed.server_key import HYBRID, X25519, parse_private_key, parse_server_key
from tests.support.signed import HAS_HYBRID

CONFIG = '[signed]\n[doors.ssh]\nopens = ["22/tcp"]\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    path = tmp_path / "doorward.toml"
    path.write_text(CONFIG)
    return path


def test_key_is_created_once_and_printed_each_time(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "server"]) == 0
    out, err = capsys.readouterr()
    path = config.parent / "server.key"
    assert out == f"{parse_private_key(path.read_text()).public}\n"
    assert parse_server_key(out).suite is X25519
    assert err == f"doorward: created {path}; keep a backup in a safe place\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in config.parent.iterdir()) == ["doorward.toml", "server.key"]
    made = path.read_bytes()
    assert main(["key", "server", "-c", str(config)]) == 0
    assert capsys.readouterr() == (out, "")
    assert path.read_bytes() == made


def test_a_gate_with_a_name_says_that_clients_need_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(f"[gate]\nname = 'box'\n{CONFIG}")
    assert main(["key", "server"]) == 0
    out, err = capsys.readouterr()
    assert parse_server_key(out).suite is X25519
    assert "--gate box`" in err.splitlines()[-1]


@pytest.mark.skipif(not HAS_HYBRID, reason="cryptography is older than 48")
def test_suite_is_chosen_at_creation(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "server", "--suite", "mlkem768-x25519"]) == 0
    out = capsys.readouterr().out
    assert parse_server_key(out).suite is HYBRID
    assert main(["key", "server"]) == 0
    assert capsys.readouterr().out == out
    assert main(["key", "server", "--suite", "x25519"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the existing key is of suite mlkem768-x25519; move it away to create another" in captured.err


def test_the_file_is_named_relative_to_the_configuration(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(CONFIG.replace("[signed]", '[signed]\nkey = "keys/of/gate.key"'))
    monkeypatch.chdir("/")
    assert main(["key", "server"]) == 0
    path = config.parent / "keys" / "of" / "gate.key"
    assert path.exists()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)] == [0o700] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.parametrize(
    ("group", "mode", "wanted"), [(65534, 0o640, (65534, 0o640)), (65534, 0o600, (0, 0o600)), (1, 0o640, (0, 0o600))]
)
def test_key_is_group_readable_if_configuration_is(
    config: Path, monkeypatch: pytest.MonkeyPatch, group: int, mode: int, wanted: tuple[int, int]
) -> None:
    for module in (key, key_files):
        monkeypatch.setattr(module, "service_identity", lambda: Identity("doorward", 65534, 65534, (65534,)))
    os.chown(config, 0, group)
    config.chmod(mode)
    assert main(["key", "server"]) == 0
    found = (config.parent / "server.key").stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == wanted
    assert found.st_uid == 0
    assert main(["key", "server"]) == 0  # and what was made is taken


def test_concurrent_creation_yields_one_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(main(["key", "server"]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [0] * 6
    assert len(set(capsys.readouterr().out.split())) == 1


def test_without_signed_table_prints_what_to_add(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('[doors.ssh]\nopens = ["22/tcp"]\nknock = ["7000/tcp"]\n')
    assert main(["key", "server"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{config}: no [signed] table, so signed knocks are off; add to it:" in captured.err
    added = [line.removeprefix("doorward:   ") for line in captured.err.splitlines()[1:]]
    config.write_text("\n".join(added) + '\n[doors.ssh]\nopens = ["22/tcp"]\n')
    assert main(["key", "server"]) == 0  # what it says to add is right


@pytest.mark.parametrize("text", ["", "x25519-private:AAAA\n", "a\nb\n"])
def test_invalid_key_file_is_not_overwritten(config: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = config.parent / "server.key"
    path.touch(0o600)
    path.write_text(text)
    assert main(["key", "server"]) == 2
    assert f"{path}: a server's private key" in capsys.readouterr().err
    assert path.read_text() == text


def test_key_readable_by_others_is_rejected(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "server"]) == 0
    path = config.parent / "server.key"
    path.chmod(0o644)
    assert main(["key", "server"]) == 2
    assert f"{path}: other users can read the server's key; run `chmod go-r {path}`" in capsys.readouterr().err


def test_directory_that_is_a_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("[signed]", '[signed]\nkey = "doorward.toml/server.key"'))
    assert main(["key", "server"]) == 2
    assert "doorward.toml" in capsys.readouterr().err
