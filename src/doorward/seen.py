"""Which signed knocks were used already: each is good once, whatever is restarted, killed or loses power.

Three things refuse a packet: its number stands in the table `seen`; it is dated before the floor, from which on the
table is whole, and which rises where entries are forgotten; or it is dated before the machine's start, where the last
entries may have been lost with the power. When that was, the clock tells anew each time: after the start it may be
set, by hours on a machine without a clock of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

KEPT_MS = 86_400_000  # entries older than a day are forgotten
KEPT_ROWS = 200_000  # and the oldest, where there are more: only who has a key can make one
_FORGET_EVERY = 1000
AHEAD_MS = 1000  # a packet dated further ahead is synced before its door opens; others do not outlast a boot by more
SCHEMA = """
CREATE TABLE seen (id BLOB PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_time ON seen (time);
CREATE TABLE seen_floor (boot TEXT NOT NULL, floor INTEGER NOT NULL, is_clean INTEGER NOT NULL);
"""


class Claim(NamedTuple):
    """A signed knock that is right: its number (16 bytes), and when it was made, in milliseconds since the epoch."""

    id: bytes
    time_ms: int


class Seen:
    """The table, in the ledger's file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._floor_ms = 0
        self._booted_ms = 0
        self._may_lack_some = True  # the last before this boot
        self._claims = 0

    def begin(self, boot: str, booted_ms: int, floor_ms: int) -> str:
        """Find the floor, for a daemon that starts; gives what the operator should know, or nothing.

        `booted_ms`: when the machine was booted; `floor_ms`: the floor of a table that has none yet.
        """
        row = self._db.execute("SELECT boot, floor, is_clean FROM seen_floor").fetchone()
        is_next_boot, was_clean = row is not None and row[0] != boot, row is not None and bool(row[2])
        self._floor_ms = floor_ms if row is None else int(row[1])
        self._booted_ms = booted_ms
        self._may_lack_some = not (is_next_boot and was_clean)
        told = ""
        if is_next_boot and not was_clean and booted_ms > self._floor_ms:
            told = "the machine was not shut down in order: signed knocks from before its start are not taken"
        self._note(boot, is_clean=False)
        return told

    def end(self, boot: str) -> None:
        """Note that nothing can be lost any more; once this is on the disk."""
        if self._may_lack_some:
            self._floor_ms = max(self._floor_ms, self._booted_ms + AHEAD_MS)
        self._note(boot, is_clean=True)

    def claim(self, claims: Sequence[Claim], booted_ms: int) -> list[str]:
        """Note each as used, committed when this returns; gives for each why it must be refused, or nothing.

        `booted_ms`: as for `begin`, by the clock as it goes now. sqlite3.Error: it could not be noted, so none may
        open anything.
        """
        self._booted_ms = booted_ms
        with self._db:
            return [self._claim(claim) for claim in claims]

    def _claim(self, claim: Claim) -> str:
        self._claims += 1
        if self._claims % _FORGET_EVERY == 0:
            self._forget(claim.time_ms)  # first: it may raise the floor above this one
        if claim.time_ms < self._floor_ms:
            return "it is older than the record of used ones, so it may have been used"
        if self._may_lack_some and claim.time_ms < self._booted_ms + AHEAD_MS:
            return "it is older than this machine's start, so it may have been used"
        new = self._db.execute("INSERT OR IGNORE INTO seen (id, time) VALUES (?, ?)", claim).rowcount
        return "" if new else "it was used already"

    def _forget(self, now_ms: int) -> None:
        """Forget what is old, and what is too many; the floor is where the rest begins."""
        newest_too_many = self._db.execute(
            "SELECT time FROM seen ORDER BY time DESC LIMIT 1 OFFSET ?", (KEPT_ROWS,)
        ).fetchone()
        floor_ms = max(now_ms - KEPT_MS, newest_too_many[0] + 1 if newest_too_many else 0)
        if floor_ms > self._floor_ms:
            self._floor_ms = floor_ms
            self._db.execute("DELETE FROM seen WHERE time < ?", (floor_ms,))
            self._db.execute("UPDATE seen_floor SET floor = ?", (floor_ms,))

    def _note(self, boot: str, *, is_clean: bool) -> None:
        with self._db:
            self._db.execute("DELETE FROM seen_floor")
            self._db.execute(
                "INSERT INTO seen_floor (boot, floor, is_clean) VALUES (?, ?, ?)", (boot, self._floor_ms, is_clean)
            )
