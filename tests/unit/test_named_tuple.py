"""The named tuples of modules that a knock imports behave as those of `typing`."""

from __future__ import annotations

import copy

from doorward.named_tuple import NamedTuple


class Point(NamedTuple):
    """A point."""

    x: int
    y: int = 2

    def __str__(self) -> str:
        return f"{self.x}/{self.y}"


def test_behaves_as_those_of_typing() -> None:
    point = Point(1)
    assert (point, point.x, str(point), repr(point)) == ((1, 2), 1, "1/2", "Point(x=1, y=2)")
    assert point._replace(x=3) == Point(3, 2)
    assert Point._fields == ("x", "y")
    assert copy.deepcopy(point) == point
    assert Point.__doc__ == "A point."
    assert not hasattr(point, "__dict__")
