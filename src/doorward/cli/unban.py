"""`doorward unban`."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.daemon.control_client import ask, default_path

EXAMPLE = """\
  # doorward unban 203.0.113.9
  203.0.113.9 is no longer banned
exit status: 0 success, 1 it was not banned or no daemon is running, 2 invalid
address"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("address", metavar="ADDRESS", help="address to unban")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon to end a ban."""
    done = ask(default_path(), {"command": "unban", "address": args.address})
    output.line(f"{done['ban']} is no longer banned")
    return 0
