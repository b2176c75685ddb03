"""Deadlines, as a transcript and against a dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward.core.deadlines import Deadlines


def test_earliest_comes_first_and_equal_ones_in_order() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.first() is None
    for item, at_s in ("b", 5.0), ("a", 5.0), ("c", 1.0):
        deadlines.set(item, at_s)
    assert deadlines.first() == (1.0, "c")
    deadlines.set("c", 9.0)
    assert deadlines.first() == (5.0, "b")
    deadlines.discard("b")
    deadlines.discard("unknown")
    assert deadlines.first() == (5.0, "a")


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 9))))
def test_first_is_the_least_of_the_current_ones(changes: list[tuple[int, int | None]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    current: dict[int, int] = {}
    for item, at_s in changes:
        if at_s is None:
            deadlines.discard(item)
            current.pop(item, None)
        else:
            deadlines.set(item, at_s)
            current[item] = at_s
        first = deadlines.first()
        assert (first and first[0]) == min(current.values(), default=None)
        assert first is None or current[first[1]] == first[0]


def test_a_deadline_that_is_moved_again_and_again_takes_no_memory() -> None:
    """A client that knocks all day at a door that stays open for a day; forged sources in a long knock."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("first", 0.0)
    for at_s in range(10_000):
        deadlines.set("moved", 1.0 + at_s)
        deadlines.set(str(at_s), 1e9)
        deadlines.discard(str(at_s))
    assert len(deadlines._heap) < 1100
    assert deadlines.first() == (0.0, "first")
    deadlines.discard("first")
    assert deadlines.first() == (10_000.0, "moved")
