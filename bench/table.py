"""Alternating runs, their medians, and one aligned table of figures: doorward, its peer, what must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

HEADINGS = ("figure", "doorward", "peer", "ratio", "must be", "met")
DASH = "-"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must be: its `ratio` to the peer's, or doorward's own `value`, against a limit."""

    of: Literal["ratio", "value"]
    relation: Literal[">=", "<="]
    limit: float

    def holds(self, measured: float | None) -> bool:
        """Tell whether the bound is kept; a figure that could not be measured keeps none."""
        if measured is None:
            return False
        return measured >= self.limit if self.relation == ">=" else measured <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both sides. `ratio` says how many times better doorward is, whichever way better lies."""

    figure: str
    unit: str
    better: Literal["lower", "higher"]
    doorward: float | None
    peer: float | None = None
    must: Bound | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer; None where one of the two is missing or divides by zero."""
        if self.doorward is None or self.peer is None:
            return None
        (over, under) = (self.peer, self.doorward) if self.better == "lower" else (self.doorward, self.peer)
        return over / under if under else None

    @property
    def met(self) -> bool:
        """Whether what must be is so; a row without a bound asks nothing."""
        return self.must is None or self.must.holds(self.ratio if self.must.of == "ratio" else self.doorward)

    def cells(self) -> tuple[str, ...]:
        """Return the row as the table shows it."""
        must = met = DASH
        if self.must is not None:
            unit = "x" if self.must.of == "ratio" else f" {self.unit}"
            must = f"{self.must.relation} {number(self.must.limit)}{unit}".rstrip()
            met = "yes" if self.met else "NO"
        ratio = DASH if self.ratio is None else f"{number(self.ratio)}x"
        figure = f"{self.figure} ({self.unit})" if self.unit else self.figure
        return (figure, number(self.doorward), number(self.peer), ratio, must, met)


def number(value: float | None) -> str:
    """Write a figure with three significant digits and no exponent."""
    if value is None:
        return DASH
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """Give all rows under their headings: words to the left, figures to the right."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in (0, 5) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def alternate(measures: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Run each measure `runs` times in turn, every other round backwards, so that drift hits all alike."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(runs):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            results[name].append(measures[name]())
    return results


def medians(results: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each measure's runs."""
    return {name: median(values) for name, values in results.items()}
