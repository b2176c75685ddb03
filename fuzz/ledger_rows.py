"""Rows of the ledger that doorward did not write."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from doorward.cli.log import record_line
from doorward.daemon.ledger import Ledger, read_records
from doorward.model import Port

OPENING = (
    "INSERT INTO openings (door, address, ports, since, until, opened_by, closed, closed_by)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
)
SHARED = (
    "INSERT INTO openings (door, address, ports, since, until, opened_by, shares) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
)
REFUSAL = "INSERT INTO refusals (door, address, reason, at) VALUES (?1, ?2, ?3, ?4)"


def one(data: bytes) -> None:
    """Insert rows, given as lists in JSON; read them as the daemon does, and as `doorward log` does."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite3")
        with closing(Ledger(path)) as ledger:
            with closing(sqlite3.connect(path)) as db, db:
                for row in rows if isinstance(rows, list) else ():
                    _insert(db, row)
            for opening in ledger.active():
                assert opening.ports == tuple(Port.parse(str(port)) for port in opening.ports)
            assert ledger.active() is not None
            for record in read_records(path, -1e308, 100):
                record_line(record).encode()
                json.dumps(record, allow_nan=False)


def _insert(db: sqlite3.Connection, row: object) -> None:
    if not isinstance(row, list):
        return
    words = [value if not isinstance(value, list | dict) else json.dumps(value) for value in row]
    with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
        db.execute({8: OPENING, 7: SHARED}.get(len(words), REFUSAL), words)
