"""What the live view hears from the daemon."""

from __future__ import annotations

import time
from pathlib import Path

from doorward.watch.feed import DaemonFeed, FeedItem
from tests.support.poison import SPOOF, poisoned_daemon


def test_texts_that_would_command_the_terminal_are_made_visible(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    heard: list[FeedItem] = []
    with poisoned_daemon(control):
        link = DaemonFeed(control)
        link.start()
        deadline_s = time.monotonic() + 10
        while "event" not in {news.kind for news in heard}:
            assert time.monotonic() < deadline_s
            heard += link.drain()
            time.sleep(0.005)
        link.stop()
    assert SPOOF in str(heard)
    assert str([news.data for news in heard]).isprintable()
    assert "\\x1b" not in str([news.data for news in heard]).replace("\\\\x1b", "")
