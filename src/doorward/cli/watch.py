"""`doorward watch`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from doorward.cli import output
from doorward.cli.status import as_fields
from doorward.daemon.control_client import EventClient, default_path
from doorward.daemon.log import stamped, text_of
from doorward.json_form import json_line
from doorward.libraries import install_command

TEXTUAL = 8  # the first major version with the interfaces that the live view uses

EXAMPLE = """\
  # doorward watch | grep refused
  2026-05-01T12:04:51+0200 refused 203.0.113.9: rate limit exceeded (more than …
on a terminal: a live view with keys to open, close and ban; `?` lists them
exit status: 0 interrupted, 1 no daemon is running, or it ended"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("--plain", action="store_true", help="one event per line, even on a terminal")
    parser.add_argument("--json", action="store_true", help="the status, then one event per line, as JSON")


def run(args: argparse.Namespace) -> int:
    """Show the live view, or write lines."""
    is_plain = args.plain or args.json or not (sys.stdin.isatty() and sys.stdout.isatty())
    if not is_plain and _has_textual():
        from doorward.watch.tui import watch

        return watch(default_path())
    if not is_plain:
        remedy = f"run `{install_command('textual')}` (Debian 12 and 13 have an older one); lines instead:"
        output.error_line(f"doorward: the live view needs the Python library textual {TEXTUAL} or newer; {remedy}")
    return _lines(as_json=args.json)


def _has_textual() -> bool:
    try:
        return int(version("textual").partition(".")[0]) >= TEXTUAL
    except PackageNotFoundError:
        return False


def _lines(*, as_json: bool) -> int:
    try:
        with closing(EventClient(default_path())) as client:
            first = client.first
            text = f"{first['summary']}; {len(first['openings'])} open"
            _write(json_line({"event": "status", **as_fields(first)}) if as_json else stamped(datetime.now(UTC), text))
            for event in client:
                _write(json_line(event) if as_json else _text(event))
    except KeyboardInterrupt:
        return 0
    sys.stderr.write("doorward: the daemon ended\n")
    return 1


def _write(line: str) -> None:
    """Print a line and flush."""
    output.line(line)
    sys.stdout.flush()


def _text(event: dict[str, Any]) -> str:
    return stamped(datetime.fromisoformat(event["time"]), text_of(event["event"], event))
