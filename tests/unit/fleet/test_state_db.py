"""The saved state of the fleet's openings."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from doorward.errors import HostError
from doorward.fleet import state_db
from doorward.fleet.etcd_records import OpeningKey
from doorward.fleet.state import OpeningState
from doorward.fleet.state_db import FleetStateFile
from tests.support.errors import raises

SSH, NET = OpeningKey("ssh", ip_address("2001:db8::7")), OpeningKey("ssh", ip_network("192.0.2.0/24"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fleet.sqlite"


def test_saved_state_survives_a_restart(file: Path) -> None:
    first = FleetStateFile(file)
    closed = OpeningState(6_000, "", 8, is_closing=True, closed_until_ms=6_000, dated_ms=100)
    first.write([(SSH, OpeningState(5_000, "knock", 7)), (NET, closed)], 100_000)
    first.close()
    again = FleetStateFile(file)
    shifted = replace(closed, until_ms=4_000, closed_until_ms=4_000)
    assert again.read(102_000) == {SSH: OpeningState(3_000, "", 7), NET: shifted}
    again.write([(SSH, None)], 0)
    assert again.read(106_000).keys() == {NET}
    again.close()


def test_unpublished_openings_are_not_saved(file: Path) -> None:
    here = FleetStateFile(file)
    here.write([(SSH, OpeningState(5_000, "knock", 0, is_owed=True))], 0)
    assert here.read(0) == {}
    here.close()


def test_record_count_survives_a_restart(file: Path) -> None:
    first = FleetStateFile(file)
    assert [first.add_to_count(100), first.add_to_count(100)] == [0, 100]
    first.close()
    again = FleetStateFile(file)
    assert again.add_to_count(1) == 200
    again.close()


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + bytes(200)])
def test_damaged_file_is_replaced(file: Path, damage: bytes) -> None:
    file.write_bytes(damage)
    here = FleetStateFile(file)
    assert here.read(0) == {}
    here.write([(SSH, OpeningState(5_000, "", 7))], 0)
    assert here.read(0).keys() == {SSH}
    here.close()


def test_malformed_rows_are_skipped(file: Path) -> None:
    here = FleetStateFile(file)
    here.write([(SSH, OpeningState(5_000, "", 7))], 0)
    for row in [("ssh/nowhere", 1, 1, 0, 0), ("ssh/192.0.2.1", "x", 1, 0, 0), ("ssh/192.0.2.2/key/", 1, 1, 0, 0)]:
        here._db.execute("INSERT INTO known VALUES (?, ?, ?, ?, ?)", row)
    assert here.read(0).keys() == {SSH}
    here.close()


def test_no_more_rows_than_the_bound_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_db, "MAX_KNOWN", 3)
    saved = FleetStateFile(file)
    keys = [OpeningKey("ssh", ip_address(f"192.0.2.{number}")) for number in range(9)]
    saved.write([(key, OpeningState(1000, "", 5)) for key in keys], 0)
    assert len(saved.read(0)) == 6
    saved.close()


def test_write_error_is_kept_until_a_write_succeeds(file: Path) -> None:
    here = FleetStateFile(file)
    here._db.execute("PRAGMA query_only = ON")
    here.write([(SSH, OpeningState(5_000, "", 7))], 0)
    assert "readonly" in here.error
    here._db.execute("PRAGMA query_only = OFF")
    here.write([(SSH, OpeningState(5_000, "", 7))], 0)
    assert here.error == ""
    here.close()


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with raises(HostError, "state-unavailable"):
        FleetStateFile(tmp_path / "nowhere" / "fleet.sqlite")
