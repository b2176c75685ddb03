"""The ledger: what is recorded, read back and kept, and what becomes of damage and full disks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.daemon import ledger as module
from doorward.daemon.ledger import MAX_PENDING, Ledger, Record, ledger_path, open_ledger, read_records
from doorward.errors import HostError
from doorward.model import Share
from tests.support.errors import raises
from tests.support.openings import opening
from tests.support.processes import as_nobody, needs_root

HOME, OFFICE, STRANGER = map(ip_address, ("192.0.2.7", "2001:db8::7", "203.0.113.9"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger(path)
    yield opened
    opened.close()


def everything(path: Path) -> list[Record]:
    return list(read_records(path, 0.0, 1_000_000))


def moments(path: Path) -> list[float]:
    return [record.at_s for record in everything(path)]


def detail(**changed: object) -> dict[str, object]:
    whole = {"ports": ["22/tcp"], "until": 1030.0, "by": "knock", "closed": None, "closed_by": None}
    return whole | {"confirmation": None} | changed


def test_an_opening_from_its_knock_to_its_end(ledger: Ledger, path: Path) -> None:
    ledger.opened(opening())
    assert everything(path) == [Record(1000.0, "opened", "ssh", "192.0.2.7", detail())]

    ledger.opened(opening(until_s=1055.0))  # prolonged: the same row, a later end
    assert everything(path) == [Record(1000.0, "opened", "ssh", "192.0.2.7", detail(until=1055.0))]

    ledger.closed("ssh", HOME, 1055.1, "time")
    ended = Record(1000.0, "opened", "ssh", "192.0.2.7", detail(until=1055.0, closed=1055.1, closed_by="time"))
    assert everything(path) == [ended]

    ledger.opened(opening(since_s=1100.0, until_s=1130.0))  # after its end, an opening is a new one
    assert everything(path) == [ended, Record(1100.0, "opened", "ssh", "192.0.2.7", detail(until=1130.0))]

    ledger.closed("ssh", HOME, 1110.0, "hand")  # ends the second one only
    assert everything(path)[0] == ended


def confirmations(path: Path) -> list[str | None]:
    return [record.detail["confirmation"] for record in everything(path)]


def test_a_confirmation_is_recorded_with_the_active_opening_or_the_last(ledger: Ledger, path: Path) -> None:
    ledger.confirmed("ssh", HOME, "sent")  # of a door that never opened: nothing
    ledger.opened(opening())
    ledger.opened(opening("web"))
    assert confirmations(path) == [None, None]
    ledger.confirmed("ssh", HOME, "rate")
    ledger.confirmed("ssh", HOME, "sent")
    ledger.closed("ssh", HOME, 1010.0, "key ada")
    ledger.confirmed("ssh", HOME, "off")
    assert sorted(map(str, confirmations(path))) == ["None", "off"]
    ledger.opened(opening(since_s=1100.0, until_s=1130.0))
    assert confirmations(path)[-1] is None
    ledger.confirmed("ssh", HOME, "sent")
    assert sorted(map(str, confirmations(path))) == ["None", "off", "sent"]


def test_a_confirmation_of_a_close_looks_back_a_bounded_number_of_rows(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECENT_ROWS", 1)
    for door in "ssh", "web":
        ledger.opened(opening(door))
        ledger.closed(door, HOME, 1010.0, "key ada")
    ledger.confirmed("ssh", HOME, "sent")
    assert confirmations(path) == [None, None]


def test_a_confirmation_does_not_wait_while_writes_fail(ledger: Ledger, path: Path) -> None:
    ledger.opened(opening())
    ledger.trouble = "disk full"
    ledger.confirmed("ssh", HOME, "sent")
    assert ledger.flush()
    assert confirmations(path) == [None]


@pytest.mark.parametrize(("forged", "read"), [(b"\xff", "b'\\xff'"), (7, "7"), ("\x1b[2J", "\x1b[2J")])
def test_a_forged_confirmation_is_read_as_text(ledger: Ledger, path: Path, forged: object, read: str) -> None:
    ledger.opened(opening())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE openings SET confirmation = ?", (forged,))
    assert confirmations(path) == [read]


def test_rejections_are_recorded_with_their_reason(ledger: Ledger, path: Path) -> None:
    ledger.refused("ssh", STRANGER, 1000.0, "the open set is full")
    ledger.refused(None, OFFICE, 1001.0, "a scanner")
    assert everything(path) == [
        Record(1000.0, "refused", "ssh", "203.0.113.9", {"reason": "the open set is full"}),
        Record(1001.0, "refused", None, "2001:db8::7", {"reason": "a scanner"}),
    ]


def test_closing_what_is_not_open_changes_nothing(ledger: Ledger, path: Path) -> None:
    ledger.opened(opening())
    for door, address in ("web", HOME), ("ssh", OFFICE):
        ledger.closed(door, address, 1001.0, "hand")
    assert [record.detail["closed"] for record in everything(path)] == [None]


@pytest.mark.parametrize(
    ("since_s", "last", "door", "address", "expected"),
    [
        (0, 100, None, None, [1, 2, 3, 4, 5]),
        (0, 2, None, None, [4, 5]),
        (3, 100, None, None, [3, 4, 5]),
        (3, 1, None, None, [5]),
        (9, 100, None, None, []),
        (0, 100, "ssh", None, [1, 4]),
        (0, 100, "nothing", None, []),
        (0, 100, None, "192.0.2.7", [1, 2, 5]),
        (0, 100, "ssh", "192.0.2.7", [1]),
        (2, 1, None, "192.0.2.7", [5]),
    ],
)
def test_reading_chooses_and_gives_the_oldest_first(
    ledger: Ledger, path: Path, since_s: float, last: int, door: str | None, address: str | None, expected: list[float]
) -> None:
    ledger.refused("web", HOME, 5, "full")  # entered last to first
    ledger.refused("ssh", OFFICE, 4, "full")
    ledger.refused(None, STRANGER, 3, "throttled")
    ledger.opened(opening("web", since_s=2))
    ledger.opened(opening("ssh", since_s=1))
    assert [record.at_s for record in read_records(path, since_s, last, door, address)] == expected


def test_active_openings_are_returned_to_the_next_daemon(path: Path) -> None:
    first, _ = open_ledger(path, "stamp")
    standing = [
        opening("ssh", "192.0.2.7", "22/tcp 7/udp", 1000.0, 1030.0, "knock"),
        opening("ssh", "2001:db8::7", "22/tcp", 1000.5, 2000.25, "hand"),
        opening("wake", "192.0.2.7", "", 1001.0, 1031.0),
    ]
    for one in standing:
        first.opened(one)
    first.opened(opening("web"))
    first.closed("web", HOME, 1002.0, "hand")
    first.close()

    second, set_aside = open_ledger(path, "stamp")
    assert set_aside is None
    assert sorted(second.active(), key=lambda one: one.since_s) == standing
    second.close()


NONSENSE = {
    "ports that are no JSON": ("192.0.2.7", "22/tcp", 1030.0),
    "ports that are a number": ("192.0.2.7", "5", 1030.0),
    "ports that are numbers": ("192.0.2.7", "[22]", 1030.0),
    "an invalid port": ("192.0.2.7", '["99999/tcp"]', 1030.0),
    "ports that are bytes": ("192.0.2.7", b"\xff\xfe\xfd", 1030.0),
    "ports nested without end": ("192.0.2.7", "[" * 100_000, 1030.0),
    "an invalid address": ("home", '["22/tcp"]', 1030.0),
    "an address of bytes": (b"\1\2\3\4\5", '["22/tcp"]', 1030.0),
    "an address of four bytes": (b"\1\2\3\4", '["22/tcp"]', 1030.0),
    "an address of one link": ("fe80::1%eth0", '["22/tcp"]', 1030.0),
    "an end that is text": ("192.0.2.7", '["22/tcp"]', "soon"),
    "an end that never comes": ("192.0.2.7", '["22/tcp"]', float("inf")),
    "an end in the year 33658": ("192.0.2.7", '["22/tcp"]', 1e12),
}


@pytest.mark.parametrize("row", NONSENSE.values(), ids=NONSENSE)
def test_malformed_row_is_ended_and_the_rest_stays_active(path: Path, row: tuple[object, ...]) -> None:
    good = opening("web", "2001:db8::7")
    first = Ledger(path)
    first.opened(good)
    first.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO openings (door, address, ports, since, until, opened_by) VALUES ('ssh', ?, ?, 1000, ?, 'x')",
            row,
        )
    second = Ledger(path)
    assert second.active() == [good]
    assert second.active() == [good]
    second.close()
    assert "web" in [record.door for record in everything(path)]  # the record stays readable


def with_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def with_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, and never was one\n" * 400)


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def with_a_torn_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096)


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE openings")
        db.commit()


def with_a_close_by_nobody(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO closes (signer, door, address, time) VALUES (x'ff', 'ssh', '192.0.2.7', 1)")


def with_other_definitions(what: bytes, instead: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes().replace(what, instead))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (with_version, "version 99"),
        (without_a_table, "not a ledger's"),
        (with_other_definitions(b"until REAL", b"untix REAL"), "not a ledger's"),
        (with_other_definitions(b"CREATE TABLE openings", b"CREATE \x85ABLE openings"), "cannot be used"),
        (with_garbage, "not a database"),
        (with_a_close_by_nobody, "used signed knocks"),
        (cut_short, "cannot be used"),
        (with_a_torn_page, "cannot be used"),
    ],
)
def test_an_unusable_ledger_is_kept_aside_and_a_new_one_begins(
    path: Path, damage: Callable[[Path], None], says: str
) -> None:
    first = Ledger(path)
    for second in range(2000):
        first.refused("ssh", STRANGER, float(second), "a reason")
    first.close()
    damage(path)
    before = path.read_bytes()

    ledger, message = open_ledger(path, "20260501T120000")
    aside = path.with_name("ledger.sqlite3.20260501T120000")
    assert message is not None
    assert says in message
    assert str(aside) in message
    assert aside.read_bytes() == before
    assert everything(path) == []
    ledger.opened(opening())
    assert ledger.active() == [opening()]
    ledger.close()


def test_an_empty_file_is_a_new_ledger(path: Path) -> None:
    path.touch()
    ledger, message = open_ledger(path, "stamp")
    assert message is None
    ledger.opened(opening())
    ledger.close()
    assert moments(path) == [1000.0]


def test_where_no_ledger_can_be_the_host_is_at_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, code in (
        (tmp_path / "file" / "l", "unwritable-directory"),
        (tmp_path / "folder", "ledger-unavailable"),
    ):
        with raises(HostError, code):
            open_ledger(path, "stamp")


def test_a_missing_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    ledger, set_aside = open_ledger(tmp_path / "missing" / "l", "stamp")
    ledger.close()
    assert set_aside is None
    assert (tmp_path / "missing").stat().st_mode & 0o777 == 0o700


@needs_root
def test_a_folder_that_this_user_may_not_write() -> None:
    # Not below pytest's own folder: nobody may not even enter that.
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        folder.chmod(0o755)
        Ledger(folder / "ledger.sqlite3").close()
        for name in "new", "ledger.sqlite3":
            with raises(HostError, "ledger-unavailable"):
                as_nobody(lambda name=name: open_ledger(folder / name, "stamp"))  # type: ignore[misc]
        assert [entry.name for entry in folder.iterdir()] == ["ledger.sqlite3"]
    finally:
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def test_reading_says_what_is_missing(path: Path) -> None:
    with raises(HostError, "no-ledger"):
        everything(path)
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(HostError, match="not a database"):
        everything(path)


@needs_root
def test_reading_without_permission_names_the_remedy(ledger: Ledger, path: Path) -> None:
    path.parent.chmod(0o700)
    with raises(HostError, "ledger-unreadable"):
        as_nobody(lambda: everything(path))


def test_a_folder_with_any_name_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20d" / "ledger.sqlite3"
    path.parent.mkdir()
    ledger = Ledger(path)
    ledger.opened(opening())
    assert moments(path) == [1000.0]
    ledger.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


@needs_root
def test_on_a_full_disk_writes_wait_and_none_is_lost(small_disk: Path) -> None:
    path = small_disk / "ledger.sqlite3"
    ledger = Ledger(path)
    ledger.opened(opening("ssh", since_s=0.5))
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:  # until there is no space left
        while True:
            file.write(bytes(4096))

    second = 0
    while not ledger.trouble:  # the first few may still find room in the file
        second += 1
        ledger.refused("ssh", STRANGER, float(second), "a reason " * 20)
    assert str(path) in ledger.trouble
    assert "full" in ledger.trouble
    assert "1 writes wait" in ledger.trouble

    for later in range(second + 1, second + 101):
        ledger.refused("ssh", STRANGER, float(later), "a reason " * 20)
    ledger.closed("ssh", HOME, 900.0, "hand")
    assert not ledger.flush()
    assert "102 writes wait" in ledger.trouble

    ballast.unlink()
    assert ledger.flush()
    assert ledger.trouble == ""
    assert ledger.lost == 0
    assert moments(path) == [0.5, *range(1, second + 101)]
    assert everything(path)[0].detail["closed_by"] == "hand"
    ledger.close()


@pytest.fixture
def full_ledger(ledger: Ledger) -> Ledger:
    """A ledger that is refused any further page, as on a full disk."""
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    second = 0
    while not ledger.trouble:
        second -= 1
        ledger.refused("before", STRANGER, float(second), "r" * 2000)
    return ledger


def with_room(ledger: Ledger) -> Ledger:
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.flush()
    return ledger


def test_what_waits_is_bounded_and_the_oldest_goes_first(
    full_ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 20)
    for second in range(50):
        full_ledger.refused("ssh", STRANGER, float(second), "r" * 2000)
    with_room(full_ledger)
    assert [record.at_s for record in everything(path) if record.door == "ssh"] == list(range(30, 50))
    assert full_ledger.lost == 31  # 30 of these, and the one that found the disk full


def test_what_waits_stays_bounded_while_trimming(full_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 20)
    monkeypatch.setattr(module, "_TRIM_EVERY", 5)
    for second in range(500):
        full_ledger.refused("ssh", STRANGER, float(second), "r" * 2000)
    assert len(full_ledger._pending) <= 22  # two trims may come on top


def test_what_waits_is_written_by_closing(full_ledger: Ledger, path: Path) -> None:
    full_ledger.refused("ssh", STRANGER, 1.0, "r" * 2000)
    full_ledger._db.execute("PRAGMA max_page_count = 1000000")
    full_ledger.close()
    assert moments(path)[-1] == 1.0
    full_ledger._db = sqlite3.connect(path)  # for the fixture to close again


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 5)
    monkeypatch.setattr(module, "_TRIM_EVERY", 10)


@pytest.mark.usefixtures("few_rows")
def test_old_rows_go(ledger: Ledger, path: Path) -> None:
    for second in range(100):
        ledger.refused("ssh", STRANGER, float(second), "full")
    kept = moments(path)
    assert 5 <= len(kept) <= 15
    assert kept == list(range(100 - len(kept), 100))
    ledger.opened(opening(since_s=200))  # a table is trimmed by its own rows
    assert everything(path)[-1].event == "opened"


@pytest.mark.usefixtures("few_rows")
def test_active_opening_is_never_trimmed(ledger: Ledger) -> None:
    standing = opening("ssh", since_s=0.0)
    ledger.opened(standing)
    for second in range(1, 60):
        ledger.opened(opening("web", since_s=float(second)))
        ledger.closed("web", HOME, second + 0.5, "time")
    assert ledger.active() == [standing]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (None, "/var/lib/doorward/ledger.sqlite3"),
        ("", "/var/lib/doorward/ledger.sqlite3"),
        ("/state", "/state/ledger.sqlite3"),
        ("/state:/other", "/state/ledger.sqlite3"),
    ],
)
def test_the_path_is_systemds(monkeypatch: pytest.MonkeyPatch, folders: str | None, expected: str) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if folders is not None:
        monkeypatch.setenv("STATE_DIRECTORY", folders)
    assert str(ledger_path()) == expected


def test_what_is_recorded_together_is_written_together(ledger: Ledger, path: Path) -> None:
    with ledger.transaction():
        ledger.opened(opening())
        ledger.closed("ssh", HOME, 1010.0, "hand")
        assert everything(path) == []
    assert [record.detail["closed_by"] for record in everything(path)] == ["hand"]


def test_a_crowd_recorded_together_waits_in_pieces(ledger: Ledger) -> None:
    with ledger.transaction():
        for second in range(MAX_PENDING + 1):
            ledger.refused("ssh", STRANGER, float(second), "a reason")
    assert ledger.lost == 0
    assert len(everything(ledger.path)) == MAX_PENDING + 1


def test_what_is_secured_was_synced_after_it_was_written(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, len(everything(path))))

    monkeypatch.setattr(os, "fsync", fsync)
    ledger.opened(opening())
    assert synced == []
    ledger.fsync()
    assert synced == [(f"{path.name}-wal", 1)]


def test_a_sync_that_fails_is_trouble(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    ledger.opened(opening())
    ledger.fsync()
    assert "Input/output error" in ledger.trouble


def spans(ledger: Ledger) -> list[tuple[float, float]]:
    return [(standing.since_s, standing.until_s) for standing in ledger.active()]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("step_s", [-7200.0, -1.0, 1.0, 1e6])
def test_stepped_clock_moves_active_openings_only(path: Path, step_s: float, restarts: bool) -> None:
    ledger = Ledger(path)
    assert ledger.wall_offset(50.0, 2_000_050.0) == 2_000_000.0
    ledger.opened(opening("web", since_s=2_000_040.0, until_s=2_000_070.0))
    ledger.closed("web", HOME, 2_000_045.0, "hand")
    ledger.opened(opening(since_s=2_000_050.0, until_s=2_000_080.0))
    if restarts:
        ledger.close()
        ledger = Ledger(path)
    assert ledger.wall_offset(60.0, 2_000_060.0 + step_s) == 2_000_000.0 + step_s
    assert spans(ledger) == [(2_000_050.0 + step_s, 2_000_080.0 + step_s)]
    assert moments(path) == sorted([2_000_040.0, 2_000_050.0 + step_s])
    ledger.wall_offset(61.0, 2_000_061.1 + step_s)  # no more than drift
    assert spans(ledger) == [(2_000_050.0 + step_s, 2_000_080.0 + step_s)]
    ledger.close()


def test_after_a_boot_only_the_wall_clock_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(path)
    first.wall_offset(5000.0, 2_005_000.0)
    first.opened(opening(since_s=2_005_000.0, until_s=2_005_030.0))
    first.close()
    boot = path.with_name("boot_id")
    boot.write_text("another\n")
    monkeypatch.setattr(module, "_BOOT", boot)
    second = Ledger(path)
    assert second.wall_offset(1.0, 2_005_010.0) == 2_005_009.0
    assert spans(second) == [(2_005_000.0, 2_005_030.0)]
    second.close()


LATER = {
    1: ("clock",),
    2: ("seen", "seen_floor"),
    3: ("seen_forgotten", "bans"),
    4: ("closes",),
}  # tables, by the version before


@pytest.mark.parametrize("version", LATER)
def test_a_ledger_of_an_earlier_version_goes_on(path: Path, version: int) -> None:
    first = Ledger(path)
    first.opened(opening())
    first.close()
    missing = [table for before, tables in LATER.items() if before >= version for table in tables]
    with closing(sqlite3.connect(path)) as db:
        drops = "".join(f"ALTER TABLE openings DROP COLUMN {column};" for column in ("shares", "confirmation"))
        drops += "".join(f"DROP TABLE {table};" for table in missing)
        db.executescript(f"{drops} PRAGMA user_version = {version}")
    assert [record.event for record in read_records(path, 0.0, 10)] == [
        "opened"
    ]  # before a daemon brings it up to date
    second = Ledger(path)
    second.wall_offset(1.0, 2.0)
    second.banned(HOME, 2000.0, 2060.0)
    assert second.active() == [opening()]
    second.close()
    assert [record.event for record in read_records(path, 0.0, 10)] == ["opened", "banned"]


SHARES = (Share("ada", 1020.0, 5, "key ada"), Share("hand", 1030.0, name="hand"))


def test_shares_are_kept_and_follow_a_step_of_the_clock(ledger: Ledger) -> None:
    ledger.wall_offset(1.0, 1000.0)
    ledger.opened(opening()._replace(shares=SHARES))
    ledger.wall_offset(1.0, 1100.0)
    (found,) = ledger.active()
    assert found.shares == tuple(share._replace(until_s=share.until_s + 100) for share in SHARES)


@pytest.mark.parametrize(
    "shares",
    [
        "[",
        "7",
        "[7]",
        '[["ada", -1, 5, ""]]',
        '[["ada", NaN, 5, ""]]',
        f'[["ada", 1{"0" * 400}, 5, ""]]',
        '[["ada", 0, 5.5, ""]]',
        f'[["ada", 0, 1{"0" * 400}, ""]]',
        '[["ada", 0, -1, ""]]',
        "[" * 5000,
    ],
)
def test_an_opening_with_invalid_shares_is_ended(ledger: Ledger, path: Path, shares: str) -> None:
    ledger.opened(opening())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE openings SET shares = ?", (shares,))
    assert ledger.active() == []
    assert [record.detail["closed_by"] for record in everything(path)] == ["lost"]


def test_a_ban_is_recorded_with_its_end(ledger: Ledger, path: Path) -> None:
    ledger.banned(HOME, 1000.0, 4600.0)
    ledger.banned(HOME, 1100.0, 8300.0)  # in place of the one before
    ledger.unbanned(HOME, 1200.0)
    ledger.unbanned(HOME, 1300.0)  # nothing is left to end
    ledger.banned(HOME, 1400.0, 1500.0)
    ledger.unbanned(HOME, 1600.0)  # it was over
    found = [(r.at_s, r.event, r.address, r.detail["until"], r.detail["ended"]) for r in read_records(path, 0.0, 10)]
    assert found == [
        (1000.0, "banned", str(HOME), 4600.0, 1100.0),
        (1100.0, "banned", str(HOME), 8300.0, 1200.0),
        (1400.0, "banned", str(HOME), 1500.0, None),
    ]


def test_ended_opening_stays_active_until_it_is_closed(ledger: Ledger) -> None:
    ledger.opened(opening())
    ledger.ended("ssh", HOME, 1010.0)
    assert spans(ledger) == [(1000.0, 1010.0)]
    ledger.ended("ssh", HOME, 1020.0)  # never later than it was
    assert spans(ledger) == [(1000.0, 1010.0)]
    ledger.closed("ssh", HOME, 1011.0, "hand")
    assert ledger.active() == []
