"""The events of a period: openings, refusals, and records that are missing or skipped."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.daemon.ledger import Record
from doorward.report import events as module
from doorward.report.events import Ban, Period, PeriodEvents, Refusal, Session, collect_events

NOW_S, SINCE_S = 100_000.0, 50_000.0


def opened(at_s: float, until_s: float, **changed: Any) -> Record:
    detail = {"ports": ["22/tcp"], "until": until_s, "by": "knock", "closed": None, "closed_by": None}
    return Record(at_s, "opened", "ssh", "192.0.2.7", detail | changed)


def refused(at_s: float) -> Record:
    return Record(at_s, "refused", None, "203.0.113.9", {"reason": "a scanner"})


def sorted_out(*records: Record) -> PeriodEvents:
    return collect_events(records, SINCE_S, NOW_S)


@pytest.mark.parametrize(
    ("record", "person", "by", "until_s", "ended_by"),
    [
        (opened(60_000, 60_030), "192.0.2.7", "knock", 60_030, "time"),  # no daemon was running
        (opened(60_000, 60_030, closed=60_010.0, closed_by="hand"), "192.0.2.7", "knock", 60_010, "hand"),
        (opened(60_000, 60_030, closed=60_030.0, closed_by=None), "192.0.2.7", "knock", 60_030, "time"),
        (opened(60_000, 60_030, by="key ada@laptop"), "ada@laptop", "key", 60_030, "time"),
        (opened(60_000, 60_030, by="fwknop laptop"), "laptop", "fwknop", 60_030, "time"),
        (opened(60_000, 60_030, by="hand"), "192.0.2.7", "hand", 60_030, "time"),
        (opened(99_990, 100_020), "192.0.2.7", "knock", 100_020, None),  # still open
        (opened(40_000, 50_010), "192.0.2.7", "knock", 50_010, "time"),  # begun before the period
        (opened(60_000, 10.0), "192.0.2.7", "knock", 60_000, "time"),  # an invalid row
    ],
)
def test_openings(record: Record, person: str, by: str, until_s: float, ended_by: str | None) -> None:
    expected = Session("ssh", person, by, "192.0.2.7", ("22/tcp",), record.at_s, until_s, ended_by)
    assert sorted_out(record).sessions == [expected]


def test_records_before_the_period_are_skipped() -> None:
    found = sorted_out(opened(1000, 1030), refused(1000), opened(49_000, 49_999.9), refused(49_999.9), refused(50_000))
    assert found == PeriodEvents(
        Period(SINCE_S, NOW_S), [], [Refusal(50_000, None, "203.0.113.9", "a scanner")], [], future=0, dropped={}
    )


def test_period_starts_with_the_ledger() -> None:
    assert sorted_out(refused(70_000), refused(80_000)).period == Period(70_000, NOW_S)
    assert sorted_out().period == Period(SINCE_S, NOW_S)
    assert sorted_out(refused(NOW_S)).period.length_s == 60  # never zero: charts divide by it


def test_future_records_are_counted_and_skipped() -> None:
    found = sorted_out(refused(60_000), refused(NOW_S + 1), opened(NOW_S + 3600, NOW_S + 3630), refused(NOW_S + 9e9))
    assert (found.future, found.sessions, len(found.refusals)) == (
        2,
        [],
        2,
    )  # one second ahead: written while the ledger was read


def test_dropped_records_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 100)
    many = [refused(60_000 + number) for number in range(100)]
    assert sorted_out(opened(1000, 1030), *many).dropped == {"refused": 60_000}
    assert sorted_out(opened(1000, 1030), *many[1:]).dropped == {}
    assert sorted_out(refused(1000), *many).dropped == {}  # older records exist: the period is complete


def banned(at_s: float, until_s: float, ended_s: float | None = None) -> Record:
    return Record(at_s, "banned", None, "203.0.113.9", {"until": until_s, "ended": ended_s})


def test_bans_are_apart_from_refusals() -> None:
    found = sorted_out(opened(60_000, 60_030), banned(70_000, 80_000), refused(71_000))
    assert found == sorted_out(opened(60_000, 60_030), refused(71_000))._replace(
        bans=[Ban(70_000, "203.0.113.9", 80_000, None)]
    )


def test_bans_that_ended_before_the_period_are_skipped() -> None:
    found = sorted_out(banned(1000, 49_000), banned(2000, 90_000, 49_000), banned(3000, 90_000), banned(4000, 51_000))
    assert [ban.at_s for ban in found.bans] == [3000, 4000]
