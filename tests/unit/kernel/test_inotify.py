"""Notification of changed files."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorward.kernel.inotify import FileWatcher
from tests.support.processes import open_descriptors


@pytest.fixture
def watches() -> Iterator[FileWatcher]:
    found = FileWatcher()
    yield found
    found.close()


def changed(watches: FileWatcher) -> bool:
    return bool(select.select([watches], [], [], 0)[0])


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("b")
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("b"), replace, Path.unlink, lambda path: path.rename(path.with_name("moved"))],
    ids=["written", "replaced", "removed", "moved"],
)
def test_change_is_reported_once(tmp_path: Path, watches: FileWatcher, change: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    watches.watch([str(path)])
    path.read_text()
    assert not changed(watches)
    change(path)
    assert changed(watches)
    watches.drain()
    assert not changed(watches)


def test_replacement_file_is_watched_after_the_next_call(tmp_path: Path, watches: FileWatcher) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    watches.watch([str(path), str(tmp_path / "missing")])
    replace(path)
    watches.drain()
    watches.watch([str(path)])
    watches.watch([str(path)])
    assert not changed(watches)
    path.write_text("c")
    assert changed(watches)


def test_no_descriptor_is_left_open() -> None:
    before = open_descriptors()
    FileWatcher().close()
    assert open_descriptors() == before
