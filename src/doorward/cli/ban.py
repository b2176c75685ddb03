"""`doorward ban`."""

from __future__ import annotations

import argparse
import time

from doorward.cli import output
from doorward.config.duration import rough_duration
from doorward.daemon.control_client import ask, default_path
from doorward.errors import UsageError
from doorward.json_form import iso_time
from doorward.kernel.ssh_session import ssh_connection
from doorward.model import parse_address
from doorward.nftables.ban_sets import ban_network

EXAMPLE = """\
  # doorward ban 203.0.113.9 --for 8h
  203.0.113.9 is banned for 8h; 1 door closed to it
without an address: list the bans. An IPv6 ban covers the address's /64.
exit status: 0 banned, 1 no daemon is running, 2 invalid address"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.add_argument("address", metavar="ADDRESS", nargs="?", help="address to ban")
    parser.add_argument("--for", dest="for_", metavar="T", help="how long, like 90s, 10m, 8h, 7d (default: 1h)")
    parser.add_argument("--cut", action="store_true", help="also end its connections to the doors' ports")
    parser.add_argument("--json", action="store_true", help="list the bans as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon to ban the address, or list the bans."""
    if args.address is None:
        if args.cut or args.for_ is not None:
            raise UsageError("no-address", "--for and --cut ban an address, and none is given; name it")
        return _list(as_json=args.json)
    if args.json:
        raise UsageError("json-lists-bans", "--json lists the bans; leave out one of --json and ADDRESS")
    _reject_own_session(args.address)
    request = {"command": "ban", "address": args.address, "for": args.for_, "cut": args.cut}
    answer = ask(default_path(), request)
    closed = f"; {answer['closed']} door{'' if answer['closed'] == 1 else 's'} closed to it" if answer["closed"] else ""
    connections = f"; {answer['cut']} connection{'' if answer['cut'] == 1 else 's'} cut" if args.cut else ""
    output.line(f"{answer['ban']} is banned for {rough_duration(answer['for'])}{closed}{connections}")
    return 0


def _list(*, as_json: bool) -> int:
    bans = ask(default_path(), {"command": "bans"})["bans"]
    if as_json:
        output.as_json({"bans": [{"address": ban, "until": iso_time(until_s)} for ban, until_s in bans]})
    elif bans:
        now_s = time.time()
        output.table(("banned", "left"), [(ban, rough_duration(until_s - now_s)) for ban, until_s in bans])
    else:
        output.line("no address is banned")
    return 0


def _reject_own_session(text: str) -> None:
    """Reject a ban of the caller's own SSH session with UsageError. The daemon reports invalid addresses."""
    session = ssh_connection()
    try:
        is_own = session is not None and ban_network(session.source) == ban_network(parse_address(text))
    except ValueError:
        return
    if is_own:
        raise UsageError(
            "own-session", f"{text}: this SSH session comes from there and would be locked out; ban it from elsewhere"
        )
