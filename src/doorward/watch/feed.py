"""Two threads that receive events and counters from the daemon into a bounded queue, which the view reads."""

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

MAX_WAITING = 1000  # items; beyond it the daemon drops events, and counts them
EVERY_S = 1.0  # between two requests for the counters; a quarter of it between two attempts to connect


class FeedItem(NamedTuple):
    """An item from the daemon: "began" (its status), "event", "numbers" (its counters) or "ended" (why)."""

    kind: str
    told: dict[str, Any]


class DaemonFeed:
    """Receives from the daemon between `start` and `stop`; connects again after the daemon ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._news: Queue[FeedItem] = Queue(MAX_WAITING)
        self._stopped = threading.Event()
        self._following: EventClient | None = None

    def start(self) -> None:
        """Start both threads."""
        for hear in (self._run, self._count):
            threading.Thread(target=hear, daemon=True).start()

    def stop(self) -> None:
        """Stop both threads."""
        self._stopped.set()
        self.again()

    def again(self) -> None:
        """Connect again, after another configuration was loaded."""
        if self._following is not None:
            self._following.stop()

    def received(self) -> list[FeedItem]:
        """Return the items since the last call, oldest first."""
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
            with suppress(DoorwardError):  # the other thread reports it
                self._put("numbers", ask(self._path, {"command": "numbers"}))
            self._stopped.wait(max(0.0, begun_s + EVERY_S - time.monotonic()))

    def _put(self, kind: str, told: dict[str, Any]) -> None:
        while not self._stopped.is_set():
            with suppress(Full):
                self._news.put(FeedItem(kind, visible_in(told)), timeout=0.5)
                return
