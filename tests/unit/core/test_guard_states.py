"""The states of the ruleset guard, and the log of repairs."""

from __future__ import annotations

import pytest

from doorward.core.guard_states import TABLE, GuardAction, GuardEvent, GuardState, RepairLogLimiter, transition

RUNNING = {GuardState.LOADING, GuardState.REPAIRING, GuardState.DAMAGED}  # a child may be running
REPAIR_IS_DUE = (GuardState.DAMAGED, GuardState.BACKOFF)
# What comes by itself: a child ends, its outcome is examined, a pause is over.
COMES = (GuardEvent.CHILD_ENDED, GuardEvent.EXAMINED, GuardEvent.TIMER)


@pytest.mark.parametrize("state", GuardState)
def test_damage_is_repaired_from_every_state(state: GuardState) -> None:
    state, _ = transition(state, GuardEvent.DAMAGE)
    assert state in REPAIR_IS_DUE
    actions = []
    for event in COMES:
        state, action = transition(state, event)
        actions.append(action)
    assert (state, actions[-1]) == (GuardState.REPAIRING, GuardAction.START_REPAIR)


@pytest.mark.parametrize("event", GuardEvent)
@pytest.mark.parametrize("state", REPAIR_IS_DUE)
def test_no_event_makes_the_guard_forget_a_damage(state: GuardState, event: GuardEvent) -> None:
    after, action = transition(state, event)
    assert after in REPAIR_IS_DUE or action is GuardAction.START_REPAIR


def test_a_child_is_started_only_where_none_is_running() -> None:
    starts = {state for (state, event), (_, action) in TABLE.items() if event is GuardEvent.CHILD_STARTED}
    starts |= {state for (state, _), (_, action) in TABLE.items() if action is GuardAction.START_REPAIR}
    assert starts == {GuardState.IDLE, GuardState.BACKOFF}
    assert not starts & RUNNING


def test_a_repair_is_started_only_after_a_pause() -> None:
    assert [key for key, (_, action) in TABLE.items() if action is GuardAction.START_REPAIR] == [
        (GuardState.BACKOFF, GuardEvent.TIMER)
    ]
    into_backoff = {action for (state, _), (after, action) in TABLE.items() if after is GuardState.BACKOFF is not state}
    assert into_backoff == {GuardAction.SET_TIMER}


@pytest.mark.parametrize("state", GuardState)
def test_doubt_is_resolved_unless_a_repair_comes_anyway(state: GuardState) -> None:
    after, action = transition(state, GuardEvent.DOUBT)
    assert after is state
    assert action in (GuardAction.COMPARE, GuardAction.COMPARE_AFTERWARDS) or state in REPAIR_IS_DUE
    assert (action is GuardAction.COMPARE_AFTERWARDS) == (state in (GuardState.LOADING, GuardState.REPAIRING))


def test_a_task_waits_for_its_turn() -> None:
    assert {state for (state, _), (_, action) in TABLE.items() if action is GuardAction.START_TASK} == {
        GuardState.IDLE,
        GuardState.VERIFYING,
    }


def logged(limiter: RepairLogLimiter, at_s: float) -> str:
    line = limiter.line("nft (process 7)", "restored after 9ms, 3 open", at_s)
    return "" if line is None else f"{line[0]}: {line[1]}"


def test_a_few_repairs_are_logged_one_by_one() -> None:
    limiter = RepairLogLimiter()
    for at_s in (0, 10, 20, 30, 40, 60, 70, 80):
        assert logged(limiter, at_s) == "warning: nft (process 7) changed the gate; restored after 9ms, 3 open"


def test_many_repairs_have_a_summary_per_minute() -> None:
    limiter = RepairLogLimiter()
    lines = [logged(limiter, number * 0.05) for number in range(20 * 150)]  # 150 seconds of it
    assert all(line.startswith("warning: nft (process 7) changed") for line in lines[:5])
    assert lines[5].startswith("error: nft (process 7) keeps changing the gate, 6 times")
    numbers = [number for number, line in enumerate(lines) if line]
    assert len(numbers) <= 3 * 6
    assert "1195 more repairs since the last line" in "".join(lines[1200:1206])


def test_after_a_quiet_minute_repairs_are_logged_again() -> None:
    limiter = RepairLogLimiter()
    for number in range(20):
        logged(limiter, number)
    assert logged(limiter, 100) == (
        "warning: nft (process 7) changed the gate; restored after 9ms, 3 open (15 more repairs since the last line)"
    )
    assert logged(limiter, 101) == "warning: nft (process 7) changed the gate; restored after 9ms, 3 open"
