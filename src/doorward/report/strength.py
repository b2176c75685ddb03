"""Audit the doors of the configuration: how each is opened, how strong that is, and how often it was used. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from doorward.config.duration import format_duration
from doorward.config.schema import Configuration
from doorward.config.toml_positions import Keys
from doorward.model import Door
from doorward.report.events import Session
from doorward.report.words import count

MOST_DOORS = 50
MOST_FINDINGS = 20  # per door, and for the gate
_PORT = re.compile(r"\b[0-9]{1,5}(?=[/:](?:tcp|udp)\b)", re.IGNORECASE)


class DoorFinding(Protocol):
    """A finding of `check`: level, location, fault and remedy."""

    @property
    def level(self) -> str:
        """The level, "warning" or "note"."""

    @property
    def line(self) -> int:
        """The line of the configuration file."""

    @property
    def what(self) -> str:
        """The fault."""

    @property
    def remedy(self) -> str:
        """The remedy."""


class PublicFinding(NamedTuple):
    """A finding without the ports of sequences."""

    level: str
    line: int
    what: str
    remedy: str


class DoorAudit(NamedTuple):
    """A door, or the gate itself (`door` None): how it is opened, what opens, for how long, and its weaknesses.

    `visits`, `last_s`: the number of openings in the period, and the time of the last one.
    """

    door: str | None
    way: str
    opens: str
    for_: str
    findings: tuple[PublicFinding, ...]
    visits: int = 0
    last_s: float | None = None


class GateAudit(NamedTuple):
    """The gate, its weakest doors (the weakest first), and the number of further doors."""

    mode: str
    gate: DoorAudit
    doors: list[DoorAudit]
    more: int
    levels: Counter[str]


def strengths(
    configuration: Configuration,
    findings: Iterable[DoorFinding],
    lines: Mapping[Keys, int],
    visits: Iterable[Session],
) -> GateAudit:
    """Return the findings of `check` by door, with the ports of sequences masked: pages are passed on."""
    owners = {line: path[1] for path, line in lines.items() if path[0] == "doors" and len(path) > 1}
    secret = {port.number for door in configuration.doors for port in door.knock}
    by_owner: dict[str | None, list[PublicFinding]] = {}
    levels: Counter[str] = Counter()
    for finding in findings:
        levels[finding.level] += 1
        by_owner.setdefault(owners.get(finding.line), []).append(_veiled(finding, secret))
    came, last = Counter[str](), dict[str, float]()
    for visit in visits:
        came[visit.door] += 1
        last[visit.door] = max(visit.since_s, last.get(visit.door, 0.0))
    signs = configuration.signed is not None
    doors = [
        _door(door, signs, by_owner.get(door.name, []))._replace(visits=came[door.name], last_s=last.get(door.name))
        for door in configuration.doors
    ]
    doors.sort(key=lambda door: -sum(finding.level == "warning" for finding in door.findings))
    mode = str(configuration.gate.mode)
    gate = DoorAudit(None, "", "", "", tuple(by_owner.get(None, [])[:MOST_FINDINGS]))
    return GateAudit(mode, gate, doors[:MOST_DOORS], len(doors[MOST_DOORS:]), levels)


def _door(door: Door, signs: bool, findings: list[PublicFinding]) -> DoorAudit:
    ways = (
        [f"{count(len(door.knock), 'knock', 'knocks')} within {format_duration(door.within_ms)}"] if door.knock else []
    )
    ways += ["a signed knock"] if signs else []
    opens = ", ".join(map(str, door.opens)) or "runs a command"
    for_ = format_duration(door.for_ms) if door.is_opening else "a moment"
    return DoorAudit(door.name, " or ".join(ways) or "by hand only", opens, for_, tuple(findings[:MOST_FINDINGS]))


def _veiled(finding: DoorFinding, secret: set[int]) -> PublicFinding:
    def veil(match: re.Match[str]) -> str:
        return "•••" if int(match[0]) in secret else match[0]

    return PublicFinding(finding.level, finding.line, _PORT.sub(veil, finding.what), _PORT.sub(veil, finding.remedy))
