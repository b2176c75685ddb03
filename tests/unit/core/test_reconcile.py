"""Differences between the kernel's sets and the opening table, as a table of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pytest

from doorward.core.reconcile import differences
from doorward.model import Door, Opening, Share
from tests.support.openings import door, element, opening

NOW_S = 1000.0
SSH, WEB = door("ssh", "22/tcp"), door("web", "80/tcp 443/tcp")
ADMIN, WAKE = door("admin", "22/tcp 80/tcp"), door("wake", "")
HERE, THERE = "192.0.2.7", "2001:db8::7"


class Case(NamedTuple):
    current: Sequence[Opening] = ()
    have: Mapping[str, float] = MappingProxyType({})
    found: Sequence[Opening] = ()
    lost: Sequence[Opening] = ()
    doors: Sequence[Door] = (SSH, WEB, ADMIN, WAKE)


def new(door: str, address: str, opened: str, left_s: float) -> Opening:
    return opening(door, address, opened, NOW_S, NOW_S + left_s, "knock")


CURRENT = opening("ssh", HERE, "22/tcp", 990.0, 1020.0)
CURRENT_WIDE = opening("web", HERE, "80/tcp 443/tcp", 990.0, 1020.0)

CASES = {
    "nothing anywhere": Case(),
    "both agree": Case([CURRENT], {f"{HERE} 22/tcp": 20.0}),
    "the kernel's clock ticks": Case([CURRENT], {f"{HERE} 22/tcp": 20.2}),
    "the kernel ends sooner: its timer is right": Case([CURRENT], {f"{HERE} 22/tcp": 3.0}),
    "a knock that the log lost": Case([], {f"{HERE} 22/tcp": 20.0}, [new("ssh", HERE, "22/tcp", 20.0)]),
    "of the other family": Case([], {f"{THERE} 22/tcp": 20.0}, [new("ssh", THERE, "22/tcp", 20.0)]),
    "a knock that prolonged": Case([CURRENT], {f"{HERE} 22/tcp": 29.0}, [new("ssh", HERE, "22/tcp", 29.0)]),
    "somebody else's": Case(
        [CURRENT],
        {f"{HERE} 22/tcp": 20.0, f"{THERE} 22/tcp": 9.0},
        [new("ssh", THERE, "22/tcp", 9.0)],
    ),
    "an opening that is gone": Case([CURRENT], {}, lost=[CURRENT]),
    "one of two is gone": Case([CURRENT, CURRENT_WIDE], {f"{HERE} 22/tcp": 20.0}, lost=[CURRENT_WIDE]),
    "a part is still there": Case([CURRENT_WIDE], {f"{HERE} 443/tcp": 20.0}),
    "all ports of one door": Case(
        [],
        {f"{HERE} 443/tcp": 20.0, f"{HERE} 80/tcp": 19.0},
        [new("web", HERE, "80/tcp 443/tcp", 20.0)],
    ),
    "whole doors first, in the order of the file": Case(
        [],
        {f"{HERE} 80/tcp": 20.0, f"{HERE} 22/tcp": 20.0},
        [new("admin", HERE, "22/tcp 80/tcp", 20.0)],
    ),
    "the door written first": Case(
        [], {f"{HERE} 22/tcp": 20.0}, [new("b", HERE, "22/tcp", 20.0)], doors=[door("b", "22/tcp"), door("a", "22/tcp")]
    ),
    "two doors share the rest": Case(
        [],
        {f"{HERE} 22/tcp": 20.0, f"{HERE} 443/tcp": 9.0},
        [new("ssh", HERE, "22/tcp", 20.0), new("web", HERE, "443/tcp", 9.0)],
    ),
    "a port that no door opens is left to its timer": Case([], {f"{HERE} 9/tcp": 20.0}),
    "the same number of the other protocol": Case([], {f"{HERE} 22/udp": 20.0}),
    "a door that is no longer configured is still open": Case(
        [opening("gone", HERE, "9/tcp", 990.0, 1020.0)], {f"{HERE} 9/tcp": 20.0}
    ),
    "a door without ports has nothing in the kernel to lose": Case([opening("wake", HERE, "", 990.0, 1020.0)], {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_differences(case: Case) -> None:
    have = {element(text): left_s for text, left_s in case.have.items()}
    seen = differences(case.current, have, case.doors, NOW_S)
    assert (list(seen.found), list(seen.lost)) == (list(case.found), list(case.lost))


def test_opening_is_shifted_to_another_clock() -> None:
    before = opening(since_s=10, until_s=40)._replace(shares=(Share("hand", 40),))
    after = opening(since_s=1010.5, until_s=1040.5)._replace(shares=(Share("hand", 1040.5),))
    assert before.shifted(1000.5) == after
