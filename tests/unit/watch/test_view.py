"""The state of the live view, from events and counters."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.watch.view import MOST_CLOSED, MOST_OPENINGS, TableRow, WatchState, cut, left, rate, short

WALL_S, NOW_S = 1_777_616_100.0, 50.0
OPENING = {
    "door": "ssh",
    "address": "192.0.2.7",
    "ports": ["22/tcp"],
    "since": WALL_S - 9,
    "until": WALL_S + 21,
    "by": "knock",
}
FIRST = {
    "summary": "2 doors, mode guard",
    "generation": "0123abcd",
    "openings": [OPENING],
    "doors": [{"name": "ssh", "ports": ["22/tcp"]}, {"name": "web", "ports": ["80/tcp", "443/tcp"]}],
}
ATTEMPTS = [
    {"address": "192.0.2.9", "knocks": 1, "left": 9.5},
    {"address": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "knocks": 2, "left": 70},
    {"address": "192.0.2.8", "knocks": 2, "left": 3},
]


def view() -> WatchState:
    view = WatchState()
    view.begin(FIRST, NOW_S, WALL_S)
    return view


def numbers(**changes: Any) -> dict[str, Any]:
    data = {
        "summary": "2 doors, mode stealth",
        "generation": "0123abcd",
        "doors": 2,
        "counters": {"knocked": 3, "dropped_closed": 7, "dropped_stealth": 1200, "throttled": 0, "open_full": 0},
        "sets": {"first_knock4_ab": {"elements": 3, "size": 100}, "open4": {"elements": 1, "size": 65536}},
        "listed": 3,
        "attempts": ATTEMPTS,
        "log_overflows": 0,
        "ledger_trouble": "",
        "signed": None,
    }
    return data | changes


def event(what: str, door: str, address: str, for_s: float = 30.0, by: str = "knock") -> dict[str, Any]:
    return {"event": what, "door": door, "address": address, "ports": ["22/tcp"], "for_s": for_s, "by": by}


def test_bans() -> None:
    shown = view()
    shown.on_event({"event": "banned", "address": "192.0.2.1", "for_s": 60}, NOW_S)
    assert shown.ban_lines(2, NOW_S) == []  # this user may not see them
    shown.on_bans({"bans": []}, NOW_S, WALL_S)
    assert shown.ban_lines(2, NOW_S) == ["none"]
    bans = [["192.0.2.1", WALL_S + 50], ["2001:db8::/64", WALL_S + 7200], ["192.0.2.3", WALL_S + 9]]
    shown.on_bans({"bans": bans}, NOW_S, WALL_S)
    first, second, third = f"{'192.0.2.3':<22}    9s", f"{'2001:db8::/64':<22}  2h00", f"{'192.0.2.1':<22}   50s"
    assert shown.ban_lines(3, NOW_S) == [first, second, third]
    assert shown.ban_lines(2, NOW_S) == [first, "and 2 more"]
    assert len(shown.ban_lines(3, NOW_S + 20)) == 2  # one has ended
    assert [address for address, _ in shown.active_bans(NOW_S + 20)] == ["2001:db8::/64", "192.0.2.1"]
    shown.on_event({"event": "banned", "address": "192.0.2.1", "for_s": 60}, NOW_S)
    assert shown.ban_lines(3, NOW_S)[0] == f"{'192.0.2.1':<22}   60s"
    shown.on_event({"event": "unbanned", "address": "192.0.2.3"}, NOW_S)
    assert len(shown.ban_lines(3, NOW_S)) == 2


def test_openings_follow_events() -> None:
    shown = view()
    web = TableRow("web", "", "", "80/tcp 443/tcp", "")
    transcript: list[tuple[float, dict[str, Any] | None, list[TableRow]]] = [
        (0, None, [TableRow("ssh", "192.0.2.7", "21s", "22/tcp", "knock"), web]),
        (10, None, [TableRow("ssh", "192.0.2.7", "11s", "22/tcp", "knock"), web]),
        (
            10,
            event("prolonged", "ssh", "192.0.2.7", 3600, "hand"),
            [TableRow("ssh", "192.0.2.7", "1h00", "22/tcp", "knock"), web],
        ),
        (
            11,
            event("opened", "ssh", "192.0.2.9"),
            [
                TableRow("ssh", "192.0.2.9", "30s", "22/tcp", "knock"),
                TableRow("ssh", "192.0.2.7", "59m", "22/tcp", "knock"),
                web,
            ],
        ),
        (
            12,
            event("closed", "ssh", "192.0.2.9", by="hand"),
            [TableRow("ssh", "192.0.2.7", "59m", "22/tcp", "knock"), web],
        ),
        (
            12,
            event("released", "ssh", "192.0.2.7", 40, "hand") | {"still": "key ada"},
            [TableRow("ssh", "192.0.2.7", "40s", "22/tcp", "key ada"), web],
        ),
        (12, event("closed", "ssh", "192.0.2.7", by="time"), [TableRow("ssh", "", "", "22/tcp", ""), web]),
        (12, event("closed", "ssh", "192.0.2.7", by="time"), [TableRow("ssh", "", "", "22/tcp", ""), web]),
        (13, {"event": "refused", "address": "192.0.2.9", "door": None}, [TableRow("ssh", "", "", "22/tcp", ""), web]),
    ]
    for after_s, data, expected in transcript:
        if data is not None:
            shown.on_event(data, NOW_S + after_s)
        assert shown.rows(NOW_S + after_s) == expected


def test_long_lists_are_cut_and_counted() -> None:
    shown = WatchState()
    openings = [OPENING | {"address": f"10.0.{n >> 8}.{n & 255}"} for n in range(MOST_OPENINGS + 7)]
    doors = [{"name": f"door{n}", "ports": []} for n in range(MOST_CLOSED + 5)]
    shown.begin(FIRST | {"openings": openings, "doors": doors}, NOW_S, WALL_S)
    shown.on_stats(numbers(doors=100_000), NOW_S)
    rows = shown.rows(NOW_S)
    assert rows[MOST_OPENINGS] == TableRow("…", "", "", "", "7 more open")
    assert rows[-1] == TableRow("…", "", "", "", "99,900 more doors")
    assert len(rows) == MOST_OPENINGS + 1 + MOST_CLOSED + 1


def test_rates_since_previous_counters() -> None:
    shown = view()
    assert shown.gate() == []
    assert shown.drop_rate() == "dropped -/s"
    shown.on_stats(numbers(), NOW_S)
    later = {"knocked": 4, "dropped_closed": 7, "dropped_stealth": 2200, "throttled": 6, "open_full": 2}
    shown.on_stats(numbers(counters=later, ledger_trouble="full", log_overflows=2), NOW_S + 2)
    assert shown.gate() == [
        "sequences            0.5/s        4",
        "hidden ports           0/s        7",
        "silent drops         500/s    2,200",
        "rate-limited         3.0/s        6",
        "fullest set    first_knock4 3%",
        "table full     2 knocks",
        "log overflowed 2 times",
        "the ledger cannot be written",
    ]
    assert shown.drop_rate() == "dropped 503/s"
    assert shown.summary == "2 doors, mode stealth"


def test_reset_counters_give_no_negative_rates() -> None:
    shown = view()
    shown.on_stats(numbers(), NOW_S)
    shown.on_stats(numbers(counters={"knocked": 0, "dropped_closed": 1}), NOW_S + 1)
    assert not any(shown.drops)


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        ({"takes": True, "refused": {}}, []),
        ({"takes": True, "refused": {"used": 2, "clock": 1}}, ["signed, rejected: 3 (1 clock, 2 used)"]),
        ({"takes": False, "refused": {}}, ["signed knocks unavailable: see the log"]),
    ],
)
def test_signed_knocks(signed: dict[str, Any], expected: list[str]) -> None:
    shown = view()
    shown.on_stats(numbers(signed=signed), NOW_S)
    assert shown.gate()[5:] == expected


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"first_knock4_ab": {"elements": None, "size": 100}}, ""),
        ({"first_knock4_ab": {"elements": 0, "size": 100}}, "sets           under 1% full"),
        ({"preexisting4": {"elements": 5, "size": 0}}, ""),
    ],
)
def test_fullest_set(sets: dict[str, Any], expected: str) -> None:
    shown = view()
    shown.on_stats(numbers(sets=sets), NOW_S)
    assert shown.gate()[4] == expected


@pytest.mark.parametrize(
    ("most", "listed", "elements", "expected"),
    [
        (
            6,
            3,
            3,
            [
                "192.0.2.8              2 knocks    3s",
                "2001:db8:ffff:ffff:ff… 2 knocks   70s",
                "192.0.2.9              1 knock    10s",
            ],
        ),
        (2, 3, 3, ["192.0.2.8              2 knocks    3s", "and about 2 more"]),
        (
            4,
            50,
            1_000_000,
            [
                "192.0.2.8              2 knocks    3s",
                "2001:db8:ffff:ffff:ff… 2 knocks   70s",
                "192.0.2.9              1 knock    10s",
                "and about 999,950 more",
            ],
        ),
        (3, 3, 1, None),
    ],
)
def test_knocks_in_progress(most: int, listed: int, elements: int, expected: list[str] | None) -> None:
    shown = view()
    assert shown.attempts(most) == []
    sets = {"first_knock4_ab": {"elements": elements, "size": 1 << 20}}
    shown.on_stats(numbers(listed=listed, sets=sets), NOW_S)
    lines = shown.attempts(most)
    assert len(lines) <= most
    assert expected is None or lines == expected


def test_numbers_are_short() -> None:
    assert [left(s) for s in (0, 59.6, 99, 100, 599, 600, 3599, 3600, 86_399, 86_400, 90_000 * 24)] == [
        "0s", "60s", "99s", "1m40", "9m59", "10m", "59m", "1h00", "23h59", "1d00", "25d00",
    ]  # fmt: skip
    assert [rate(r) for r in (0, 0.04, 9.94, 10, 12_345)] == ["0", "0.0", "9.9", "10", "12.3k"]
    assert [short(c) for c in (0, 9999, 10_000, 123_456, 1_500_000, 250_000_000, 7 * 10**9, 10**13)] == [
        "0", "9,999", "10.0k", "123k", "1.5M", "250M", "7.0G", "10.0T",
    ]  # fmt: skip
    assert (cut("ssh", 3), cut("sshd", 3)) == ("ssh", "ss…")
