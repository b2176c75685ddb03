"""How likely a stranger is to open a door without knowing its sequence: the formulas of docs/strength.md. Pure.

A guesser sends symbols at random, as many as the limiter lets through. Each symbol completes a sequence of n knocks
with the chance of having guessed the last n right: about 1/N^n, of N ports that he chooses among.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from doorward.core.tracker import RATE_PER_S
from doorward.lint.common_ports import TRIED_FIRST, is_tried_first
from doorward.model import Door, Protocol

PORTS = 65_535  # of one protocol
YEAR_S = 31_557_600.0  # 365.25 days
# A botnet, or one IPv6 /48, which tunnel brokers give to anybody: so many /64s, each of which the limiter counts alone.
MANY_SOURCES = 1 << 16
SELDOM = 0.5  # openings a year: below it people understand a chance, from there on a time


class Guess(NamedTuple):
    """How a door stands against guessing: among how many ports, and how often that opens it in a year.

    `a_year` counts openings expected from one source (IPv6: a /64) that sends all year what the limiter takes.
    """

    door: str
    knocks: int
    ports: int
    tried_first: bool
    a_year: float

    @property
    def by_one(self) -> float:
        """The chance that one source opens the door within a year."""
        return chance(self.a_year)

    @property
    def by_many(self) -> float:
        """The same for `MANY_SOURCES` at once."""
        return chance(self.a_year * MANY_SOURCES)


def guess(door: Door) -> Guess | None:
    """Rate a door against the better of two guessers: one tries every port, one those that are tried first.

    Both know which protocols the sequence uses, and how long it is. None: the door has no sequence.
    """
    if not door.knock:
        return None
    protocols = {port.protocol for port in door.knock}
    tried_first = all(map(is_tried_first, door.knock))
    ports = _tried_first(protocols) if tried_first else PORTS * len(protocols)
    return Guess(door.name, len(door.knock), ports, tried_first, openings(RATE_PER_S * YEAR_S, ports, len(door.knock)))


def openings(symbols: float, ports: int, knocks: int) -> float:
    """Give how often so many random symbols open a door: expected, and so never less than the chance of once.

    A port guessed twice in a row is passed over as a retransmission, so all but the first two of n knocks are one of
    N - 1. Exact for sequences without such repeats, and a bound for those with them.
    """
    return symbols * float(ports) ** -min(knocks, 2) * max(ports - 1.0, 1.0) ** -max(knocks - 2, 0)


def chance(expected: float) -> float:
    """Give the chance of at least one of rare events, of which so many are expected (Poisson)."""
    return -math.expm1(-expected)


def sweep(symbols: int, knocks: int) -> float:
    """Give the chance that one sweep over so many ports, each once and in random order, opens a door.

    Of the orders of s ports, those with n given ones side by side and in order are (s - n + 1)!, of s!.
    """
    return 1 / math.prod(range(symbols - knocks + 2, symbols + 1)) if knocks <= symbols else 0.0


def guess_text(expected: float) -> str:
    """Say in words when so many openings a year are to be expected."""
    if expected < SELDOM:
        return f"within a year with a chance of {odds(chance(expected))}"
    for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if (count := YEAR_S / expected / seconds) >= 1:
            return f"within {count:,.0f} {unit}{'' if round(count) == 1 else 's'} on average"
    return "within a minute"


def odds(chance: float) -> str:
    """Write a chance as people say it: 1 in 2,100."""
    return f"1 in {rounded(1 / chance):,}" if chance > 0 else "0"


def rounded(number: float) -> int:
    """Keep two digits: the rest of an estimate is noise."""
    return round(float(f"{number:.2g}"))


def total(guesses: Iterable[Guess]) -> float:
    """Give the openings of all doors that one source causes in a year."""
    return math.fsum(each.a_year for each in guesses)


def _tried_first(protocols: Iterable[Protocol]) -> int:
    return sum(len(TRIED_FIRST[protocol]) for protocol in protocols)
