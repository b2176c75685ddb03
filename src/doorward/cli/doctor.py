"""`doorward doctor`."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from doorward.cli import output
from doorward.cli.options import add_config, configuration_path, is_terminal, prompt
from doorward.cli.output import LevelPrinter
from doorward.config.files import exposure, read
from doorward.config.schema import Configuration
from doorward.doctor import bypasses, firewalls, fix, hosts_behind, lockout, running
from doorward.doctor.host_state import collect_facts, daemon_status, off_since
from doorward.doctor.problem import ERROR, OK, WARNING, Level, Problem
from doorward.doctor.remedies import DEFAULT_MARK
from doorward.errors import DoorwardError, NegativeResult, UsageError

EXAMPLE = """\
  # doorward doctor
  error: inet filter, chain input: its policy drops
      drops 22/tcp, which door 'ssh' opens
      write accept_mark = "0x1000/0x1000" in [gate] of …
        # nft insert rule inet filter input meta mark and 0x1000 == 0x1000 …
        # nft insert rule inet filter input ct state established,related accept
  …
  1 error, 1 warning, 3 ok
exit status: 0 no errors, 1 errors found or not confirmed, 2 configuration error
or a command failed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    add_config(parser)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--json", action="store_true", help="print the findings as JSON")
    way.add_argument("--fix", action="store_true", help="have ufw and firewalld accept what doors open, if you confirm")
    way.add_argument("--undo", action="store_true", help="take back what --fix changed, if you confirm")
    output.add_color(parser)


def run(args: argparse.Namespace) -> int:
    """Print lock-out risks, conflicting firewall rules and their remedies; return 1 if there are errors."""
    if (args.fix or args.undo) and os.geteuid() != 0:
        raise UsageError("needs-root", "doctor: --fix and --undo are for root; run it with sudo")
    if args.undo:
        if _perform(fix.removal_commands()):
            output.line("ufw or firewalld may now drop what doors open: check with `doorward doctor`")
        return 0
    path = configuration_path(args)
    try:
        configuration = read(path)
    except DoorwardError:  # emergencies are reported even without a valid file
        if findings := _emergencies():
            _show(findings, as_json=args.json, color=args.color)
        raise
    findings = _check(path, configuration)
    _show(findings, as_json=args.json, color=args.color)
    if args.fix:
        commands = fix.lasting_commands(findings)
        if commands and configuration.gate.accept_mark is None:
            remedy = (
                f'write accept_mark = "{DEFAULT_MARK}" in [gate], reload the daemon, and repeat `doorward doctor --fix`'
            )
            raise UsageError("no-accept-mark", f"{path}: no accept_mark is set; {remedy}")
        if _perform(commands):
            findings = _check(path, configuration)
            _show(findings, as_json=False, color=args.color)
            if fix.lasting_commands(findings):
                remedy = "take the changes back with `doorward doctor --undo`"
                raise NegativeResult("still-blocked", f"doctor: that was not enough, as shown above; {remedy}")
    return 1 if any(finding.level is ERROR for finding in findings) else 0


def _check(path: Path, configuration: Configuration) -> list[Problem]:
    """Return the findings about this host, the worst first."""
    facts = collect_facts(configuration, path.absolute().parent)
    file = str(path.absolute())
    parts = (lockout, firewalls, bypasses, hosts_behind, running)
    findings = [finding for part in parts for finding in part.check(file, configuration, facts)]
    if any(door.knock for door in configuration.doors) and (exposed := exposure(path)) is not None:
        findings.append(Problem(exposed.code, WARNING, file, exposed.fault, exposed.remedy))
    return sorted(findings, key=lambda finding: list(Level).index(finding.level))


def _perform(commands: Sequence[str]) -> bool:
    """Print the commands and run them if the operator confirms; return whether there are any."""
    if not commands:
        output.line("no changes to ufw or firewalld")
        return False
    output.line("these commands change ufw or firewalld permanently:", *(f"  # {command}" for command in commands))
    answer = ""
    if is_terminal():
        with suppress(UsageError):  # the end of the input
            answer = prompt("type yes to run these commands", "", str)
    if answer != "yes":
        raise NegativeResult("not-confirmed", "doctor: nothing was changed; run it on a terminal, and type yes")
    fix.perform(commands)
    return True


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
