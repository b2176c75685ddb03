"""Counts since the daemon began: by door and way, bounded, and how long an opening took to be recorded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward.daemon.stats import LATENCY_S, MAX_DOORS, OTHERS, EventStats, Histogram


def test_what_happened_is_counted_by_door_and_way() -> None:
    numbers = EventStats()
    for event, door, by in [
        ("opened", "ssh", "knock"),
        ("opened", "ssh", "key alice@home"),
        ("opened", "ssh", "key bob"),
        ("prolonged", "ssh", "hand"),
        ("closed", "ssh", "time"),
        ("ran", "wake", "knock"),
    ]:
        numbers.count(event, {"door": door, "by": by})
    numbers.count("message", {"level": "info", "message": "reloaded"})
    numbers.count("refused", {"address": "192.0.2.7", "door": None, "reason": "a scanner"})
    assert numbers.as_dict()["events"] == [
        ["opened", "ssh", "knock", 1],
        ["opened", "ssh", "key", 2],
        ["prolonged", "ssh", "hand", 1],
        ["closed", "ssh", "time", 1],
        ["ran", "wake", "knock", 1],
    ]


def test_beyond_the_bound_doors_are_counted_together() -> None:
    numbers = EventStats()
    for _ in range(2):
        for n in range(MAX_DOORS + 50):
            numbers.count("opened", {"door": f"door{n}", "by": "knock"})
    events = numbers.as_dict()["events"]
    assert len(events) == MAX_DOORS + 1
    assert ["opened", "door0", "knock", 2] in events
    assert ["opened", OTHERS, "knock", 100] in events


@given(st.lists(st.floats(allow_nan=True)))
def test_a_histogram_counts_what_is_a_time(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    counted = histogram.as_dict()
    times = [value for value in values if 0 <= value <= 60]
    assert sum(counted["counts"]) == len(times)
    for n, bound in enumerate(LATENCY_S):
        assert sum(counted["counts"][: n + 1]) == sum(value <= bound for value in times)
    assert abs(counted["sum"] - sum(times)) < 1e-6
