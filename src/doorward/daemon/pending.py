"""What one recording still has to do when nftables has taken its openings: log lines, announcements, commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from doorward.daemon.hooks import HookRun
from doorward.model import Opening, Place

if TYPE_CHECKING:
    from doorward.daemon.daemon import Daemon

Key = tuple[str, Place]  # an opening: a door and an address


class _Line(NamedTuple):
    key: Key
    write: Callable[[], None]


class Pending:
    """The work of one recording. An opening that could not be applied takes its own work with it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._before: dict[Key, Opening | None] = {}  # of each opening recorded here: what was there before it
        self._lines: list[_Line] = []
        self._errands: list[HookRun] = []

    def opened(self, key: Key, before: Opening | None) -> None:
        """Note that an opening was recorded; of several records of one the first counts."""
        self._before.setdefault(key, before)

    def prolongs(self, opening: Opening) -> bool:
        """Return whether an opening that was recorded here was open before."""
        return self._before.get((opening.door, opening.address)) is not None

    def line(self, key: Key, write: Callable[[], None]) -> None:
        """Add a call that logs or announces something about an opening."""
        self._lines.append(_Line(key, write))

    def errand(self, errand: HookRun) -> None:
        """Add a command."""
        self._errands.append(errand)

    def take_back(self, key: Key) -> None:
        """Restore book and ledger to what they were before an opening that could not be applied; drop its work.

        Taking back what was not recorded here is not an error.
        """
        if key not in self._before:
            return
        daemon, before = self._daemon, self._before.pop(key)
        self._lines = [line for line in self._lines if line.key != key]
        self._errands = [errand for errand in self._errands if (errand.door, errand.address) != key]
        daemon.book.restore(*key, before)
        if before is not None:
            daemon.ledger.opened(daemon.in_wall_time(before))
            return
        at_s = daemon.loop.now_s() + daemon.wall_offset_s()
        daemon.ledger.ended(*key, at_s)
        daemon.ledger.closed(*key, at_s, "refused")

    def take_all_back(self) -> None:
        """Take back every opening that was recorded here."""
        with self._daemon.ledger.transaction():
            for key in tuple(self._before):
                self.take_back(key)

    def finish(self) -> None:
        """Log and announce; then start the commands, once the ledger that owes them is on the disk."""
        daemon = self._daemon
        for line in self._lines:
            line.write()
        if daemon.fleet is not None:
            daemon.fleet.flush()
        if any(errand.what == "open" for errand in self._errands):
            daemon.ledger.fsync()
        for errand in self._errands:
            daemon.errands.run(errand)
