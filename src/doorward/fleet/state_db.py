"""A gate's knowledge of the fleet's openings in a file, so that a restarted gate neither misses nor repeats one.

Without it, an opening that was closed elsewhere while this gate was down would be published again as new.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from doorward.errors import HostError
from doorward.fleet.etcd_records import OpeningKey, parse_key
from doorward.fleet.state import MAX_KNOWN, OpeningState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS known (
    key TEXT PRIMARY KEY, until INTEGER NOT NULL, revision INTEGER NOT NULL, closing INTEGER NOT NULL,
    dated INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted (what TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""


class FleetStateFile:
    """The database; its times are wall time. An unusable file is replaced: etcd and the ledger have the rest.

    HostError: the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.error = ""
        try:
            self._db = _connect(path)
        except sqlite3.Error:
            self._db = _recreate(path)

    def read(self, offset_ms: int) -> dict[OpeningKey, OpeningState]:
        """Return the saved states; `offset_ms` is subtracted from wall time. Malformed rows are skipped."""
        states: dict[OpeningKey, OpeningState] = {}
        limit = 2 * MAX_KNOWN  # those of other gates, and as many of this one
        rows = self._db.execute("SELECT key, until, revision, closing, dated FROM known LIMIT ?", (limit,))
        for key, until_ms, revision, closing, dated_ms in rows:
            try:
                end_ms, is_closing = int(until_ms) - offset_ms, bool(closing)
                closed_until_ms = end_ms if is_closing else 0
                state = OpeningState(end_ms, "", int(revision), False, is_closing, closed_until_ms, int(dated_ms))
                states[parse_key(key)] = state
            except (ValueError, TypeError):
                continue
        return states

    def write(self, changed: Iterable[tuple[OpeningKey, OpeningState | None]], offset_ms: int) -> None:
        """Save the changed states. One that was never in etcd is not saved: the ledger has it."""
        try:
            with self._db:
                for key, known in changed:
                    if known is None or not (known.revision or known.is_closing):
                        self._db.execute("DELETE FROM known WHERE key = ?", (str(key),))
                        continue
                    until_ms = known.closed_until_ms if known.is_closing else known.until_ms
                    row = (str(key), until_ms + offset_ms, known.revision, known.is_closing, known.dated_ms)
                    self._db.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", row)
            self.error = ""
        except sqlite3.Error as error:  # a full disk must not stop the fleet
            self.error = str(error)

    def add_to_count(self, by: int) -> int:
        """Add to the count of records; return the count before."""
        try:
            with self._db:
                row = self._db.execute("SELECT count FROM counted WHERE what = 'records'").fetchone()
                count = int(row[0]) if row else 0
                self._db.execute("INSERT OR REPLACE INTO counted VALUES ('records', ?)", (count + by,))
                return count
        except (sqlite3.Error, ValueError, TypeError):
            return 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _recreate(path: Path) -> sqlite3.Connection:
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise HostError("state-unavailable", f"{path}: {error}; make the directory writable for doorward") from None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        db.execute("SELECT key, until, revision, closing, dated FROM known LIMIT 1").fetchall()
    except sqlite3.Error:
        db.close()
        raise
    return db
