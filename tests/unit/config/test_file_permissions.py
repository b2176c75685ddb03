"""Files that other users could change are rejected; world-readable files give a warning."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from doorward.cli.main import main
from doorward.client.user_files import is_exposed as is_hosts_file_exposed
from doorward.config.files import PathComponent, UnsafePath, exposure, find_unsafe, is_exposed, read, read_text
from doorward.errors import ConfigError
from tests.support.processes import NOBODY, needs_root

FILE, OWN, HIGHER = "/etc/doorward/doorward.toml", "/etc/doorward", "/etc"
ROOT, ALICE = 0, 1000


def entries(
    file: int = 0o600, own: int = 0o755, higher: int = 0o755, users: tuple[int, int, int] = (0, 0, 0)
) -> list[PathComponent]:
    return [
        PathComponent(FILE, users[0], file, is_directory=False),
        PathComponent(OWN, users[1], own, is_directory=True),
        PathComponent(HIGHER, users[2], higher, is_directory=True),
    ]


@pytest.mark.parametrize(
    ("found", "what", "remedy"),
    [
        (entries(0o660), "can write this file", f"chmod go-w {FILE}"),
        (entries(0o602), "can write this file", f"chmod go-w {FILE}"),
        (entries(0o1666), "can write this file", f"chmod go-w {FILE}"),  # the sticky bit has no effect on a file
        (entries(own=0o775), f"can write its directory {OWN}", f"chmod go-w {OWN}"),
        (entries(higher=0o777), f"can write its directory {HIGHER}", f"chmod go-w {HIGHER}"),
        (entries(users=(ALICE, ROOT, ROOT)), "this file belongs to user 1000", f"chown root {FILE}"),
        (entries(users=(ROOT, ALICE, ROOT)), f"its directory {OWN} belongs to user 1000", f"chown root {OWN}"),
        (entries(users=(ROOT, ROOT, ALICE)), f"its directory {HIGHER} belongs to user 1000", f"chown root {HIGHER}"),
    ],
)
def test_reports_paths_writable_by_others(found: list[PathComponent], what: str, remedy: str) -> None:
    said = find_unsafe(found, {ROOT})
    assert said is not None
    assert what in said.fault
    assert said.remedy == f"run `{remedy}`"


@pytest.mark.parametrize(
    ("found", "owners"),
    [
        (entries(), {ROOT}),
        (entries(0o644), {ROOT}),
        (entries(own=0o1777, higher=0o1777), {ROOT}),
        (entries(users=(ALICE, ALICE, ALICE)), {ROOT, ALICE}),
        (entries(users=(ALICE, ALICE, ALICE)), None),
    ],
)
def test_accepts_safe_paths(found: list[PathComponent], owners: set[int] | None) -> None:
    assert find_unsafe(found, owners) is None


@pytest.mark.parametrize(
    ("found", "exposed"),
    [
        (entries(0o644), True),
        (entries(0o640), False),
        (entries(0o644, own=0o750), False),
        (entries(0o644, higher=0o700), False),
    ],
)
def test_is_exposed(found: list[PathComponent], exposed: bool) -> None:
    assert is_exposed(found) is exposed


TEXT = '[doors.ssh]\nknock = ["7001/tcp", "7002/tcp", "7003/tcp"]\nopens = ["22/tcp"]\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "doorward.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the fault with which both `check` and a loading daemon reject a file."""
    with pytest.raises(ConfigError) as refused:
        read(path)
    capsys.readouterr()
    assert main(["check", "-c", str(path)]) == 2
    assert capsys.readouterr().err.replace(": error: ", ": ") == f"{refused.value}\n"
    return str(refused.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_rejects_world_writable_file(config: Path, capsys: pytest.CaptureFixture[str], mode: int) -> None:
    config.chmod(mode)
    wanted = f"{config}:1: other users can write this file; run `chmod go-w {config}`"
    assert refusal(config, capsys) == wanted
    with pytest.raises(ConfigError):  # even if any owner is allowed
        read_text(config)
    config.chmod(0o644)
    assert read(config).doors


def test_rejects_writable_directory_of_link_target(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = config.parent.parent / "link.toml"
    link.symlink_to(config)
    config.parent.chmod(0o777)
    for path in (config, link):
        assert f"other users can write its directory {config.parent}" in refusal(path, capsys)
    config.parent.chmod(0o1777)
    assert read(link).doors


@needs_root
def test_rejects_file_of_another_user(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(config, NOBODY, NOBODY)
    assert f"this file belongs to user {NOBODY}, who could change it; run `chown root" in refusal(config, capsys)
    assert read_text(config) == TEXT  # any owner is allowed, as for `doorward apply FILE`
    monkeypatch.setenv("SUDO_UID", str(NOBODY))  # a user with sudo could be root anyway
    assert read(config).doors


def test_world_readable_file_gives_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exposure(config) is None  # pytest's directory is private
    assert not is_hosts_file_exposed(str(config))
    monkeypatch.setattr(
        "doorward.cli.check.exposure", lambda _: UnsafePath("readable-by-others", "every user can read", "run chmod")
    )
    assert main(["check", "--json", "-c", str(config)]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert (warnings[0]["code"], warnings[0]["level"], warnings[0]["line"]) == ("readable-by-others", "warning", 1)


def test_pipes_and_devices_are_not_checked() -> None:
    reading, writing = os.pipe()
    os.write(writing, TEXT.encode())
    os.close(writing)
    assert read(Path(f"/dev/fd/{reading}")).doors
    os.close(reading)
