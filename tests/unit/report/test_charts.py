"""Charts: round ticks, increasing shades, and drawings inside of their view box."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from doorward.report import charts
from doorward.report.events import Period
from doorward.report.opening_list import SLOTS
from tests.support.report_page import utc

START_S = datetime(2026, 5, 4, 10, 20, 30, tzinfo=UTC).timestamp()
HOUR_S, DAY_S = 3600.0, 86_400.0


@pytest.mark.parametrize(
    ("length_s", "texts"),
    [
        (60.0, ["10:21"]),
        (HOUR_S / 2, ["10:25", "10:30", "10:35", "10:40", "10:45", "10:50"]),
        (2 * HOUR_S, ["10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00", "12:15"]),
        (8 * HOUR_S, ["11:00", "12:00", "13:00", "14:00", "15:00", "16:00", "17:00", "18:00"]),
        (DAY_S, ["12:00", "15:00", "18:00", "21:00", "5 May", "03:00", "06:00", "09:00"]),
        (4 * DAY_S, ["12:00", "5 May", "12:00", "6 May", "12:00", "7 May", "12:00", "8 May"]),
        (7 * DAY_S, ["5 May", "6 May", "7 May", "8 May", "9 May", "10 May", "11 May"]),
        (30 * DAY_S, ["7 May", "11 May", "15 May", "19 May", "23 May", "27 May", "31 May"]),
    ],
)
def test_ticks_are_round_times(length_s: float, texts: list[str]) -> None:
    marks = charts.ticks(Period(START_S, START_S + length_s), utc)
    assert [mark.text for mark in marks][:8] == texts
    assert all(0 <= mark.position <= 1 for mark in marks)


def test_the_longest_period_has_few_ticks() -> None:
    marks = charts.ticks(Period(0.0, 253_000_000_000.0), utc)
    assert 1 <= len(marks) <= 9


def test_day_ticks_across_a_time_change() -> None:
    zone = ZoneInfo("Europe/Berlin")

    def local(at_s: float) -> datetime:
        return datetime.fromtimestamp(at_s, zone)

    start_s = datetime(2026, 10, 23, tzinfo=zone).timestamp()
    texts = [mark.text for mark in charts.ticks(Period(start_s, start_s + 4.5 * DAY_S), local)]
    assert texts == ["23 Oct", "24 Oct", "25 Oct", "26 Oct", "27 Oct"]
    texts = [mark.text for mark in charts.ticks(Period(start_s + DAY_S, start_s + 4 * DAY_S), local)]
    assert texts == ["24 Oct", "12:00", "25 Oct", "12:00", "26 Oct", "12:00"]


@pytest.mark.parametrize(
    ("most", "low"), [(1, [1]), (3, [1, 2, 3]), (32, [1, 2, 4, 8, 16]), (200_000, [1, 11, 132, 1516, 17411])]
)
def test_shades_increase_with_counts(most: int, low: list[int]) -> None:
    assert charts.steps(most) == low
    assert [charts.shade_for(least, low) for least in low] == list(range(1, len(low) + 1))
    assert charts.shade_for(most, low) == len(low)


def test_timeline_shows_ended_and_current_openings() -> None:
    marks = [charts.Tick(0.5, "noon")]
    drawn = charts.timeline(((0, 3), (SLOTS - 1, 1)), ((100, 140),), marks, "2 openings")
    assert 'aria-label="2 openings"' in drawn
    assert re.findall(r'class="(\w+)" d="([^"]*)"', drawn) == [
        ("grid", "M120.0 0v10"),
        ("run", "M0 1h3v8h-3zM239 1h1v8h-1z"),
        ("now", "M100 1h140v8h-140z"),
    ]


def test_a_small_map_draws_each_shade_once() -> None:
    drawn = charts.small_map({(0, 3): 1, (1, 4): 32, (2, 5): 1}, 7, "most on Monday")
    assert 'viewBox="0 0 24 7"' in drawn
    assert re.findall(r'class="(s\d)" d="([^"]*)"', drawn) == [
        ("s1", "M3 0h1v1h-1zM5 2h1v1h-1z"),
        ("s5", "M4 1h1v1h-1z"),
    ]


def test_bars_are_always_visible() -> None:
    assert [re.findall(r'width="(.+?)"', charts.bar(share)) for share in (0.0, 0.25, 1.0)] == [
        ["0.5%"], ["25.0%"], ["100.0%"],
    ]  # fmt: skip
