"""The real replay cache (daemon/replay_cache.py) as a pure function of values, for a model that visits many states."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

from doorward.daemon import replay_cache
from doorward.daemon.replay_cache import CLOSES, FORGOTTEN, SCHEMA, Clock, PacketId, ReplayCache

_TABLES = ("seen", "seen_floor", "seen_forgotten")
_NOT_STATE = {"_db", "_secure", "_clock", "_claims", "_saved", "closes"}  # `_claims` only decides when to prune
_MANY = 1 << 40


class Limits(NamedTuple):
    """How many numbers are kept, and whether the rule for packets from before a boot is in force."""

    kept_rows: int = _MANY
    boot_rule: bool = True


class CacheState(NamedTuple):
    """The tables, and the fields of the object; none of them where no daemon has it."""

    tables: tuple[frozenset[tuple[Any, ...]], ...] = (frozenset(),) * len(_TABLES)
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def forgotten_ms(self) -> int:
        """Return the newest date among the numbers that were dropped, or -1."""
        return max((int(row[0]) for row in self.tables[2]), default=-1)


class Outcome(NamedTuple):
    """The state after a call, whether it synced the file to the disk, and why it rejected the packet, or ""."""

    after: CacheState
    is_synced: bool
    rejection: str = ""


@cache
def _database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA + FORGOTTEN + CLOSES)
    return db


@cache
def begin(before: CacheState, boot: int, clock: Clock, limits: Limits) -> Outcome:
    """Start a daemon with these tables."""
    seen, syncs = _restore(before._replace(fields=()), boot, clock)
    seen.begin(lambda: clock, clock.now_ms)
    if not limits.boot_rule:
        seen._may_lack_some = False
    return Outcome(_state(seen), bool(syncs))


@cache
def claim(before: CacheState, boot: int, clock: Clock, packet: PacketId, limits: Limits) -> Outcome:
    """Claim one packet; where few rows are kept, surplus ones are pruned at each claim."""
    seen, syncs = _restore(before, boot, clock)
    every = 1000 if limits.kept_rows == _MANY else 1
    with patch.multiple(replay_cache, _FORGET_EVERY=every, KEPT_ROWS=min(limits.kept_rows, 200_000)):
        (rejection,) = seen.claim([packet])
    return Outcome(_state(seen), bool(syncs), rejection)


@cache
def close(before: CacheState, boot: int, clock: Clock) -> Outcome:
    """End a daemon in order."""
    seen, syncs = _restore(before, boot, clock)
    seen.close()
    return Outcome(_state(seen), bool(syncs))


def _restore(state: CacheState, boot: int, clock: Clock) -> tuple[ReplayCache, list[bool]]:
    db, syncs = _database(), list[bool]()
    with db:
        for table, rows in zip(_TABLES, state.tables, strict=True):
            db.execute(f"DELETE FROM {table}")  # noqa: S608
            for row in rows:
                db.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608

    def sync() -> bool:
        syncs.append(True)
        return True

    seen = ReplayCache(db, f"boot {boot}", sync)
    if state.fields:
        vars(seen).update(state.fields, _clock=lambda: clock)
    return seen, syncs


def _state(seen: ReplayCache) -> CacheState:
    tables = tuple(frozenset(_database().execute(f"SELECT * FROM {table}")) for table in _TABLES)  # noqa: S608
    return CacheState(tables, tuple((name, value) for name, value in vars(seen).items() if name not in _NOT_STATE))
