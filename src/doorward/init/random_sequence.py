"""Chooses a sequence at random, among ports that nobody else uses and nobody tries first. Pure: luck is an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import combinations, pairwise

from doorward.errors import HostError
from doorward.lint.common_ports import TRIED_FIRST
from doorward.model import Port, Protocol

KNOCKS = 4  # docs/strength.md: 65,536 guessers open it within a year with a chance of 1 in 7,100,000
FIRST_PORT = 1024  # below it providers filter, and scanners look
LEAST_GAP = 100  # between any two knocks: a scanner that tries neighbours of an open or a known port meets none
LEAST_CHOICE = 10_000  # ports; with fewer the ephemeral ones are taken too
_TRIES = 1000  # nine of ten sequences are good, so that many in vain mean that none can be

Pick = Callable[[int], int]  # gives a number below its argument, each as likely


def choose_sequence(
    pick: Pick, taken: Collection[Port], ephemeral: range, others: Iterable[Port] = ()
) -> tuple[Port, ...]:
    """Choose a door's sequence. `taken` are ports in use, `others` the knocks of other doors, far from which it stays.

    HostError: the host leaves too few ports.
    """
    numbers = allowed(taken, ephemeral)
    far_from = [port.number for port in others]
    for _ in range(_TRIES if numbers else 0):
        knock = tuple(Port(list(Protocol)[pick(len(Protocol))], numbers[pick(len(numbers))]) for _ in range(KNOCKS))
        if is_good(knock, far_from):
            return knock
    raise HostError("too few ports are left to knock at; write `knock` yourself, as docs/configuration.md says")


def allowed(taken: Collection[Port], ephemeral: range) -> list[int]:
    """Give the numbers to choose among, for either protocol."""
    shunned = {port.number for port in taken}.union(*TRIED_FIRST.values())
    numbers = [number for number in range(FIRST_PORT, 65_536) if number not in shunned]
    spared = [number for number in numbers if number not in ephemeral]
    return spared if len(spared) >= LEAST_CHOICE else numbers


def is_good(knock: tuple[Port, ...], far_from: Iterable[int] = ()) -> bool:
    """Tell whether the ports are of both protocols, lie apart, and neither ascend nor descend."""
    numbers = [port.number for port in knock]
    steps = [later > earlier for earlier, later in pairwise(numbers)]
    apart = all(abs(one - other) >= LEAST_GAP for one, other in combinations(numbers, 2))
    apart = apart and all(abs(number - other) >= LEAST_GAP for number in numbers for other in far_from)
    return apart and any(steps) and not all(steps) and len({port.protocol for port in knock}) > 1
