"""Two threads that receive events, counters and bans from the daemon into a bounded queue, which the view reads."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, NamedTuple

from doorward.daemon.control_client import EventClient, ask
from doorward.errors import DoorwardError
from doorward.escape import visible_in

MAX_WAITING = 1000  # items; beyond it the daemon drops events, and counts them
EVERY_S = 1.0  # between two requests for the counters; a quarter of it between two attempts to connect


class FeedItem(NamedTuple):
    """An item from the daemon: "began" (its status), "event", "stats" (its counters), "bans" or "ended" (why)."""

    kind: str
    data: dict[str, Any]


class DaemonFeed:
    """Receives from the daemon between `start` and `stop`; connects again after the daemon ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items: Queue[FeedItem] = Queue(MAX_WAITING)
        self._stopped = threading.Event()
        self._client: EventClient | None = None

    def start(self) -> None:
        """Start both threads."""
        for target in (self._receive_events, self._poll_counters):
            threading.Thread(target=target, daemon=True).start()

    def stop(self) -> None:
        """Stop both threads."""
        self._stopped.set()
        self.reconnect()

    def reconnect(self) -> None:
        """Connect again, after another configuration was loaded."""
        if self._client is not None:
            self._client.stop()

    def drain(self) -> list[FeedItem]:
        """Return the items since the last call, oldest first."""
        items: list[FeedItem] = []
        with suppress(Empty):
            while len(items) < MAX_WAITING:
                items.append(self._items.get_nowait())
        return items

    def _receive_events(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(EventClient(self._path)) as self._client:
                    self._put("began", self._client.first)
                    with suppress(DoorwardError):  # only root may see them
                        self._put("bans", ask(self._path, {"command": "bans"}))
                    for event in self._client:
                        self._put("event", event)
                self._put("ended", {"why": "the daemon ended"})
            except DoorwardError as error:
                self._put("ended", {"why": str(error)})
            self._stopped.wait(EVERY_S / 4)

    def _poll_counters(self) -> None:
        while not self._stopped.is_set():
            begun_s = time.monotonic()
            with suppress(DoorwardError):  # the other thread reports it
                self._put("stats", ask(self._path, {"command": "stats"}))
            self._stopped.wait(max(0.0, begun_s + EVERY_S - time.monotonic()))

    def _put(self, kind: str, data: dict[str, Any]) -> None:
        while not self._stopped.is_set():
            with suppress(Full):
                self._items.put(FeedItem(kind, visible_in(data)), timeout=0.5)
                return
