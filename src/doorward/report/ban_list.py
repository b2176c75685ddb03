"""The section of the page about bans: who was banned by the operator, and until when. Pure."""

from __future__ import annotations

from doorward.report.events import Ban
from doorward.report.markup import Html, fill, join, untrusted
from doorward.report.source_list import LocalTime
from doorward.report.statistics import Statistics
from doorward.report.words import count, moment

MOST_BANS = 50
_TABLE = """<table class="cards"><thead><tr><th scope="col">Address</th><th scope="col">Banned</th>\
<th scope="col">Ends</th></tr></thead>
<tbody>{}</tbody></table>{}
"""


def section(statistics: Statistics, local: LocalTime) -> Html:
    """Return the section, or nothing if there was no ban."""
    bans = statistics.events.bans
    if not bans:
        return Html()
    now_s = statistics.events.period.until_s
    rows = join(_row(ban, now_s, local) for ban in bans[: -MOST_BANS - 1 : -1])
    unseen = len(bans) - MOST_BANS
    older = fill('<p class="hint">{}</p>', count(unseen, "older ban", "older bans")) if unseen > 0 else Html()
    body = fill(_TABLE, rows, older)
    return fill('<section aria-labelledby="banned"><h2 id="banned">Who was banned</h2>\n{}</section>\n', body)


def _row(ban: Ban, now_s: float, local: LocalTime) -> Html:
    end_s = ban.until_s if ban.ended_s is None else ban.ended_s
    end = moment(local(end_s)) if ban.ended_s is None else f"{moment(local(end_s))}, by hand"
    return fill(
        '<tr><th scope="row">{}</th><td data-is="banned">{}</td><td data-is="ends">{}{}</td></tr>\n',
        untrusted(ban.address),
        moment(local(ban.at_s)),
        end,
        fill(' <b class="now">in force</b>') if end_s > now_s else Html(),
    )
