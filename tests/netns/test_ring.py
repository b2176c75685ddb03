"""The packet ring on real packets: with the tracker it opens what the kernel's own automaton opens."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest

from doorward.config.schema import Gate, Mode, WrongPort
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.tracker import Tracker
from doorward.errors import HostError
from doorward.kernel import tpacket as ring_module
from doorward.kernel.bpf import Program, knock_filter
from doorward.kernel.nflog import event_log
from doorward.kernel.sock_diag import listening_ports
from doorward.kernel.tpacket import TpacketRing
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import DEFAULT_FLAGS, Door, Packet, Port, Protocol
from doorward.nftables.chains import LOG_GROUP
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import compile_ruleset
from doorward.packets.packet import EXTENSIONS, parse
from tests.netns.test_kernel import (
    CAPACITY,
    MOST_DELAY_S,
    SENTINEL,
    TRIES,
    Opened,
    Rig,
    openings,
    sent,
    some_doors,
    some_packets,
)
from tests.support.daemon import PATIENCE_S, SLOWNESS
from tests.support.frames import FrameSender, open_tunnel
from tests.support.headers import Extension, ipv4, ipv6, tcp, udp
from tests.support.processes import as_nobody, open_descriptors, own_namespace
from tests.support.programs import KNOCK as DEBIANS_KNOCK
from tests.support.reference import is_knock_packet

pytestmark = pytest.mark.netns

ALL = knock_filter([DEFAULT_FLAGS])
KNOCK = (Port(Protocol.TCP, 7000), Port(Protocol.UDP, 8000), Port(Protocol.TCP, 9000))
SILENCE_S = 0.03 * SLOWNESS  # some times what a packet needs from the wire to the reader
OpenRing = Callable[..., TpacketRing]


@pytest.fixture
def rings(direct_lab: Lab) -> Iterator[OpenRing]:
    """Open rings on the server; they are closed after the test."""
    opened: list[TpacketRing] = []

    def open_ring(*interfaces: str, program: Program = ALL) -> TpacketRing:
        opened.append(direct_lab.server.call(TpacketRing, interfaces, program))
        return opened[-1]

    yield open_ring
    for ring in opened:
        ring.close()


def read_all(ring: TpacketRing, sentinels: int) -> list[tuple[Packet, int]]:
    """Return what the ring brings up to the last of so many sentinels, and in the other family by then."""
    found: list[tuple[Packet, int]] = []
    end_s = time.monotonic() + PATIENCE_S
    while sum(packet.port == SENTINEL.port for packet, _ in found) < sentinels:
        assert select.select([ring], [], [], max(0.0, end_s - time.monotonic()))[0], f"only {found} came"
        found += together(ring)
    found += the_rest(ring)
    return [(packet, at_ns) for packet, at_ns in found if packet.port != SENTINEL.port]


def the_rest(ring: TpacketRing) -> list[tuple[Packet, int]]:
    """Read until nothing has come for a while."""
    found: list[tuple[Packet, int]] = []
    while select.select([ring], [], [], SILENCE_S)[0]:
        found += together(ring)
    return found


def together(ring: TpacketRing) -> list[tuple[Packet, int]]:
    return [(packet, at_ns) for packets, at_ns in ring.read() for packet in packets]


def read(ring: TpacketRing) -> list[tuple[Packet, int]]:
    return read_all(ring, 1)


def numbers(ring: TpacketRing) -> list[int]:
    return [packet.port.number for packet, _ in read(ring)]


def datagrams(host: NamespaceHost, to: object, *ports: int) -> None:
    """Send a UDP datagram to each port, and the sentinel's last."""

    def send() -> None:
        address = ip_address(str(to))
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            for number in (*ports, SENTINEL.port.number):
                sender.sendto(b"knock", (str(address), number))

    host.call(send)


class Frames:
    """Sends IP packets made by hand from the lab's client to its server's interface."""

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.client.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((lab.client.interface, 0))
        self._macs = bytes.fromhex((lab.server.mac + lab.client.mac).replace(":", ""))

    def send(self, *packets: bytes) -> None:
        for packet in (*packets, ipv4(Protocol.UDP, udp(SENTINEL.port.number))):
            ethertype = {4: b"\x08\x00", 6: b"\x86\xdd"}.get(packet[0] >> 4, b"")  # else it brings its own
            self._socket.send(self._macs + ethertype + packet)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def frames(direct_lab: Lab) -> Iterator[Frames]:
    frames = Frames(direct_lab)
    yield frames
    frames.close()


@pytest.fixture
def rig(direct_lab: Lab) -> Iterator[Rig]:
    """The other engine, and who sends the same packets to both."""
    sender = FrameSender(direct_lab.client, direct_lab.server)
    log = direct_lab.server.call(event_log, LOG_GROUP)
    yield Rig(NftFirewall(), log, sender, direct_lab)
    log.close()
    sender.close()


def by_family(opened: Sequence[Opened]) -> tuple[list[Opened], list[Opened]]:
    """Each family has a ring of its own: their packets keep their order among themselves."""
    return [one for one in opened if len(one[0]) == 4], [one for one in opened if len(one[0]) == 16]


def filter_for(automaton: Automaton) -> Program:
    flags = [machine.flags for machine in automaton.machines]
    # The filter does not know which addresses are local, and at a target such a port is a wrong one.
    has_target = any(machine.target for machine in automaton.machines)
    return knock_filter(flags, never=() if has_target else automaton.ignored_ports)


def tracked(ring: TpacketRing, automaton: Automaton, doors: list[Door]) -> list[Opened]:
    tracker = Tracker(automaton, CAPACITY)
    packets = read(ring)
    return [(packet.source, doors[i].name) for packet, at_ns in packets for i in tracker.feed(packet, at_ns)]


@pytest.mark.parametrize("batch", range(4))
def test_ring_and_tracker_open_what_was_sent(rings: OpenRing, rig: Rig, batch: int) -> None:
    total, ring = 0, rings()
    for number in range(25):
        dice = random.Random(f"ring {batch} {number}")
        doors = some_doors(dice)
        automaton = compile_doors(doors, known_only=dice.random() < 0.3)
        ring.set_filter(filter_for(automaton))
        packets = list(some_packets(dice, doors, pauses=number % 8 == 0))
        for _ in range(TRIES):
            log, _, _, delay_s = sent(rig, automaton, doors, packets)
            expected = openings(log)
            found = tracked(ring, automaton, doors)
            if delay_s < MOST_DELAY_S:
                break
        assert by_family(found) == by_family(expected), f"seed {batch} {number}"
        total += len(expected)
    assert total > 20
    assert ring.drops() == 0


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.STEALTH])
def test_ring_and_kernel_open_the_same(rings: OpenRing, rig: Rig, mode: Mode) -> None:
    ring, total = rings(rig.lab.server.interface), 0
    for number in range(25):
        dice = random.Random(f"both {mode} {number}")
        doors = some_doors(dice)
        known_only = dice.random() < 0.3
        automaton = compile_doors(doors, known_only=known_only)
        gate = Gate(mode=mode, wrong_port=WrongPort.KNOWN if known_only else WrongPort.ANY)
        ruleset = compile_ruleset(doors, automaton, gate, CAPACITY)
        ring.set_filter(filter_for(automaton))
        packets = list(some_packets(dice, doors, pauses=number % 8 == 0))
        for _ in range(TRIES):
            rig.load(ruleset)
            _, _, _, delay_s = sent(rig, automaton, doors, packets)
            opened, found = openings(rig.opened(ruleset, doors)), tracked(ring, automaton, doors)
            if delay_s < MOST_DELAY_S:
                break
        assert by_family(found) == by_family(opened), f"seed {mode} {number}"
        total += len(opened)
    assert total > 20


@pytest.mark.netns("knock")
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_knock_of_debian(rings: OpenRing, direct_lab: Lab, family: str) -> None:
    doors = [Door("ssh", KNOCK, (Port(Protocol.TCP, 22),))]
    automaton = compile_doors(doors)
    ring, host = rings(program=filter_for(automaton)), direct_lab.server
    address = str(host.ipv4 if family == "-4" else host.ipv6)
    direct_lab.client.run([DEBIANS_KNOCK, family, address, "7000:tcp", "8000:udp", "9000:tcp", "60000:udp"])
    source = direct_lab.client.ipv4 if family == "-4" else direct_lab.client.ipv6
    assert tracked(ring, automaton, doors) == [(source.packed, "ssh")]


MADE_BY_HAND = [
    ipv4(Protocol.TCP, tcp()),
    ipv4(Protocol.TCP, tcp(flags=0xC2)),
    ipv4(Protocol.TCP, tcp(options=bytes(20)), options=bytes(12)),
    ipv4(Protocol.TCP, tcp(), fragment=0x4000),
    ipv4(Protocol.TCP, tcp(), fragment=0x2000),
    ipv4(Protocol.TCP, tcp()) + bytes(6),
    ipv4(Protocol.UDP, udp()),
    ipv4(Protocol.UDP, udp(0)) + bytes(18),
    ipv4(Protocol.UDP, udp(data=bytes(1400)), options=bytes(40)),
    ipv6(Protocol.TCP, tcp(options=bytes(12))),
    ipv6(Protocol.UDP, udp(data=bytes(1200))),
    *(ipv6(Protocol.TCP, tcp(), chain=[Extension(kind, 2)]) for kind in EXTENSIONS),
    ipv6(Protocol.UDP, udp(), chain=[Extension(kind) for kind in EXTENSIONS]),
]
NOT_FOR_THE_READER = [
    ipv4(Protocol.TCP, tcp(flags=0x10)),
    ipv4(Protocol.TCP, tcp(), fragment=0x2001),
    ipv4(1, bytes(20)),
    ipv6(58, bytes(20)),
    b"\x45" * 20,
]
LIES = [
    ipv4(Protocol.TCP, tcp(), length=39),
    ipv4(Protocol.UDP, udp(), length=27),
    ipv4(Protocol.TCP, tcp(), length=0),
    ipv6(Protocol.TCP, tcp(), length=19),
    ipv6(Protocol.TCP, tcp(flags=0x10), chain=[Extension(43)] * 17),
]


def test_the_ring_reads_as_the_parser(rings: OpenRing, frames: Frames) -> None:
    ring = rings()
    frames.send(*MADE_BY_HAND, *NOT_FOR_THE_READER, *LIES)
    found = [packet for packet, _ in read(ring)]
    expected = [parse(memoryview(raw)) for raw in MADE_BY_HAND]
    assert sorted(found) == sorted(expected)
    assert ring.malformed >= len(LIES)  # and what the hosts say to each other over ICMPv6


def test_flags_that_extension_headers_hide_are_judged_by_the_tracker(rings: OpenRing, frames: Frames) -> None:
    ring = rings()
    frames.send(ipv6(Protocol.TCP, tcp(flags=0x10), chain=[Extension(60)]))
    [(packet, _)] = read(ring)
    assert packet.flags == 0x10
    assert not is_knock_packet(compile_doors([Door("a", KNOCK, ())]), packet)


def test_times_are_the_packets_own_and_never_go_back(rings: OpenRing, direct_lab: Lab) -> None:
    ring = rings()
    spans = []
    for number in range(40):
        before_ns = time.monotonic_ns()
        datagrams(direct_lab.client, direct_lab.server.ipv4, number + 1)
        spans.append((before_ns, time.monotonic_ns()))
    time.sleep(0.05)  # the reader comes late
    times = [at_ns for _, at_ns in read_all(ring, 40)]
    assert times == sorted(times)
    slack_ns = 1_000_000  # the two clocks are read one after the other
    assert all(a - slack_ns <= at_ns <= b + slack_ns for (a, b), at_ns in zip(spans, times, strict=True))


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_wall_clock_that_jumps_moves_no_time_back(
    rings: OpenRing, direct_lab: Lab, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    ring, real = rings(), time.time_ns
    datagrams(direct_lab.client, direct_lab.server.ipv4, 1)
    [(_, first_ns)] = read(ring)
    datagrams(direct_lab.client, direct_lab.server.ipv4, 2)
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump_s * 10**9)
    [(_, second_ns)] = read(ring)
    assert first_ns <= second_ns <= time.monotonic_ns()


def test_what_goes_out_and_loopback_are_not_seen(rings: OpenRing, direct_lab: Lab) -> None:
    ring, on_loopback = rings(), rings("lo")
    datagrams(direct_lab.server, direct_lab.client.ipv4, 1)
    datagrams(direct_lab.server, direct_lab.server.ipv4, 2)
    assert numbers(on_loopback) == [2]
    assert the_rest(ring) == []


def second_wire(lab: Lab) -> None:
    """Join client and server by another pair, eth1 at both ends, 10.1.0.1 and 10.1.0.2."""
    lab.client.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", lab.server.namespace)
    for host, address in ((lab.client, "10.1.0.1/24"), (lab.server, "10.1.0.2/24")):
        host.ip(batch=["link set eth1 up", f"address add {address} dev eth1"])


def test_several_interfaces(rings: OpenRing, direct_lab: Lab) -> None:
    second_wire(direct_lab)
    first, second, both, every = rings("eth0"), rings("eth1"), rings("eth0", "eth1"), rings()
    datagrams(direct_lab.client, direct_lab.server.ipv4, 1)
    datagrams(direct_lab.client, "10.1.0.2", 2)
    assert numbers(first) == [1]
    assert numbers(second) == [2]
    for ring in (both, every):
        assert [packet.port.number for packet, _ in read_all(ring, 2)] == [1, 2]


def test_a_vlan_is_seen_once_and_by_its_own_interface(rings: OpenRing, direct_lab: Lab) -> None:
    try:
        direct_lab.server.ip("link", "add", "link", "eth0", "name", "vlan5", "type", "vlan", "id", "5")
    except HostError:
        pytest.skip("this kernel has no VLANs")
    direct_lab.client.ip("link", "add", "link", direct_lab.client.interface, "name", "vlan5", "type", "vlan", "id", "5")
    for host, address in ((direct_lab.client, "10.5.0.1/24"), (direct_lab.server, "10.5.0.2/24")):
        host.ip(batch=["link set vlan5 up", f"address add {address} dev vlan5"])
    vlan, below, every = rings("vlan5"), rings("eth0"), rings()
    datagrams(direct_lab.client, "10.5.0.2", 5)
    assert numbers(vlan) == [5]
    assert numbers(every) == [5]
    assert the_rest(below) == []


@pytest.mark.parametrize(("tag", "seen"), [(0, [5]), (5, [])], ids=["priority alone", "no VLAN of this host"])
def test_vlan_tag_does_not_bypass_the_filter(rings: OpenRing, frames: Frames, tag: int, seen: list[int]) -> None:
    ring = rings()
    frames.send(b"\x81\x00" + struct.pack("!H", tag) + b"\x08\x00" + ipv4(Protocol.UDP, udp(5)))
    assert numbers(ring) == seen


def test_a_bridge_is_seen_once_and_not_its_port(rings: OpenRing, direct_lab: Lab) -> None:
    server = direct_lab.server
    server.ip(
        batch=[
            f"link add br0 address {server.mac} type bridge",
            f"address delete {server.ipv4}/24 dev eth0",
            "link set eth0 master br0",
            f"address add {server.ipv4}/24 dev br0",
            "link set br0 up",
        ]
    )
    bridge, port, every = rings("br0"), rings("eth0"), rings()
    datagrams(direct_lab.client, server.ipv4, 5)
    assert numbers(bridge) == [5]
    assert numbers(every) == [5]
    assert the_rest(port) == []


def test_an_interface_without_a_link_header(rings: OpenRing, direct_lab: Lab) -> None:
    handle = direct_lab.server.call(open_tunnel, "tun6")
    direct_lab.server.ip("link", "set", "tun6", "up")
    by_name, every = rings("tun6"), rings()
    for packet in (*MADE_BY_HAND, ipv4(Protocol.UDP, udp(SENTINEL.port.number))):
        os.write(handle, packet)
    expected = sorted(parse(memoryview(raw)) for raw in MADE_BY_HAND)
    for ring in (by_name, every):
        assert sorted(packet for packet, _ in read(ring)) == expected
    os.close(handle)


def test_an_interface_comes_goes_and_comes_back(rings: OpenRing, direct_lab: Lab) -> None:
    ring = rings("eth1")
    assert ring.absent == ("eth1",)
    for number in (1, 2, 3):
        second_wire(direct_lab)
        assert the_rest(ring) == []  # it follows when it is read
        assert not ring.absent
        datagrams(direct_lab.client, "10.1.0.2", number)
        assert numbers(ring) == [number]
        direct_lab.server.ip("link", "set", "eth1", "down")
        direct_lab.server.ip("link", "set", "eth1", "up")
        datagrams(direct_lab.client, "10.1.0.2", number)
        assert numbers(ring) == [number]
        direct_lab.server.ip("link", "delete", "eth1")
        assert the_rest(ring) == []
        assert ring.absent == ("eth1",)


def test_a_change_wakes_the_reader(rings: OpenRing, direct_lab: Lab) -> None:
    ring = rings("eth1")
    list(ring.read())
    assert not select.select([ring], [], [], 0)[0]
    second_wire(direct_lab)
    assert select.select([ring], [], [], PATIENCE_S)[0]


def test_addresses_of_its_own_are_followed(rings: OpenRing, direct_lab: Lab) -> None:
    ring, server = rings(), direct_lab.server
    elsewhere = ["203.0.113.9", "2001:db8:9::9", "203.0.113.77"]
    for line in ("203.0.113.0/24 via 198.51.100.2", "2001:db8:9::/64 via 2001:db8:2::2"):
        direct_lab.client.ip("route", "add", *line.split())

    def where() -> list[tuple[str, bool]]:
        for address in elsewhere:
            datagrams(direct_lab.client, address, 7)
        found = [(str(ip_address(p.destination or b"")), p.local) for p, _ in read_all(ring, len(elsewhere))]
        return sorted(found)

    assert where() == [(address, False) for address in sorted(elsewhere)]
    server.ip("address", "add", "203.0.113.9/32", "dev", server.interface)
    server.ip("address", "add", "2001:db8:9::9/128", "dev", server.interface, "nodad")
    assert the_rest(ring) == []
    assert where() == [("2001:db8:9::9", True), ("203.0.113.77", False), ("203.0.113.9", True)]
    server.ip("route", "add", "local", "203.0.113.64/26", "dev", "lo")  # a whole range, which goes with the next change
    server.ip("address", "delete", "2001:db8:9::9/128", "dev", server.interface)
    assert the_rest(ring) == []
    assert where() == [("2001:db8:9::9", False), ("203.0.113.77", True), ("203.0.113.9", True)]


def test_a_full_ring_counts_what_it_loses_and_goes_on(
    rings: OpenRing, frames: Frames, direct_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "BLOCKS", 2)
    ring = rings()
    for _ in range(100):
        frames.send(*MADE_BY_HAND[:1] * 100)
    taken = len(the_rest(ring))
    lost = ring.drops()
    assert lost > 0
    assert taken + lost == 100 * 101
    assert ring.drops() == lost
    frames.send(ipv4(Protocol.UDP, udp(5)))
    assert numbers(ring) == [5]


def test_without_the_right(direct_lab: Lab) -> None:
    with pytest.raises(HostError, match="CAP_NET_RAW"):
        as_nobody(lambda: TpacketRing((), ALL).close())


def test_a_closed_ring_holds_nothing() -> None:
    with own_namespace():
        before = open_descriptors()
        ring = TpacketRing((), ALL)
        assert list(ring.read()) == []
        ring.close()
        assert open_descriptors() == before


def test_ports_on_which_the_host_listens(direct_lab: Lab) -> None:
    def listen() -> list[socket.socket]:
        sockets = []
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 1001)),
            (socket.AF_INET6, socket.SOCK_STREAM, ("::", 1002)),
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 1003)),
            (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 1004)),
            (socket.AF_INET, socket.SOCK_STREAM, (str(direct_lab.server.ipv4), 1005)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("0.0.0.0", 1006)),
            (socket.AF_INET6, socket.SOCK_DGRAM, ("::", 1007)),
            (socket.AF_INET6, socket.SOCK_DGRAM, ("::ffff:127.0.0.2", 1008)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 1009)),
        ):
            sockets.append(socket.socket(family, kind))
            sockets[-1].bind(address)
            if kind == socket.SOCK_STREAM:
                sockets[-1].listen()
        return sockets

    assert direct_lab.server.call(listening_ports) == frozenset()
    sockets = direct_lab.server.call(listen)
    expected = {Port(Protocol.TCP, n) for n in (1001, 1002, 1005)} | {Port(Protocol.UDP, n) for n in (1006, 1007)}
    assert direct_lab.server.call(listening_ports) == expected
    for one in sockets:
        one.close()
    assert direct_lab.server.call(listening_ports) == frozenset()
