"""Two threads that hear what the daemon tells; the view takes it when it has time, and nothing piles up meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, NamedTuple

from doorward.daemon.control_socket import EventClient, ask
from doorward.errors import DoorwardError
from doorward.escape import visible_in

MAX_WAITING = 1000  # then the daemon waits, and counts what it leaves out
EVERY_S = 1.0  # between two looks at the numbers, and two tries to find a daemon


class FeedItem(NamedTuple):
    """What was heard: "began" (the status), "event", "numbers", or "ended" (why)."""

    kind: str
    told: dict[str, Any]


class DaemonFeed:
    """Hears the daemon from `start` to `stop`; where it ends, the next one is waited for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._news: Queue[FeedItem] = Queue(MAX_WAITING)
        self._stopped = threading.Event()
        self._following: EventClient | None = None

    def start(self) -> None:
        """Begin to hear."""
        for hear in (self._run, self._count):
            threading.Thread(target=hear, daemon=True).start()

    def stop(self) -> None:
        """Hear no more."""
        self._stopped.set()
        self.again()

    def again(self) -> None:
        """Follow anew: another configuration was loaded."""
        if self._following is not None:
            self._following.stop()

    def received(self) -> list[FeedItem]:
        """Give what was heard since the last time."""
        found: list[FeedItem] = []
        with suppress(Empty):
            while len(found) < MAX_WAITING:
                found.append(self._news.get_nowait())
        return found

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(EventClient(self._path)) as self._following:
                    self._put("began", self._following.first)
                    for event in self._following:
                        self._put("event", event)
                self._put("ended", {"why": "the daemon ended"})
            except DoorwardError as error:
                self._put("ended", {"why": str(error)})
            self._stopped.wait(EVERY_S / 4)

    def _count(self) -> None:
        while not self._stopped.is_set():
            begun_s = time.monotonic()
            with suppress(DoorwardError):  # the other thread tells
                self._put("numbers", ask(self._path, {"command": "numbers"}))
            self._stopped.wait(max(0.0, begun_s + EVERY_S - time.monotonic()))

    def _put(self, kind: str, told: dict[str, Any]) -> None:
        while not self._stopped.is_set():
            with suppress(Full):
                self._news.put(FeedItem(kind, visible_in(told)), timeout=0.5)
                return
