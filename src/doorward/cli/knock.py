"""`doorward knock`: send a sequence to a host, and with --wait until a port there answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AF_UNSPEC

from doorward.client.hosts import door_of, host_of, hosts_path, is_door, is_exposed, read_hosts
from doorward.client.knock import (
    DEFAULT_DELAY_S,
    Reply,
    Report,
    Target,
    knock,
    knock_until_open,
    resolve,
    try_port,
)
from doorward.errors import AnswerNo, UsageError
from doorward.model import Port, Protocol

DEFAULT_TIMEOUT_S = 30.0

EXAMPLE = """\
  doorward knock example.org 7000 8000/udp 9000
  doorward knock home ssh --wait 22 && ssh home    # both named in hosts.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml")
    parser.add_argument(
        "words",
        metavar="DOOR or PORT",
        nargs="*",
        help="a door in hosts.toml, or ports in order: 7000 (tcp), 8000/udp; the host's only door if left out",
    )
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="family", action="store_const", const=AF_INET, default=AF_UNSPEC, help="IPv4 only")
    families.add_argument("-6", dest="family", action="store_const", const=AF_INET6, help="IPv6 only")
    parser.add_argument("--delay", metavar="TIME", help="between two packets (default: 10ms)")
    parser.add_argument("--wait", metavar="PORT", help="knock until this port answers; exit status 1 if never")
    parser.add_argument("--timeout", metavar="TIME", help="how long --wait tries (default: 30s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each packet sent")


def run(args: argparse.Namespace) -> int:
    """Knock; 0 when sent (with --wait: when the port answers)."""
    delay_s = _seconds("--delay", args.delay, DEFAULT_DELAY_S)
    awaited = _awaited(args.wait)
    if awaited is None and args.timeout is not None:
        raise UsageError("--timeout is for --wait; add --wait PORT, or leave --timeout out")
    timeout_s = _seconds("--timeout", args.timeout, DEFAULT_TIMEOUT_S)
    address, sequence = _look_up(args.host, args.words)
    targets = resolve(address, args.family)
    report = _printer(len(sequence)) if args.verbose else None

    def knock_once() -> Target:
        return knock(targets, sequence, delay_s, report=report)

    if awaited is None:
        knock_once()
    else:
        _wait(args.host, awaited, timeout_s, args.verbose, knock_once)
    return 0


def _seconds(option: str, text: str | None, default_s: float) -> float:
    if text is None:
        return default_s
    from doorward.config.duration import parse_duration_ms

    try:
        return parse_duration_ms(text) / 1000
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _awaited(text: str | None) -> Port | None:
    if text is None:
        return None
    port = _port(text)
    if port.protocol is not Protocol.TCP:
        raise UsageError(f"--wait: {port} cannot be waited for; only a TCP port answers, such as 22")
    return port


def _port(word: str) -> Port:
    try:
        return Port.parse(f"{word}/tcp" if word.isdigit() else word)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _look_up(host: str, words: list[str]) -> tuple[str, tuple[Port, ...]]:
    """Give the address to knock at and the sequence; hosts.toml is read only where it can matter."""
    if words and _is_address(host) and not any(map(is_door, words)):
        return host, tuple(map(_port, words))
    path = hosts_path()
    hosts = read_hosts(path)
    if hosts and is_exposed(path):
        sys.stderr.write(f"doorward: warning: {path}: every user can read the sequences; run `chmod o-r {path}`\n")
    if not words:
        words = [_only_door(path, host, host_of(path, hosts, host).doors)]
    sequence: list[Port] = []
    for word in words:
        sequence += door_of(path, hosts, host, word) if is_door(word) else (_port(word),)
    return hosts[host].address if host in hosts else host, tuple(sequence)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _only_door(path: str, host: str, doors: Iterable[str]) -> str:
    names = sorted(doors)
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(f"which door? {path}: host {host!r} has {', '.join(names)}; name one")
    raise UsageError(f"{path}: host {host!r} has no door; give ports (7000 8000/udp 9000)")


def _printer(total: int) -> Report:
    def report(target: Target, place: int, port: Port) -> None:
        sys.stdout.write(f"{place}/{total}  {port} to {target}\n")
        sys.stdout.flush()  # so that an error on standard error comes after it, also in a pipe

    return report


def _wait(host: str, awaited: Port, timeout_s: float, verbose: bool, knock_once: Callable[[], Target]) -> None:
    def visit(target: Target, patience_s: float) -> Reply:
        reply = try_port(target, awaited.number, patience_s)
        if verbose:
            sys.stdout.write(f"     {awaited} is {reply.value}\n")
            sys.stdout.flush()
        return reply

    reply, rounds = knock_until_open(knock_once, visit, timeout_s)
    if reply is not Reply.OPEN:
        times = "once" if rounds == 1 else f"{rounds} times"
        raise AnswerNo(f"{host}: knocked {times}, but {awaited} {REASONS[reply]}")


REASONS = {
    Reply.SILENT: "stays silent; check the sequence and its order, whether that door opens this port, "
    "and on the server `doorward status` and `doorward log`",
    Reply.REFUSED: "refuses connections; check whether its service runs there, and whether a firewall rejects it",
}
