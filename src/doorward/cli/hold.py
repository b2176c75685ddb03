"""`doorward hold`: keep a door open while a command, or the terminal, lives."""

from __future__ import annotations

import argparse

from doorward.cli import knock_options
from doorward.cli.knock_options import only_door, plan_knock
from doorward.errors import UsageError

EXAMPLE = """\
  $ doorward hold home ssh -- rsync -a photos server.example:
without a command, until Ctrl-C
knocks again every third of --for (default: 60s), and when the network changes
with --confirm: every third of the confirmed time, where a gate opens for less
exit status: the command's (128+n: killed by signal n; 127: not found, 126: not
executable); 0 without a command; 2 usage error
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml")
    parser.add_argument("words", metavar="DOOR", nargs="*", default=[], help="a door; the host's only door if left out")
    parser.add_argument("command", metavar="-- COMMAND", nargs="*", default=[], help="the command, with its arguments")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each packet sent, on standard error")
    knock_options.add_arguments(parser, with_sequences=False, once_help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Hold the door; return the command's exit status."""
    plan = plan_knock(args, args.words, only_door)
    if plan.sequence:
        raise UsageError(
            "hold-needs-signed",
            f"hold is for signed knocks, and {args.host!r} has a sequence only; add --server-key KEY, the line that "
            "`doorward key server` prints on the server, or repeat `doorward knock`",
        )
    if plan.host.once:
        raise UsageError(
            "hold-with-once",
            "hold keeps a door open for any number of connections, and `once` opens it for one; leave --once out, and "
            "`once` in hosts.toml, or connect with `doorward proxy`",
        )
    from doorward.cli.holder import hold_door  # loads the cryptography

    return hold_door(plan, args.family, args.command, verbose=args.verbose)
