"""The audit of doors: findings by door, the weakest first, without the ports of sequences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count

from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.lint.checks import warnings
from doorward.lint.finding import Finding
from doorward.report.events import Session
from doorward.report.strength import MOST_DOORS, GateAudit, audit_gate

TEXT = """\
[gate]
mode = "guard"
public = ["443/tcp"]
[doors.ssh]
knock = ["17341/tcp", "52018/udp", "9467/tcp"]
opens = ["22/tcp"]
[doors.twice]
knock = ["7001/tcp", "7001/tcp", "9001/udp"]
opens = ["23/tcp", "443/tcp"]
within = "5s"
for = "8h"
[doors.admin]
opens = ["8443/tcp"]
[doors.wake]
knock = ["17342/tcp", "52019/udp", "9468/tcp"]
on_open = ["/usr/bin/true"]
"""


def rated(text: str, visits: Iterable[Session] = (), more: Iterable[Finding] = ()) -> GateAudit:
    configuration, lines = parse(text, "doorward.toml"), find_lines(text)
    return audit_gate(configuration, [*warnings(configuration, lines), *more], lines, visits)


def test_findings_are_sorted_by_door() -> None:
    found = rated(TEXT)
    doors = {door.door: door for door in found.doors}
    assert found.doors[0].door == "twice"  # the weakest
    whats = " ".join(finding.what for finding in doors["twice"].findings)
    assert "twice in a row" in whats
    assert "443/tcp is public" in whats
    assert [door.door for door in found.doors if any("mode" in each.what for each in door.findings)] == []
    assert any("mode guard" in finding.what for finding in found.findings)
    shown = [*found.findings, *(finding for door in found.doors for finding in door.findings)]
    assert found.levels["warning"] == sum(finding.level == "warning" for finding in shown)


def test_door_with_sequence_and_signed_knock() -> None:
    doors = {door.door: door for door in rated(TEXT + "[signed]\n").doors}
    assert doors["ssh"].method == "3 knocks within 15s or a signed knock"
    assert any("as well as to a signed knock" in each.what for each in doors["ssh"].findings)
    assert doors["admin"].method == "a signed knock"
    assert doors["admin"].findings == ()


def test_opening_methods_of_doors() -> None:
    doors = {door.door: (door.method, door.opens, door.for_) for door in rated(TEXT).doors}
    assert doors == {
        "ssh": ("3 knocks within 15s", "22/tcp", "30s"),
        "twice": ("3 knocks within 5s", "23/tcp, 443/tcp", "8h"),
        "admin": ("by hand only", "8443/tcp", "30s"),
        "wake": ("3 knocks within 15s", "runs a command", "a moment"),
    }
    ways = {door.door: door.method for door in rated(TEXT + "[signed]\n").doors}
    assert (ways["ssh"], ways["admin"]) == ("3 knocks within 15s or a signed knock", "a signed knock")


def test_openings_per_door() -> None:
    visits = [Session("ssh", "ada", "key", "192.0.2.7", (), at_s, at_s + 30, "time") for at_s in (10.0, 50.0, 20.0)]
    visits.append(Session("gone", "ada", "key", "192.0.2.7", (), 90.0, 95.0, "time"))
    doors = {door.door: (door.openings, door.last_s) for door in rated(TEXT, visits).doors}
    assert doors == {"ssh": (3, 50.0), "twice": (0, None), "admin": (0, None), "wake": (0, None)}


def test_sequence_ports_are_masked() -> None:
    found = rated(TEXT, more=[Finding("mask", "note", 4, "9001/udp beside 22/tcp and 17341:tcp", "take 52018/UDP out")])
    statistics = str(found)
    for secret in (17341, 52018, 9467, 7001, 9001, 17342, 52019, 9468):
        assert not re.search(rf"\b{secret}\b", statistics)
    assert "•••/udp beside 22/tcp and •••:tcp" in statistics
    assert "knocks at •••/tcp twice in a row" in statistics


def test_weakest_doors_are_shown() -> None:
    ports = count(2001)
    text = "".join(f'[doors.d{number}]\nopens = ["{next(ports)}/tcp"]\n' for number in range(MOST_DOORS + 7))
    found = rated(text + '[doors.weak]\nknock = ["9/tcp"]\nopens = ["22/tcp"]\n')
    assert (found.doors[0].door, len(found.doors), found.more) == ("weak", MOST_DOORS, 8)
