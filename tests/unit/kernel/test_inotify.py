"""Notification of changed files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorward.kernel.event_loop import EventLoop
from doorward.kernel.inotify import FileWatcher
from tests.support.processes import open_descriptors


class Watch:
    """A watcher on a loop of its own."""

    def __init__(self) -> None:
        self._loop, self._calls = EventLoop(), 0
        self.watcher = FileWatcher(self._loop, self._count)

    def changes(self) -> int:
        """Run the loop for a round; return how often a change was reported since the last call."""
        before = self._calls
        self._loop.at(0.0, self._loop.stop)
        self._loop.run()
        return self._calls - before

    def close(self) -> None:
        self.watcher.close()
        self._loop.close()

    def _count(self) -> None:
        self._calls += 1


@pytest.fixture
def watch() -> Iterator[Watch]:
    found = Watch()
    yield found
    found.close()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("b")
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("b"), replace, Path.unlink, lambda path: path.rename(path.with_name("moved"))],
    ids=["written", "replaced", "removed", "moved"],
)
def test_change_is_reported_once(tmp_path: Path, watch: Watch, change: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    watch.watcher.watch([str(path)])
    path.read_text()
    assert watch.changes() == 0
    change(path)
    assert watch.changes() == 1
    assert watch.changes() == 0


def test_replacement_file_is_watched_after_the_next_call(tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    watch.watcher.watch([str(path), str(tmp_path / "missing")])
    replace(path)
    watch.changes()
    watch.watcher.watch([str(path)])
    watch.watcher.watch([str(path)])
    assert watch.changes() == 0
    path.write_text("c")
    assert watch.changes() == 1


def test_no_descriptor_is_left_open() -> None:
    before = open_descriptors()
    Watch().close()
    assert open_descriptors() == before
