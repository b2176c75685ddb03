"""Explicit-state model checking: visit every state that a model can reach, and find the shortest way to a fault."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """One possible step of a model: what happens, the state after it, and the property that it violates, or ""."""

    what: str
    state: S
    violates: str = ""


class Result(NamedTuple):
    """The number of states, whether those are all, and, if a property is violated, which one and the way there."""

    states: int
    is_complete: bool
    violated: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the counterexample as numbered lines."""
        lines = [f"{number:3}. {what}" for number, what in enumerate(self.trace, start=1)]
        return "\n".join([*lines, f"violates {self.violated}" if self.violated else f"{self.states} states: all hold"])


def explore(start: S, steps: Callable[[S], Iterable[Step[S]]], max_states: int) -> Result:
    """Search breadth first, so that the trace to a violation is as short as possible; stop at `max_states`."""
    gc.disable()  # millions of tuples, and no cycles: collections would take most of the time
    try:
        return _search(start, steps, max_states)
    finally:
        gc.enable()


def _search(start: S, steps: Callable[[S], Iterable[Step[S]]], max_states: int) -> Result:
    came: dict[S, tuple[S, str] | None] = {start: None}
    level = [start]
    while level:
        following: list[S] = []
        for state in level:
            for what, after, violates in steps(state):
                if violates:
                    return Result(len(came), is_complete=False, violated=violates, trace=(*_way(came, state), what))
                if after not in came:
                    if len(came) >= max_states:
                        return Result(len(came), is_complete=False)
                    came[after] = state, what
                    following.append(after)
        level = following
    return Result(len(came), is_complete=True)


def _way(came: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, what = before
        steps.append(what)
    return steps[::-1]
