"""The section of the page about the strength of the doors. Pure."""

from __future__ import annotations

from doorward.lint.finding import Finding
from doorward.report.markup import Html, fill, join, untrusted
from doorward.report.source_list import LocalTime
from doorward.report.statistics import Statistics
from doorward.report.strength import DoorAudit, GateAudit
from doorward.report.words import count, moment

_TABLE = """<p class="hint">{}</p>
<table class="cards strength"><thead><tr><th scope="col">Door</th><th scope="col">Opened by</th>\
<th scope="col">Opens</th><th scope="col">For</th><th scope="col" class="number">Openings</th>\
<th scope="col">Findings</th></tr></thead>
<tbody>{}</tbody></table>{}
"""


def section(statistics: Statistics, local: LocalTime) -> Html:
    """Return the section: how each door is opened, and its weaknesses."""
    body = (
        fill('<p>There is no configuration at <code class="long">{}</code>.</p>', statistics.config_path)
        if statistics.audit is None
        else _audit_table(statistics.audit, local)
    )
    return fill('<section aria-labelledby="strong"><h2 id="strong">How strong the doors are</h2>\n{}</section>\n', body)


def _audit_table(audit: GateAudit, local: LocalTime) -> Html:
    gate = fill(
        '<tr><th scope="row">the gate</th><td colspan="4">mode {}</td><td class="why">{}</td></tr>\n',
        audit.mode,
        _findings(audit.findings),
    )
    more = count(audit.more, "more door is", "more doors are")
    return fill(
        _TABLE,
        fill("As reported by <code>doorward check</code>, weakest first. Ports of sequences are not shown."),
        join([gate, *(_door(door, local) for door in audit.doors)]),
        fill('<p class="hint">{} not shown; <code>doorward check</code> shows all.</p>', more)
        if audit.more
        else Html(),
    )


def _door(door: DoorAudit, local: LocalTime) -> Html:
    last_time = "" if door.last_s is None else f"last {moment(local(door.last_s))}"
    return fill(
        '<tr><th scope="row">{}</th><td data-is="opened by">{}</td><td data-is="opens">{}</td><td data-is="for">{}</td>'
        '<td class="number" data-is="openings">{}<small>{}</small></td><td class="why">{}</td></tr>\n',
        untrusted(door.door), door.method, door.opens, door.for_, f"{door.openings:,}", last_time,
        _findings(door.findings),
    )  # fmt: skip


def _findings(findings: tuple[Finding, ...]) -> Html:
    if not findings:
        return Html('<span class="fine">no weakness found</span>')
    return fill("<ul>{}</ul>", join(map(_finding, findings)))


def _finding(finding: Finding) -> Html:
    return fill(
        '<li><b class="{}">{}</b> {} <small>{} (line {})</small></li>',
        "warning" if finding.level == "warning" else "note",
        finding.level, finding.what, finding.remedy, finding.line,
    )  # fmt: skip
