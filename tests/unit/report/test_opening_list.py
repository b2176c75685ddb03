"""Timelines: one per door and person, limited to the busiest, with times in slots."""

from __future__ import annotations

from doorward.report.events import Period, Session
from doorward.report.opening_list import MOST_TIMELINES, SLOTS, count_people, slot_at, timelines

PERIOD = Period(1000.0, 1000.0 + SLOTS)  # a slot is a second


def visit(door: str, person: str, since_s: float, until_s: float, by: str = "knock", open_now: bool = False) -> Session:
    return Session(door, person, by, person, (), since_s, until_s, None if open_now else "time")


def test_timeline_per_person_and_door() -> None:
    found = timelines(
        [
            visit("ssh", "ada", 900, 1002, "key"),
            visit("ssh", "192.0.2.7", 1005.5, 1005.6),
            visit("ssh", "ada", 1004, 1006, "key"),
            visit("ssh", "ada", 1006.5, 1008, "key"),
            visit("db", "ada", 1010, 1020, "key"),
            visit("ssh", "ada", 1239, 1300, "key", open_now=True),
        ],
        PERIOD,
    )
    assert [(lane.door, lane.person, lane.openings, lane.open_s, lane.open_now) for lane in found] == [
        ("db", "ada", 1, 10, 0),
        ("ssh", "ada", 4, 2 + 2 + 1.5 + 1, 1),
        ("ssh", "192.0.2.7", 1, found[2].open_s, 0),
    ]
    ada = found[1]
    assert (ada.runs, ada.now, ada.last_s) == (((0, 3), (4, 5)), ((239, 1),), 1239)
    assert found[2].runs == ((5, 1),)  # visible, however short


def test_key_named_like_an_address_is_a_separate_person() -> None:
    visits = [visit("ssh", "192.0.2.7", 1001, 1002), visit("ssh", "192.0.2.7", 1001, 1002, "key")]
    visits.append(visit("ssh", "192.0.2.7", 1001, 1002, "fwknop"))
    assert len(timelines(visits, PERIOD)) == 3
    assert count_people(visits) == 3


def test_least_frequent_people_share_the_last_timeline() -> None:
    visits = [visit("ssh", f"often{number}", 1001, 1002) for number in range(MOST_TIMELINES) for _ in (1, 2)]
    visits += [visit(f"door{number % 3}", f"once{number}", 1100 + number, 1101 + number) for number in range(50)]
    found = timelines(visits, PERIOD)
    assert len(found) == MOST_TIMELINES + 1
    others = found[-1]
    assert (others.others, others.doors, others.openings, others.last_s) == (50, 3, 50, 1149)
    assert others.runs == ((100, 51),)
    assert sum(lane.openings for lane in found) == len(visits)


def test_times_outside_the_period_are_at_the_edge() -> None:
    assert [slot_at(at_s, PERIOD) for at_s in (0, 1000, 1001, 1239.9, 1240, 1e9)] == [0, 0, 1, 239, 239, 239]
