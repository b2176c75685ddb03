"""The tables of the ledger, and how one of an earlier version gets those that it lacks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from doorward.daemon import replay_cache
from doorward.errors import HostError
from doorward.kernel import atomic_file

SCHEMA_VERSION = 5
_CLOCK = "CREATE TABLE clock (boot TEXT NOT NULL, offset REAL NOT NULL);"
_BANS = """
CREATE TABLE bans (id INTEGER PRIMARY KEY, at REAL NOT NULL, address TEXT NOT NULL, until REAL NOT NULL, ended REAL);
CREATE INDEX bans_at ON bans (at);
"""
_NEW = "shares TEXT", "confirmation TEXT"  # of openings, new in version 5
_SCHEMA = f"""
CREATE TABLE openings (
    id INTEGER PRIMARY KEY, door TEXT NOT NULL, address TEXT NOT NULL, ports TEXT NOT NULL,
    since REAL NOT NULL, until REAL NOT NULL, opened_by TEXT NOT NULL, closed REAL, closed_by TEXT, {", ".join(_NEW)});
CREATE INDEX standing ON openings (address, door) WHERE closed IS NULL;
CREATE INDEX openings_since ON openings (since);
CREATE TABLE refusals (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, door TEXT, address TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX refusals_at ON refusals (at);
{_CLOCK}
{replay_cache.SCHEMA}
{replay_cache.FORGOTTEN}
{_BANS}
{replay_cache.CLOSES}
"""
_ADD_COLUMNS = "".join(f"ALTER TABLE openings ADD COLUMN {column};" for column in _NEW)
# Added to a ledger of version 0, 1, 2, 3, 4.
_ADDED = ("", _CLOCK, replay_cache.SCHEMA, replay_cache.FORGOTTEN + _BANS, _ADD_COLUMNS + replay_cache.CLOSES)
ACTIVE = "SELECT id, door, address, ports, since, until, opened_by, shares FROM openings WHERE closed IS NULL"
_INVALID_DATE = (
    "SELECT 1 FROM seen_floor WHERE typeof(floor) != 'integer'"
    " UNION SELECT 1 FROM seen_forgotten WHERE typeof(newest) != 'integer'"
    " UNION SELECT 1 FROM closes WHERE typeof(time) != 'integer' OR typeof(signer) != 'text'"
)


def as_text(raw: bytes) -> str:
    """Decode UTF-8; an invalid byte affects only its own row."""
    return raw.decode(errors="replace")


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the ledger. HostError: it has another version.

    A damaged file raises sqlite3.DatabaseError, UnicodeDecodeError (SQLite's message quotes it) or MemoryError (SQLite
    trusted a size in it).
    """
    db = sqlite3.connect(path, timeout=1.0)
    db.text_factory = as_text
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a crash of the host may lose the last records, never the file
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in range(SCHEMA_VERSION + 1):
            raise HostError(
                "ledger-version",
                f"{path} is a ledger of version {version}; this doorward writes version {SCHEMA_VERSION}",
            )
        if (fault := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(fault)
        if version < SCHEMA_VERSION:
            added = _SCHEMA if version == 0 else "".join(_ADDED[version:])
            db.executescript(f"BEGIN; {added} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        if version == 0:
            atomic_file.sync(
                path.parent
            )  # else a loss of power may take the whole file away, whatever was synced in it
        if not _definitions(db) >= _own_definitions():
            raise sqlite3.DatabaseError("its tables are not a ledger's")
        if db.execute(_INVALID_DATE).fetchone():
            raise sqlite3.DatabaseError("it does not say from when on it knows used signed knocks")
        db.execute(ACTIVE).fetchall()  # finds damage that quick_check overlooks
    except BaseException:
        db.close()
        raise
    return db


def _definitions(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_master").fetchall())


def _own_definitions() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        return _definitions(db)
