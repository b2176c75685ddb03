"""`doorward open`."""

from __future__ import annotations

import argparse
import time

from doorward.cli import output
from doorward.config.duration import rough_duration
from doorward.daemon.control_client import ask, default_path
from doorward.json_form import iso_times

EXAMPLE = """\
  # doorward open ssh 192.0.2.7 --for 10m
  ssh is open to 192.0.2.7 (22/tcp) for 10m
exit status: 0 open, 1 no daemon is running, 2 unknown door or invalid address"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("door", metavar="DOOR", help="a door of the configuration")
    parser.add_argument("address", metavar="ADDRESS", help="the address to let in, IPv4 or IPv6")
    parser.add_argument("--for", dest="for_", metavar="T", help="how long, like 90s, 10m, 8h (default: the door's)")
    parser.add_argument("--json", action="store_true", help="print the opening as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon to open the door, and print the opening."""
    request = {"command": "open", "door": args.door, "address": args.address, "for": args.for_}
    opening = ask(default_path(), request)["opening"]
    if args.json:
        output.as_json(iso_times(opening, "since", "until"))
    else:
        left = rough_duration(opening["until"] - time.time())
        output.line(f"{opening['door']} is open to {opening['address']} ({', '.join(opening['ports'])}) for {left}")
    return 0
