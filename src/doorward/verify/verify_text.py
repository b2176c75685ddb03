"""The output of `doorward verify`: text lines, JSON values, and the sheet for the picture. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doorward.verify.findings import (
    Observations,
    ObservedClosing,
    ObservedOpening,
    VerifyFinding,
    VerifyRequest,
    View,
    counts,
)
from doorward.verify.nmap_xml import PortAnswer
from doorward.verify.picture import Sheet
from doorward.verify.port_map import cell_kinds
from doorward.verify.port_set import count_text, ports_text

_WORDS = {
    PortAnswer.OPEN: "open",
    PortAnswer.CLOSED: "refuse",
    PortAnswer.REJECTED: "rejected",
    PortAnswer.SILENT: "silent",
}
NO_PROBLEMS = "OK"
ONLY_LOOKED = "OK: nothing unexpected is visible; no knock was tried"


class VerifyResult(NamedTuple):
    """The result for one address; `when` is formatted, `scan` is nmap's scan type for TCP."""

    name: str
    address: str
    source: str
    when: str
    scan: str
    took_s: float
    request: VerifyRequest
    observed: Observations
    findings: Sequence[VerifyFinding]

    @property
    def heading(self) -> str:
        """Return the host's name and address."""
        return heading_text(self.name, self.address)


def heading_text(name: str, address: str) -> str:
    """Return a host's name, and its address if that differs."""
    return address if name == address else f"{name} ({address})"


def before_text(view: View) -> str:
    """Return what was seen before the knock: `all silent`, or how many of each answer."""
    found = {answer: len(ports) for answer, ports in counts(view).items() if ports}
    if found.keys() == {PortAnswer.SILENT}:
        return "all silent"
    return ", ".join(f"{number:,} {_WORDS[answer]}" for answer, number in found.items())


def opening_text(opening: ObservedOpening) -> str:
    """Return what the knock opened."""
    rounds = "" if opening.rounds == 1 else f" (knocked {opening.rounds} times)"
    if not opening.rounds:
        return "not sent: every port that it may open is open already"
    if not opening.found:
        return f"opens nothing{rounds}"
    opened = [port for port, seen in opening.found.items() if seen.answer is PortAnswer.OPEN]
    others = opening.found.keys() - set(opened)
    parts = [f"{ports_text(opened)} opens"] if opened else []
    parts += [f"{ports_text(others)} is let through, but closed"] if others else []
    return "; ".join(parts) + rounds


def closing_text(opening: ObservedOpening, closing: ObservedClosing) -> str:
    """Return when the door was closed again."""
    if closing.left:
        return f"{ports_text(closing.left)} still open {closing.open_s:.1f} s after the knock"
    return f"{ports_text(opening.found)} closed again, {closing.open_s:.1f} to {closing.shut_s:.1f} s after the knock"


def verdict_lines(report: VerifyResult) -> list[str]:
    """Return the verdict: one line, or two for each finding."""
    if not report.findings:
        return [_good_verdict(report.observed)]
    return [line for finding in report.findings for line in (f"wrong: {finding.what}", f"    {finding.instead}")]


def _good_verdict(observed: Observations) -> str:
    return ONLY_LOOKED if observed.opening is None else NO_PROBLEMS


def build_sheet(report: VerifyResult) -> Sheet:
    """Return the picture's content for one address."""
    observed = report.observed
    steps = [f"before the knock: {before_text(observed.before)}"]
    if observed.opening is not None:
        steps.append(f"the knock: {opening_text(observed.opening)}")
        if observed.closing is not None:
            steps.append(closing_text(observed.opening, observed.closing))
    asked = f"{count_text(observed.before)} in {max(1, report.took_s):.0f} s, {report.scan}"
    details = [f"seen from {report.source}, {report.when}; {asked}", "; ".join(steps)]
    verdict = [finding.what for finding in report.findings] or [_good_verdict(observed)]
    return Sheet(report.heading, details, not report.findings, verdict, cell_kinds(observed, report.request.public))


def as_dict(report: VerifyResult) -> dict[str, object]:
    """Return the result as JSON values; silent ports are counted, not listed."""
    observed = report.observed
    found = counts(observed.before)
    seen = {answer.value: [str(port) for port in sorted(found[answer])] for answer in PortAnswer}
    values: dict[str, object] = {
        "host": report.name,
        "address": report.address,
        "from": report.source,
        "ok": not report.findings,
        "scan": report.scan,
        "took_s": round(report.took_s, 1),
        "ports": len(observed.before),
        **seen,
        "silent": len(found[PortAnswer.SILENT]),
        "knocked": 0,
        "opened": [],
        "closed_after_s": None,
        "findings": [finding._asdict() for finding in report.findings],
    }  # fmt: skip
    if observed.opening is not None:
        values |= {"knocked": observed.opening.rounds, "opened": [str(port) for port in sorted(observed.opening.found)]}
    if observed.closing is not None and not observed.closing.left:
        values["closed_after_s"] = [round(observed.closing.open_s, 1), round(observed.closing.shut_s, 1)]
    return values
