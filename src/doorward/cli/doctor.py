"""`doorward doctor`."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress

from doorward.cli import output
from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import LevelPrinter
from doorward.config.files import exposure, read
from doorward.doctor import bypasses, firewalls, hosts_behind, lockout, running
from doorward.doctor.host_state import collect_facts, daemon_status, off_since
from doorward.doctor.problem import ERROR, OK, WARNING, Level, Problem
from doorward.errors import DoorwardError, NegativeResult

EXAMPLE = """\
  # doorward doctor
  error: inet filter, chain input: its policy drops
      drops 22/tcp, which door 'ssh' opens
      write accept_mark = "0x1000/0x1000" in [gate] of …
        # nft insert rule inet filter input meta mark and 0x1000 == 0x1000 …
        # nft insert rule inet filter input ct state established,related accept
  …
  1 error, 1 warning, 3 ok
exit status: 0 no errors, 1 errors found, 2 configuration error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    output.add_color(parser)


def run(args: argparse.Namespace) -> int:
    """Print lock-out risks, conflicting firewall rules and their remedies; return 1 if there are errors."""
    path = configuration_path(args)
    try:
        configuration = read(path)
    except DoorwardError:  # emergencies are reported even without a valid file
        if findings := _emergencies():
            _show(findings, as_json=args.json, color=args.color)
        raise
    facts = collect_facts(configuration, path.absolute().parent)
    file = str(path.absolute())
    parts = (lockout, firewalls, bypasses, hosts_behind, running)
    findings = [finding for part in parts for finding in part.check(file, configuration, facts)]
    if any(door.knock for door in configuration.doors) and (exposed := exposure(path)) is not None:
        findings.append(Problem(exposed.code, WARNING, file, exposed.fault, exposed.remedy))
    findings.sort(key=lambda finding: list(Level).index(finding.level))
    _show(findings, as_json=args.json, color=args.color)
    return 1 if any(finding.level is ERROR for finding in findings) else 0


def _emergencies() -> list[Problem]:
    daemon = None
    with suppress(NegativeResult):
        daemon = daemon_status([])
    return list(running.emergencies(daemon, off_since()))


def _show(findings: list[Problem], *, as_json: bool, color: str) -> None:
    if as_json:
        output.as_json({"findings": [finding._asdict() for finding in findings]})
        return
    printer = LevelPrinter(color)
    for finding in findings:
        _print(finding, printer)
    output.line(_summary(findings))


def _summary(findings: list[Problem]) -> str:
    """Return the last line: what a long list amounts to."""
    counts = Counter(finding.level for finding in findings)
    errors, warnings = (f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in (ERROR, WARNING))
    return f"{errors}, {warnings}, {counts[OK]} ok"


def _print(finding: Problem, printer: LevelPrinter) -> None:
    if finding.level is OK:
        printer.line(("good", "ok:"), f" {finding.where}: {finding.what}")
        return
    printer.line((finding.level, f"{finding.level}:"), f" {finding.where}")
    for text in filter(None, (finding.what, finding.remedy)):
        output.line(f"    {text}")
    for command in finding.commands:
        output.line(f"      # {command}")
