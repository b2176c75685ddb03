"""Small charts as SVG text: lanes of time, bars, and maps of hours. No style in them but classes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from doorward.report.events import Period
from doorward.report.markup import Html, fill, join
from doorward.report.opening_list import SLOTS, Runs
from doorward.report.source_list import HOURS, Cell, LocalTime

SHADES = 5
_MOST_TICKS = 8
_HOUR_S, _DAY_S = 3600, 86_400
_STEPS_S = (
    *(hours * _HOUR_S for hours in (1, 3, 6, 12)),
    *(days * _DAY_S for days in (1, 2, 4, 7, 14, 30, 90, 180, 365, 3650, 36_500, 365_000)),
)
_TALL = 10  # of a lane's drawing; what is drawn in it is stretched to the page's width


class Tick(NamedTuple):
    """A mark on the axis: where, from 0 to 1, what it says, and whether it goes first where there is little room."""

    place: float
    text: str
    minor: bool = False


def ticks(period: Period, local: LocalTime) -> list[Tick]:
    """Choose round moments of the clock on the wall: full hours, or midnights."""
    step_s = next((step for step in _STEPS_S if period.length_s / step <= _MOST_TICKS), _STEPS_S[-1])
    ahead_s = _ahead_s(local, period.since_s)
    wall_s, end_s = period.since_s + ahead_s, period.until_s + _ahead_s(local, period.until_s)
    number = -int(-wall_s // step_s)  # of steps since 1970 began: all of them divide days, or are days
    found = []
    while number * step_s <= end_s:
        at_s = number * step_s - ahead_s
        at_s += ahead_s - _ahead_s(local, at_s)  # the clock was set forward or back meanwhile
        found.append(Tick((at_s - period.since_s) / period.length_s, _text(local(at_s), step_s), number % 2 == 1))
        number += 1
    return [tick for tick in found if 0 <= tick.place <= 1]


def _ahead_s(local: LocalTime, at_s: float) -> float:
    """Tell how far the clock on the wall is ahead of UTC."""
    return (local(at_s).utcoffset() or timedelta()).total_seconds()


def axis(marks: list[Tick]) -> Html:
    """Draw what stands above the lanes."""
    texts = (
        fill('<text x="{}%" y="11"{}>{}</text>', f"{mark.place * 100:.2f}", _classes(mark), mark.text) for mark in marks
    )
    return fill('<svg class="axis" aria-hidden="true">{}</svg>', join(texts))


def lane(runs: Runs, now: Runs, marks: list[Tick], label: str) -> Html:
    """Draw a lane: full where the door was open, in another colour where it stands open."""
    grid = Html("".join(f"M{mark.place * SLOTS:.1f} 0v{_TALL}" for mark in marks))
    drawn = (
        fill('<path class="{}" d="{}"/>', name, Html("".join(map(_run, part))))
        for name, part in (("run", runs), ("now", now))
        if part
    )
    return fill(
        '<svg class="lane" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="grid" d="{}"/>{}</svg>',
        SLOTS, _TALL, label, grid, join(drawn),
    )  # fmt: skip


def bar(share: float) -> Html:
    """Draw a bar as long as a share; its number stands beside it."""
    return fill('<svg class="bar" aria-hidden="true"><rect width="{}%"/></svg>', f"{max(share * 100, 0.5):.1f}")


def small_map(cells: Mapping[Cell, int], rows: int, label: str) -> Html:
    """Draw a map of hours without its numbers: a column an hour, a row a day."""
    low = steps(max(cells.values(), default=1))
    paths: dict[int, str] = {}
    for (row, hour), count in sorted(cells.items()):
        shade = shade_for(count, low)
        paths[shade] = paths.get(shade, "") + f"M{hour} {row}h1v1h-1z"
    drawn = (fill('<path class="s{}" d="{}"/>', shade, Html(path)) for shade, path in sorted(paths.items()))
    return fill(
        '<svg class="small" viewBox="0 0 {} {}" role="img" aria-label="{}"><rect class="s0" width="{}" height="{}"/>{}'
        "</svg>",
        HOURS, rows, label, HOURS, rows, join(drawn),
    )  # fmt: skip


def steps(most: int) -> list[int]:
    """Give the least count of each shade, the lightest first: each some times the one before."""
    low = [1]
    for shade in range(1, SHADES):
        low.append(max(low[-1] + 1, round(most ** (shade / SHADES))))
    return [step for step in low if step <= most]


def shade_for(count: int, low: list[int]) -> int:
    """Tell the shade of a count, from 1."""
    return sum(step <= count for step in low)


def _run(run: tuple[int, int]) -> str:
    return f"M{run[0]} 1h{run[1]}v{_TALL - 2}h-{run[1]}z"


def _text(when: datetime, step_s: int) -> str:
    if step_s < _DAY_S and when.hour:
        return f"{when:%H:%M}"
    return f"{when:%b %Y}" if step_s >= 180 * _DAY_S else f"{when.day} {when:%b}"


def _classes(mark: Tick) -> Html:
    """Keep the outer labels inside, and let minor ones go."""
    classes = ["first"] if mark.place < 0.04 else ["last"] if mark.place > 0.96 else []
    classes += ["minor"] if mark.minor else []
    return fill(' class="{}"', " ".join(classes)) if classes else Html()
