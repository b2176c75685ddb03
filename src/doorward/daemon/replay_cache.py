"""Replay cache: each signed knock is accepted once, across restarts and crashes, and none that its signer closed later.

A packet is rejected for five reasons. Its number is in the table `seen`. It is not newer than the pruned entries. It is
dated before the floor: an earlier ledger may have accepted it. It is dated before the host's boot: the last entries may
have been lost in a power failure. Or it is dated ahead by more than any window.

Floor and boot are wall clock times, and the wall clock may be wrong until it is set. So the time of the boot is derived
from the present clock, and a floor further ahead than the window is lowered: nothing dated later was ever accepted. The
dates of pruned entries come from the packets, and are never lowered: no clock change lets a packet be used twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from doorward.core.signed_rules import CloseDates, DatedKnock
from doorward.core.token_bucket import KeyedBuckets

KEPT_MS = 86_400_000  # entries older than a day are pruned
KEPT_ROWS = 200_000  # beyond it the oldest are pruned too; only holders of a key create entries
_FORGET_EVERY = 1000
# Claims of one signer at once, and from then on in two windows, which hold the dates of all fresh knocks. It takes ten
# keys to fill the table with knocks dated ahead, after which those of everybody else would be too old for a window.
MAX_CLAIMS_PER_SIGNER = KEPT_ROWS // 20
_MAX_COUNTED_SIGNERS = 4096
TOO_MANY = f"it sent {MAX_CLAIMS_PER_SIGNER} knocks in a short time; wait, and knock less often"
# A packet dated further ahead is synced before its door opens: entries lost in a crash are dated before boot + 1 s.
AHEAD_MS = 1000
# No window is longer, so the verifier accepts nothing dated later. Otherwise a compromised one could have all entries
# up to a date of its choice pruned, and all packets up to that date would be rejected.
MOST_AHEAD_MS = 3_600_000
TOO_OLD = "it is older than the record of used ones, so it may have been used"
_NOT_SYNCED = "and the ledger cannot be synced to the disk"
SCHEMA = """
CREATE TABLE seen (id BLOB PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_time ON seen (time);
CREATE TABLE seen_floor (boot TEXT NOT NULL, floor INTEGER NOT NULL, is_clean INTEGER NOT NULL);
"""
FORGOTTEN = """
CREATE TABLE seen_forgotten (newest INTEGER NOT NULL);
"""
CLOSES = """
CREATE TABLE closes (
    signer TEXT NOT NULL, door TEXT NOT NULL, address TEXT NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (signer, door, address)) WITHOUT ROWID;
"""


def claim_quotas(window_ms: int) -> KeyedBuckets:
    """Return the buckets that limit the claims of each signer, for this window."""
    return KeyedBuckets(MAX_CLAIMS_PER_SIGNER / (window_ms / 500), MAX_CLAIMS_PER_SIGNER, _MAX_COUNTED_SIGNERS)


class PacketId(NamedTuple):
    """A valid signed knock: number (16 bytes), time in milliseconds since the epoch, what it opens or closes."""

    id: bytes
    time_ms: int
    knock: DatedKnock | None = None
    is_close: bool = False


class Clock(NamedTuple):
    """The wall clock, in milliseconds since the epoch, and the boot time on that clock."""

    now_ms: int
    booted_ms: int


class ReplayCache:
    """The table, in the ledger's file. Nothing is accepted before `begin`."""

    def __init__(self, db: sqlite3.Connection, boot: str, secure: Callable[[], bool]) -> None:
        """`boot` is the kernel's boot ID; `secure` syncs the file to the disk, or returns False."""
        self._db, self._boot, self._secure = db, boot, secure
        self._clock: Callable[[], Clock] | None = None
        self._first_floor_ms = 0
        self._has_begun = False
        self._floor_ms = 0
        self._forgotten_ms = -1  # the newest date of the pruned entries
        self._may_lack_some = True  # the last entries before this boot
        self._claims = 0
        self._saved = set(db.execute("SELECT signer, door, address, time FROM closes"))  # closes that are on disk
        self.closes = CloseDates(self._saved)

    def begin(self, clock: Callable[[], Clock], floor_ms: int) -> str:
        """Prepare for `claim`, when the daemon starts; return a warning for the operator, or "".

        `clock` reads the wall clock; `floor_ms` is the floor of a table that has none yet.
        """
        self._clock, self._first_floor_ms = clock, floor_ms
        return self._begin(clock())

    def _begin(self, clock: Clock) -> str:
        try:
            warning = self._find_floor(clock)
        except sqlite3.Error as error:
            return f"the ledger cannot be written ({error}); no signed knock is accepted until it can"
        self._has_begun = self._secure()  # before the first claim: an unclean shutdown may lose the last entries
        return warning if self._has_begun else "the ledger cannot be synced; no signed knock is accepted until it can"

    def _find_floor(self, clock: Clock) -> str:
        row = self._db.execute("SELECT boot, floor, is_clean FROM seen_floor").fetchone()
        is_next_boot = row is not None and row[0] != self._boot
        was_clean = row is not None and bool(row[2])
        self._floor_ms = self._first_floor_ms if row is None else int(row[1])
        self._forgotten_ms = self._db.execute("SELECT coalesce(max(newest), -1) FROM seen_forgotten").fetchone()[0]
        self._may_lack_some = not (is_next_boot and was_clean)
        self._write_floor(is_clean=False)
        if is_next_boot and not was_clean and clock.booted_ms > self._floor_ms:
            return "the machine was not shut down in order: signed knocks from before its start are not taken"
        return ""

    def follow_clock(self, window_ms: int) -> str:
        """Lower a floor that a wrong clock put into the future; return a warning for the operator, or "".

        Call it periodically: the clock may be set at any time.
        """
        if self._clock is None or not self._has_begun:
            return ""
        now_ms = self._clock().now_ms
        self.closes.lower(now_ms + window_ms)
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
        """Record a clean shutdown, on the disk."""
        if self._clock is None or not self._has_begun:
            return
        if self._may_lack_some:
            self._floor_ms = max(self._floor_ms, self._clock().booted_ms + AHEAD_MS)
        with suppress(sqlite3.Error):
            self._write_floor(is_clean=True)
            self._secure()

    def claim(self, claims: Sequence[PacketId]) -> list[str]:
        """Record each as used, committed when this returns; return for each the reason to reject it, or "".

        A close is on the disk too, and rejects the earlier opens of its signer that come after it.
        """
        if self._clock is not None and not self._has_begun:
            self._begin(self._clock())  # the fault may be gone
        if self._clock is None or not self._has_begun:
            return ["the ledger cannot tell which were used"] * len(claims)
        clock = self._clock()
        try:
            with self._db:
                refusals = [self._claim(claim, clock) or self._apply(claim) for claim in claims]
                saved = self._save_closes() if any(claim.is_close for claim in claims) else self._saved
        except sqlite3.Error as error:
            return [f"the ledger cannot be written ({error})"] * len(claims)
        self._saved = saved
        must_sync = [claim.is_close or claim.time_ms > clock.now_ms + AHEAD_MS for claim in claims]
        if any(must_sync) and not self._secure():
            return [
                refusal or (f"{'it closes' if claim.is_close else 'it is dated ahead'}, {_NOT_SYNCED}" if must else "")
                for refusal, claim, must in zip(refusals, claims, must_sync, strict=True)
            ]
        return refusals

    def note_by_hand(self, closes: Iterable[DatedKnock]) -> None:
        """Remember closes by hand; those that cannot be written are with the next close, or lost if the daemon ends."""
        for close in closes:
            self.closes.note_by_hand(close)
        with suppress(sqlite3.Error):
            with self._db:
                saved = self._save_closes()
            self._saved = saved

    def _apply(self, claim: PacketId) -> str:
        """Remember a claimed close, or return the reason to reject a claimed open, or ""."""
        knock = claim.knock
        if knock is None:
            return ""
        if not claim.is_close:
            return self.closes.objection(knock)
        self.closes.note(knock)
        return ""

    def _save_closes(self) -> set[tuple[str, str, str, int]]:
        """Write the dates of closes that changed, and return all."""
        rows = set(self.closes.rows())
        self._db.executemany(
            "DELETE FROM closes WHERE (signer, door, address, time) = (?, ?, ?, ?)", self._saved - rows
        )
        self._db.executemany("INSERT INTO closes (signer, door, address, time) VALUES (?, ?, ?, ?)", rows - self._saved)
        return rows

    def _claim(self, claim: PacketId, clock: Clock) -> str:
        if claim.time_ms > clock.now_ms + MOST_AHEAD_MS:
            return "it is dated further ahead than any window reaches"
        self._claims += 1
        if self._claims % _FORGET_EVERY == 0:
            self._prune(claim.time_ms)  # first: this packet may be as old as those that are pruned
        if claim.time_ms < self._floor_ms or claim.time_ms <= self._forgotten_ms:
            return TOO_OLD
        if self._may_lack_some and claim.time_ms < clock.booted_ms + AHEAD_MS:
            return "it is older than this machine's start, so it may have been used"
        new = self._db.execute("INSERT OR IGNORE INTO seen (id, time) VALUES (?, ?)", claim[:2]).rowcount
        return "" if new else "it was used already"

    def _prune(self, now_ms: int) -> None:
        """Delete old and surplus entries, and record the newest date among them."""
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
            self.closes.prune(self._forgotten_ms)  # what they reject is rejected anyway; saved with the next close

    def _write_floor(self, *, is_clean: bool) -> None:
        with self._db:
            self._db.execute("DELETE FROM seen_floor")
            self._db.execute(
                "INSERT INTO seen_floor (boot, floor, is_clean) VALUES (?, ?, ?)",
                (self._boot, self._floor_ms, is_clean),
            )
