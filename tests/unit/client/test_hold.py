"""When a held door is knocked at, as transcripts: at this second this happens, and then that is done."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from doorward.client import hold as module
from doorward.client.hold import TABLE, Hold, HoldAction, HoldEvent, HoldState, Step, begin

HOME, TRAIN, NONE = (b"home", None), (b"train", b"ipv6"), (None, None)
KNOCK, CLOSE, EXIT = HoldAction.KNOCK, HoldAction.CLOSE, HoldAction.EXIT
Happening = tuple[float, object]


def handle(hold: Hold, now_s: float, event: object) -> Step:
    """Perform one event: routes are looked at, a number is confirmed as the seconds left."""
    if isinstance(event, tuple):
        return module.on_look(hold, now_s, event)
    if isinstance(event, int):
        return module.on_confirmed(hold, now_s, event), HoldAction.NOTHING
    steps = {
        "sent": lambda: module.on_sent(hold, now_s),
        "end": lambda: module.on_end(hold, now_s),
        "closed": lambda: module.on_closed(hold),
    }
    return steps[str(event)]()


def replay(events: Sequence[Happening], *, for_s: float = 60, needs_touch: bool = False) -> list[Happening]:
    """Perform events after a first knock at 0 s; in between there is a look each second. Returns what is done, when."""
    hold, done, routes = begin(for_s, HOME, 0.0, needs_touch=needs_touch), list[Happening](), HOME
    waiting = sorted(events, key=lambda happening: happening[0])
    is_asleep = False
    while waiting and hold.state is not HoldState.ENDED:
        at_s, event = waiting[0]
        if hold.next_s < at_s and not is_asleep:
            at_s, event = hold.next_s, routes
        else:
            waiting.pop(0)
            is_asleep = event == "sleep"
            if is_asleep or event == "stop":
                continue
        if isinstance(event, tuple):
            routes = event
        hold, action = handle(hold, at_s, event)
        if action is not HoldAction.NOTHING:
            done.append((round(at_s, 3), action))
        if action is KNOCK and not needs_touch:
            hold, action = module.on_sent(hold, at_s)
            assert action is HoldAction.NOTHING
    return done


START = [(1.0, KNOCK), (5.0, KNOCK)]  # the first packets may be lost


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(70, "stop")], [*START, (25, KNOCK), (45, KNOCK), (65, KNOCK)]),
        ([(0.01, 60), (50, "stop")], [(20.01, KNOCK), (40.01, KNOCK)]),  # a confirmation: nothing was lost
        ([(7.2, TRAIN), (13, "stop")], [*START, (7.2, KNOCK), (8.2, KNOCK), (12.2, KNOCK)]),
        ([(7.2, HOME), (13, "stop")], START),  # a notification that changes nothing
        ([(7.2, NONE), (40, TRAIN), (40.5, "stop")], [*START, (40, KNOCK)]),  # nothing is sent without a route
        ([(7.2, NONE), (8.3, HOME), (9, "stop")], [*START, (8.3, KNOCK)]),  # perhaps another network, same address
        ([(7, "sleep"), (900, HOME), (900.5, "stop")], [*START, (900, KNOCK)]),
        ([(7, "sleep"), (900, NONE), (901.2, TRAIN), (902, "stop")], [*START, (901.2, KNOCK)]),
        ([(7, "end"), (7.01, "closed")], [*START, (7, CLOSE), (7.01, EXIT)]),
        ([(7, "end"), (7.5, "end")], [*START, (7, CLOSE), (7.5, EXIT)]),  # a second signal
        ([(7, "end"), (60, "closed")], [*START, (7, CLOSE), (9, EXIT)]),  # it hangs
        ([(7, NONE), (8, "end"), (60, "closed")], [*START, (8, CLOSE), (10, EXIT)]),
        ([(7, "end"), (7.1, TRAIN), (7.2, 60), (7.3, "sent"), (60, "stop")], [*START, (7, CLOSE), (9, EXIT)]),
    ],
)
def test_a_held_door(events: list[Happening], expected: list[Happening]) -> None:
    assert replay(events) == expected


def test_a_shorter_time_that_is_confirmed_counts() -> None:
    assert replay([(0.01, 9), (3.02, 9), (6.03, 9), (8, "stop")]) == [(3.01, KNOCK), (6.02, KNOCK)]


def test_it_counts_for_the_next_knocks_too() -> None:
    """Their confirmations may be lost, or have not arrived yet."""
    assert replay([(0.01, 9), (10, "stop")]) == [(3.01, KNOCK), (6.01, KNOCK), (9.01, KNOCK)]
    assert replay([(0.01, 9), (3.02, 60), (30, "stop")]) == [(3.01, KNOCK), (23.02, KNOCK)]


def test_a_time_that_cannot_be_used_is_bounded() -> None:
    assert replay([(0.01, 1), (2.5, "stop")]) == [(1.01, KNOCK), (2.01, KNOCK)]
    assert replay([(0.01, 28800), (30, "stop")]) == [(20.01, KNOCK)]


def test_a_confirmation_does_not_end_a_wait_for_a_touch() -> None:
    events: list[Happening] = [(0.01, 3600), (9, TRAIN), (9.1, 3600), (9.2, "sent"), (3250, "stop")]
    assert replay(events, for_s=3600, needs_touch=True) == [(9, KNOCK), (3249.2, KNOCK)]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(7000, "stop")], [(3240, KNOCK)]),  # 90 % of an hour; then the touch is awaited
        ([(3250, "sent"), (7000, "stop")], [(3240, KNOCK), (6490, KNOCK)]),
        ([(7, "sleep"), (900, HOME), (901, "stop")], []),
        ([(7, TRAIN), (8, HOME), (9, TRAIN), (10, "stop")], [(7, KNOCK)]),  # one touch is asked for at a time
        ([(7, TRAIN), (8, HOME), (9, TRAIN), (10, "sent"), (11, "stop")], [(7, KNOCK), (10, KNOCK)]),
        ([(7, "end")], [(7, EXIT)]),  # the door closes by itself
        ([(7, TRAIN), (8, "end")], [(7, KNOCK), (8, EXIT)]),
        ([(7, TRAIN), (8, HOME), (9, "end")], [(7, KNOCK), (9, EXIT)]),
    ],
)
def test_a_key_that_is_touched_is_asked_for_seldom(events: list[Happening], expected: list[Happening]) -> None:
    assert replay(events, for_s=3600, needs_touch=True) == expected


@pytest.mark.parametrize("state", HoldState)
def test_from_every_state_two_ends_lead_out(state: HoldState) -> None:
    for _ in range(2):
        state, _ = TABLE.get((state, HoldEvent.END), (state, HoldAction.NOTHING))
    assert state is HoldState.ENDED


def test_nothing_is_sent_after_the_end() -> None:
    last = {HoldState.CLOSING, HoldState.ENDED}
    assert {action for (state, _), (_, action) in TABLE.items() if state in last} == {EXIT}
    assert {state for state, _ in TABLE} & last == {HoldState.CLOSING}


def test_packets_are_made_one_after_the_other() -> None:
    """A touch that is awaited would be asked for a second time."""
    starts = {key for key, (_, action) in TABLE.items() if action is KNOCK}
    assert {state for state, event in starts if event is not HoldEvent.SENT} == {HoldState.HOLDING}
