"""Rows of the ledger that doorward did not write."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from doorward.cli.log import record_fields, record_parts
from doorward.core.signed_rules import CloseDates, DatedKnock, Holders
from doorward.daemon.ledger import Ledger, read_records
from doorward.model import Opening, Port

OPENING = (
    "INSERT INTO openings (door, address, ports, since, until, opened_by, closed, closed_by)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
)
CONFIRMED = OPENING.replace("closed_by)", "closed_by, confirmation)").replace("?8)", "?8, ?9)")
SHARED = (
    "INSERT INTO openings (door, address, ports, since, until, opened_by, shares) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
)
CLOSE = "INSERT INTO closes (signer, door, address, time) SELECT ?1, ?2, ?3, ?4 WHERE ?5 IS NOT 0"
REFUSAL = "INSERT INTO refusals (door, address, reason, at) VALUES (?1, ?2, ?3, ?4)"

NOTED = DatedKnock("ada", "ssh", ip_address("192.0.2.7"), 700)


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
                "".join(part if isinstance(part, str) else part[1] for part in record_parts(record)).encode()
                json.dumps(record_fields(record), allow_nan=False)
        with suppress(sqlite3.DatabaseError), closing(Ledger(path)) as ledger:  # the next start
            _use(ledger.seen.closes, ledger.active())


def _use(closes: CloseDates, openings: list[Opening]) -> None:
    """Do with the dates of closes what a daemon does, with shares and holders as they are."""
    closes.note(NOTED)
    closes.note_by_hand(NOTED)
    closes.lower(1_000)
    for opening in openings:
        left = closes.finish(*opening.key, Holders.of(opening))
        assert set(left.shares) <= set(Holders.of(opening).shares)
        assert closes.last("ada", *opening.key) >= -1
    closes.prune(500)
    assert all(time_ms > 500 for *_, time_ms in closes.rows())


def _insert(db: sqlite3.Connection, row: object) -> None:
    if not isinstance(row, list):
        return
    words = [value if not isinstance(value, list | dict) else json.dumps(value) for value in row]
    with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
        db.execute({9: CONFIRMED, 8: OPENING, 7: SHARED, 5: CLOSE}.get(len(words), REFUSAL), words)
