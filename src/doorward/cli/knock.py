"""`doorward knock`: send a signed knock or a port sequence to a host; with --wait until a port answers."""

from __future__ import annotations

import sys

from doorward.cli import knock_options
from doorward.cli.knock_options import (
    Knock,
    KnockPlan,
    only_door,
    parse_port,
    plan_knock,
    plan_targets,
    print_sent,
    seconds,
)
from doorward.cli.knocker import closed_error, knocker, reply_listener
from doorward.client.sequence import DEFAULT_DELAY_S, Target
from doorward.errors import UsageError
from doorward.port import Port, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from doorward.client.confirmation import ReplyListener
    from doorward.client.connector import Reply

DEFAULT_TIMEOUT_S = 30.0  # for the port to answer

EXAMPLE = """\
  $ doorward knock server.example 7000 8000/udp 9000    # a sequence
  $ doorward knock home --wait 22 && ssh home; doorward knock home --close
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.usage = "%(prog)s [OPTION ...] HOST [DOOR or PORT ...]"  # with all of them the help does not fit a screen
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml")
    parser.add_argument(
        "words",
        metavar="DOOR or PORT",
        nargs="*",
        default=[],
        help="a door (default: the only), or ports: 7000 8000/udp",
    )
    parser.add_argument("--close", action="store_true", help="close the door that this key opened, by a signed knock")
    parser.add_argument("--wait", metavar="PORT", help="knock until this port answers; exit status 1 if never")
    parser.add_argument("--timeout", metavar="TIME", help="how long --wait tries (default: 30s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each packet sent")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing, also on a terminal")
    knock_options.add_arguments(parser)
    parser.add_argument("--dump", action="store_true", help="print a signed knock's fields without sending it")
    parser.add_argument("--json", action="store_true", help="with --dump: one JSON object per packet")


def run(args: argparse.Namespace) -> int:
    """Knock; return 0 when sent (with --confirm: when confirmed; with --wait: when the port answers)."""
    delay_s = seconds("--delay", args.delay, DEFAULT_DELAY_S)
    port = _wait_port(args.wait)
    if port is None and args.timeout is not None:
        raise UsageError("timeout-needs-wait", "--timeout is for --wait; add --wait PORT, or leave --timeout out")
    timeout_s = seconds("--timeout", args.timeout, DEFAULT_TIMEOUT_S)
    if args.json and not args.dump:
        raise UsageError("json-needs-dump", "--json is for --dump; add --dump, or leave --json out")
    plan = plan_knock(args, args.words, only_door)
    if port is not None and plan.host.once and not plan.sequence:
        raise UsageError(
            "once-with-wait",
            "--wait connects to see whether the door is open, and that uses up an opening for one connection; "
            "leave --wait out, or connect with `doorward proxy`",
        )
    if args.close:
        plan = _plan_close(args, plan)
    if args.dump:
        return _dump(args, plan)
    listener = reply_listener(plan)
    knock = knocker(plan, delay_s, args.verbose, listener)
    targets = plan_targets(plan, args.family)
    if port is not None:
        rounds = _wait(plan, port, timeout_s, knock, targets, listener, verbose=args.verbose)
        if sys.stdout.isatty() and not args.quiet:
            print_sent(f"{port} is open after {rounds} knock{'' if rounds == 1 else 's'}")
        return 0
    reached = knock(targets)
    if listener is not None:
        from doorward.cli.confirmation import report  # after the knock

        report(plan, listener, lambda: knock(targets))
    elif sys.stdout.isatty() and not (args.quiet or args.verbose):
        print_sent(_sent_text(plan, reached))
    return 0


def _sent_text(plan: KnockPlan, reached: list[Target]) -> str:
    """Return what was sent, and that this is all that a client can know."""
    where = " and ".join(map(str, reached))
    if plan.sequence:
        return f"sent {' '.join(map(str, plan.sequence))} to {where}; the gate does not answer"
    what = "close" if plan.closes else "signed knock"
    return f"sent a {what} for {plan} to {where}; the gate does not answer"


def _plan_close(args: argparse.Namespace, plan: KnockPlan) -> KnockPlan:
    """Return the plan that closes the doors. UsageError: what else was asked for contradicts that."""
    if plan.sequence:
        raise UsageError(
            "close-needs-signed",
            "--close is for signed knocks, and this is a sequence, which cannot close a door; "
            "add --server-key KEY and name a door",
        )
    if args.wait is not None:
        raise UsageError("close-with-wait", "--wait waits for a door to open, and --close closes it; leave one out")
    if args.for_s is not None:
        raise UsageError("close-with-for", "--for is how long a door opens, and --close closes it; leave one out")
    if args.once:
        raise UsageError("close-with-once", "--once is how a door opens, and --close closes it; leave one out")
    return plan._replace(host=plan.host._replace(for_s=None, once=False), closes=True)


def _dump(args: argparse.Namespace, plan: KnockPlan) -> int:
    if plan.sequence:
        raise UsageError(
            "dump-needs-signed", "--dump is for signed knocks, and this is a sequence; add --server-key KEY, or use -v"
        )
    from doorward.cli.signed_options import dump

    dump(plan, plan_targets(plan, args.family), as_json=args.json)
    return 0


def _wait_port(text: str | None) -> Port | None:
    if text is None:
        return None
    port = parse_port(text)
    if port.protocol is not Protocol.TCP:
        raise UsageError("not-tcp-port", f"--wait: cannot wait for {port}; write a TCP port, such as 22")
    return port


def _wait(
    plan: KnockPlan,
    port: Port,
    timeout_s: float,
    knock: Knock,
    targets: list[Target],
    listener: ReplyListener | None,
    *,
    verbose: bool,
) -> int:
    """Knock until the port answers, and return how often. NegativeResult if it never does."""
    from doorward.client.connector import Reply, knock_until_open, try_port  # needed for --wait only

    def try_targets(reached: list[Target], patience_s: float) -> Reply:
        replies = set()
        for target in reached:
            replies.add(reply := try_port(target, port.number, patience_s / len(reached), listener))
            if verbose:
                print_sent(f"     {port} is {reply.value}" + (f" at {target}" if len(reached) > 1 else ""))
            if reply is Reply.OPEN:
                break
        return next(reply for reply in Reply if reply in replies)

    reply, rounds = knock_until_open(lambda: knock(targets), try_targets, timeout_s)
    if listener is not None:
        listener.close()
    if reply is not Reply.OPEN:
        raise closed_error(plan, port, reply, rounds)
    return rounds
