"""Choose a random sequence of unused ports that scanners do not try first. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import combinations, pairwise

from doorward.errors import HostError
from doorward.lint.common_ports import TRIED_FIRST
from doorward.model import Port, Protocol

KNOCKS = 4  # docs/strength.md: 65,536 guessers open it within a year with a chance of 1 in 7,100,000
FIRST_PORT = 1024  # providers filter lower ports, and scanners probe them
MIN_GAP = 100  # between any two knocks: a scan of the neighbors of a known port finds no other
MIN_CANDIDATES = 10_000  # ports; with fewer, ephemeral ports are used, too
_MAX_TRIES = 1000  # nine of ten candidates are good, so if this many fail, none exists

Pick = Callable[[int], int]  # returns a uniformly distributed number below its argument


def choose_sequence(
    pick: Pick, taken: Collection[Port], ephemeral: range, others: Iterable[Port] = ()
) -> tuple[Port, ...]:
    """Return a door's sequence, without ports in `taken` and far from `others`, the knock ports of other doors.

    HostError: the host has too few free ports.
    """
    numbers = candidate_ports(taken, ephemeral)
    far_from = [port.number for port in others]
    for _ in range(_MAX_TRIES if numbers else 0):
        knock = tuple(Port(list(Protocol)[pick(len(Protocol))], numbers[pick(len(numbers))]) for _ in range(KNOCKS))
        if is_strong(knock, far_from):
            return knock
    raise HostError("no-free-ports", "too few free ports for a sequence; set `knock` yourself, see doorward.toml(5)")


def candidate_ports(taken: Collection[Port], ephemeral: range) -> list[int]:
    """Return the port numbers to choose from, for both protocols."""
    excluded = {port.number for port in taken}.union(*TRIED_FIRST.values())
    numbers = [number for number in range(FIRST_PORT, 65_536) if number not in excluded]
    preferred = [number for number in numbers if number not in ephemeral]
    return preferred if len(preferred) >= MIN_CANDIDATES else numbers


def is_strong(knock: tuple[Port, ...], far_from: Iterable[int] = ()) -> bool:
    """Return whether the ports use both protocols, lie apart, and neither ascend nor descend."""
    numbers = [port.number for port in knock]
    steps = [later > earlier for earlier, later in pairwise(numbers)]
    apart = all(abs(one - other) >= MIN_GAP for one, other in combinations(numbers, 2))
    apart = apart and all(abs(number - other) >= MIN_GAP for number in numbers for other in far_from)
    return apart and any(steps) and not all(steps) and len({port.protocol for port in knock}) > 1
