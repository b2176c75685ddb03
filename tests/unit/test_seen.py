"""Which signed knocks were used: whatever happens in between, none is good twice."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward import durable, seen
from doorward.ledger import Ledger, open_ledger
from doorward.seen import AHEAD_MS, KEPT_MS, SCHEMA, Claim, Seen

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
    assert table.claim([claim(1), claim(2)], 0) == ["", ""]
    assert table.claim([claim(2), claim(3), claim(3)], 0) == ["it was used already", "", "it was used already"]


def test_a_restart_remembers(db: sqlite3.Connection) -> None:
    begun(db).claim([claim(1)], 0)
    assert begun(db).claim([claim(1), claim(2)], 0) == ["it was used already", ""]


def test_a_new_table_takes_nothing_older_than_itself(db: sqlite3.Connection) -> None:
    table = begun(db, floor_ms=NOW_MS)
    assert table.claim([claim(1, NOW_MS - 1), claim(2, NOW_MS)], 0)[0].startswith("it is older than the record")
    assert begun(db, floor_ms=NOW_MS + 5).claim([claim(3, NOW_MS)], 0) == [""]  # it is no longer new


def test_after_an_unclean_boot_nothing_from_before_it_is_good(db: sqlite3.Connection) -> None:
    begun(db).claim([claim(1)], 0)
    table = Seen(db)
    booted_ms = NOW_MS + 1000
    assert "not shut down in order" in table.begin(NEXT_BOOT, booted_ms, 0)
    first_ms = booted_ms + AHEAD_MS  # what was dated so far ahead was not synced
    assert table.claim([claim(2, first_ms - 1)], booted_ms)[0].startswith("it is older")
    assert table.claim([claim(3, first_ms)], booted_ms) == [""]
    again = Seen(db)
    assert again.begin(NEXT_BOOT, booted_ms, 0) == ""  # the same boot: told once
    assert again.claim([claim(4, first_ms - 1)], booted_ms)[0].startswith("it is older")  # and true for all of it
    again.end(NEXT_BOOT)
    assert (
        begun(db, "boot-3", booted_ms + 1).claim([claim(4, first_ms - 1)], booted_ms + 1)[0].startswith("it is older")
    )


@pytest.mark.parametrize("hours_off", [-3, 3])
def test_a_clock_that_is_set_after_the_start_moves_the_start(db: sqlite3.Connection, hours_off: int) -> None:
    """A machine without a clock of its own begins at some other time, and learns the right one from the network."""
    begun(db).claim([claim(1)], 0)
    booted_ms = NOW_MS + 10_000
    table = begun(db, NEXT_BOOT, booted_ms + hours_off * 3_600_000)
    assert table.claim([claim(2, NOW_MS)], booted_ms)[0].startswith("it is older")  # it may have been lost
    assert table.claim([claim(3, booted_ms + AHEAD_MS)], booted_ms) == [""]


def test_after_a_clean_end_a_boot_changes_nothing(db: sqlite3.Connection) -> None:
    first = begun(db)
    first.claim([claim(1)], 0)
    first.end(BOOT)
    table = Seen(db)
    assert table.begin(NEXT_BOOT, NOW_MS + 1000, 0) == ""
    assert table.claim([claim(1), claim(2)], 0) == ["it was used already", ""]


def test_a_daemon_that_began_after_a_clean_end_must_end_cleanly_too(db: sqlite3.Connection) -> None:
    begun(db).end(BOOT)
    begun(db, NEXT_BOOT)  # killed, and then the power goes
    assert "not shut down" in Seen(db).begin("boot-3", NOW_MS, 0)


def test_what_is_forgotten_is_refused_for_its_age(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    table = begun(db)
    table.claim([claim(1)], 0)
    assert table.claim([claim(2, NOW_MS + KEPT_MS + 1)], 0) == [""]
    assert db.execute("SELECT count(*) FROM seen").fetchone() == (1,)
    assert table.claim([claim(1)], 0)[0].startswith("it is older")
    assert begun(db).claim([claim(1)], 0)[0].startswith("it is older")


def test_the_table_is_bounded(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    monkeypatch.setattr(seen, "KEPT_ROWS", 10)
    table = begun(db)
    for number in range(50):
        assert table.claim([claim(number, NOW_MS + number)], 0) == [""]
        assert db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    for number in range(50):
        assert table.claim([claim(number, NOW_MS + number)], 0) != [""]


def test_a_crowd_of_one_moment_is_bounded_too(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_FORGET_EVERY", 1)
    monkeypatch.setattr(seen, "KEPT_ROWS", 10)
    table = begun(db)
    refusals = [table.claim([claim(number)], 0)[0] for number in range(50)]
    assert db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    assert refusals[:10] == [""] * 10
    assert refusals[-1].startswith("it is older")  # fails closed


# In the ledger


def test_a_ledger_that_cannot_be_written_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.begin_seen(0, 0) == ""
    with sqlite3.connect(ledger.path) as other:
        other.execute("BEGIN IMMEDIATE")
        (refusal,) = ledger.claim([claim(1)], NOW_MS / 1000, 0)
    assert "cannot be written" in refusal
    assert ledger.claim([claim(1)], NOW_MS / 1000, 0) == [""]
    ledger.close()


def test_a_ledger_that_could_not_be_written_at_the_start_takes_them_later(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    with sqlite3.connect(ledger.path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "until it can be written" in ledger.begin_seen(0, 0)
        assert ledger.claim([claim(1)], NOW_MS / 1000, 0) == ["the ledger cannot tell which were used"]
    assert ledger.claim([claim(1)], NOW_MS / 1000, 0) == [""]
    ledger.close()


def test_what_is_dated_ahead_is_refused_where_it_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.begin_seen(0, 0)
    monkeypatch.setattr(durable, "sync", fail)
    refusals = ledger.claim([claim(1, NOW_MS + 1100), claim(2)], NOW_MS / 1000, 0)
    assert refusals == ["it is dated ahead, and the ledger cannot be synced to the disk", ""]
    ledger.close()


@pytest.mark.parametrize("floor", ["now", b"\0", 1.5])
def test_a_ledger_that_does_not_say_from_when_it_is_whole_is_damaged(tmp_path: Path, floor: object) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path)
    ledger.begin_seen(0, 0)
    ledger.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE seen_floor SET floor = ?", (floor,))
    other.close()
    ledger, told = open_ledger(path, "stamp")
    assert told
    assert ledger.follows_a_damaged_one
    ledger.close()


def test_a_ledger_that_has_not_begun_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.claim([claim(1)], NOW_MS / 1000, 0) == ["the ledger cannot tell which were used"]
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

    def secure() -> bool:
        synced.append(True)
        return True

    monkeypatch.setattr(ledger, "secure", secure)
    ledger.claim([claim(1, NOW_MS + 900)], NOW_MS / 1000, 0)
    assert synced == []
    ledger.claim([claim(2, NOW_MS + 1100)], NOW_MS / 1000, 0)
    assert synced == [True]
    ledger.close()
