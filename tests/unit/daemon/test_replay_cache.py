"""Which signed knocks were used: whatever happens in between, none is good twice."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import pytest

from doorward.config.values import MAX_WINDOW_MS
from doorward.core.signed_rules import CLOSED, DatedKnock
from doorward.daemon import replay_cache
from doorward.daemon.ledger import Ledger, open_ledger
from doorward.daemon.replay_cache import (
    AHEAD_MS,
    CLOSES,
    FORGOTTEN,
    KEPT_MS,
    MOST_AHEAD_MS,
    SCHEMA,
    Clock,
    PacketId,
    ReplayCache,
)
from doorward.kernel import atomic_file

DAY_MS = 86_400_000
WINDOW_MS = 60_000
BOOT, NEXT_BOOT = "boot-1", "boot-2"
NOW_MS = 100 * DAY_MS


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA + FORGOTTEN + CLOSES)
    yield connection
    connection.close()


class Machine:
    """A host whose clock a test sets; each `begin` is another daemon."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db, self.clock = db, Clock(NOW_MS, 0)

    def begin(self, boot: str = BOOT, booted_ms: int = 0, floor_ms: int = 0) -> str:
        """Start a daemon; return what it says."""
        self.table = ReplayCache(self.db, boot, lambda: True)
        self.clock = self.clock._replace(booted_ms=booted_ms)
        return self.table.begin(lambda: self.clock, floor_ms)

    def claim(self, *claims: PacketId, booted_ms: int | None = None) -> list[str]:
        """Claim at a clock by which the machine was booted then."""
        if booted_ms is not None:
            self.clock = self.clock._replace(booted_ms=booted_ms)
        return self.table.claim(claims)


@pytest.fixture
def machine(db: sqlite3.Connection) -> Machine:
    machine = Machine(db)
    machine.begin()
    return machine


def claim(number: int, time_ms: int = NOW_MS) -> PacketId:
    return PacketId(number.to_bytes(16), time_ms)


def test_a_knock_is_good_once(machine: Machine) -> None:
    assert machine.claim(claim(1), claim(2)) == ["", ""]
    assert machine.claim(claim(2), claim(3), claim(3)) == ["it was used already", "", "it was used already"]


def test_a_restart_remembers(machine: Machine) -> None:
    machine.claim(claim(1))
    machine.begin()
    assert machine.claim(claim(1), claim(2)) == ["it was used already", ""]


def test_a_new_table_takes_nothing_older_than_itself(db: sqlite3.Connection) -> None:
    machine = Machine(db)
    machine.begin(floor_ms=NOW_MS)
    assert machine.claim(claim(1, NOW_MS - 1), claim(2, NOW_MS))[0].startswith("it is older than the record")
    machine.begin(floor_ms=NOW_MS + 5)
    assert machine.claim(claim(3, NOW_MS)) == [""]  # it is no longer new


def test_after_an_unclean_boot_nothing_from_before_it_is_good(machine: Machine) -> None:
    machine.claim(claim(1))
    booted_ms = NOW_MS + 1000
    assert "not shut down in order" in machine.begin(NEXT_BOOT, booted_ms)
    first_ms = booted_ms + AHEAD_MS  # what was dated so far ahead was not synced
    assert machine.claim(claim(2, first_ms - 1))[0].startswith("it is older")
    assert machine.claim(claim(3, first_ms)) == [""]
    assert machine.begin(NEXT_BOOT, booted_ms) == ""  # the same boot: logged once
    assert machine.claim(claim(4, first_ms - 1))[0].startswith("it is older")  # and true for all of it
    machine.table.close()
    machine.begin("boot-3", booted_ms + 1)
    assert machine.claim(claim(4, first_ms - 1))[0].startswith("it is older")


@pytest.mark.parametrize("hours_off", [-3, 3])
def test_a_clock_that_is_set_after_the_start_moves_the_start(machine: Machine, hours_off: int) -> None:
    """A machine without a clock of its own begins at some other time, and learns the right one from the network."""
    machine.claim(claim(1))
    booted_ms = NOW_MS + 10_000
    machine.begin(NEXT_BOOT, booted_ms + hours_off * 3_600_000)
    assert machine.claim(claim(2, NOW_MS), booted_ms=booted_ms)[0].startswith("it is older")  # it may have been lost
    assert machine.claim(claim(3, booted_ms + AHEAD_MS)) == [""]


def test_the_start_is_reckoned_by_the_clock_at_the_end(machine: Machine) -> None:
    """What was lost with the power must not become good by a clean end with a clock that was set since."""
    booted_ms = NOW_MS + 10_000
    machine.begin(NEXT_BOOT, booted_ms - 3_600_000)
    machine.clock = Clock(NOW_MS + 20_000, booted_ms)
    machine.table.close()
    machine.begin("boot-3", booted_ms + 20_000)
    assert machine.claim(claim(1, NOW_MS))[0].startswith("it is older")


@pytest.mark.parametrize("is_new", [True, False], ids=["a new ledger", "an unclean boot"])
def test_clock_that_was_ahead_at_a_start_rejects_no_knock_once_it_is_right(
    db: sqlite3.Connection, is_new: bool
) -> None:
    year_ms = 365 * DAY_MS
    machine = Machine(db)
    machine.clock = Clock(NOW_MS + year_ms, NOW_MS + year_ms - 1000)
    machine.begin(BOOT, NOW_MS + year_ms - 1000, floor_ms=NOW_MS + year_ms if is_new else 0)
    machine.table.close()  # notes what an unclean boot may have lost
    machine.clock = Clock(NOW_MS, NOW_MS - 1000)
    machine.begin(NEXT_BOOT, NOW_MS - 1000)
    assert machine.claim(claim(1, NOW_MS))[0].startswith("it is older")
    assert "the clock was ahead" in machine.table.follow_clock(WINDOW_MS)
    assert machine.table.follow_clock(WINDOW_MS) == ""  # said once
    assert machine.claim(claim(1, NOW_MS + WINDOW_MS - 1))[0].startswith("it is older")
    assert machine.claim(claim(1, NOW_MS + WINDOW_MS)) == [""]
    machine.begin(NEXT_BOOT, NOW_MS - 1000)  # and noted
    assert machine.claim(claim(2, NOW_MS + WINDOW_MS)) == [""]


def test_a_floor_within_the_window_stays(db: sqlite3.Connection) -> None:
    machine = Machine(db)
    machine.begin(floor_ms=NOW_MS + WINDOW_MS)
    assert machine.table.follow_clock(WINDOW_MS) == ""
    assert machine.claim(claim(1, NOW_MS + WINDOW_MS - 1))[0].startswith("it is older")


def test_what_was_forgotten_is_refused_whatever_the_clock_says(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 1)
    ahead = [claim(number, NOW_MS + DAY_MS + number) for number in range(4)]
    machine = Machine(db)
    machine.begin(floor_ms=NOW_MS + DAY_MS)
    machine.clock = Clock(NOW_MS + DAY_MS, 0)
    for each in ahead:
        assert machine.claim(each) == [""]
    monkeypatch.undo()
    machine.clock = Clock(NOW_MS, 0)
    assert "the clock was ahead" in machine.table.follow_clock(WINDOW_MS)
    for now_ms in (NOW_MS, NOW_MS + DAY_MS):
        machine.clock = Clock(now_ms, 0)
        assert "" not in machine.claim(*ahead)
        machine.begin()
        assert "" not in machine.claim(*ahead)


def test_after_a_clean_end_a_boot_changes_nothing(machine: Machine) -> None:
    machine.claim(claim(1))
    machine.table.close()
    assert machine.begin(NEXT_BOOT, NOW_MS + 1000) == ""
    assert machine.claim(claim(1), claim(2)) == ["it was used already", ""]


def test_a_daemon_that_began_after_a_clean_end_must_end_cleanly_too(machine: Machine) -> None:
    machine.table.close()
    machine.begin(NEXT_BOOT)  # killed, and then the power goes
    assert "not shut down" in machine.begin("boot-3", NOW_MS)


def test_a_compromised_verifier_shuts_no_later_knock_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_AHEAD_MS == MAX_WINDOW_MS
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    assert machine.claim(claim(1)) == [""]
    for number in range(2, 5):
        assert machine.claim(claim(number, number << 60)) != [""]
    assert machine.claim(claim(1), claim(5)) == ["it was used already", ""]
    machine.begin()
    assert machine.claim(claim(6)) == [""]


def test_what_is_forgotten_is_refused_for_its_age(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    machine.claim(claim(1))
    machine.clock = Clock(NOW_MS + KEPT_MS + 1, 0)
    assert machine.claim(claim(2, NOW_MS + KEPT_MS + 1)) == [""]
    assert machine.db.execute("SELECT count(*) FROM seen").fetchone() == (1,)
    assert machine.claim(claim(1))[0].startswith("it is older")
    machine.begin()
    assert machine.claim(claim(1))[0].startswith("it is older")


def test_the_table_is_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 10)
    for number in range(50):
        assert machine.claim(claim(number, NOW_MS + number)) == [""]
        assert machine.db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    for number in range(50):
        assert machine.claim(claim(number, NOW_MS + number)) != [""]


def test_a_crowd_of_one_moment_is_bounded_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 10)
    refusals = [machine.claim(claim(number))[0] for number in range(50)]
    assert machine.db.execute("SELECT count(*) FROM seen").fetchone()[0] <= 11
    assert refusals[:10] == [""] * 10
    assert refusals[-1].startswith("it is older")  # fails closed


# In the ledger


def at_now() -> Clock:
    return Clock(NOW_MS, 0)


def test_a_ledger_that_cannot_be_written_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.seen.begin(at_now, 0) == ""
    with sqlite3.connect(ledger.path) as other:
        other.execute("BEGIN IMMEDIATE")
        (refusal,) = ledger.seen.claim([claim(1)])
    assert "cannot be written" in refusal
    assert ledger.seen.claim([claim(1)]) == [""]
    ledger.close()


def test_a_ledger_that_could_not_be_written_at_the_start_takes_them_later(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    with sqlite3.connect(ledger.path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "no signed knock is accepted until it can" in ledger.seen.begin(at_now, 0)
        assert ledger.seen.claim([claim(1)]) == ["the ledger cannot tell which were used"]
    assert ledger.seen.claim([claim(1)]) == [""]
    ledger.close()


def test_what_is_dated_ahead_is_refused_where_it_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.seen.begin(at_now, 0)
    monkeypatch.setattr(atomic_file, "sync", fail)
    refusals = ledger.seen.claim([claim(1, NOW_MS + 1100), claim(2)])
    assert refusals == ["it is dated ahead, and the ledger cannot be synced to the disk", ""]
    ledger.close()


@pytest.mark.parametrize("floor", ["now", b"\0", 1.5])
def test_a_ledger_that_does_not_say_from_when_it_is_whole_is_damaged(tmp_path: Path, floor: object) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path)
    ledger.seen.begin(at_now, 0)
    ledger.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE seen_floor SET floor = ?", (floor,))
    other.close()
    ledger, set_aside = open_ledger(path, "stamp")
    assert set_aside
    assert ledger.follows_a_damaged_one
    ledger.close()


def test_a_ledger_that_has_not_begun_takes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.seen.claim([claim(1)]) == ["the ledger cannot tell which were used"]
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
    ledger.seen.begin(at_now, 0)
    synced: list[bool] = []

    def secure() -> bool:
        synced.append(True)
        return True

    monkeypatch.setattr(ledger.seen, "_secure", secure)
    ledger.seen.claim([claim(1, NOW_MS + 900)])
    assert synced == []
    ledger.seen.claim([claim(2, NOW_MS + 1100)])
    assert synced == [True]
    ledger.close()


def dated(number: int, time_ms: int, signer: str = "ada", *, is_close: bool = False) -> PacketId:
    knock = DatedKnock(signer, "ssh", ip_address("192.0.2.7"), time_ms)
    return PacketId(number.to_bytes(16), time_ms, knock, is_close)


def test_an_open_from_before_a_close_is_claimed_and_rejected(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.seen.begin(at_now, 0)
    batch = [
        dated(1, NOW_MS),
        dated(2, NOW_MS + 5, is_close=True),
        dated(3, NOW_MS + 5),  # later in the same batch
        dated(4, NOW_MS + 5, "bob"),
        dated(5, NOW_MS + 6),
    ]
    assert ledger.seen.claim(batch) == ["", "", CLOSED, "", ""]
    assert ledger.seen.claim([batch[2]]) == ["it was used already"]
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite3")
    again.seen.begin(at_now, 0)
    assert again.seen.claim([dated(6, NOW_MS + 5), dated(7, NOW_MS + 6)]) == [CLOSED, ""]
    again.close()


def test_a_close_that_cannot_be_synced_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.seen.begin(at_now, 0)
    monkeypatch.setattr(ledger.seen, "_secure", lambda: False)
    refusals = ledger.seen.claim([dated(1, NOW_MS, is_close=True), dated(2, NOW_MS + 1)])
    assert refusals == ["it closes, and the ledger cannot be synced to the disk", ""]


class Disk(sqlite3.Connection):
    """A ledger on a disk that may be full when a transaction is committed."""

    is_full = False

    def __exit__(self, *args: object) -> Literal[False]:
        if self.is_full:
            self.rollback()
            raise sqlite3.OperationalError("database or disk is full")
        return super().__exit__(*args)  # type: ignore[arg-type]


def test_a_close_by_hand_on_a_full_disk_is_written_with_the_next() -> None:
    with closing(sqlite3.connect(":memory:", factory=Disk)) as db:
        db.executescript(SCHEMA + FORGOTTEN + CLOSES)
        machine = Machine(db)
        machine.begin()
        for door, is_full in ("ssh", True), ("web", False):
            db.is_full = is_full
            machine.table.note_by_hand([DatedKnock("ada", door, ip_address("192.0.2.7"), NOW_MS)])
        assert db.execute("SELECT door FROM closes ORDER BY door").fetchall() == [("ssh",), ("web",)]


def test_dates_of_closes_go_with_the_numbers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 1)
    closes = [dated(number, NOW_MS + number, is_close=True) for number in range(1, 6)]
    for number, close in enumerate(closes):
        knock = DatedKnock("ada", str(number), ip_address("192.0.2.7"), close.time_ms)
        assert machine.claim(close._replace(knock=knock)) == [""]
    rows = machine.db.execute("SELECT door FROM closes ORDER BY door").fetchall()
    assert rows == [("3",), ("4",)]
