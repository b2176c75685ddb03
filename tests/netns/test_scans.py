"""What a scanner sees: nothing in stealth, no knock port in guard, and sweeps that open nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Packet, Port, Protocol
from tests.support.daemon import SLOWNESS, RunningDaemon, Visitor, Visitors, running_daemon, standing_lab, until
from tests.support.effort import EFFORT
from tests.support.frames import ip_packet

pytestmark = pytest.mark.netns("nmap", "knock")

DOORS = """
[gate]
{gate}
[doors.ssh]
knock = ["7002/tcp", "7005/tcp", "7008/tcp"]
opens = ["22/tcp", "500/udp"]
[doors.far]
knock = ["1000/tcp", "20000/tcp", "60000/tcp"]
opens = ["2200/tcp"]
[doors.mixed]
knock = ["5002/udp", "7003/tcp"]
opens = ["2201/tcp"]
"""
SYN = 2
DOOR_PORTS = {"tcp": {22, 2200, 2201}, "udp": {500}}
KNOCK_PORTS = {"tcp": {7002, 7003, 7005, 7008, 1000, 20000, 60000}, "udp": {5002}}
OTHER_PORTS = {"tcp": {7001, 7004, 7006, 1001, 60001, 500, 5002}, "udp": {22, 7002, 5001, 5003, 501}}
TCP_SCANS = {"SYN": "-sS", "ACK": "-sA", "FIN": "-sF", "NULL": "-sN", "Xmas": "-sX"}
SCANS = {**TCP_SCANS, "UDP": "-sU"}
HASTE = ("-n", "-Pn", "-T5", "--max-retries", "1", "--max-rtt-timeout", "80ms", "--initial-rtt-timeout", "60ms")

SWEEP_S = 240 * SLOWNESS  # a busy machine; otherwise 6 s


class Scanned(NamedTuple):
    """What nmap says of one port, and why."""

    state: str
    reason: str


class Target(NamedTuple):
    """A server behind a gate."""

    lab: Lab
    daemon: RunningDaemon
    visitors: Visitors


def guarded(folder: Path, gate: str) -> Iterator[Target]:
    with standing_lab() as lab:
        lab.server.call(answer_every_datagram)
        for port in DOOR_PORTS["tcp"]:
            lab.server.start_greeter(port)
        with running_daemon(lab.server, folder, DOORS.format(gate=gate)) as daemon:
            yield Target(lab, daemon, Visitors(lab))


def answer_every_datagram() -> None:
    """Lift the limit on ICMP errors, so that closed UDP ports answer alike."""
    for name in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        Path("/proc/sys/net", name).write_text("0")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from guarded(tmp_path_factory.mktemp("guard"), 'mode = "guard"')


@pytest.fixture(scope="module")
def stealth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from guarded(tmp_path_factory.mktemp("stealth"), 'mode = "stealth"')


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def nmap(
    host: NamespaceHost, target: NamespaceHost, version: int, *words: str, timeout_s: float = 60 * SLOWNESS
) -> dict[int, Scanned]:
    address = target.ipv4 if version == 4 else target.ipv6
    command = ["nmap", *(["-6"] if isinstance(address, IPv6Address) else []), "-oX", "-", "-d", *words, address]
    report = ElementTree.fromstring(host.run(command, timeout_s=timeout_s).stdout)  # noqa: S314 (our own nmap)
    found: dict[int, Scanned] = {}
    for port in report.iter("port"):
        state = port.find("state")
        assert state is not None
        found[int(port.attrib["portid"])] = Scanned(state.attrib["state"], state.attrib["reason"])
    return found


def ports_of(kind: str) -> tuple[set[int], set[int], set[int]]:
    protocol = "udp" if kind == "UDP" else "tcp"
    return DOOR_PORTS[protocol], KNOCK_PORTS[protocol], OTHER_PORTS[protocol]


def scan(target: Target, version: int, kind: str) -> dict[int, Scanned]:
    wanted = set[int]().union(*ports_of(kind))
    # In ascending order (-r): at random, one scan in 40 knocks at the three ports of `far` by chance.
    words = (SCANS[kind], *HASTE, "-r", "-p", ",".join(map(str, sorted(wanted))))
    found = nmap(target.lab.client, target.lab.server, version, *words)
    assert found.keys() == wanted
    return found


@pytest.mark.parametrize("kind", SCANS)
def test_stealth_is_silent_everywhere(stealth: Target, version: int, kind: str) -> None:
    unsure = kind in ("FIN", "NULL", "Xmas", "UDP")
    silent = Scanned("open|filtered" if unsure else "filtered", "no-response")
    assert {port: answer for port, answer in scan(stealth, version, kind).items() if answer != silent} == {}


@pytest.mark.parametrize("kind", SCANS)
def test_guard_hides_its_doors_and_shows_no_knock_port(guard: Target, version: int, kind: str) -> None:
    found = scan(guard, version, kind)
    doors, knocks, others = ports_of(kind)
    assert {found[port].reason for port in doors} == {"no-response"}
    (answer,) = {found[port] for port in others}
    assert {found[port] for port in knocks} == {answer}
    assert answer.reason in ("reset", "port-unreach")


def test_guard_answers_alike_in_the_middle_of_a_knock(guard: Target, version: int) -> None:
    visitor = guard.visitors.fresh(version)
    answers = {visitor_sees(visitor, port) for port in (7002, 7005, 7004, 7002, 7005, 1000, 1001)}
    assert answers == {"ConnectionRefusedError"}


SWEEPS = [  # the soak takes all
    pytest.param(4, False, id="ipv4-random"),
    pytest.param(6, True, id="ipv6-ascending"),
    pytest.param(6, False, id="ipv6-random"),
    pytest.param(4, True, id="ipv4-ascending"),
]


def visitor_sees(visitor: Visitor, port: int) -> str:
    try:
        visitor.connect(port).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


@pytest.mark.parametrize(("version", "in_order"), SWEEPS if EFFORT > 1 else SWEEPS[:2])
def test_a_sweep_over_all_ports_opens_nothing(guard: Target, version: int, in_order: bool) -> None:
    before = guard.daemon.counters()["throttled"]
    ports = list(range(1, 1 << 16))
    if not in_order:
        random.Random(version).shuffle(ports)
    sweep(guard, version, ports)
    until(lambda: guard.daemon.counters()["throttled"] > before + 30_000)  # it did come by
    assert opened_nothing(guard)


def sweep(target: Target, version: int, ports: list[int]) -> None:
    """Send a SYN to each port, as fast as it goes: nmap takes ten times the processor time for the same packets."""
    client, server = target.lab.client, target.lab.server
    source, destination = (client.ipv4, server.ipv4) if version == 4 else (client.ipv6, server.ipv6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with client.call(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
        for port in ports:
            packet = Packet(source.packed, Port(Protocol.TCP, port), SYN)
            wire.sendto(ip_packet(packet, destination), (str(destination), 0))


def nmap_quietly(target: Target, version: int, *words: str) -> None:
    address = target.lab.server.ipv4 if version == 4 else target.lab.server.ipv6
    target.lab.client.run(["nmap", *(["-6"] if version == 6 else []), *words, address], timeout_s=SWEEP_S)


def opened_nothing(target: Target) -> bool:
    return target.daemon.elements() == {} and [e for e in target.daemon.log() if e["event"] == "opened"] == []


SLOWLY = ("-r", "-sS", "-n", "-Pn", "--max-retries", "0", "--max-rate", "16", "--scan-delay", "62ms", "-p", "7000-7010")


def test_a_slow_ascending_sweep_opens_nothing(guard: Target, version: int) -> None:
    before = guard.daemon.counters()
    nmap_quietly(guard, version, *SLOWLY)
    assert guard.daemon.counters()["throttled"] == before["throttled"]  # each was a symbol
    assert opened_nothing(guard)


def test_the_same_slow_sweep_opens_where_only_known_ports_count(tmp_path: Path) -> None:
    """The sweep of the test before does knock; it is `wrong_port = "any"` that keeps the door shut."""
    for target in guarded(tmp_path, 'wrong_port = "known"'):
        nmap_quietly(target, 4, *SLOWLY, "--exclude-ports", "7003")
        target.daemon.event("opened", door="ssh", address=str(target.lab.client.ipv4))


def test_observe_matches_and_drops_nothing(tmp_path: Path) -> None:
    for target in guarded(tmp_path, 'mode = "observe"'):
        for version in (4, 6):
            found = scan(target, version, "SYN")
            assert {port for port, answer in found.items() if answer.state == "open"} == DOOR_PORTS["tcp"]
            assert {answer.state for answer in found.values()} == {"open", "closed"}
            assert {answer.reason for answer in scan(target, version, "UDP").values()} == {"port-unreach"}
            visitor = target.visitors.fresh(version)
            assert visitor.gets_in()
            visitor.knock_and_connect(7002, 7005, 7008).close()
            target.daemon.event("opened", door="ssh", address=str(visitor))
        counted = target.daemon.counters()
        assert (counted["dropped_closed"], counted["dropped_stealth"]) == (0, 0)
