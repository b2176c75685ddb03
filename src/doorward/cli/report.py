"""`doorward report`: the ledger's events and the strength of the doors, as one HTML page or as JSON."""

from __future__ import annotations

import argparse
import os
import socket
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from doorward import __version__
from doorward.cli import output
from doorward.cli.options import SINCE_HELP, add_config, configuration_path, since_s
from doorward.config.files import exposure, read_text, trusted_owners
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.daemon.ledger import KEPT_ROWS, ledger_path, read_records
from doorward.errors import HostError, UsageError
from doorward.kernel import atomic_file
from doorward.kernel.atomic_file import FileOwnership
from doorward.lint.checks import warnings
from doorward.lint.finding import Finding
from doorward.report.events import PeriodEvents, collect_events
from doorward.report.page import MARK, PageOrigin, render_page
from doorward.report.statistics import Statistics, as_json, build_statistics
from doorward.report.strength import GateAudit, audit_gate
from doorward.report.words import count

EXAMPLE = """\
  # doorward report --html /root/doorward.html --since 7d
  /root/doorward.html: 41 openings by 5 people or addresses, 18,204 refusals …
an earlier report is replaced, atomically; any other file is left alone"""
DEFAULT_SINCE = "30d"
_MOST_ROWS = 8 * KEPT_ROWS  # active openings are never pruned from a ledger, however many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("--html", metavar="FILE", help="the page to write; - for standard output")
    parser.add_argument("--since", metavar="T", default=DEFAULT_SINCE, help=f"{SINCE_HELP} (default: 30d)")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print the figures, as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the page and print a summary, or print the figures as JSON."""
    if args.html is None and not args.json:
        raise UsageError("no-output", "report: no output given; use --html FILE or --json")
    if args.html == "-" and args.json:
        raise UsageError(
            "same-output", "report: --html - and --json both write to standard output; name a file with --html"
        )
    path = None if args.html in (None, "-") else Path(args.html)
    if path is not None:
        _check_target(path)
    begin_s = max(0.0, since_s(args.since))  # before the ledger is read, which can take a while
    events = collect_events(read_records(ledger_path(), 0.0, _MOST_ROWS), begin_s, time.time())
    audit = _strengths(args, events)
    statistics = build_statistics(events, audit, str(configuration_path(args)), _local)
    if args.html is not None:
        raw = render_page(statistics, PageOrigin(__version__, socket.gethostname(), _local)).encode()
        if path is None:
            sys.stdout.buffer.write(raw)
            return 0
        _write(path, raw)
    if args.json:
        output.as_json(as_json(statistics))
    else:
        output.line(f"{path}: {_summary(statistics)}")
    return 0


def _strengths(args: argparse.Namespace, events: PeriodEvents) -> GateAudit | None:
    """Rate the doors; None if there is no configuration at the default path, as on a host that runs knockd."""
    path = configuration_path(args)
    if args.config is None and not path.exists():
        return None
    text = read_text(path, trusted_owners())
    configuration, lines = parse(text, str(path)), find_lines(text)
    findings = warnings(configuration, lines)
    if any(door.knock for door in configuration.doors) and (exposed := exposure(path)):
        findings.insert(0, Finding(exposed.code, "warning", 1, exposed.fault, exposed.remedy))
    return audit_gate(configuration, findings, lines, events.sessions)


def _local(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone()


def _summary(statistics: Statistics) -> str:
    parts = [
        f"{count(len(statistics.events.sessions), 'opening', 'openings')} by "
        + count(statistics.people, "person or address", "people or addresses"),
        f"{count(len(statistics.events.refusals), 'refusal', 'refusals')} from "
        + count(statistics.networks, "network", "networks"),
    ]
    if statistics.audit is not None:
        parts += [count(statistics.audit.levels["warning"], "warning", "warnings")]
    return ", ".join(parts)


def _check_target(path: Path) -> None:
    """Check that the path is free or an earlier report, and not a link. UsageError otherwise."""
    remedy = "remove it, or name another file with --html"
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError("not-regular-file", f"{path}: not a regular file; {remedy}")
        # The directory may be the daemon's: a link created after that check is not followed.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if file.read(len(MARK)) != MARK.encode():
                raise UsageError("not-a-report", f"{path}: not a doorward report, so it is left alone; {remedy}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError("unreadable-file", f"{path}: {error.strerror}; {remedy}") from None


def _write(path: Path, raw: bytes) -> None:
    """Write the page atomically. It keeps the mode and group of an earlier one of the same user."""
    try:
        atomic_file.replace(path, raw, _earlier_access(path))
    except OSError as error:
        raise HostError(
            "unwritable-file",
            f"{error.filename or path}: {error.strerror}; name a file in a directory that this user can write to",
        ) from None


def _earlier_access(path: Path) -> FileOwnership | None:
    """Return mode and group of the earlier page: an operator may let a web server's group read it."""
    try:
        earlier = path.lstat()
    except FileNotFoundError:
        return None  # it contains names and addresses, so only this user may read it
    if earlier.st_uid != os.geteuid() or not stat.S_ISREG(earlier.st_mode):
        return None
    return FileOwnership(stat.S_IMODE(earlier.st_mode) & 0o666, earlier.st_uid, earlier.st_gid)
