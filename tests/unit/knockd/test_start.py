"""Error messages of `knockd` at start."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

import doorward.knockd.knockd_daemon  # noqa: F401 - `main` takes it when it is called, and nobody may be unable to read it
from doorward.cli.knockd import main
from tests.support.processes import NOBODY, as_nobody, needs_root, own_namespace

DOOR = "[door]\nSequence = 7000,7100\nCommand = :\n"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the user nobody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="doorward-start-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def said(*words: object) -> tuple[int, str]:
    with redirect_stderr(io.StringIO()) as errors:
        status = main(list(map(str, words)))
    return status, errors.getvalue()


def test_missing_configuration(directory: Path) -> None:
    status, text = said("-c", directory / "none.conf")
    assert status == 1
    assert text.startswith(f"knockd: {directory}/none.conf: ")
    assert "no such file" in text.lower()


@needs_root
def test_unreadable_configuration(directory: Path) -> None:
    secret = directory / "knockd.conf"
    secret.write_text(DOOR)
    secret.chmod(0o600)
    status, text = as_nobody(lambda: said("-c", secret))
    assert status == 1
    assert text.startswith(f"knockd: {secret}: ")
    assert "permission denied; run doorward as root" in text


def given_away(config: Path) -> None:
    os.chown(config, NOBODY, NOBODY)


def written_by_a_group(config: Path) -> None:
    config.chmod(0o660)


def in_a_directory_given_away(config: Path) -> None:
    os.chown(config.parent, NOBODY, NOBODY)


def in_a_directory_that_others_write(config: Path) -> None:
    config.parent.chmod(0o777)


@needs_root
@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (given_away, "chown root {config}"),
        (written_by_a_group, "chmod go-w {config}"),
        (in_a_directory_given_away, "chown root {config.parent}"),
        (in_a_directory_that_others_write, "chmod go-w {config.parent}"),
    ],
)
def test_root_rejects_a_configuration_writable_by_others(
    directory: Path, spoil: Callable[[Path], None], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    config = directory / "knockd.conf"
    config.write_text(DOOR + "nonsense\n")
    config.chmod(0o640)  # as Debian has it
    status, text = said("-c", config)
    assert (status, f"{config}:4: " in text) == (1, True)  # it was read
    spoil(config)
    status, text = said("-c", config)
    assert (status, text.startswith(f"knockd: {config}:1: ")) == (1, True)
    assert f"run `{remedy.format(config=config)}`" in text


@needs_root
@pytest.mark.parametrize("engine", ["kernel", "ring"])
def test_missing_capabilities(directory: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "knockd.conf").write_text(DOOR)
    state = directory / "state"
    state.mkdir()
    state.chmod(0o777)
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    "".encode("utf-8-sig")  # the interpreter's own files may be root's alone
    with own_namespace():
        status, text = as_nobody(lambda: said("-c", directory / "knockd.conf", "--engine", engine))
    assert status == 1
    assert text.startswith("knockd: ")
    assert "CAP_NET_" in text
    assert "root" in text


@needs_root
@pytest.mark.parametrize("spoil", ["owner", "link"])
def test_root_rejects_a_ledger_directory_writable_by_others(
    directory: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    config, state = directory / "knockd.conf", directory / "state"
    config.write_text(DOOR)
    state.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    if spoil == "owner":
        os.chown(state, NOBODY, NOBODY)
    else:
        (state / "knockd.sqlite3").symlink_to(directory / "elsewhere")
    status, text = said("-c", config)
    assert (status, text.startswith(f"knockd: {state}/knockd.sqlite3: ")) == (1, True)
    assert not (directory / "elsewhere").exists()
