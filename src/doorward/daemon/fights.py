"""What is told of repairs: each of a few, then one line a minute, however many there are. Pure."""

from __future__ import annotations

from collections import deque

_WINDOW_S = 60.0
_TOLD_APART = 5  # repairs in a minute that have a line of their own; more is a fight


class Fights:
    """Counts repairs, with their moments as arguments."""

    def __init__(self) -> None:
        self._told_s: deque[float] = deque(maxlen=_TOLD_APART)
        self._loud_s = float("-inf")
        self._untold = 0

    def line(self, culprit: str, done: str, now_s: float) -> tuple[str, str] | None:
        """Give level and words for a repair at `now_s`, or None where it is only counted."""
        if len(self._told_s) < _TOLD_APART or now_s - self._told_s[0] >= _WINDOW_S:
            self._told_s.append(now_s)
            before = f" ({self._untold} more repairs since the last line)" if self._untold else ""
            self._untold = 0
            return "warning", f"{culprit} changed the gate; {done}{before}"
        self._untold += 1
        if now_s - self._loud_s < _WINDOW_S:
            return None
        self._loud_s, count = now_s, self._untold + _TOLD_APART
        return "error", (
            f"{culprit} keeps changing the gate, {count} times or more in a minute; doorward goes on putting it back."
            " Find what starts it, and let it change its own tables only: `delete table`, never `flush ruleset`"
        )
