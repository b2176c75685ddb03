"""`doorward proxy`: knock and connect, as OpenSSH's ProxyCommand; relay the connection, or pass it to ssh."""

from __future__ import annotations

import os
import socket
import sys
import time

from doorward.cli import knock_options
from doorward.cli.knock_options import Knock, KnockPlan, only_door, parse_port, plan_knock, plan_targets, seconds
from doorward.cli.knocker import closed_error, knocker, reply_listener
from doorward.client.connector import Reply, knock_until_open, open_connection
from doorward.client.hosts import KnownHost
from doorward.client.relay import relay
from doorward.client.sequence import DEFAULT_DELAY_S, Target, UnreachableError
from doorward.errors import NegativeResult, UsageError
from doorward.escape import visible
from doorward.port import Port, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from doorward.client.confirmation import ReplyListener

DEFAULT_TIMEOUT_S = 10.0  # a person waits for ssh
QUIET_S = 2.0  # after which a terminal shows that it still knocks
_STANDARD_INPUT, _STANDARD_OUTPUT = 0, 1

EXAMPLE = """\
  $ cat ~/.ssh/config
  Host home
      ProxyCommand doorward proxy --fdpass %h %p
      ProxyUseFdpass yes
  $ ssh home    # with `home` in hosts.toml, as `doorward add home …` writes it
the door: the one given, the host's only one, or the port's service (22: ssh)
exit status: 0 connected and ended or passed, 1 no connection, 2 usage error
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.usage = "%(prog)s [OPTION ...] HOST PORT [DOOR or KNOCK ...]"  # see `doorward knock`
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml")
    parser.add_argument("port", metavar="PORT", help="the TCP port to connect to")
    parser.add_argument(
        "words", metavar="DOOR or KNOCK", nargs="*", default=[], help="a door, or the ports of a sequence"
    )
    parser.add_argument("--door", metavar="DOOR", help="the door, given as an option")
    parser.add_argument("--timeout", metavar="TIME", help="how long to knock and try (default: 10s)")
    parser.add_argument("--fdpass", action="store_true", help="pass the connection to ssh, do not relay it")
    knock_options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Knock until the port answers, then relay until both ends are closed, or pass the connection; return 0."""
    delay_s = seconds("--delay", args.delay, DEFAULT_DELAY_S)
    timeout_s = seconds("--timeout", args.timeout, DEFAULT_TIMEOUT_S)
    port = parse_port(args.port)
    if port.protocol is not Protocol.TCP:
        raise UsageError("not-tcp-port", f"cannot connect to {port}; write a TCP port, such as 22")
    if args.door and args.words:
        raise UsageError(
            "door-and-arguments", "--door and arguments after the port exclude each other; leave one of the two out"
        )
    plan = plan_knock(args, [args.door] if args.door else args.words, lambda host: _door(host, port))
    listener = reply_listener(plan)
    knock = knocker(plan, delay_s, verbose=False, replies=listener)
    with _connect(plan, port, knock, plan_targets(plan, args.family), timeout_s, listener) as connection:
        if listener is not None:
            listener.close()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # ssh does both where it connects itself
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if args.fdpass:
            _pass(connection)
        else:
            _relay(plan, connection)
    return 0


def _door(host: KnownHost, port: Port) -> str:
    """Return the door to open if none is given: the only one, or the one named after the port's service."""
    service = _service(port)
    if len(host.doors) != 1 and service and (service in host.doors or not host.doors):
        return service
    return only_door(host)


def _service(port: Port) -> str:
    try:
        return socket.getservbyport(port.number, "tcp")
    except OSError:  # no such service, or no /etc/services
        return "ssh" if port.number == 22 else ""


def _connect(
    plan: KnockPlan,
    port: Port,
    knock: Knock,
    targets: list[Target],
    timeout_s: float,
    listener: ReplyListener | None = None,
) -> socket.socket:
    """Knock at each address and connect to it, repeatedly. NegativeResult if none answers within `timeout_s`."""
    connections: list[socket.socket] = []
    began_s, rounds = time.monotonic(), 0

    def connect_to_targets(_: None, patience_s: float) -> Reply:
        nonlocal rounds
        rounds += 1
        if rounds > 1 and sys.stderr.isatty() and time.monotonic() - began_s >= QUIET_S:
            sys.stderr.write(f"doorward: knocking on {visible(plan.host.name)} ({rounds})…\n")
        replies, faults = set(), []
        for target in targets:
            try:
                knock([target])
            except UnreachableError as error:
                faults.append(error)
                continue
            reply = open_connection(target, port.number, patience_s / len(targets), listener)
            if isinstance(reply, socket.socket):
                connections.append(reply)
                return Reply.OPEN
            replies.add(reply)
        if not replies:
            raise faults[0]
        return Reply.REFUSED if Reply.REFUSED in replies else Reply.SILENT

    reply, _ = knock_until_open(lambda: None, connect_to_targets, timeout_s)
    if connections:
        return connections[0]
    raise closed_error(plan, port, reply, rounds)


def _relay(plan: KnockPlan, connection: socket.socket) -> None:
    try:
        relay(connection, _STANDARD_INPUT, _STANDARD_OUTPUT)
    except OSError as error:
        raise NegativeResult(
            "connection-broken", f"{plan.host.name}: the connection broke: {error.strerror}; connect again"
        ) from None


def _pass(connection: socket.socket) -> None:
    """Send the connection to ssh, as ssh_config(5) describes ProxyUseFdpass."""
    if sys.platform == "win32":
        raise UsageError("no-fdpass", "--fdpass: Windows cannot pass connections; omit --fdpass and ProxyUseFdpass")
    try:
        with socket.socket(fileno=os.dup(_STANDARD_OUTPUT)) as ssh:
            socket.send_fds(ssh, [b"\0"], [connection.fileno()])
    except OSError as error:
        raise UsageError(
            "not-passed",
            f"--fdpass: the connection cannot be passed over standard output: {error.strerror}; "
            "add `ProxyUseFdpass yes` next to ProxyCommand, or omit --fdpass",
        ) from None
