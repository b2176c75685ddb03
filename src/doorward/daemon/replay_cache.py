"""Replay cache: which signed knocks were used already. Each is good once, whatever is restarted or killed.

Five things refuse a packet. Its number is in the table `seen`. It is not newer than what was forgotten. It is dated
before the floor: what an earlier ledger took is not known. Or it is dated before the machine's boot, since the last
entries may have been lost with the power. Or it is dated ahead by more than any window.

Floor and boot are moments of the wall clock, which may be wrong and is set sooner or later. So the boot is reckoned by
the clock as it is now, and a floor that is further ahead than the window is lowered: nothing dated later was ever
accepted. The dates of what was forgotten come from the packets themselves, and are never lowered: whatever the clock
does, no packet whose number was noted is good twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

KEPT_MS = 86_400_000  # entries older than a day are forgotten
KEPT_ROWS = 200_000  # and the oldest, where there are more: only who has a key can make one
_FORGET_EVERY = 1000
AHEAD_MS = 1000  # a packet dated further ahead is synced before its door opens; others do not outlast a boot by more
# No window is longer, so the verifier accepts nothing dated later. A compromised one could otherwise have everything
# forgotten up to a date of its choice, and what is older than that is refused for ever.
MOST_AHEAD_MS = 3_600_000
SCHEMA = """
CREATE TABLE seen (id BLOB PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_time ON seen (time);
CREATE TABLE seen_floor (boot TEXT NOT NULL, floor INTEGER NOT NULL, is_clean INTEGER NOT NULL);
"""
FORGOTTEN = """
CREATE TABLE seen_forgotten (newest INTEGER NOT NULL);
"""


class PacketId(NamedTuple):
    """A signed knock that is right: its number (16 bytes), and when it was made, in milliseconds since the epoch."""

    id: bytes
    time_ms: int


class Clock(NamedTuple):
    """The wall clock as it is now, in milliseconds since the epoch, and when the machine was booted by that clock."""

    now_ms: int
    booted_ms: int


class ReplayCache:
    """The table, in the ledger's file. Nothing is accepted before `begin`."""

    def __init__(self, db: sqlite3.Connection, boot: str, secure: Callable[[], bool]) -> None:
        """`boot` is the kernel's name of this boot; `secure` syncs the file to the disk, or returns False."""
        self._db, self._boot, self._secure = db, boot, secure
        self._clock: Callable[[], Clock] | None = None
        self._first_floor_ms = 0
        self._has_begun = False
        self._floor_ms = 0
        self._forgotten_ms = -1  # the newest date of all that was forgotten
        self._may_lack_some = True  # the last before this boot
        self._claims = 0

    def begin(self, clock: Callable[[], Clock], floor_ms: int) -> str:
        """Get ready for `claim`, for a daemon that starts; return what the operator should know, or nothing.

        `clock` reads the wall clock; `floor_ms` is the floor of a table that has none yet.
        """
        self._clock, self._first_floor_ms = clock, floor_ms
        return self._begin(clock())

    def _begin(self, clock: Clock) -> str:
        try:
            told = self._find_floor(clock)
        except sqlite3.Error as error:
            return f"the ledger cannot be written ({error}); no signed knock is accepted until it can"
        self._has_begun = self._secure()  # before the first is taken: it says that the last ones may be lost
        return told if self._has_begun else "the ledger cannot be synced; no signed knock is accepted until it can"

    def _find_floor(self, clock: Clock) -> str:
        row = self._db.execute("SELECT boot, floor, is_clean FROM seen_floor").fetchone()
        is_next_boot = row is not None and row[0] != self._boot
        was_clean = row is not None and bool(row[2])
        self._floor_ms = self._first_floor_ms if row is None else int(row[1])
        self._forgotten_ms = self._db.execute("SELECT coalesce(max(newest), -1) FROM seen_forgotten").fetchone()[0]
        self._may_lack_some = not (is_next_boot and was_clean)
        self._note(is_clean=False)
        if is_next_boot and not was_clean and clock.booted_ms > self._floor_ms:
            return "the machine was not shut down in order: signed knocks from before its start are not taken"
        return ""

    def follow_clock(self, window_ms: int) -> str:
        """Lower a floor that a wrong clock has put into the future; return what the operator should know, or nothing.

        Call it from time to time: the clock may be set at any moment.
        """
        if self._clock is None or not self._has_begun:
            return ""
        now_ms = self._clock().now_ms
        ahead_ms, lowered_ms = self._floor_ms - now_ms, now_ms + window_ms
        if self._floor_ms <= lowered_ms:
            return ""
        try:
            with self._db:
                self._db.execute("UPDATE seen_floor SET floor = ?", (lowered_ms,))
        except sqlite3.Error:  # the next call tries again, and `claim` reports what is wrong
            return ""
        self._floor_ms = lowered_ms
        return (
            f"the clock was ahead, so that signed knocks would be rejected for {ahead_ms // 1000}s more;"
            f" they are accepted again in {window_ms // 1000}s"
        )

    def close(self) -> None:
        """Note, on the disk, that nothing can be lost any more."""
        if self._clock is None or not self._has_begun:
            return
        if self._may_lack_some:
            self._floor_ms = max(self._floor_ms, self._clock().booted_ms + AHEAD_MS)
        with suppress(sqlite3.Error):
            self._note(is_clean=True)
            self._secure()

    def claim(self, claims: Sequence[PacketId]) -> list[str]:
        """Note each as used, committed when this returns; return for each why it must be refused, or nothing."""
        if self._clock is not None and not self._has_begun:
            self._begin(self._clock())  # what was in the way may be gone
        if self._clock is None or not self._has_begun:
            return ["the ledger cannot tell which were used"] * len(claims)
        clock = self._clock()
        try:
            with self._db:
                refusals = [self._claim(claim, clock) for claim in claims]
        except sqlite3.Error as error:
            return [f"the ledger cannot be written ({error})"] * len(claims)
        ahead = [claim.time_ms > clock.now_ms + AHEAD_MS for claim in claims]
        if any(ahead) and not self._secure():
            lost = "it is dated ahead, and the ledger cannot be synced to the disk"
            return [refusal or (lost if is_ahead else "") for refusal, is_ahead in zip(refusals, ahead, strict=True)]
        return refusals

    def _claim(self, claim: PacketId, clock: Clock) -> str:
        if claim.time_ms > clock.now_ms + MOST_AHEAD_MS:
            return "it is dated further ahead than any window reaches"
        self._claims += 1
        if self._claims % _FORGET_EVERY == 0:
            self._prune(claim.time_ms)  # first: this one may be among those that are forgotten
        if claim.time_ms < self._floor_ms or claim.time_ms <= self._forgotten_ms:
            return "it is older than the record of used ones, so it may have been used"
        if self._may_lack_some and claim.time_ms < clock.booted_ms + AHEAD_MS:
            return "it is older than this machine's start, so it may have been used"
        new = self._db.execute("INSERT OR IGNORE INTO seen (id, time) VALUES (?, ?)", claim).rowcount
        return "" if new else "it was used already"

    def _prune(self, now_ms: int) -> None:
        """Forget what is old, and what is too many, but for the newest date of it."""
        newest_too_many = self._db.execute(
            "SELECT time FROM seen ORDER BY time DESC LIMIT 1 OFFSET ?", (KEPT_ROWS,)
        ).fetchone()
        before_ms = max(now_ms - KEPT_MS, newest_too_many[0] + 1 if newest_too_many else 0)
        (newest_ms,) = self._db.execute("SELECT max(time) FROM seen WHERE time < ?", (before_ms,)).fetchone()
        if newest_ms is not None:
            self._forgotten_ms = max(self._forgotten_ms, newest_ms)
            self._db.execute("DELETE FROM seen WHERE time < ?", (before_ms,))
            self._db.execute("DELETE FROM seen_forgotten")
            self._db.execute("INSERT INTO seen_forgotten (newest) VALUES (?)", (self._forgotten_ms,))

    def _note(self, *, is_clean: bool) -> None:
        with self._db:
            self._db.execute("DELETE FROM seen_floor")
            self._db.execute(
                "INSERT INTO seen_floor (boot, floor, is_clean) VALUES (?, ?, ?)",
                (self._boot, self._floor_ms, is_clean),
            )
