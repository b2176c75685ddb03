"""`doorward verify`: scan a host from outside, before, during and after a knock."""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNSPEC

from doorward.cli import knock_options, output
from doorward.cli.knock_options import Knock, KnockPlan, only_door, plan_knock, seconds
from doorward.cli.knocker import knocker
from doorward.client.hosts import hosts_path, read_hosts
from doorward.client.sequence import DEFAULT_DELAY_S, Target, first_per_family, resolve
from doorward.config.duration import rough_duration
from doorward.errors import HostError, InvalidValueError, UsageError
from doorward.escape import visible
from doorward.model import Port, Protocol
from doorward.verify.findings import Observations, VerifyRequest, find_problems
from doorward.verify.nmap import DEFAULT_RATE, Scanner, may_send_raw
from doorward.verify.picture import draw, to_svg
from doorward.verify.port_map import cell_kinds, grid_legend, grid_text
from doorward.verify.port_set import Ports, count_text, parse_ports, ports_text
from doorward.verify.run import Probes, quiet_s, run_probes
from doorward.verify.verify_text import (
    VerifyResult,
    as_dict,
    before_text,
    build_sheet,
    closing_text,
    heading_text,
    opening_text,
    verdict_lines,
)

LINE_WIDTH = 78


class Display:
    """The terminal: permanent lines, and a status line below them. With `as_json` only the result is printed."""

    def __init__(self, color: str, *, as_json: bool) -> None:
        self.as_json, self.printer = as_json, output.LevelPrinter(color)
        self._changes = sys.stderr.isatty()
        self._doing = ""
        self._until_s: float | None = None  # the end of the longest wait, on the monotonic clock
        self.colors = output.has_colors(color, sys.stdout) and (sys.stdout.encoding or "").lower() == "utf-8"

    def line(self, text: str) -> None:
        """Print a permanent line."""
        self._show("")
        if not self.as_json:
            output.line(text)
            sys.stdout.flush()

    def set_status(self, text: str, wait_s: float | None = None) -> None:
        """Set the status line, with a countdown of the longest wait if there is one."""
        self._doing = text
        self._until_s = None if wait_s is None else time.monotonic() + wait_s
        self._show(self._status())

    def show_progress(self, percent: float) -> None:
        """Show progress in the status line."""
        is_shown = percent and self._until_s is None
        self._show(f"{self._doing}: {percent:.0f} %" if is_shown else self._status())

    def sleep(self, seconds: float) -> None:
        """Wait, with the status line shown."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._show(self._status())
            time.sleep(min(left_s, 1.0))

    def _status(self) -> str:
        left_s = 0 if self._until_s is None else round(self._until_s - time.monotonic())
        return f"{self._doing} ({left_s} s left)" if left_s > 0 else self._doing

    def _show(self, text: str) -> None:
        if self._changes:
            sys.stderr.write("\r\033[K" + visible(text)[:LINE_WIDTH])
            sys.stderr.flush()


def verify(
    name: str, target: Target, source: str, rate: int, request: VerifyRequest, knock: Knock | None, display: Display
) -> VerifyResult:
    """Verify one address, and print and return the result."""
    began_s = time.monotonic()
    took_s = 0.0

    def on_progress(course: Observations) -> None:
        nonlocal took_s
        took_s = took_s or time.monotonic() - began_s
        _show_progress(course, request, knock is not None, took_s, display)

    def waiting(ports: Ports) -> None:
        nonlocal took_s
        took_s = time.monotonic() - began_s
        verb = "is" if len(ports) == 1 else "are"
        display.line(f"  before  {ports_text(ports)} {verb} open already; waiting {request.wait_s:.0f} s at most")
        display.set_status(f"waiting until {ports_text(ports)} closes", request.wait_s)

    scanner = Scanner(ip_address(str(target)), rate, display.show_progress)
    probes = Probes(scanner.scan, knock and partial(knock, [target]), time.monotonic, display.sleep, waiting)
    scan = "SYN scan" if may_send_raw() else "connect scan"
    display.line(f"{heading_text(name, str(target))}, seen from {source}: {count_text(request.ports)}, {scan}")
    display.set_status(f"looking at {count_text(request.ports)}")
    when = output.format_time(time.time())
    try:
        course = run_probes(request, probes, on_progress)
    finally:
        display.set_status("")
    result = VerifyResult(
        name, str(target), source, when, scan, took_s, request, course, find_problems(request, course)
    )
    _print(result, display)
    return result


def _show_progress(course: Observations, request: VerifyRequest, knocks: bool, took_s: float, display: Display) -> None:
    if course.opening is None:
        display.line(f"  before  {before_text(course.before)}, in {rough_duration(max(1, took_s))}")
        if knocks:
            display.set_status("waiting, then knocking", quiet_s(request.ports))
    elif course.closing is None:
        display.line(f"  knock   {opening_text(course.opening)}")
        if found := course.opening.found:
            display.set_status(f"waiting until {ports_text(found)} closes", request.wait_s)
    else:
        display.line(f"  after   {closing_text(course.opening, course.closing)}")
        display.set_status("")


def _print(result: VerifyResult, display: Display) -> None:
    if display.as_json:
        output.as_json(as_dict(result))
        return
    kinds = cell_kinds(result.observed, result.request.public)
    colors = display.colors
    for text in (*grid_text(kinds, colors=colors), *grid_legend(kinds, colors=colors)):
        output.colored_line(text)
    for text in verdict_lines(result):
        is_remedy = text.startswith(" ")
        display.printer.line(text if is_remedy else ("error" if result.findings else "good", text))


DEFAULT_WAIT_S = 120.0
GRACE_S = 30.0  # added to the duration that a signed knock requests
HIGHEST_RATE = 1_000_000
ALL_TCP = "1-65535"
WORTH_UDP = "UDP needs root; run it with sudo"

EXAMPLE = """\
  # doorward verify home ssh --port 22 --expect 80,443 --picture home.svg
  …
  OK
exit status: 0 as expected; 1 a port answers that should not, or the door does
not open or close in time; 2 usage error, or nmap is missing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.usage = "%(prog)s [OPTION ...] HOST [DOOR or PORT ...]"
    parser.add_argument("host", metavar="HOST", help="name or address, or a host in hosts.toml; not this host")
    parser.add_argument("words", metavar="DOOR or PORT", nargs="*", default=[], help="as for `doorward knock`")
    parser.add_argument("--ports", metavar="LIST", help="scan 1-1024,7000/udp (default: all TCP, UDP of the knock)")
    parser.add_argument("--expect", metavar="LIST", help="ports that anyone may reach, like 80,443")
    parser.add_argument("--port", metavar="LIST", help="what the knock must open (default: anything)")
    parser.add_argument("--for", dest="wait", metavar="TIME", help="the door must close within it (default: 2m)")
    parser.add_argument("--guard", action="store_true", help="mode is guard: ports except the door's may refuse")
    parser.add_argument("--no-knock", action="store_true", help="scan only")
    parser.add_argument(
        "--rate", metavar="N", type=int, default=DEFAULT_RATE, help="packets per second (default: 3000)"
    )
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw every port into an SVG file")
    parser.add_argument("--json", action="store_true", help="one JSON object per address")
    output.add_color(parser)
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="family", action="store_const", const=AF_INET, default=AF_UNSPEC, help="IPv4 only")
    families.add_argument("-6", dest="family", action="store_const", const=AF_INET6, help="IPv6 only")
    # As for `doorward knock`; its other options come from hosts.toml.
    parser.add_argument("--delay", metavar="TIME", help=argparse.SUPPRESS)
    parser.add_argument("--sequence", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Verify the host's first address of each family; return 1 if there are findings."""
    plan = _plan(args)
    request = _build_request(args, plan)
    _check_options(args)
    knock: Knock | None = None
    if plan is not None:
        knock = knocker(plan, seconds("--delay", args.delay, DEFAULT_DELAY_S), False)
    targets = resolve(_address(args.host) if plan is None else plan.host.address, args.family)
    display = Display(args.color, as_json=args.json)
    if not may_send_raw():
        display.line(f"not root: connect scans instead of SYN scans; {WORTH_UDP}")
    results = [
        verify(args.host, target, source, args.rate, request, knock, display) for target, source in find_routes(targets)
    ]
    if args.picture is not None:
        _save_picture(args.picture, results)
    return 1 if any(result.findings for result in results) else 0


def _plan(args: argparse.Namespace) -> KnockPlan | None:
    """Return how to knock; None to scan only: with --no-knock, or if no knock is given or known."""
    if args.no_knock or (not args.words and args.host not in read_hosts(hosts_path())):
        if args.port is not None:
            raise UsageError(
                "no-knock-given",
                "--port is what a knock must open, but no knock is given; name the door or the sequence",
            )
        return None
    knocks = argparse.ArgumentParser()
    knock_options.add_arguments(knocks)
    given = {name: getattr(args, name) for name in ("host", "family", "delay", "sequence")}
    return plan_knock(argparse.Namespace(**vars(knocks.parse_args([])) | given), args.words, only_door)


def _address(host: str) -> str:
    hosts = read_hosts(hosts_path())
    return hosts[host].address if host in hosts else host


def _build_request(args: argparse.Namespace, plan: KnockPlan | None) -> VerifyRequest:
    opens, public = _ports("--port", args.port), _ports("--expect", args.expect)
    if both := opens & public:
        raise UsageError(
            "port-listed-twice",
            f"{ports_text(both)}: listed in --expect (anyone may reach it) and --port (a knock opens it); keep one",
        )
    knocks = frozenset(plan.sequence) if plan is not None else frozenset()
    if args.ports is not None:
        ports = _ports("--ports", args.ports) | opens
    else:
        ports = parse_ports(ALL_TCP) | opens | frozenset(_knock_udp_ports(plan) if may_send_raw() and plan else ())
    if not may_send_raw() and any(port.protocol is Protocol.UDP for port in ports):
        raise UsageError("udp-needs-root", f"{WORTH_UDP}, or leave /udp out")
    asked_s = plan.host.for_s if plan is not None else None
    wait_s = max(DEFAULT_WAIT_S, (asked_s or 0) + GRACE_S)
    wait_s = seconds("--for", args.wait, wait_s)
    return VerifyRequest(ports, public, opens, knocks, args.guard, wait_s)


def _knock_udp_ports(plan: KnockPlan) -> Iterator[Port]:
    """Yield the UDP ports of the knock: they must be as silent as the others."""
    yield from (port for port in plan.sequence if port.protocol is Protocol.UDP)
    if plan.host.server_key is not None:
        yield from plan.host.signed_ports


def _ports(option: str, text: str | None) -> Ports:
    try:
        return parse_ports(text) if text is not None else frozenset()
    except InvalidValueError as error:
        raise UsageError(error.code, f"{option}: {error}") from None


def _check_options(args: argparse.Namespace) -> None:
    """Check early for what would otherwise fail after minutes of scanning."""
    if not 1 <= args.rate <= HIGHEST_RATE:
        raise UsageError(
            "invalid-rate", f"--rate: invalid rate {args.rate}; write 1 to {HIGHEST_RATE} packets per second"
        )
    if args.picture is not None:
        if args.picture.suffix != ".svg":
            raise UsageError("not-svg", f"--picture: {args.picture}: the file name must end in .svg")
        if not args.picture.absolute().parent.is_dir():
            raise UsageError(
                "no-such-directory",
                f"--picture: no such directory: {args.picture.parent}; create it, or choose another",
            )
    if shutil.which("nmap") is None:
        raise HostError("no-nmap", "the program `nmap` is missing; run `apt install nmap`")


def find_routes(targets: list[Target]) -> list[tuple[Target, str]]:
    """Return the first target of each family, with the source address of packets to it."""
    routes, faults = [], []
    for target in first_per_family(targets):
        try:
            with socket.socket(target.family, socket.SOCK_DGRAM) as probe:
                probe.connect(target.at(9))
                source = str(probe.getsockname()[0])
        except OSError as error:
            faults.append(f"{target}: {error.strerror}")
            continue
        if source == str(target) or ip_address(str(target).partition("%")[0]).is_loopback:
            raise UsageError(
                "target-is-self", f"{target} is this host, where every port is visible; run this on another host"
            )
        routes.append((target, source))
    if not routes:
        raise HostError("no-route", f"no route: {'; '.join(faults)}; check this host's network, or try -4 or -6")
    for fault in faults:
        output.error_line(f"doorward: warning: not verified, no route from here: {fault}")
    return routes


def _save_picture(path: Path, results: list[VerifyResult]) -> None:
    svg = to_svg(draw([build_sheet(result) for result in results]), f"doorward verify {results[0].name}")
    try:
        path.write_text(svg)
    except OSError as error:
        raise HostError(
            "unwritable-file", f"--picture: {path} cannot be written: {error.strerror}; choose another path"
        ) from None
