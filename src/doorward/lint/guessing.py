"""Estimate how likely an attacker is to guess a port sequence: the formulas of docs/dev/guessing.md. Pure.

The attacker sends knock packets at random, as many as the rate limiter admits. Each packet completes a sequence of n
knocks if the last n were guessed right: with a probability of about 1/N^n, for N ports to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from doorward.core.tracker import RATE_PER_S
from doorward.lint.common_ports import TRIED_FIRST, is_tried_first
from doorward.model import Door

PORTS = 65_535  # of one protocol
YEAR_S = 31_557_600.0  # 365.25 days
# A botnet, or one IPv6 /48, which anyone can get from a tunnel broker: the limiter counts each of its /64s separately.
MANY_SOURCES = 1 << 16
SELDOM = 0.5  # openings per year: below it a probability is easier to understand, from there on a duration


class Guess(NamedTuple):
    """The strength of a door against guessing: the number of ports to guess from, and the expected openings per year.

    `per_year` is for one source (IPv6: a /64) that sends at the rate limit all year.
    """

    door: str
    knocks: int
    ports: int
    tried_first: bool
    per_year: float

    @property
    def by_one_source(self) -> float:
        """The probability that one source opens the door within a year."""
        return chance(self.per_year)

    @property
    def by_many_sources(self) -> float:
        """The same for `MANY_SOURCES` sources at once."""
        return chance(self.per_year * MANY_SOURCES)


def guess(door: Door) -> Guess | None:
    """Rate a door against the better of two attackers: one tries every port, one only the common ports.

    Both know the protocols and the length of the sequence. None: the door has no sequence.
    """
    if not door.knock:
        return None
    protocols = {port.protocol for port in door.knock}
    tried_first = all(map(is_tried_first, door.knock))
    ports = sum(len(TRIED_FIRST[protocol]) if tried_first else PORTS for protocol in protocols)
    return Guess(
        door.name, len(door.knock), ports, tried_first, expected_openings(RATE_PER_S * YEAR_S, ports, len(door.knock))
    )


def expected_openings(packets: float, ports: int, knocks: int) -> float:
    """Return the expected number of openings from `packets` random packets, an upper bound of their probability.

    A port guessed twice in a row is ignored as a retransmission, so all but the first two of n knocks are one of N - 1.
    Exact for sequences without such repeats, a bound for the others.
    """
    return packets * float(ports) ** -min(knocks, 2) * max(ports - 1.0, 1.0) ** -max(knocks - 2, 0)


def chance(expected: float) -> float:
    """Return the probability of at least one event if `expected` are expected (Poisson)."""
    return -math.expm1(-expected)


def sweep(packets: int, knocks: int) -> float:
    """Return the probability that a sweep over `packets` ports, each once and in random order, opens a door.

    Of the s! orders of s ports, (s - n + 1)! have n given ports adjacent and in order.
    """
    return 1 / math.prod(range(packets - knocks + 2, packets + 1)) if knocks <= packets else 0.0


def guess_text(expected: float) -> str:
    """Return in words when a door opens, given the expected openings per year."""
    if expected < SELDOM:
        return f"within a year with a chance of {odds(chance(expected))}"
    for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if (count := YEAR_S / expected / seconds) >= 1:
            return f"within {count:,.0f} {unit}{'' if round(count) == 1 else 's'} on average"
    return "within a minute"


def odds(chance: float) -> str:
    """Return a probability as odds: 1 in 2,100."""
    return f"1 in {rounded(1 / chance):,}" if chance > 0 else "0"


def rounded(number: float) -> int:
    """Round an estimate to two significant digits."""
    return round(float(f"{number:.2g}"))


def total(guesses: Iterable[Guess]) -> float:
    """Return the expected openings per year of all doors by one source."""
    return math.fsum(door_guess.per_year for door_guess in guesses)
