"""`doorward close`."""

from __future__ import annotations

import argparse

from doorward.cli import output
from doorward.cli.options import add_config
from doorward.daemon.control_client import ask, default_path
from doorward.errors import UsageError

EXAMPLE = """\
  # doorward close ssh 192.0.2.7 --cut
  ssh is closed to 192.0.2.7; 1 connection cut
exit status: 0 closed, 1 it was not open or no daemon is running, 2 unknown door"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("door", metavar="DOOR", help="a door of the configuration")
    parser.add_argument("address", metavar="ADDRESS", help="the address that it is open to")
    parser.add_argument("--cut", action="store_true", help="also end its established connections")
    parser.add_argument(
        "--fleet", action="store_true", help="on every gate of the fleet, whether or not it is open here"
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the daemon to close the door, or etcd to close it on every gate."""
    if args.fleet:
        from doorward.cli import fleet  # lazy: it imports the etcd client

        if args.cut:
            raise UsageError("cut-is-local", "--cut ends connections on this host only; leave out --cut or --fleet")
        return fleet.close(args)
    request = {"command": "close", "door": args.door, "address": args.address, "cut": args.cut}
    count = ask(default_path(), request)["cut"]
    connections = f"; {count} connection{'' if count == 1 else 's'} cut" if args.cut else ""
    output.line(f"{args.door} is closed to {args.address}{connections}")
    return 0
