"""The section of the page about openings. Pure."""

from __future__ import annotations

from itertools import groupby

from doorward.config.duration import rough_duration
from doorward.core.openings import USE, is_use
from doorward.report import charts
from doorward.report.charts import Tick
from doorward.report.events import KEYS, Session
from doorward.report.markup import Html, fill, join, untrusted
from doorward.report.opening_list import SLOTS, Timeline
from doorward.report.source_list import LocalTime
from doorward.report.statistics import LATEST, Statistics
from doorward.report.words import count, moment

_METHODS = {"key": "signed knock", "fwknop": "fwknop packet", "knock": "knock", "hand": "opened by hand"}
_ENDED = {
    "time": "by time",
    "hand": "by hand",
    "ban": "by a ban",
    "fleet": "at another gate",
    "lost": "lost: no longer in the kernel",
    USE: "by its one connection",
}
_TIMELINES = """<p class="hint">{}</p>
<table class="cards lanes"><caption class="unseen">Openings by door and person</caption>
<thead><tr><th scope="col">Who</th><th scope="col" class="number">Openings</th>\
<th scope="col" class="number">Total time</th><th scope="col">Last</th>\
<th scope="col" class="wide">{}<span class="unseen">When</span></th></tr></thead>
{}</table>
{}"""
_TIMELINE = """<tr><th scope="row">{}</th><td class="number" data-is="openings">{}</td>\
<td class="number" data-is="total time">{}</td><td data-is="last">{}{}</td><td class="wide">{}</td></tr>
"""
_LATEST = """<details><summary>{}</summary>
<table class="cards"><thead><tr><th scope="col">When</th><th scope="col">Door</th><th scope="col">Who</th>\
<th scope="col">From</th><th scope="col">Ports</th><th scope="col">Open for</th><th scope="col">Ended</th></tr></thead>
<tbody>{}</tbody></table></details>"""
_SESSION = """<tr><th scope="row">{}</th><td data-is="door">{}</td><td data-is="who">{}</td>\
<td data-is="from">{}</td><td data-is="ports">{}</td><td data-is="open for">{}</td><td data-is="ended">{}</td></tr>
"""


def section(statistics: Statistics, local: LocalTime) -> Html:
    """Return the section: who opened which door, and when."""
    return fill(
        '<section aria-labelledby="in"><h2 id="in">Who came in, and when</h2>\n{}</section>\n',
        _timelines(statistics, local) if statistics.timelines else fill("<p>No door was opened in this period.</p>"),
    )


def _timelines(statistics: Statistics, local: LocalTime) -> Html:
    period = statistics.events.period
    marks = charts.ticks(period, local)
    bodies = (
        fill(
            '<tbody><tr class="group"><th scope="rowgroup" colspan="5">{}</th></tr>{}</tbody>\n',
            untrusted(door) if door else fill("all others"),
            join(_row(timeline, marks, local) for timeline in group),
        )
        for door, group in groupby(statistics.timelines, key=lambda timeline: "" if timeline.others else timeline.door)
    )
    hint = f"A mark is at least {rough_duration(period.length_s / SLOTS)} wide, even for shorter openings."
    return fill(_TIMELINES, hint, charts.axis(marks), join(bodies), _latest(statistics, local))


def _row(timeline: Timeline, marks: list[Tick], local: LocalTime) -> Html:
    last = moment(local(timeline.last_s))
    label = f"{count(timeline.openings, 'opening', 'openings')}, the last on {last}"
    return fill(
        _TIMELINE,
        _person_cell(timeline),
        f"{timeline.openings:,}",
        rough_duration(timeline.open_s),
        last,
        fill(' <b class="now">open now</b>') if timeline.open_now else Html(),
        charts.timeline(timeline.runs, timeline.now, marks, label),
    )


def _person_cell(timeline: Timeline) -> Html:
    if timeline.others:
        at = f" at {count(timeline.doors, 'door', 'doors')}"
        return fill("{}<small>{}</small>", f"{timeline.others:,} more", f"less often,{at}")
    method = _METHODS.get(timeline.by, timeline.by)
    more = f" from {count(timeline.addresses, 'address', 'addresses')}" if timeline.by in KEYS else ""
    return fill("{}<small>{}{}</small>", untrusted(timeline.person), method, more)


def _latest(statistics: Statistics, local: LocalTime) -> Html:
    shown = len(statistics.latest)
    title = f"The last {shown} openings" if shown == LATEST else f"All {count(shown, 'opening', 'openings')}"
    now_s = statistics.events.period.until_s
    return fill(_LATEST, title, join(_session_row(session, now_s, local) for session in statistics.latest))


def _session_row(session: Session, now_s: float, local: LocalTime) -> Html:
    if session.ended_by is None:
        ended = f"open until {moment(local(session.until_s))}"
    else:
        by = USE if is_use(session.ended_by) else session.ended_by
        ended = _ENDED.get(by) or untrusted(f"by {by}")
    return fill(
        _SESSION,
        moment(local(session.since_s)),
        untrusted(session.door),
        _person_or_method(session),
        untrusted(session.address),
        ", ".join(session.ports) or "none",
        rough_duration(min(session.until_s, now_s) - session.since_s),
        ended,
    )


def _person_or_method(session: Session) -> Html:
    return untrusted(session.person) if session.key else fill("by {}", session.by)
