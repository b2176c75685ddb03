"""The feed of the live view."""

from __future__ import annotations

import time
from pathlib import Path

from doorward.watch.feed import DaemonFeed, FeedItem
from tests.support.poison import SPOOF, poisoned_daemon


def test_terminal_escapes_are_made_visible(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    items: list[FeedItem] = []
    with poisoned_daemon(control):
        feed = DaemonFeed(control)
        feed.start()
        deadline_s = time.monotonic() + 10
        while "event" not in {item.kind for item in items}:
            assert time.monotonic() < deadline_s
            items += feed.drain()
            time.sleep(0.005)
        feed.stop()
    assert SPOOF in str(items)
    assert str([item.data for item in items]).isprintable()
    assert "\\x1b" not in str([item.data for item in items]).replace("\\\\x1b", "")
