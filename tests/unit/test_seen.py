"""Which signed knocks were used: whatever happens in between, none is good twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward import seen
from doorward.ledger import Ledger, open_ledger
from doorward.seen import KEPT_MS, SCHEMA, Claim, Seen

DAY_MS = 86_400_000
BOOT, NEXT_BOOT = "boot-1", "boot-2"
NOW_MS = 100 * DAY_MS


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def begun(db: sqlite3.Connection, boot: str = BOOT, booted_ms: int = 0, floor_ms: int = 0) -> Seen:
    table = Seen(db)
    table.begin(boot, booted_ms, floor_ms)
    return table


def claim(number: int, time_ms: int = NOW_MS) -> Claim:
    return Claim(number.to_bytes(16), time_ms)


def test_a_knock_is_good_once(db: sqlite3.Connection) -> None:
    table = begun(db)
    assert table.claim([claim(1), claim(2)]) == ["", ""]
    assert table.claim([claim(2), claim(3), claim(3)]) == ["it was used already", "", "it was used already"]


def test_a_restart_remembers(db: sqlite3.Connection) -> None:
    begun(db).claim([claim(1)])
    assert begun(db).claim([claim(1), claim(2)]) == ["it was used already", ""]


def test_a_new_table_takes_nothing_older_than_itself(db: sqlite3.Connection) -> None:
    table = begun(db, floor_ms=NOW_MS)
    assert table.claim([claim(1, NOW_MS - 1), claim(2, NOW_MS)])[0].startswith("it is older than the record")
    assert begun(db, floor_ms=NOW_MS + 5).claim([claim(3, NOW_MS)]) == [""]  # it is no longer new


def test_after_an_unclean_boot_nothing_from_before_it_is_good(db: sqlite3.Connection) -> None:
    begun(db).claim([claim(1)])
    table = Seen(db)
    assert "not shut down in order" in table.begin(NEXT_BOOT, NOW_MS + 1000, 0)
    assert table.claim([claim(2, NOW_MS + 999)])[0].startswith("it is older")
    assert table.claim([claim(3, NOW_MS + 1000)]) == [""]
    again = Seen(db)
    assert again.begin(NEXT_BOOT, NOW_MS + 1000, 0) == ""  # the same boot: told once
    assert again.claim([claim(4, NOW_MS + 999)])[0].startswith("it is older")  # and true for good


def test_after_a_clean_end_a_boot_changes_nothing(db: sqlite3.Connection) -> None:
    first = begun(db)
    first.claim([claim(1)])
    first.end(BOOT)
    table = Seen(db)
    assert table.begin(NEXT_BOOT, NOW_MS + 1000, 0) == ""
    assert table.claim([claim(1), claim(2)]) == ["it was used already", ""]


def test_a_daemon_that_began_after_a_clean_end_must_end_cleanly_too(db: sqlite3.Connection) -> None:
    begun(db).end(BOOT)
    begun(db, NEXT_BOOT)  # killed, and then the power goes
    assert "not shut down" in Seen(db).begin("boot-3", NOW_MS, 0)


def test_what_is_forgotten_is_refused_for_its_age(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    table = begun(db)
    table.claim([claim(1)])
    assert table.claim([claim(2, NOW_MS + KEPT_MS + 1)]) == [""]
    assert db.execute("SELECT count(*) FROM seen").fetchone() == (1,)
    assert table.claim([claim(1)])[0].startswith("it is older")
    assert begun(db).claim([claim(1)])[0].startswith("it is older")


def test_the_table_is_bounded(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    monkeypatch.setattr(seen, "KEPT_ROWS", 10)
    table = begun(db)
    for number in range(50):
        assert table.claim([claim(number, NOW_MS + number)]) == [""]
        assert db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    for number in range(50):
        assert table.claim([claim(number, NOW_MS + number)]) != [""]


def test_a_crowd_of_one_moment_is_bounded_too(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    monkeypatch.setattr(seen, "KEPT_ROWS", 10)
    table = begun(db)
    refusals = [table.claim([claim(number)])[0] for number in range(50)]
    assert db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    assert refusals[:10] == [""] * 10
    assert refusals[-1].startswith("it is older")  # fails closed


# In the ledger


def test_a_ledger_that_cannot_be_written_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.begin_seen(0, 0) == ""
    with sqlite3.connect(ledger.path) as other:
        other.execute("BEGIN IMMEDIATE")
        (refusal,) = ledger.claim([claim(1)], NOW_MS / 1000)
    assert "cannot be written" in refusal
    assert ledger.claim([claim(1)], NOW_MS / 1000) == [""]
    ledger.close()


def test_a_ledger_that_has_not_begun_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.claim([claim(1)], NOW_MS / 1000) == ["the ledger cannot tell which were used"]
    ledger.close()


def test_a_new_ledger_knows_that_it_follows_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger, _ = open_ledger(path, "stamp")
    assert not ledger.follows_a_damaged_one
    ledger.close()
    path.write_bytes(b"garbage" * 1000)
    ledger, _ = open_ledger(path, "stamp")
    assert ledger.follows_a_damaged_one
    ledger.close()


def test_what_is_dated_ahead_is_synced_before_its_door_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.begin_seen(0, 0)
    synced: list[bool] = []
    monkeypatch.setattr(ledger, "secure", lambda: synced.append(True))
    ledger.claim([claim(1, NOW_MS + 900)], NOW_MS / 1000)
    assert synced == []
    ledger.claim([claim(2, NOW_MS + 1100)], NOW_MS / 1000)
    assert synced == [True]
    ledger.close()
