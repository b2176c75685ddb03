"""Random sequences: both protocols, ports apart and unordered, unused and not tried first by scanners."""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import HostError
from doorward.init.random_sequence import (
    FIRST_PORT,
    KNOCKS,
    MIN_CANDIDATES,
    MIN_GAP,
    candidate_ports,
    choose_sequence,
    is_strong,
)
from doorward.lint.common_ports import is_tried_first
from doorward.lint.guessing import guess
from doorward.model import Door, Port, Protocol
from tests.support.errors import raises

USUAL = range(32_768, 61_000)
ports = st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65_535))


def knock(text: str) -> tuple[Port, ...]:
    return tuple(map(Port.parse, text.split()))


@given(st.integers(), st.frozensets(ports, max_size=50), st.integers(1024, 65_000), st.integers(0, 40_000))
def test_chosen_sequence_is_strong(seed: int, taken: frozenset[Port], first: int, count: int) -> None:
    ephemeral = range(first, min(first + count, 65_536))
    pick = random.Random(seed).randrange
    one = choose_sequence(pick, taken, ephemeral)
    other = choose_sequence(pick, taken, ephemeral, one)
    assert len(one) == len(other) == KNOCKS
    numbers = sorted(port.number for port in one + other)
    assert all(later - earlier >= MIN_GAP for earlier, later in pairwise(numbers))
    shunned = {port.number for port in taken}
    assert all(number >= FIRST_PORT and number not in shunned for number in numbers)
    assert not any(map(is_tried_first, one + other))
    if len(range(FIRST_PORT, 65_536)) - len(ephemeral) - 400 > MIN_CANDIDATES:
        assert not set(numbers) & set(ephemeral)
    for sequence in (one, other):
        assert {port.protocol for port in sequence} == set(Protocol)
        in_order = [port.number for port in sequence]
        assert in_order not in (sorted(in_order), sorted(in_order, reverse=True))
        rated = guess(Door("d", sequence, ()))
        assert rated is not None
        assert rated.by_many_sources < 1e-6


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("5001/tcp 9001/udp 7001/tcp 3001/tcp", True),
        ("5001/tcp 9001/tcp 7001/tcp 3001/tcp", False),  # one protocol
        ("3001/tcp 5001/udp 7001/tcp 9001/tcp", False),  # ascending, whatever the protocols
        ("9001/tcp 7001/udp 5001/tcp 3001/udp", False),  # descending
        ("5001/tcp 9001/udp 5090/tcp 3001/tcp", False),  # neighbors
        ("5001/tcp 9001/udp 5001/udp 3001/tcp", False),  # one number twice
    ],
)
def test_is_strong(text: str, good: bool) -> None:
    assert is_strong(knock(text)) is good
    assert not is_strong(knock(text), [9050])


def test_ports_are_uniformly_distributed() -> None:
    """Thirds of the choice, by either protocol: a port in a hundred of those allowed would show."""
    pick, numbers = random.Random(7).randrange, candidate_ports((), USUAL)
    third = len(numbers) // 3
    found = Counter(
        (port.protocol, min(bisect(numbers, port.number) // third, 2))
        for _ in range(200)
        for port in choose_sequence(pick, (), USUAL)
    )
    assert len(found) == 6
    assert min(found.values()) > 0.7 * 800 / 6


@pytest.mark.parametrize("every", [20_000, 70_000])
def test_too_few_free_ports(every: int) -> None:
    everything = [Port(Protocol.TCP, number) for number in range(1024, 65_536) if (number - 7) % every]
    with raises(HostError, "no-free-ports"):
        choose_sequence(random.Random(1).randrange, everything, USUAL)


def test_ephemeral_ports_are_used_if_few_others_are_free() -> None:
    assert len(candidate_ports((), range(1024, 65_536))) > 60_000
    assert not set(candidate_ports((), USUAL)) & set(USUAL)
