"""What root refuses to open in a directory of the daemon's user."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.daemon.ledger import parts_of
from doorward.daemon.run_as import refuse_foreign, refuse_shared
from doorward.errors import HostError
from doorward.kernel.privileges import Identity
from tests.support.errors import raises
from tests.support.processes import NOBODY, needs_root

SERVICE = Identity("doorward", NOBODY, NOBODY, (NOBODY,))


def link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def second_name(path: Path) -> None:
    path.with_name("target").touch()
    path.hardlink_to(path.with_name("target"))


def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def closed(path: Path) -> None:
    path.touch(0)


@pytest.mark.parametrize("spoil", [link, second_name, directory, pipe, closed])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_what_is_refused(tmp_path: Path, spoil: Callable[[Path], None], suffix: str) -> None:
    parts = parts_of(tmp_path / "ledger.sqlite3")
    refuse_foreign(parts, None)  # none of them is there
    spoil(tmp_path / f"ledger.sqlite3{suffix}")
    with pytest.raises(HostError, match=f"^{tmp_path}/ledger.sqlite3{suffix}: "):
        refuse_foreign(parts, None)


@needs_root
def test_the_owner_must_be_the_user_that_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    files = [tmp_path / name for name in ("one", "two", "three")]
    for path in files:
        path.touch(0o600)
    refuse_foreign(files, None)
    os.chown(files[1], NOBODY, NOBODY)
    with pytest.raises(HostError, match=f"run `chown -h 0 {files[1]}`"):
        refuse_foreign(files, None)
    with pytest.raises(HostError, match=f"run `chown -h doorward {files[0]} {files[2]}`"):
        refuse_foreign(files, SERVICE)
    refuse_foreign(files[1:2], SERVICE)


@needs_root
def test_a_directory_that_another_user_could_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    folder = tmp_path / "state"
    folder.mkdir()
    refuse_shared(folder / "ledger.sqlite3", "")
    for mode, owner, code in ((0o770, 0, "writable-by-others"), (0o700, NOBODY, "foreign-owner")):
        folder.chmod(mode)
        os.chown(folder, owner, 0)
        with raises(HostError, code):
            refuse_shared(folder / "ledger.sqlite3", "give it another one")
