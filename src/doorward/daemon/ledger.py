"""The ledger: openings, refusals, bans and used signed knocks in SQLite (WAL). Times are seconds since the epoch."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from doorward.daemon import replay_cache
from doorward.daemon.ledger_schema import ACTIVE, as_text, connect
from doorward.errors import HostError
from doorward.kernel import atomic_file
from doorward.kernel.owner_rights import owner_rights
from doorward.model import Opening, Share, Source, parse_open_port, parse_source

KEPT_ROWS = 200_000  # per table; older rows are deleted, so that a scanner cannot fill the disk
MAX_PENDING = 10_000  # writes that wait while the disk is full; beyond it the oldest is lost and counted
LAST_MOMENT_S = 253_000_000_000.0  # in the year 9987; later times cannot be formatted
WRITES_TOGETHER = 1000  # at most in one transaction, so that what waits stays small
STEP_S = 0.5  # smaller differences are drift of the clock
_TRIM_EVERY = 1000
RECENT_ROWS = 10_000  # among which a closed opening is looked for, for a millisecond or two

_RECORDS = """
SELECT * FROM (
    SELECT since AS at, 'opened' AS event, door, address, ports, until, opened_by, closed, closed_by, {}, NULL
      FROM openings
    UNION ALL
    SELECT at, 'refused', door, address, NULL, NULL, NULL, NULL, NULL, NULL, reason FROM refusals
    {})
WHERE at >= :since AND (event <> 'refused' OR at >= :refused_since) AND (:door IS NULL OR door = :door)
  AND (:by IS NULL OR opened_by IN (SELECT value FROM json_each(:by)))
  AND (:addresses IS NULL OR address IN (SELECT value FROM json_each(:addresses)))
ORDER BY at DESC LIMIT :last"""
_BAN_RECORDS = """  -- which ledgers up to version 3 have not
    UNION ALL
    SELECT at, 'banned', NULL, address, NULL, until, NULL, ended, NULL, NULL, NULL FROM bans"""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# SQLite's errors for a damaged file; after any other (no permission, disk full, locked) it may be intact.
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
_TRIM = {
    "openings": "DELETE FROM openings WHERE closed IS NOT NULL AND id <= (SELECT max(id) FROM openings) - ?",
    "refusals": "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?",
    "bans": "DELETE FROM bans WHERE id <= (SELECT max(id) FROM bans) - ?",
}


class Record(NamedTuple):
    """One entry of the access log: an opening with its end, a rejection, or a ban."""

    at_s: float
    event: str  # "opened", "refused" or "banned"
    door: str | None
    address: str
    detail: dict[str, Any]


class Ledger:
    """The daemon's side. A failed write is kept in memory and retried; `trouble` is the reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.follows_a_damaged_one = False
        self.trouble = ""
        self.lost = 0
        self._pending: deque[tuple[str, tuple[object, ...]]] = deque()
        self._writes = 0
        self._together = False
        self._db = connect(path)
        self._boot = _BOOT.read_text().strip()
        noted = self._db.execute("SELECT offset FROM clock WHERE boot = ?", (self._boot,)).fetchone()
        self._offset_s: float | None = noted[0] if noted and isinstance(noted[0], float) else None
        self.seen = replay_cache.ReplayCache(self._db, self._boot, self.fsync)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write the records made inside in one transaction, or a few, which is much faster for many."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if not self.trouble:
                self.flush()

    def fsync(self) -> bool:
        """Sync the writes to the disk, so that they survive a power failure; return whether it succeeded.

        Used for owed commands. SQLite itself would sync at every commit (synchronous = FULL) or at none (NORMAL).
        """
        try:
            atomic_file.sync(self.path.with_name(f"{self.path.name}-wal"))
        except OSError as error:
            self.trouble = self.trouble or f"{self.path}: {error.strerror}"
            return False
        return True

    def wall_offset(self, now_s: float, wall_s: float) -> float:
        """Return the offset from `now_s` (CLOCK_MONOTONIC) to wall time.

        If the wall clock was stepped since the last call, by this daemon or an earlier one in the same boot, the times
        of active openings are shifted too: a step neither prolongs nor shortens an opening.
        """
        offset_s = wall_s - now_s
        if self._offset_s is None or abs(offset_s - self._offset_s) > STEP_S:
            if self._offset_s is not None:
                step_s = offset_s - self._offset_s
                self._write(
                    "UPDATE openings SET since = since + ?, until = until + ? WHERE closed IS NULL", (step_s,) * 2
                )
            self._offset_s = offset_s
            self._write("DELETE FROM clock", ())
            self._write("INSERT INTO clock (boot, offset) VALUES (?, ?)", (self._boot, offset_s))
        return offset_s

    def opened(self, opening: Opening) -> None:
        """Record an opening, or the new end and holders of an active one."""
        ports = json.dumps([str(port) for port in opening.ports])
        shares = _shares_text(opening)
        key = (opening.door, str(opening.address))
        self._write(
            "INSERT INTO openings (door, address, ports, since, until, opened_by, shares)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM openings WHERE door = ? AND address = ? AND closed IS NULL)",
            (*key, ports, opening.since_s, opening.until_s, opening.by, shares, *key),
        )
        self._write(
            "UPDATE openings SET until = ?, ports = ?, shares = ? WHERE door = ? AND address = ? AND closed IS NULL",
            (opening.until_s, ports, shares, *key),
        )

    def ended(self, door: str, address: Source, at_s: float) -> None:
        """Record that an opening has ended; its command is owed until it is `closed` too."""
        self._write(
            "UPDATE openings SET until = min(until, ?) WHERE door = ? AND address = ? AND closed IS NULL",
            (at_s, door, str(address)),
        )

    def closed(self, door: str, address: Source, at_s: float, by: str) -> None:
        """Record the end of an opening: by "time", "hand", or "lost" if the kernel no longer had it."""
        self._write(
            "UPDATE openings SET closed = ?, closed_by = ? WHERE door = ? AND address = ? AND closed IS NULL",
            (at_s, by, door, str(address)),
        )

    def reopened(self, opening: Opening) -> None:
        """Take back the end of an opening, which the kernel still has."""
        key = (opening.door, str(opening.address))
        self._write(
            "UPDATE openings SET until = ?, closed = NULL, closed_by = NULL"
            " WHERE id = (SELECT max(id) FROM openings WHERE door = ? AND address = ?)",
            (opening.until_s, *key),
        )

    def confirmed(self, door: str, address: Source, outcome: str) -> None:
        """Record what became of the latest confirmation, with the active opening or else the last one that was closed.

        While writes fail it is left out, so that it takes no other record's place among those that wait.
        """
        key = (door, str(address))
        if not self.trouble:
            self._write(
                "UPDATE openings SET confirmation = ? WHERE id = coalesce("
                "(SELECT id FROM openings WHERE door = ? AND address = ? AND closed IS NULL),"
                " (SELECT max(id) FROM openings WHERE door = ? AND address = ?"
                " AND id > (SELECT max(id) FROM openings) - ?))",
                (outcome, *key, *key, RECENT_ROWS),
            )

    def refused(self, door: str | None, address: Source, at_s: float, reason: str) -> None:
        """Record that a source was rejected, and the reason."""
        self._write(
            "INSERT INTO refusals (at, door, address, reason) VALUES (?, ?, ?, ?)", (at_s, door, str(address), reason)
        )

    def banned(self, ban: Source, at_s: float, until_s: float) -> None:
        """Record a ban; it replaces an active one."""
        self.unbanned(ban, at_s)
        self._write("INSERT INTO bans (at, address, until) VALUES (?, ?, ?)", (at_s, str(ban), until_s))

    def unbanned(self, ban: Source, at_s: float) -> None:
        """Record that a ban was ended early."""
        self._write(
            "UPDATE bans SET ended = ? WHERE address = ? AND ended IS NULL AND until > ?", (at_s, str(ban), at_s)
        )

    def active(self) -> list[Opening]:
        """Return the openings without a recorded end, for a daemon that starts; invalid rows are ended."""
        openings = []
        for number, *row in self._db.execute(ACTIVE).fetchall():
            try:
                openings.append(_opening(*row))
            except (TypeError, ValueError, AttributeError, RecursionError):
                self._write("UPDATE openings SET closed = since, closed_by = 'lost' WHERE id = ?", (number,))
        return openings

    def last_openings(self) -> dict[str, float]:
        """Return the time of the last opening by each `Opening.by` but addresses' sequences; reads the whole table."""
        query = "SELECT opened_by, max(since) FROM openings WHERE opened_by NOT IN ('knock', 'hand') GROUP BY opened_by"
        return {str(by): float(since_s) for by, since_s in self._db.execute(query) if isinstance(since_s, float)}

    def flush(self) -> bool:
        """Retry pending writes; return whether they succeeded."""
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
        """Write pending records and close the file."""
        if self.flush():
            self.seen.close()
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
        if not self.trouble and (not self._together or len(self._pending) >= WRITES_TOGETHER):
            self.flush()


def _shares_text(opening: Opening) -> str:
    """Return the shares, each with how long before the opening it ends, which no step of the clock changes."""
    return json.dumps([[s.by, opening.until_s - s.until_s, s.dated_ms, s.name, s.once] for s in opening.shares])


def _share(until_s: float, by: str, earlier_s: float, dated_ms: int, name: str, once: object = False) -> Share:
    if not (0 <= earlier_s <= LAST_MOMENT_S and type(dated_ms) is int and 0 <= dated_ms <= LAST_MOMENT_S * 1000):
        raise ValueError("a share that outlasts its opening, or has no date")  # NaN is excluded too
    return Share(str(by), until_s - earlier_s, dated_ms, str(name), once is not False)


def _opening(door: str, address: str, ports: str, since: float, until: float, by: str, shares: str | None) -> Opening:
    parsed = tuple(parse_open_port(text) for text in json.loads(ports))
    if not (0 <= since <= LAST_MOMENT_S and 0 <= until <= LAST_MOMENT_S):  # also excludes NaN
        raise ValueError("an opening without an end")
    held = tuple(_share(float(until), *row) for row in json.loads(shares or "[]"))
    return Opening(str(door), parse_source(address), parsed, float(since), float(until), str(by), held)


def open_ledger(path: Path, stamp: str) -> tuple[Ledger, str | None]:
    """Open the ledger; an unusable one is renamed with the suffix `stamp`, and a new one created.

    Return the ledger and, if one was renamed, a message. HostError: no ledger can be opened or created.
    """
    make_directory(path)
    try:
        return Ledger(path), None
    except (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError, HostError) as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF not in _DAMAGE:
            raise HostError(
                "ledger-unavailable",
                f"the ledger {path} cannot be opened ({error}); make that directory writable for doorward",
            ) from None
        aside = path.with_name(f"{path.name}.{stamp}")
        for part, new in zip(parts_of(path), parts_of(aside), strict=True):
            if part.exists():
                part.rename(new)
        what = f"the ledger {path} cannot be used ({_reason(error)}); it is kept as {aside}, and a new one begins"
        ledger = Ledger(path)
        ledger.follows_a_damaged_one = True
        return ledger, what


def make_directory(path: Path) -> None:
    """Create the directory of a ledger, if missing. HostError: it cannot be created."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            "unwritable-directory",
            f"{path.parent}: {error.strerror}; create that directory, or name another STATE_DIRECTORY",
        ) from None


def _reason(error: Exception) -> str:
    return "it claims more data than memory holds" if isinstance(error, MemoryError) else str(error)


def read_records(
    path: Path,
    since_s: float,
    last: int,
    door: str | None = None,
    address: str | Sequence[str] | None = None,
    by: Sequence[str] | None = None,
    refused_since_s: float = 0.0,
) -> Iterator[Record]:
    """Return the last records since a time, oldest first, without changing the file. HostError: it is unreadable.

    `address` is one address, or several of which any matches. `by`: only what one of these opened. Refusals may have a
    later beginning than the rest.
    """
    addresses = None if address is None else json.dumps([address] if isinstance(address, str) else list(address))
    chosen = {
        "since": since_s,
        "refused_since": refused_since_s,
        "last": last,
        "door": door,
        "addresses": addresses,
        "by": None if by is None else json.dumps(by),
    }
    try:
        with owner_rights(path.parent):
            rows = _rows(path, chosen)
    except FileNotFoundError:
        raise HostError("no-ledger", f"{path}: no ledger; it begins when `doorward run` first starts") from None
    except (sqlite3.Error, UnicodeDecodeError, MemoryError, OSError) as error:
        raise HostError(
            "ledger-unreadable", f"{path}: {_reason(error)}; ask as root, or as the user that doorward runs as"
        ) from None
    yield from map(_record, reversed(rows))


def _rows(path: Path, chosen: Mapping[str, object]) -> list[Any]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("this is not a regular file")  # opening a pipe would block
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
        db.text_factory = as_text
        has_bans = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'bans'").fetchone()
        columns = {name for (name,) in db.execute("SELECT name FROM pragma_table_info('openings')")}
        confirmation = "confirmation" if "confirmation" in columns else "NULL"  # in ledgers up to version 4
        return db.execute(_RECORDS.format(confirmation, _BAN_RECORDS if has_bans else ""), chosen).fetchall()


def _record(row: tuple[Any, ...]) -> Record:
    """Parse a row, which may hold anything."""
    at, event, door, address, ports, until, by, closed, closed_by, confirmation, reason = row
    at_s, address, door = _moment(at, 0.0), str(address), None if door is None else str(door)
    if event == "refused":
        return Record(at_s, event, door, address, {"reason": str(reason)})
    until_s, ended_s = _moment(until, at_s), None if closed is None else _moment(closed, at_s)
    if event == "banned":
        return Record(at_s, event, door, address, {"until": until_s, "ended": ended_s})
    try:
        parsed = [str(port) for port in json.loads(ports)]
    except (TypeError, ValueError, RecursionError):
        parsed = []
    ended_by, confirmed = (None if value is None else str(value) for value in (closed_by, confirmation))
    detail = {"ports": parsed, "by": str(by), "closed_by": ended_by, "until": until_s, "closed": ended_s}
    detail["confirmation"] = confirmed
    return Record(at_s, event, door, address, detail)


def _moment(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, float | int) and 0 <= value <= LAST_MOMENT_S else otherwise


def ledger_path(usual: str = "/var/lib/doorward") -> Path:
    """Return the ledger's path: in STATE_DIRECTORY, or in `usual`."""
    folders = os.environ.get("STATE_DIRECTORY", "")
    return Path(folders.split(":")[0] or usual) / "ledger.sqlite3"


def parts_of(path: Path) -> list[Path]:
    """Return the files that SQLite makes of a ledger (sqlite.org/tempfiles.html)."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
