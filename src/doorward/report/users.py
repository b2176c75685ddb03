"""The section of the page about openings. Pure."""

from __future__ import annotations

from itertools import groupby

from doorward.report import charts
from doorward.report.charts import Tick
from doorward.report.events import Session
from doorward.report.markup import Html, fill, join, untrusted
from doorward.report.opening_list import SLOTS, Timeline
from doorward.report.source_list import LocalTime
from doorward.report.statistics import LATEST, Statistics
from doorward.report.words import count, moment, span

_HOW = {"key": "signed knock", "knock": "knock", "hand": "opened by hand"}
_ENDED = {"time": "by time", "hand": "by hand", "lost": "lost: the kernel no longer had it"}
_LANES = """<p class="hint">{}</p>
<table class="cards lanes"><caption class="unseen">Openings by door and person</caption>
<thead><tr><th scope="col">Who</th><th scope="col" class="number">Openings</th>\
<th scope="col" class="number">Open in all</th><th scope="col">Last</th>\
<th scope="col" class="wide">{}<span class="unseen">When</span></th></tr></thead>
{}</table>
{}"""
_LANE = """<tr><th scope="row">{}</th><td class="number" data-is="openings">{}</td>\
<td class="number" data-is="in all">{}</td><td data-is="last">{}{}</td><td class="wide">{}</td></tr>
"""
_LISTED = """<details><summary>{}</summary>
<table class="cards"><thead><tr><th scope="col">When</th><th scope="col">Door</th><th scope="col">Who</th>\
<th scope="col">From</th><th scope="col">Ports</th><th scope="col">Open for</th><th scope="col">Ended</th></tr></thead>
<tbody>{}</tbody></table></details>"""
_VISIT = """<tr><th scope="row">{}</th><td data-is="door">{}</td><td data-is="who">{}</td>\
<td data-is="from">{}</td><td data-is="ports">{}</td><td data-is="open for">{}</td><td data-is="ended">{}</td></tr>
"""


def section(told: Statistics, local: LocalTime) -> Html:
    """Return the section: who opened which door, and when."""
    return fill(
        '<section aria-labelledby="in"><h2 id="in">Who came in, and when</h2>\n{}</section>\n',
        _lanes(told, local) if told.lanes else fill("<p>No door was opened in this time.</p>"),
    )


def _lanes(told: Statistics, local: LocalTime) -> Html:
    period = told.found.period
    marks = charts.ticks(period, local)
    bodies = (
        fill(
            '<tbody><tr class="group"><th scope="rowgroup" colspan="5">{}</th></tr>{}</tbody>\n',
            untrusted(door) if door else fill("all others"),
            join(_row(lane, marks, local) for lane in group),
        )
        for door, group in groupby(told.lanes, key=lambda lane: "" if lane.others else lane.door)
    )
    hint = f"A mark is at least {span(period.length_s / SLOTS)} wide, however short the opening was."
    return fill(_LANES, hint, charts.axis(marks), join(bodies), _listed(told, local))


def _row(lane: Timeline, marks: list[Tick], local: LocalTime) -> Html:
    last = moment(local(lane.last_s))
    label = f"{count(lane.visits, 'opening', 'openings')}, the last on {last}"
    return fill(
        _LANE,
        _who(lane),
        f"{lane.visits:,}",
        span(lane.open_s),
        last,
        fill(' <b class="now">open now</b>') if lane.standing else Html(),
        charts.lane(lane.runs, lane.now, marks, label),
    )


def _who(lane: Timeline) -> Html:
    if lane.others:
        at = f" at {count(lane.doors, 'door', 'doors')}"
        return fill("{}<small>{}</small>", f"{lane.others:,} more", f"who came less often,{at}")
    how = _HOW.get(lane.by, lane.by)
    more = f" from {count(lane.addresses, 'address', 'addresses')}" if lane.by == "key" else ""
    return fill("{}<small>{}{}</small>", untrusted(lane.person), how, more)


def _listed(told: Statistics, local: LocalTime) -> Html:
    shown = len(told.latest)
    title = f"The last {shown} openings" if shown == LATEST else f"All {count(shown, 'opening', 'openings')}"
    now_s = told.found.period.until_s
    return fill(_LISTED, title, join(_visit(visit, now_s, local) for visit in told.latest))


def _visit(visit: Session, now_s: float, local: LocalTime) -> Html:
    if visit.ended_by is None:
        ended = f"open until {moment(local(visit.until_s))}"
    else:
        ended = _ENDED.get(visit.ended_by, visit.ended_by)
    return fill(
        _VISIT,
        moment(local(visit.since_s)),
        untrusted(visit.door),
        _person(visit),
        untrusted(visit.address),
        ", ".join(visit.ports) or "none",
        span(min(visit.until_s, now_s) - visit.since_s),
        ended,
    )


def _person(visit: Session) -> Html:
    return untrusted(visit.person) if visit.by == "key" else fill("by {}", "hand" if visit.by == "hand" else visit.by)
