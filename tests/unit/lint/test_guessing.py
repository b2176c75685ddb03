"""The formulas of docs/strength.md against the tracker, with so few ports that guesses often succeed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from doorward.core.automaton import compile_doors
from doorward.core.tracker import PAUSE_NS, RATE_PER_S, Tracker
from doorward.lint.guessing import (
    MANY_SOURCES,
    YEAR_S,
    chance,
    expected_openings,
    guess,
    guess_text,
    odds,
    rounded,
    sweep,
    total,
)
from doorward.model import Door, Packet, Port, Protocol

SOURCE = b"\xc0\x00\x02\x01"
SYN = 2
MANUAL = Path(__file__).parents[3] / "docs/strength.md"


def tcp(*numbers: int) -> tuple[Port, ...]:
    return tuple(Port(Protocol.TCP, number) for number in numbers)


def door(*numbers: int, within_ms: int = 15_000) -> Door:
    return Door("door", tcp(*numbers), tcp(65535), within_ms)


def opened(tracker: Tracker, symbols: Sequence[int], tick_ns: int = PAUSE_NS, start_ns: int = 0) -> int:
    """Count the openings that these ports cause, sent in order."""
    packets = (Packet(SOURCE, port, SYN) for port in tcp(*symbols))
    return sum(len(tracker.feed(packet, start_ns + place * tick_ns)) for place, packet in enumerate(packets))


def tracker_of(*doors: Door, known_only: bool = False) -> Tracker:
    return Tracker(compile_doors(doors, known_only=known_only), 1024)


@pytest.mark.parametrize(
    ("knock", "ports"),
    [((3, 1), 4), ((2, 5, 1), 5), ((1, 2, 1), 4), ((4, 1, 3, 2), 5), ((1, 2, 1, 3), 4)],
)
def test_random_guesses_match_the_formula(knock: tuple[int, ...], ports: int) -> None:
    symbols = random.Random(1).choices(range(1, ports + 1), k=min(640 * ports ** len(knock), 200_000))
    found = opened(tracker_of(door(*knock)), symbols)
    expected = expected_openings(len(symbols), ports, len(knock))
    assert found == pytest.approx(expected, rel=0.1), (found, expected)


@pytest.mark.parametrize("knock", [(3,), (2, 2), (2, 2, 1), (2, 1, 1)])
def test_formula_bounds_single_knocks_and_repeats(knock: tuple[int, ...]) -> None:
    symbols = random.Random(1).choices(range(1, 5), k=50_000)
    found, expected = opened(tracker_of(door(*knock)), symbols), expected_openings(len(symbols), 4, len(knock))
    assert 0.5 * expected < found < 1.05 * expected


def test_deadline_makes_guessing_harder() -> None:
    symbols = random.Random(2).choices(range(1, 6), k=50_000)
    hurried = opened(tracker_of(door(2, 5, 1, within_ms=99)), symbols)
    assert hurried < opened(tracker_of(door(2, 5, 1)), symbols) / 100


def test_exceeding_the_rate_limit_lowers_the_odds() -> None:
    ports, knock, seconds = 5, (2, 5, 1), 1000
    for factor in (2, 10):
        symbols = random.Random(3).choices(range(1, ports + 1), k=seconds * RATE_PER_S * factor)
        found = opened(tracker_of(door(*knock)), symbols, PAUSE_NS // factor)
        assert found <= 1.1 * expected_openings(seconds * RATE_PER_S, ports, len(knock))


def test_expected_openings_of_doors_add_up() -> None:
    doors = [door(*knock)._replace(name=str(knock)) for knock in ((1, 2, 3), (3, 2, 1), (2, 3, 1), (1, 3))]
    symbols = random.Random(4).choices(range(1, 7), k=200_000)
    expected = sum(expected_openings(len(symbols), 6, len(each.knock)) for each in doors)
    found = opened(tracker_of(*doors), symbols)
    assert found == pytest.approx(expected, rel=0.05), (found, expected)


@pytest.mark.parametrize(("knock", "ports"), [((3,), 5), ((3, 1), 6), ((2, 5, 1), 6), ((6, 3, 1, 4), 7), ((2, 1), 2)])
def test_random_sweeps_match_the_formula(knock: tuple[int, ...], ports: int) -> None:
    tracker = tracker_of(door(*knock))
    orders = list(permutations(range(1, ports + 1)))
    found = sum(opened(tracker, order, start_ns=100_000_000_000 * number) for number, order in enumerate(orders))
    assert found / len(orders) == pytest.approx(sweep(ports, len(knock)))


@pytest.mark.parametrize(("knock", "others"), [((3, 1, 2), ()), ((3, 1), ((5, 6),)), ((4, 2, 6), ((1, 2),))])
def test_sweep_with_wrong_ports_ignored(knock: tuple[int, ...], others: tuple[tuple[int, ...], ...]) -> None:
    doors = [door(*knock), *(door(*other)._replace(name="other") for other in others)]
    tracker = tracker_of(*doors, known_only=True)
    known = {port for each in doors for port in each.knock}
    orders = list(permutations(range(1, 8)))
    found = 0
    for number, order in enumerate(orders):
        for place, port in enumerate(tcp(*order)):
            found += tracker.feed(Packet(SOURCE, port, SYN), 100_000_000_000 * number + place * PAUSE_NS).count(0)
    assert found / len(orders) == pytest.approx(sweep(len(known), len(knock)))


def test_three_random_tcp_ports() -> None:
    """Check the figures in docs/strength.md."""
    rated = guess(door(7013, 9241, 6907))
    assert rated is not None
    assert rated.per_year == pytest.approx(20 * YEAR_S / 65_535**3, rel=1e-4)
    assert (odds(rated.by_one_source), odds(rated.by_many_sources)) == ("1 in 450,000", "1 in 7")
    assert rated.by_many_sources == pytest.approx(chance(rated.per_year * MANY_SOURCES))
    assert total([rated, rated]) == 2 * rated.per_year


def test_two_protocols_double_the_ports() -> None:
    mixed = guess(Door("d", (Port(Protocol.TCP, 7013), Port(Protocol.UDP, 7013)), ()))
    assert mixed is not None
    assert mixed.ports == 2 * 65_535


def test_door_without_sequence_cannot_be_guessed() -> None:
    assert guess(Door("d", (), tcp(22))) is None


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (0.0, "within a year with a chance of 0"),
        (1e-9, "within a year with a chance of 1 in 1,000,000,000"),
        (0.01, "within a year with a chance of 1 in 100"),
        (0.49, "within a year with a chance of 1 in 3"),
        (0.5, "within 730 days on average"),
        (365.25, "within 1 day on average"),
        (400, "within 22 hours on average"),
        (1e5, "within 5 minutes on average"),
        (1e9, "within a minute"),
    ],
)
def test_guess_text(expected: float, words: str) -> None:
    assert guess_text(expected) == words


@pytest.mark.parametrize(("number", "kept"), [(2.78, 3), (28.4, 28), (449_123.0, 450_000), (0.2, 0)])
def test_estimates_are_rounded_to_two_digits(number: float, kept: int) -> None:
    assert rounded(number) == kept


def test_table_of_the_manual() -> None:
    rows = re.findall(
        r"^\| ([0-9]), (TCP(?: and UDP)?)[^|]*\| ([^|]+) \| ([^|]+) \|$", MANUAL.read_text(), re.MULTILINE
    )
    assert len(rows) == 5
    for knocks, protocols, one, many in rows:
        a_year = expected_openings(RATE_PER_S * YEAR_S, 65_535 * (2 if "UDP" in protocols else 1), int(knocks))
        for shown, expected in ((one, a_year), (many, a_year * MANY_SOURCES)):
            assert guess_text(expected).endswith(shown)
