"""The states of the ruleset guard, and what is logged of its repairs. Pure: times are arguments.

One child at a time changes the ruleset, and damage by another program is repaired after it. To read a row of TABLE: in
this state, after this event, the guard goes to that state, and does this. An event without a row changes nothing.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

PAUSE_S = 0.05  # between repairs
FAILED_PAUSE_S = 1.0  # after one that failed


class GuardState(Enum):
    """What the guard is doing; in LOADING and REPAIRING a child is running."""

    IDLE = auto()  # the ruleset is the one that was loaded
    LOADING = auto()  # a child loads a ruleset
    REPAIRING = auto()  # a child restores the ruleset
    VERIFYING = auto()  # the child has ended; its outcome and the changes of others are examined
    DAMAGED = auto()  # as LOADING, REPAIRING or VERIFYING, and a repair is due after it
    BACKOFF = auto()  # a repair is due when the pause after the last one is over


class GuardEvent(Enum):
    """What happens to the guard."""

    REQUEST = auto()  # a task waits for its turn
    CHILD_STARTED = auto()  # to load a ruleset
    CHILD_ENDED = auto()
    EXAMINED = auto()  # the outcome of the child was applied; a failed repair was damage
    DAMAGE = auto()  # another program changed the rules
    DOUBT = auto()  # changes were missed
    TIMER = auto()  # the pause is over


class GuardAction(Enum):
    """What the guard does."""

    NOTHING = auto()
    START_TASK = auto()  # the task that waits, if there is one
    START_REPAIR = auto()
    SET_TIMER = auto()  # to the end of the pause
    COMPARE = auto()  # the ruleset with the one that was loaded
    COMPARE_AFTERWARDS = auto()  # when the child has ended


TABLE = {
    (GuardState.IDLE, GuardEvent.REQUEST): (GuardState.IDLE, GuardAction.START_TASK),
    (GuardState.IDLE, GuardEvent.CHILD_STARTED): (GuardState.LOADING, GuardAction.NOTHING),
    (GuardState.IDLE, GuardEvent.DAMAGE): (GuardState.BACKOFF, GuardAction.SET_TIMER),
    (GuardState.IDLE, GuardEvent.DOUBT): (GuardState.IDLE, GuardAction.COMPARE),
    (GuardState.LOADING, GuardEvent.DAMAGE): (GuardState.DAMAGED, GuardAction.NOTHING),
    (GuardState.LOADING, GuardEvent.DOUBT): (GuardState.LOADING, GuardAction.COMPARE_AFTERWARDS),
    (GuardState.LOADING, GuardEvent.CHILD_ENDED): (GuardState.VERIFYING, GuardAction.NOTHING),
    (GuardState.REPAIRING, GuardEvent.DAMAGE): (GuardState.DAMAGED, GuardAction.NOTHING),
    (GuardState.REPAIRING, GuardEvent.DOUBT): (GuardState.REPAIRING, GuardAction.COMPARE_AFTERWARDS),
    (GuardState.REPAIRING, GuardEvent.CHILD_ENDED): (GuardState.VERIFYING, GuardAction.NOTHING),
    (GuardState.VERIFYING, GuardEvent.DAMAGE): (GuardState.DAMAGED, GuardAction.NOTHING),
    (GuardState.VERIFYING, GuardEvent.DOUBT): (GuardState.VERIFYING, GuardAction.COMPARE),
    (GuardState.VERIFYING, GuardEvent.EXAMINED): (GuardState.IDLE, GuardAction.START_TASK),
    (GuardState.DAMAGED, GuardEvent.EXAMINED): (GuardState.BACKOFF, GuardAction.SET_TIMER),
    (GuardState.BACKOFF, GuardEvent.CHILD_STARTED): (GuardState.DAMAGED, GuardAction.NOTHING),
    (GuardState.BACKOFF, GuardEvent.TIMER): (GuardState.REPAIRING, GuardAction.START_REPAIR),
}


def transition(state: GuardState, event: GuardEvent) -> tuple[GuardState, GuardAction]:
    """Return the next state, and what is to be done."""
    return TABLE.get((state, event), (state, GuardAction.NOTHING))


_WINDOW_S = 60.0
_LINES_PER_WINDOW = 5  # one for each repair; more repairs per minute are summarized


class RepairLogLimiter:
    """Log limiter for repairs: five lines per minute, then a summary."""

    def __init__(self) -> None:
        self._logged_s: deque[float] = deque(maxlen=_LINES_PER_WINDOW)
        self._summary_s = float("-inf")
        self._unlogged = 0

    def line(self, culprit: str, done: str, now_s: float) -> tuple[str, str] | None:
        """Return the level and text of the log line for a repair at `now_s`; None if it is only counted."""
        if len(self._logged_s) < _LINES_PER_WINDOW or now_s - self._logged_s[0] >= _WINDOW_S:
            self._logged_s.append(now_s)
            before = f" ({self._unlogged} more repairs since the last line)" if self._unlogged else ""
            self._unlogged = 0
            return "warning", f"{culprit} changed the gate; {done}{before}"
        self._unlogged += 1
        if now_s - self._summary_s < _WINDOW_S:
            return None
        self._summary_s, count = now_s, self._unlogged + _LINES_PER_WINDOW
        return "error", (
            f"{culprit} keeps changing the gate, {count} times or more in a minute; doorward goes on putting it back."
            " Find what starts it, and let it change its own tables only: `delete table`, never `flush ruleset`"
        )
