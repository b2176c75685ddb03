"""Rules for signed closes (doorward/core/signed_rules.py)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from unittest.mock import patch

import pytest

from doorward.core import signed_rules
from doorward.core.signed_rules import CloseDates, DatedKnock, Holders, may_open
from doorward.model import Share, Source

HOME, CAFE = ip_address("192.0.2.7"), ip_address("198.51.100.9")


def close(time_ms: int, by: str = "key alice", door: str = "ssh", source: Source = HOME) -> DatedKnock:
    return DatedKnock(by, door, source, time_ms)


def held(*shares: Share) -> Holders:
    holders = Holders()
    for share in shares:
        holders = holders.hold(share) or holders
    return holders


@pytest.mark.parametrize(("dated_ms", "is_rejected"), [(99, True), (100, True), (101, False)])
def test_open_dated_at_or_before_a_close_is_rejected(dated_ms: int, is_rejected: bool) -> None:
    assert bool(may_open(close(dated_ms), 100)) == is_rejected


def test_close_counts_for_its_signer_door_and_address_alone() -> None:
    dates = CloseDates()
    dates.note(close(100))
    assert dates.last("key alice", "ssh", HOME) == 100
    assert dates.last("key bob", "ssh", HOME) == -1
    assert dates.last("key alice", "web", HOME) == -1
    assert dates.last("key alice", "ssh", CAFE) == -1
    assert dates.last("key alice", "ssh", ip_network("192.0.2.0/24")) == -1


def test_late_older_close_does_not_lower_the_date() -> None:
    dates = CloseDates()
    dates.note(close(100))
    dates.note(close(50))
    assert dates.last("key alice", "ssh", HOME) == 100


def test_dates_survive_a_restart() -> None:
    dates = CloseDates()
    dates.note(close(100))
    assert CloseDates(dates.rows()).last("key alice", "ssh", HOME) == 100


def test_dates_go_with_the_numbers_that_the_replay_cache_drops() -> None:
    dates = CloseDates()
    dates.note(close(100))
    dates.note(close(200, door="web"))
    dates.prune(100)
    assert sorted(dates.rows()) == [("key alice", "web", "192.0.2.7", 200)]
    dates.prune(200)
    assert list(dates.rows()) == []


def test_beyond_the_bound_the_oldest_close_counts_for_all_doors_of_its_signer() -> None:
    dates = CloseDates()
    with patch.object(signed_rules, "MAX_CLOSES_PER_SIGNER", 2):
        for time_ms, door in enumerate(["a", "b", "c", "d"], start=100):
            dates.note(close(time_ms, door=door))
    assert [dates.last("key alice", door, HOME) for door in "abcdx"] == [101, 101, 102, 103, 101]
    assert dates.last("key bob", "a", HOME) == -1
    assert len(list(dates.rows())) == 3


def test_beyond_the_bound_of_signers_the_oldest_close_counts_for_everyone() -> None:
    dates = CloseDates()
    with patch.object(signed_rules, "MAX_CLOSING_SIGNERS", 2):
        for time_ms, by in enumerate(["key a", "key b", "key c"], start=100):
            dates.note(close(time_ms, by=by))
    assert [dates.last(by, "ssh", HOME) for by in ("key a", "key b", "key c", "key x")] == [100, 101, 102, 100]
    assert dates.last("key c", "web", CAFE) == 100
    assert len(list(CloseDates(dates.rows()).rows())) == 3


@pytest.mark.parametrize("by_hand", [False, True])
def test_beyond_the_bound_the_signer_is_forgotten_whose_newest_close_is_the_oldest(*, by_hand: bool) -> None:
    dates = CloseDates()
    if by_hand:
        dates.note_by_hand(close(10_000))
        dates.lower(50)
    else:
        dates.note(close(10_000))
        dates.prune(10_000)
        dates.note(close(50))
    with patch.object(signed_rules, "MAX_CLOSING_SIGNERS", 2):
        for time_ms, by in enumerate(["key b", "key c"], start=100):
            dates.note(close(time_ms, by=by))
    assert [dates.last(by, "ssh", HOME) for by in ("key alice", "key b", "key c", "key x")] == [50, 100, 101, 50]


def test_close_by_hand_counts_for_its_signer_until_a_clock_that_was_ahead_is_right() -> None:
    dates = CloseDates()
    dates.note_by_hand(close(10_000))
    dates.note(close(20_000, "key bob"))
    assert dates.last("key alice", "ssh", HOME) == 10_000
    assert dates.finish("ssh", HOME, held(Share("key alice", 10.0, 50))) == held(Share("key alice", 10.0, 50))
    dates.lower(500)
    assert dates.last("key alice", "ssh", HOME) == 500
    assert dates.last("key bob", "ssh", HOME) == 20_000  # its signer wrote that date


def test_beyond_the_bound_of_signers_a_wrong_clock_of_closes_by_hand_still_does_not_last() -> None:
    dates = CloseDates()
    with patch.object(signed_rules, "MAX_CLOSING_SIGNERS", 2):
        for time_ms, by in enumerate(["key a", "key b", "key c"], start=90_000):
            dates.note_by_hand(close(time_ms, by=by))
    dates = CloseDates(dates.rows())
    assert dates.last("key x", "ssh", HOME) == 90_000
    dates.lower(500)
    assert dates.last("key x", "ssh", HOME) == 500


def test_start_ends_what_a_claimed_close_was_for_and_nothing_else() -> None:
    dates = CloseDates()
    with patch.object(signed_rules, "MAX_CLOSES_PER_SIGNER", 1):
        dates.note(close(100, door="web"))
        dates.note(close(200))
    alice, bob = Share("key alice", 10.0, 50), Share("key bob", 10.0, 50)
    assert dates.finish("ssh", HOME, held(alice, bob)) == held(bob)
    assert dates.finish("db", HOME, held(alice, bob)) == held(alice, bob)  # the oldest close only rejects opens of it


def test_opening_ends_with_its_last_holder() -> None:
    holders = held(Share("key alice", 10.0, 100), Share("hand", 30.0), Share("key bob", 20.0, 101))
    assert holders.until_s == 30.0
    assert holders.expire(20.0).shares == (Share("hand", 30.0),)
    assert Holders().until_s == float("-inf")


def test_close_removes_the_signers_own_share_if_it_is_dated_before() -> None:
    holders = held(Share("key alice", 10.0, 100), Share("key bob", 20.0, 100), Share("hand", 30.0))
    assert holders.close("key alice", 101) == held(Share("key bob", 20.0, 100), Share("hand", 30.0))
    assert holders.close("key alice", 100) == holders.close("key alice", 101)  # a date counts as before itself
    assert holders.close("key alice", 99) == holders
    assert holders.close("hand", 101) == holders  # an operator's opening has no date


def test_share_is_extended_never_shortened_and_has_its_newest_date() -> None:
    holders = held(Share("key alice", 30.0, 100), Share("key alice", 20.0, 200))
    assert holders.shares == (Share("key alice", 30.0, 200),)
    assert holders.close("key alice", 150) == holders  # the user opened again after that close
    assert held(*holders.shares, Share("key alice", 10.0, 50)) == holders


def test_another_holder_beyond_the_bound_is_rejected_and_a_known_one_is_not() -> None:
    with patch.object(signed_rules, "MAX_HOLDERS", 2):
        holders = held(Share("key a", 10.0, 1), Share("key b", 10.0, 1))
        assert holders.hold(Share("key c", 10.0, 1)) is None
        assert (holders.hold(Share("key a", 20.0, 2)) or Holders()).until_s == 20.0
