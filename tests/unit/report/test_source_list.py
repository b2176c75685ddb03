"""Networks, reasons and the map of hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from doorward.report.events import Period, Refusal
from doorward.report.source_list import (
    MOST_DAYS,
    MOST_NETWORKS,
    MOST_REASONS,
    HourGrid,
    build_grid,
    build_map,
    place_on_map,
    refusal_kind,
    source_network,
    top_reasons,
    worst_networks,
)
from tests.support.report_page import utc

DAY = datetime(2026, 5, 4, tzinfo=UTC)  # a Monday
DAY_S = DAY.timestamp()
WEEK = build_grid(Period(DAY_S, DAY_S + 7 * 86400 - 1), utc)


def refusal(address: str, at_s: float = 0.0, reason: str = "a scanner") -> Refusal:
    return Refusal(DAY_S + at_s, None, address, reason)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("0.0.0.0", "0.0.0.0/24"),
        ("255.255.255.255", "255.255.255.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("192.0.2.0/28", "192.0.2.0/28"),  # a signed knock may ask for a network
        ("2001:db8::/48", "2001:db8::/48"),
        ("256.0.2.1", "256.0.2.1"),
        ("<script>", "<script>"),
        ("", ""),
    ],
)
def test_network_of_an_address(address: str, network: str) -> None:
    assert source_network(address) == network


def test_networks_with_the_most_refusals() -> None:
    refusals = [
        refusal("203.0.113.9", 10), refusal("203.0.113.10", 3700, "full"), refusal("203.0.113.9", 86400),
        refusal("2001:db8::1", 20), refusal("2001:db8::1", 30),
        refusal("192.0.2.1", 40),
    ]  # fmt: skip
    worst, count = worst_networks(place_on_map(refusals, WEEK, utc))
    assert count == 3
    assert [(one.network, one.address, one.addresses, one.refusals) for one in worst] == [
        ("203.0.113.0/24", None, 2, 3),
        ("2001:db8::/64", "2001:db8::1", 1, 2),
        ("192.0.2.0/24", "192.0.2.1", 1, 1),
    ]
    assert (worst[0].first_s, worst[0].last_s, worst[0].reason) == (DAY_S + 10, DAY_S + 86400, "a scanner")
    assert worst[0].cells == {(0, 0): 1, (0, 1): 1, (1, 0): 1}


def test_networks_are_limited_and_counted() -> None:
    refusals = [refusal(f"10.{number // 256}.{number % 256}.1") for number in range(1000)]
    worst, count = worst_networks(place_on_map(refusals, WEEK, utc))
    assert (len(worst), count) == (MOST_NETWORKS, 1000)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("rate limit exceeded (more than 20 knock packets/s); progress reset",) * 2,
        (
            "signed knock: the packet from key ada is 4m 12s behind; correct the client's clock",
            "signed knock: the packet from key ada is behind; correct the client's clock",
        ),
        (
            "signed knock: the packet from key ada is 0s ahead; set it",
            "signed knock: the packet from key ada is ahead; set it",
        ),
        ("the packet is for the gate 'x1', and this one is 'home'", "the packet is for the gate …, and this one is …"),
        ("key ada may not knock from 203.0.113.77", "key ada may not knock from some address"),
        ("key ada may not knock from 2001:db8::77", "key ada may not knock from some address"),
        ("key ada may not request an opening for 192.0.2.0/24", "key ada may not request an opening for some address"),
        ("from here", "from here"),
    ],
)
def test_variable_parts_of_reasons_are_removed(reason: str, kind: str) -> None:
    assert refusal_kind(reason) == kind


def test_reasons_are_counted_by_kind() -> None:
    refusals = [refusal("192.0.2.1", reason=f"key ada may not knock from 192.0.2.{number}") for number in range(5)]
    refusals += [refusal("192.0.2.1", reason="full")]
    assert top_reasons(refusals) == ([("key ada may not knock from some address", 5), ("full", 1)], 0)
    common, rare = top_reasons([refusal("192.0.2.1", reason=f"reason {number}") for number in range(1000)])
    assert (len(common), rare) == (MOST_REASONS, 1000 - MOST_REASONS)


def test_map_rows_are_dates_or_weekdays() -> None:
    assert WEEK.dates == tuple((DAY + timedelta(number)).date() for number in range(7))
    longest = Period(DAY_S, DAY_S + MOST_DAYS * 86400 - 1)
    assert build_grid(longest, utc).rows == MOST_DAYS
    assert build_grid(longest._replace(until_s=longest.until_s + 1), utc) == HourGrid(())
    assert (HourGrid(()).rows, HourGrid(()).row_for((DAY + timedelta(6)).date())) == (7, 6)


def test_map_counts_and_leading_networks() -> None:
    refusals = [refusal("203.0.113.9", 3600), refusal("203.0.113.8", 3601), refusal("192.0.2.1", 3602)]
    refusals += [refusal("192.0.2.1", 86400 + 7200)]
    found = build_map(place_on_map(refusals, WEEK, utc), WEEK)
    assert found.counts == {(0, 1): 3, (1, 2): 1}
    assert found.leaders == {(0, 1): ("203.0.113.0/24", 2), (1, 2): ("192.0.2.0/24", 1)}


def test_map_uses_local_time() -> None:
    zone = ZoneInfo("Europe/Berlin")
    night = datetime(2026, 10, 25, tzinfo=zone).timestamp()  # the clock is set back at three

    def local(at_s: float) -> datetime:
        return datetime.fromtimestamp(at_s, zone)

    refusals = [Refusal(night + hour * 3600, None, "192.0.2.1", "") for hour in range(25)]
    grid = build_grid(Period(night, night + 25 * 3600 - 1), local)
    assert grid.rows == 1
    counts = build_map(place_on_map(refusals, grid, local), grid).counts
    assert counts == {(0, hour): 2 if hour == 2 else 1 for hour in range(24)}
