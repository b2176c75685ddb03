"""`doorward verify`: look at a host from outside, before, during and after a knock."""

from __future__ import annotations

import argparse
import shutil
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNSPEC

from doorward.cli import knocking, render
from doorward.cli.knocking import Aim, Knock, aim, knocker, only_door, seconds
from doorward.cli.verifying import Display, verify
from doorward.client.hosts import hosts_path, read_hosts
from doorward.client.knock import DEFAULT_DELAY_S, Target, resolve
from doorward.diag.drawing import draw
from doorward.diag.port_list import Ports, parse_ports, ports_text
from doorward.diag.scanner import DEFAULT_RATE, may_send_raw
from doorward.diag.svg import svg_of
from doorward.diag.verify import Question
from doorward.diag.verify_text import Report, sheet_of
from doorward.errors import HostError, UsageError
from doorward.model import DEFAULT_SIGNED_PORT, Port, Protocol

DEFAULT_WAIT_S = 120.0
GRACE_S = 30.0  # beyond the time that a signed knock asks for
HIGHEST_RATE = 1_000_000
ALL_TCP = "1-65535"
WORTH_UDP = "UDP needs root; run it with sudo"

EXAMPLE = """\
  # doorward verify home ssh --port 22 --expect 80,443 --picture home.svg
  …
  all as it should be"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.usage = "%(prog)s [OPTION ...] HOST [DOOR or PORT ...]"
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml; another than this")
    parser.add_argument("words", metavar="DOOR or PORT", nargs="*", help="as `doorward knock` takes them")
    parser.add_argument("--ports", metavar="LIST", help="look at 1-1024,7000/udp (default: all TCP, UDP of the knock)")
    parser.add_argument("--expect", metavar="LIST", help="ports that everybody may see, like 80,443")
    parser.add_argument("--port", metavar="LIST", help="what the knock must open (default: anything)")
    parser.add_argument("--for", dest="wait", metavar="TIME", help="the door must close within it (default: 2m)")
    parser.add_argument("--guard", action="store_true", help="mode is guard: ports may refuse, but the door's")
    parser.add_argument("--no-knock", action="store_true", help="only look")
    parser.add_argument("--rate", metavar="N", type=int, default=DEFAULT_RATE, help="packets a second (default: 3000)")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw every port into an SVG file")
    parser.add_argument("--json", action="store_true", help="one line an address")
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="family", action="store_const", const=AF_INET, default=AF_UNSPEC, help="IPv4 only")
    families.add_argument("-6", dest="family", action="store_const", const=AF_INET6, help="IPv6 only")
    # As for `doorward knock`. The rest of its options stand in hosts.toml, where whoever verifies a host has it.
    parser.add_argument("--delay", metavar="TIME", help=argparse.SUPPRESS)
    parser.add_argument("--sequence", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Verify the host's address of each family; 0 when all is as it should be."""
    there = _aim(args)
    question = _question(args, there)
    _check_means(args)
    knock: Knock | None = None
    if there is not None:
        knock = knocker(there, seconds("--delay", args.delay, DEFAULT_DELAY_S), False)
    targets = resolve(_address(args.host) if there is None else there.host.address, args.family)
    display = Display(as_json=args.json)
    if not may_send_raw():
        display.line(f"not root: whole connections instead of SYN scans; {WORTH_UDP}")
    reports = [
        verify(args.host, target, source, args.rate, question, knock, display) for target, source in ways(targets)
    ]
    if args.picture is not None:
        _save_picture(args.picture, reports)
    return 1 if any(report.findings for report in reports) else 0


def _aim(args: argparse.Namespace) -> Aim | None:
    """Find how to knock; None: only look, since nobody said how, or the call says so."""
    if args.no_knock or (not args.words and args.host not in read_hosts(hosts_path())):
        if args.port is not None:
            raise UsageError("--port is what a knock must open, and there is none; name the door or the sequence")
        return None
    knocks = argparse.ArgumentParser()
    knocking.add_arguments(knocks)
    ours = {name: getattr(args, name) for name in ("host", "family", "delay", "sequence")}
    return aim(argparse.Namespace(**vars(knocks.parse_args([])) | ours), args.words, only_door)


def _address(host: str) -> str:
    hosts = read_hosts(hosts_path())
    return hosts[host].address if host in hosts else host


def _question(args: argparse.Namespace, there: Aim | None) -> Question:
    opens, public = _ports("--port", args.port), _ports("--expect", args.expect)
    if both := opens & public:
        raise UsageError(
            f"{ports_text(both)}: --expect says that all may see it, --port that a knock opens it; name one"
        )
    knocks = frozenset(there.sequence) if there is not None else frozenset()
    if args.ports is not None:
        ports = _ports("--ports", args.ports) | opens
    else:
        ports = parse_ports(ALL_TCP) | opens | frozenset(_udp_of(there) if may_send_raw() and there else ())
    if not may_send_raw() and any(port.protocol is Protocol.UDP for port in ports):
        raise UsageError(f"{WORTH_UDP}, or leave /udp out")
    asked_s = there.host.for_s if there is not None else None
    wait_s = max(DEFAULT_WAIT_S, (asked_s or 0) + GRACE_S)
    wait_s = seconds("--for", args.wait, wait_s)
    return Question(ports, public, opens, knocks, args.guard, wait_s)


def _udp_of(there: Aim) -> Iterator[Port]:
    """Give the UDP ports that the knock goes to: they must be as silent as the rest."""
    yield from (port for port in there.sequence if port.protocol is Protocol.UDP)
    if there.host.server_key is not None:
        yield there.host.signed_port or DEFAULT_SIGNED_PORT


def _ports(option: str, text: str | None) -> Ports:
    try:
        return parse_ports(text) if text is not None else frozenset()
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _check_means(args: argparse.Namespace) -> None:
    """Find out now what would else be missing after minutes."""
    if not 1 <= args.rate <= HIGHEST_RATE:
        raise UsageError(f"--rate: {args.rate} is no rate; write 1 to {HIGHEST_RATE} packets a second")
    if args.picture is not None:
        if args.picture.suffix != ".svg":
            raise UsageError(f"--picture: {args.picture}: the file name must end in .svg")
        if not args.picture.absolute().parent.is_dir():
            raise UsageError(f"--picture: there is no folder {args.picture.parent}; make it, or name another")
    if shutil.which("nmap") is None:
        raise HostError("the program `nmap` is missing; run `apt install nmap`")


def ways(targets: list[Target]) -> list[tuple[Target, str]]:
    """Give the first target of each family with the address that packets to it come from."""
    first = {target.family: target for target in reversed(targets)}
    ways, faults = [], []
    for family in dict.fromkeys(target.family for target in targets):
        target = first[family]
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(target.at(9))
                source = str(probe.getsockname()[0])
        except OSError as error:
            faults.append(f"{target}: {error.strerror}")
            continue
        if source == str(target) or ip_address(str(target).partition("%")[0]).is_loopback:
            raise UsageError(f"{target} is this machine, where every port can be seen; run this on another one")
        ways.append((target, source))
    if not ways:
        raise HostError(f"no way there: {'; '.join(faults)}; check this machine's network, or try -4 or -6")
    for fault in faults:
        render.complain(f"doorward: warning: not verified, since there is no way from here: {fault}")
    return ways


def _save_picture(path: Path, reports: list[Report]) -> None:
    svg = svg_of(draw([sheet_of(report) for report in reports]), f"doorward verify {reports[0].name}")
    try:
        path.write_text(svg)
    except OSError as error:
        raise HostError(f"--picture: {path} cannot be written: {error.strerror}; name another place") from None
