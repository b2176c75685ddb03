"""Small charts as SVG text: timelines, bars and maps of hours. Styled by classes only. Pure."""

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
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_STEPS_S = (
    *(minutes * _MINUTE_S for minutes in (1, 5, 10, 15, 30)),
    *(hours * _HOUR_S for hours in (1, 3, 6, 12)),
    *(days * _DAY_S for days in (1, 2, 4, 7, 14, 30, 90, 180, 365, 3650, 36_500, 365_000)),
)
_TALL = 10  # height of a timeline's view box, which is stretched to the page's width


class Tick(NamedTuple):
    """A mark on the axis: its position from 0 to 1, its label, and whether narrow pages hide it."""

    position: float
    text: str
    minor: bool = False


def ticks(period: Period, local: LocalTime) -> list[Tick]:
    """Return the marks of a period: round local times, full minutes, hours or midnights."""
    step_s = next((step for step in _STEPS_S if period.length_s / step <= _MOST_TICKS), _STEPS_S[-1])
    offset_s = _utc_offset_s(local, period.since_s)
    local_s, end_s = period.since_s + offset_s, period.until_s + _utc_offset_s(local, period.until_s)
    number = -int(-local_s // step_s)  # steps since 1970; a step divides a day or is a number of days
    marks = []
    while number * step_s <= end_s:
        at_s = number * step_s - offset_s
        at_s += offset_s - _utc_offset_s(local, at_s)  # daylight saving time may have changed in between
        marks.append(Tick((at_s - period.since_s) / period.length_s, _text(local(at_s), step_s), number % 2 == 1))
        number += 1
    return [tick for tick in marks if 0 <= tick.position <= 1]


def _utc_offset_s(local: LocalTime, at_s: float) -> float:
    """Return the offset of local time from UTC."""
    return (local(at_s).utcoffset() or timedelta()).total_seconds()


def axis(marks: list[Tick]) -> Html:
    """Return the axis above the timelines."""
    texts = (
        fill('<text x="{}%" y="11"{}>{}</text>', f"{mark.position * 100:.2f}", _classes(mark), mark.text)
        for mark in marks
    )
    return fill('<svg class="axis" aria-hidden="true">{}</svg>', join(texts))


def timeline(runs: Runs, now: Runs, marks: list[Tick], label: str) -> Html:
    """Return a timeline: filled where the door was open, in another color where it is open now."""
    grid = Html("".join(f"M{mark.position * SLOTS:.1f} 0v{_TALL}" for mark in marks))
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
    """Return a bar as long as a share, from 0 to 1."""
    return fill('<svg class="bar" aria-hidden="true"><rect width="{}%"/></svg>', f"{max(share * 100, 0.5):.1f}")


def small_map(cells: Mapping[Cell, int], rows: int, label: str) -> Html:
    """Return a map of hours without numbers: one column per hour, one row per day."""
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
    """Return the least count of each shade, the lightest first, on a logarithmic scale up to `most`."""
    low = [1]
    for shade in range(1, SHADES):
        low.append(max(low[-1] + 1, round(most ** (shade / SHADES))))
    return [step for step in low if step <= most]


def shade_for(count: int, low: list[int]) -> int:
    """Return the shade of a count, from 1; `low` are the least counts of the shades."""
    return sum(step <= count for step in low)


def _run(run: tuple[int, int]) -> str:
    return f"M{run[0]} 1h{run[1]}v{_TALL - 2}h-{run[1]}z"


def _text(when: datetime, step_s: int) -> str:
    if step_s < _DAY_S and (when.hour or when.minute):
        return f"{when:%H:%M}"
    return f"{when:%b %Y}" if step_s >= 180 * _DAY_S else f"{when.day} {when:%b}"


def _classes(mark: Tick) -> Html:
    """Return the class attribute: outer labels are aligned inward, minor ones may be hidden."""
    classes = ["first"] if mark.position < 0.04 else ["last"] if mark.position > 0.96 else []
    classes += ["minor"] if mark.minor else []
    return fill(' class="{}"', " ".join(classes)) if classes else Html()
