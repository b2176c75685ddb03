"""Audit the doors of the configuration: how each is opened, how strong that is, and how often it was used. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from doorward.config.duration import format_duration
from doorward.config.schema import Configuration
from doorward.config.toml_positions import Keys
from doorward.lint.finding import Finding
from doorward.model import Door
from doorward.report.events import Session
from doorward.report.words import count

MOST_DOORS = 50
MOST_FINDINGS = 20  # per door, and for the gate
_PORT = re.compile(r"\b[0-9]{1,5}(?=[/:](?:tcp|udp)\b)", re.IGNORECASE)


class DoorAudit(NamedTuple):
    """A door: how it is opened, what opens, for how long, and its weaknesses.

    `openings`, `last_s`: the number of openings in the period, and the time of the last one.
    """

    door: str
    method: str
    opens: str
    for_: str
    findings: tuple[Finding, ...]
    openings: int = 0
    last_s: float | None = None


class GateAudit(NamedTuple):
    """The gate and its weaknesses, its weakest doors (the weakest first), and the number of further doors."""

    mode: str
    findings: tuple[Finding, ...]
    doors: list[DoorAudit]
    more: int
    levels: Counter[str]


def audit_gate(
    configuration: Configuration, findings: Iterable[Finding], lines: Mapping[Keys, int], sessions: Iterable[Session]
) -> GateAudit:
    """Return the findings of `check` by door, with the ports of sequences masked: pages are passed on."""
    owners = {line: path[1] for path, line in lines.items() if path[0] == "doors" and len(path) > 1}
    secret_ports = {port.number for door in configuration.doors for port in door.knock}
    by_owner: dict[str | None, list[Finding]] = {}
    levels: Counter[str] = Counter()
    for finding in findings:
        levels[finding.level] += 1
        by_owner.setdefault(owners.get(finding.line), []).append(_masked(finding, secret_ports))
    openings, last_s = Counter[str](), dict[str, float]()
    for session in sessions:
        openings[session.door] += 1
        last_s[session.door] = max(session.since_s, last_s.get(session.door, 0.0))
    has_signed_knocks = configuration.signed is not None
    doors = [
        _door(door, has_signed_knocks, by_owner.get(door.name, []))._replace(
            openings=openings[door.name], last_s=last_s.get(door.name)
        )
        for door in configuration.doors
    ]
    doors.sort(key=lambda door: -sum(finding.level == "warning" for finding in door.findings))
    gate_findings = tuple(by_owner.get(None, [])[:MOST_FINDINGS])
    return GateAudit(str(configuration.gate.mode), gate_findings, doors[:MOST_DOORS], len(doors[MOST_DOORS:]), levels)


def _door(door: Door, has_signed_knocks: bool, findings: list[Finding]) -> DoorAudit:
    methods = (
        [f"{count(len(door.knock), 'knock', 'knocks')} within {format_duration(door.within_ms)}"] if door.knock else []
    )
    methods += ["a signed knock"] if has_signed_knocks else []
    opens = ", ".join(map(str, door.all_opens)) or "runs a command"
    for_ = format_duration(door.for_ms) if door.is_opening else "a moment"
    return DoorAudit(door.name, " or ".join(methods) or "by hand only", opens, for_, tuple(findings[:MOST_FINDINGS]))


def _masked(finding: Finding, secret_ports: set[int]) -> Finding:
    def mask(match: re.Match[str]) -> str:
        return "•••" if int(match[0]) in secret_ports else match[0]

    return replace(finding, what=_PORT.sub(mask, finding.what), remedy=_PORT.sub(mask, finding.remedy))
