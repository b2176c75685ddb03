"""Signed knocks under every order of deliveries, faults and time, up to a bound; and no rule can be left out.

DOORWARD_EFFORT=2 or more explores one message, tick and fault more, up to a number of states (tests/support/effort.py).
"""

from __future__ import annotations

import pytest

from tests.support.effort import EFFORT
from tests.support.explorer import Result, explore
from tests.support.model_cache import Limits
from tests.support.signed_model import FLEET, HOME, Rules, SignedModel
from tests.support.signed_world import Offer, Setup

OPEN, CLOSE = Offer("alice"), Offer("alice", is_close=True)
OPEN_HOME, CLOSE_HOME = OPEN._replace(asked=HOME), CLOSE._replace(asked=HOME)
BOB_OPENS, BOB_CLOSES = Offer("bob"), Offer("bob", is_close=True)
CLOCK_AHEAD = OPEN._replace(ahead_ms=5000)
ONE, TWO, FLEET_OF_TWO = ("home",), ("home", "office"), ("one", "two")
SETUPS = {
    "one gate": Setup(ONE, "home", (OPEN, CLOSE), messages=2, ticks=2, faults=1),
    "one gate, three faults": Setup(ONE, "home", (OPEN_HOME, CLOCK_AHEAD), messages=1, ticks=2, faults=3),
    "two signers": Setup(ONE, "home", (OPEN, BOB_OPENS, CLOSE_HOME), messages=3, ticks=0, faults=1),
    "named address": Setup(ONE, "home", (OPEN_HOME, CLOSE_HOME), messages=3, ticks=1, faults=0),
    "numbers dropped": Setup(ONE, "home", (OPEN, CLOSE), messages=3, ticks=0, faults=1, limits=Limits(kept_rows=1)),
    "two gates": Setup(TWO, "home", (OPEN, CLOSE), messages=2, ticks=1, faults=1),
    "fleet": Setup(FLEET_OF_TWO, FLEET, (OPEN_HOME, CLOSE_HOME), messages=2, ticks=0, faults=1, is_fleet=True),
    "fleet, two addresses": Setup(FLEET_OF_TWO, FLEET, (OPEN, CLOSE), messages=2, ticks=0, faults=0, is_fleet=True),
    "fleet, etcd gone": Setup(
        FLEET_OF_TWO, FLEET, (OPEN_HOME, CLOSE_HOME), 2, ticks=0, faults=0, is_fleet=True, cuts=1
    ),
    "fleet, time passes": Setup(FLEET_OF_TWO, FLEET, (OPEN_HOME, CLOSE_HOME), 2, ticks=1, faults=0, is_fleet=True),
}
MAX_STATES = min(200_000 * EFFORT, 2_000_000)  # of about 1 KiB
# A rule that is left out: where, and the property that is then violated.
LEFT_OUT = [
    ("listed", "one gate", "P2"),
    ("fresh", "one gate", "P2"),
    ("new", "one gate", "P1"),
    ("after_boot", "one gate", "P1"),
    ("committed", "one gate", "P1"),
    ("claimed_first", "one gate", "P1"),
    ("target", "two gates", "P1"),
    ("in_fleet", "fleet", "P1"),
    ("closes_remembered", "one gate", "P3"),
    ("closes_kept", "one gate", "P3"),
    ("closes_synced", "one gate", "P3"),
    ("closes_finished", "one gate", "P3"),
    ("closes_shared", "fleet", "P3"),
    ("asks_fleet", "fleet, etcd gone", "P1"),
    ("closes_owed", "fleet, etcd gone", "P3"),
    ("alone_unanswered", "fleet, etcd gone", "P2"),
    ("closes_own", "two signers", "P3"),
    ("closes_earlier", "one gate", "P3"),
    ("only_effects_answered", "one gate", "P2"),
    ("source_answered", "named address", "P2"),
]
UNFINISHED_CLOSE = """\
  1. alice sends packet 1: opens for the packet's source, to home, dated 0.001 s
  2. alice sends packet 2: closes for the packet's source, to home, dated 0.002 s
  3. packet 1 arrives at home from 192.0.2.7; home claims packet 1
  4. home opens for packet 1, and answers to 192.0.2.7
  5. packet 2 arrives at home from 192.0.2.7; home claims packet 2
  6. home is killed and starts
violates P3: an opening outlived a close dated later"""


def search(setup: Setup, rules: Rules, max_states: int) -> Result:
    model = SignedModel(setup, rules)
    return explore(model.start(), model.steps, max_states)


@pytest.mark.parametrize("name", SETUPS)
def test_no_order_of_events_violates_a_property(name: str) -> None:
    setup, more = SETUPS[name], int(EFFORT > 1)
    setup = setup._replace(messages=setup.messages + more, ticks=setup.ticks + more, faults=setup.faults + more)
    result = search(setup, Rules(), MAX_STATES)
    assert not result.violated, str(result)
    assert result.is_complete or EFFORT > 1


@pytest.mark.parametrize(("rule", "name", "violated"), LEFT_OUT, ids=[rule for rule, _, _ in LEFT_OUT])
def test_model_finds_what_goes_wrong_without_a_rule(rule: str, name: str, violated: str) -> None:
    result = search(SETUPS[name], Rules()._replace(**{rule: False}), MAX_STATES)
    print(result)  # noqa: T201
    assert result.violated.startswith(violated), str(result)


def test_counterexample_is_readable() -> None:
    assert str(search(SETUPS["one gate"], Rules(closes_finished=False), MAX_STATES)) == UNFINISHED_CLOSE


def test_each_rule_is_left_out_once() -> None:
    assert sorted(rule for rule, _, _ in LEFT_OUT) == sorted(Rules._fields)
