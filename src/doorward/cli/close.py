"""`doorward close`."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.cli.options import add_config
from doorward.daemon.control_socket import ask, default_path
from doorward.errors import UsageError

EXAMPLE = """\
  # doorward close ssh 192.0.2.7 --cut
  ssh is closed to 192.0.2.7; 1 connection cut
exit status: 0 it is closed, 1 it was not open or no daemon runs, 2 no such door"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("door", metavar="DOOR", help="a door of the configuration")
    parser.add_argument("address", metavar="ADDRESS", help="whom it is open to")
    parser.add_argument("--cut", action="store_true", help="end its established connections too")
    parser.add_argument("--fleet", action="store_true", help="at every gate, also where this one has it not open")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the daemon to close the door, or etcd to close it on every gate."""
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        if args.cut:
            raise UsageError("--cut ends connections of this host only; leave it out, or --fleet")
        return fleet.close(args)
    request = {"command": "close", "door": args.door, "address": args.address, "cut": args.cut}
    count = ask(default_path(), request)["cut"]
    connections = f"; {count} connection{'' if count == 1 else 's'} cut" if args.cut else ""
    output.line(f"{args.door} is closed to {args.address}{connections}")
    return 0
