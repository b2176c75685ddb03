"""The ledger: openings and refusals in SQLite (WAL). Times are seconds since the epoch."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from doorward.errors import HostError
from doorward.model import Address, Opening, Port

SCHEMA_VERSION = 1
KEPT_ROWS = 200_000  # a table; older rows go, so that a scanner cannot fill the disk
MAX_PENDING = 10_000  # writes that wait while the disk is full; beyond it the oldest is lost and counted
_TRIM_EVERY = 1000
_SCHEMA = """
CREATE TABLE openings (
    id INTEGER PRIMARY KEY, door TEXT NOT NULL, address TEXT NOT NULL, ports TEXT NOT NULL,
    since REAL NOT NULL, until REAL NOT NULL, opened_by TEXT NOT NULL, closed REAL, closed_by TEXT);
CREATE INDEX standing ON openings (address, door) WHERE closed IS NULL;
CREATE INDEX openings_since ON openings (since);
CREATE TABLE refusals (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, door TEXT, address TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX refusals_at ON refusals (at);
"""

_TRIM = {
    "openings": "DELETE FROM openings WHERE closed IS NOT NULL AND id <= (SELECT max(id) FROM openings) - ?",
    "refusals": "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?",
}


class Record(NamedTuple):
    """One line of the record: an opening with its end, or a refusal."""

    at_s: float
    event: str  # "opened" or "refused"
    door: str | None
    address: str
    detail: dict[str, Any]


class Ledger:
    """The daemon's side. A write that fails waits in memory and is tried again; `trouble` says why."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        self.lost = 0
        self._pending: deque[tuple[str, tuple[object, ...]]] = deque()
        self._writes = 0
        self._db = _connect(path)

    def opened(self, opening: Opening) -> None:
        """Record an opening, or the new end of the one that stands."""
        ports = json.dumps([str(port) for port in opening.ports])
        key = (opening.door, str(opening.address))
        self._write(
            "INSERT INTO openings (door, address, ports, since, until, opened_by)"
            " SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM openings WHERE door = ? AND address = ? AND closed IS NULL)",
            (*key, ports, opening.since_s, opening.until_s, opening.by, *key),
        )
        self._write(
            "UPDATE openings SET until = ?, ports = ? WHERE door = ? AND address = ? AND closed IS NULL",
            (opening.until_s, ports, *key),
        )

    def closed(self, door: str, address: Address, at_s: float, by: str) -> None:
        """Record the end of an opening: by "time", "hand", or "lost" where the kernel no longer had it."""
        self._write(
            "UPDATE openings SET closed = ?, closed_by = ? WHERE door = ? AND address = ? AND closed IS NULL",
            (at_s, by, door, str(address)),
        )

    def refused(self, door: str | None, address: Address, at_s: float, reason: str) -> None:
        """Record that a source was refused, and why."""
        self._write(
            "INSERT INTO refusals (at, door, address, reason) VALUES (?, ?, ?, ?)", (at_s, door, str(address), reason)
        )

    def standing(self) -> list[Opening]:
        """Give the openings whose end was not recorded, for a daemon that starts; rows that make no sense end."""
        query = "SELECT id, door, address, ports, since, until, opened_by FROM openings WHERE closed IS NULL"
        openings = []
        for number, *row in self._db.execute(query).fetchall():
            try:
                openings.append(_opening(*row))
            except (TypeError, ValueError, AttributeError, RecursionError):
                self._write("UPDATE openings SET closed = since, closed_by = 'lost' WHERE id = ?", (number,))
        return openings

    def flush(self) -> bool:
        """Try what waits; False where it must wait on."""
        try:
            with self._db:
                for statement, values in self._pending:
                    self._db.execute(statement, values)
        except sqlite3.Error as error:
            self.trouble = f"{self.path}: {error}; {len(self._pending)} writes wait"
            return False
        self._pending.clear()
        self.trouble = ""
        return True

    def close(self) -> None:
        """Write what waits and close the file."""
        self.flush()
        self._db.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        self._pending.append((statement, values))
        while len(self._pending) > MAX_PENDING:
            self._pending.popleft()
            self.lost += 1
        self._writes += 1
        if self._writes % _TRIM_EVERY == 0:
            for table in _TRIM:
                self._pending.append((_TRIM[table], (KEPT_ROWS,)))
        if not self.trouble:
            self.flush()


def _opening(door: str, address: str, ports: str, since: float, until: float, by: str) -> Opening:
    parsed = tuple(Port.parse(text) for text in json.loads(ports))
    if not (math.isfinite(since) and math.isfinite(until)):
        raise ValueError("an opening without an end")
    return Opening(str(door), ip_address(address), parsed, float(since), float(until), str(by))


def _connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, or make it. sqlite3.DatabaseError: it is damaged; HostError: it is another version's."""
    db = sqlite3.connect(path, timeout=1.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may lose the last records, never the file
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise HostError(f"{path} is a ledger of version {version}; this doorward writes version {SCHEMA_VERSION}")
        if (fault := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(fault)
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def open_ledger(path: Path, stamp: str) -> tuple[Ledger, str | None]:
    """Open the ledger; one that cannot be used is set aside under a name with `stamp`, and a new one begun.

    Gives the ledger and, where one was set aside, a message that says so. HostError: no ledger can be had there.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{path.parent}: {error.strerror}; make that folder, or name another STATE_DIRECTORY") from None
    try:
        return Ledger(path), None
    except (sqlite3.DatabaseError, HostError) as error:
        if isinstance(error, sqlite3.OperationalError):  # no right, no room, locked: the file itself may be sound
            raise HostError(
                f"the ledger {path} cannot be opened ({error}); give doorward that folder to write"
            ) from None
        aside = path.with_name(f"{path.name}.{stamp}")
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return Ledger(path), f"the ledger {path} cannot be used ({error}); it is kept as {aside}, and a new one begins"


def read_records(
    path: Path, since_s: float, last: int, door: str | None = None, address: str | None = None
) -> Iterator[Record]:
    """Give the last records since a moment, oldest first, without touching the file. HostError: it cannot be read."""
    query = """
        SELECT * FROM (
            SELECT since AS at, 'opened' AS event, door, address, ports, until, opened_by, closed, closed_by, NULL
              FROM openings
            UNION ALL
            SELECT at, 'refused', door, address, NULL, NULL, NULL, NULL, NULL, reason FROM refusals)
        WHERE at >= :since AND (:door IS NULL OR door = :door) AND (:address IS NULL OR address = :address)
        ORDER BY at DESC LIMIT :last"""
    chosen = {"since": since_s, "last": last, "door": door, "address": address}
    try:
        path.stat()
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            rows = db.execute(query, chosen).fetchall()
    except FileNotFoundError:
        raise HostError(f"{path}: no ledger; it begins when `doorward run` first starts") from None
    except (sqlite3.Error, OSError) as error:
        raise HostError(f"{path}: {error}; ask as root, or as the user that doorward runs as") from None
    yield from map(_record, reversed(rows))


def _record(row: tuple[Any, ...]) -> Record:
    at, event, door, address, ports, until, by, closed, closed_by, reason = row
    if event == "refused":
        return Record(at, event, door, address, {"reason": reason})
    try:
        parsed = [str(port) for port in json.loads(ports)]
    except (TypeError, ValueError, RecursionError):  # a row that something else wrote
        parsed = []
    finite = until if isinstance(until, float) and math.isfinite(until) else at
    return Record(
        at, event, door, address, {"ports": parsed, "until": finite, "by": by, "closed": closed, "closed_by": closed_by}
    )


def ledger_path() -> Path:
    """Give the ledger's path: in STATE_DIRECTORY, or /var/lib/doorward."""
    folders = os.environ.get("STATE_DIRECTORY", "")
    return Path(folders.split(":")[0] or "/var/lib/doorward") / "ledger.sqlite3"
