"""The whole page: one self-contained file, with a policy that forbids the browser scripts and requests. Pure."""

from __future__ import annotations

from typing import NamedTuple

from doorward.config.duration import rough_duration
from doorward.report import ban_list, doors, refusals, users
from doorward.report.markup import Html, fill, join, policy_source, untrusted
from doorward.report.source_list import LocalTime
from doorward.report.statistics import Statistics
from doorward.report.style import STYLE
from doorward.report.words import count, dated, moment

MARK = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="doorward report'
_POLICY = f"default-src 'none'; style-src {policy_source(STYLE)}; img-src data:; base-uri 'none'; form-action 'none'"
_HEAD = (
    MARK
    + """ {}">
<meta http-equiv="Content-Security-Policy" content="{}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex"><link rel="icon" href="data:,">
<title>{}</title>
<style>{}</style></head>
"""
)
_BODY = """<body><header><h1>doorward at {}</h1>
<p>{} <span class="zone">({})</span></p></header>
<main><section aria-labelledby="short"><h2 id="short" class="unseen">Summary</h2>
<dl class="tiles">{}</dl>{}</section>
{}</main>
<footer><p>Made by doorward {} on {}. This page contains names and addresses:
protect it like the ledger.</p>
</footer></body></html>
"""
_KINDS = {"opened": "openings", "refused": "refusals"}


class PageOrigin(NamedTuple):
    """The program and host that make the page, and the conversion to local time."""

    version: str
    host: str
    local: LocalTime


def render_page(statistics: Statistics, origin: PageOrigin) -> str:
    """Return the page as HTML."""
    local, period = origin.local, statistics.events.period
    since, until = local(period.since_s), local(period.until_s)
    offset = f"UTC{until:%z}"
    zone = f"times in {until.tzname()}" + ("" if until.tzname() in ("UTC", None) else f", {offset[:6]}:{offset[6:8]}")
    parts = (part.section(statistics, local) for part in (users, refusals, ban_list, doors))
    when = f"{dated(since)} to {dated(until)}: {rough_duration(period.length_s)}"
    title = f"doorward at {origin.host}, {moment(until)}"
    head = fill(_HEAD, origin.version, Html(_POLICY), title, Html(STYLE))
    tiles, remarks, text = _tiles(statistics), _remarks(statistics, local), join(parts)
    body = fill(_BODY, untrusted(origin.host), when, zone, tiles, remarks, text, origin.version, dated(until))
    return head + body


def _tiles(statistics: Statistics) -> Html:
    events, audit = statistics.events, statistics.audit
    tiles = [
        (
            "Openings",
            f"{len(events.sessions):,}",
            f"by {count(statistics.people, 'person or address', 'people or addresses')}",
        ),
        ("Open now", f"{statistics.open_now:,}", "for new connections"),
        ("Refusals", f"{len(events.refusals):,}", f"of {count(statistics.addresses, 'address', 'addresses')}"),
        ("Networks refused", f"{statistics.networks:,}", "/24 or /64 each"),
    ]
    if audit is not None:
        notes = count(audit.levels["note"], "note", "notes")
        tiles.append(("Weak points", f"{audit.levels['warning']:,}", f"and {notes}"))
    return join(fill("<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>", *tile) for tile in tiles)


def _remarks(statistics: Statistics, local: LocalTime) -> Html:
    """Return remarks about what is missing from the figures."""
    events = statistics.events
    remarks = [
        f"The ledger has no {_KINDS[event]} before {moment(local(at_s))}: it keeps only the newest."
        for event, at_s in events.dropped.items()
    ]
    if events.future:
        records = count(events.future, "record was", "records were")
        remarks.append(f"{records} skipped: timestamps in the future. Was the clock set back?")
    return join(fill('<p class="remark">{}</p>', remark) for remark in remarks)
