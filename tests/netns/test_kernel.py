"""The kernel, given real packets, opens what the tracker says: the same doors, for the same packets, in order."""

from __future__ import annotations

import itertools
import random
import select
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.config.schema import Gate, Mode, WrongPort
from doorward.config.toml import parse
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.diff import SetChanges
from doorward.core.tracker import Tracker
from doorward.kernel.nflog import LogSocket, NflogEvent, event_log
from doorward.lab.topology import Lab
from doorward.model import (
    DEFAULT_FLAGS,
    Address,
    Door,
    Element,
    FlagFilter,
    HostPort,
    Packet,
    Port,
    PortRange,
    Protocol,
    Redirect,
    SetPort,
    elements_of,
)
from doorward.nftables.chains import LOG_GROUP
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import Ruleset, compile_ruleset
from tests.support.frames import FrameSender
from tests.support.reference import ReferenceAccess

pytestmark = pytest.mark.netns

STREAMS = 240
CAPACITY = 4096
# A busy machine may hold a stream up, and a deadline pass between a packet and the look at the clock: it is sent again.
TRIES, MOST_DELAY_S = 5, 0.1
SYMBOLS = [Port(protocol, number) for protocol in Protocol for number in (1001, 1002, 1003)]
FILTERS = [DEFAULT_FLAGS, FlagFilter.parse(("fin",)), FlagFilter.parse(())]
SENTINEL = Packet(ip_address("198.51.100.250").packed, Port(Protocol.UDP, 60000))
SOURCES = [ip_address(f"198.51.100.{n}").packed for n in (11, 12)] + [
    ip_address(f"2001:db8:2:{net}::{n}").packed for net, n in ((0, 11), (0, 12), (7, 13))
]
TOKEN_S = 0.012  # by when the kernel lets another connection use up an opening of the same port
HOSTS = [ip_address("10.7.0.2"), ip_address("fd07::2")]  # behind the server
Opened = tuple[bytes, str]
# Before conntrack sees it: the SYN that it answers, sent again, is still a new packet.
NO_ANSWERS = "table inet mute { chain output { type filter hook output priority -300; tcp flags rst drop; }; }"


class Attempt(NamedTuple):
    """A packet to a port that a door opens, from a port of its own; the same again is a retransmission."""

    packet: Packet
    source_port: int


class Rig(NamedTuple):
    """A server with the gate, which forwards packets to HOSTS, its log, and a sender of frames."""

    filter: NftFirewall
    log: LogSocket[NflogEvent]
    frames: FrameSender
    lab: Lab

    def load(self, ruleset: Ruleset) -> None:
        self.lab.server.call(self.filter.run, f"{NO_ANSWERS}\n{ruleset.full_text()}")

    def opened(self, ruleset: Ruleset, doors: list[Door]) -> list[Opened]:
        """Read the log up to the sentinel's knock."""
        found: list[Opened] = []
        while True:
            assert select.select([self.log], [], [], 10)[0], "the sentinel's knock did not come"
            for event in self.log.read() or ():
                if event.what == "used":
                    found.append((event.source.packed, f"used from {event.source_port}"))
                if event.what != "knock":
                    continue
                if event.source.packed == SENTINEL.source:
                    return found
                assert event.generation == ruleset.generation
                found += [(event.source.packed, doors[i].name) for i in ruleset.states[event.state]]


@pytest.fixture
def rig(direct_lab: Lab) -> Iterator[Rig]:
    server = direct_lab.server
    server.ip(batch=["link add behind type veth peer name far", "link set behind up", "link set far up"])
    for name, host in (("ipv4/ip_forward", HOSTS[0]), ("ipv6/conf/all/forwarding", HOSTS[1])):
        server.call(Path("/proc/sys/net", name).write_text, "1")
        server.ip("route", "add", str(host), "dev", "behind")
        server.ip("neighbor", "add", str(host), "lladdr", "02:00:00:00:07:02", "dev", "behind")
    frames = FrameSender(direct_lab.client, direct_lab.server)
    log = direct_lab.server.call(event_log, LOG_GROUP)
    yield Rig(NftFirewall(), log, frames, direct_lab)
    log.close()
    frames.close()


def some_doors(dice: random.Random) -> list[Door]:
    keys: dict[tuple[tuple[Port, ...], FlagFilter, int, Address | None], None] = {}
    wanted = dice.randint(2, 20)
    while len(keys) < wanted:
        knock = tuple(dice.choices(SYMBOLS[: dice.randint(2, 6)], k=dice.randint(1, 5)))
        flags, within_ms = dice.choice([DEFAULT_FLAGS, DEFAULT_FLAGS, *FILTERS]), dice.choice([15_000, 15_000, 400])
        keys[knock, flags, within_ms, dice.choice([*6 * [None], *HOSTS])] = None
    doors = []
    for n, (knock, flags, within_ms, target) in enumerate(keys):
        if target is None and dice.random() < 0.6:
            opened = (Port(Protocol.TCP, 2001 + n),)
            doors.append(Door(f"door{n}", knock, opened, within_ms, 30_000, flags, once=dice.random() < 0.8))
            continue
        host, port = target or dice.choice([None, None, *HOSTS]), Port(Protocol.TCP, 2001 + n)
        opens, behind = ((port,), ()) if host is None else ((), (HostPort(*port, host),))
        ends = dice.choice([[], HOSTS, HOSTS[:1], HOSTS[1:]])
        ranges = () if target else dice.choice([(), (PortRange(*port._replace(number=3000 + 10 * n), 3005 + 10 * n),)])
        once = dice.random() < 0.6
        if once and ranges:  # the kernel removes one entry, and the daemon the others
            opens, behind = (), ()
        redirects = tuple(Redirect(each, HostPort(*port, end)) for each in opens for end in ends)
        door = Door(f"door{n}", knock, opens, within_ms, 30_000, flags, target, once=once)
        doors.append(door._replace(behind=behind, ranges=ranges, redirects=redirects))
    return [*doors, Door("sentinel", (SENTINEL.port,), (Port(Protocol.TCP, 2999),))]


def some_packets(dice: random.Random, doors: list[Door], *, pauses: bool) -> Iterator[Packet | Attempt | float]:
    """Pieces of right sequences from interleaved sources, with wrong and ignored packets between, and connections to
    what they open; floats are pauses."""
    ports, latest = itertools.count(10_000), [Attempt(SENTINEL, 0)]
    budget = dict.fromkeys({source[:8] for source in SOURCES}, 36)  # below the burst: its edge is tested elsewhere
    for _ in range(dice.randint(5, 30)):
        source, door = dice.choice(SOURCES), dice.choice(doors[:-1])
        run: list[Port] = list(door.knock)
        there = next(host for host in HOSTS if len(host.packed) == len(source))
        destination = there.packed if door.target == there or dice.random() < 0.1 else None
        ends = destination, destination is None
        if dice.random() < 0.3:
            run.insert(
                dice.randrange(len(run) + 1),
                dice.choice([*SYMBOLS, Port(Protocol.UDP, 9), Port(Protocol.TCP, 2001), Port(Protocol.TCP, 3003)]),
            )
        flags = dice.choice([2, 2, 2, 2, 1, 3, 16, 18, 0, 41])
        for port in run:
            if budget[source[:8]] > 0:
                budget[source[:8]] -= 1
                yield Packet(source, port, flags if port.protocol is Protocol.TCP else 0, *ends)
                if dice.random() < 0.15:
                    budget[source[:8]] -= 1
                    yield Packet(source, port, flags if port.protocol is Protocol.TCP else 0, *ends)
        places: list[tuple[Port, bytes | None]] = [(port, None) for port in door.opens]
        places += [(span.first._replace(number=dice.randint(span.number, span.last)), None) for span in door.ranges]
        places += [(Port(*port[:2]), port.host.packed) for port in door.behind if port.host == there]
        for _ in range(dice.choice([1, 2, 3, 4]) if places else 0):
            port, host = dice.choice(places)
            attempt = Attempt(Packet(source, port, dice.choice([2, 2, 2, 0xC2, 16]), host, host is None), next(ports))
            latest.append(dice.choice([attempt, attempt, latest[-1]]))
            if latest[-1].source_port:
                yield latest[-1]
        if pauses and dice.random() < 0.1:
            yield dice.choice([0.15, 0.5])


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("batch", range(4))
def test_kernel_opens_what_the_tracker_opens(rig: Rig, mode: Mode, batch: int) -> None:
    total = used = 0
    for number in range(STREAMS // 12):
        dice = random.Random(f"{mode} {batch} {number}")
        doors = some_doors(dice)
        known_only = dice.random() < 0.3
        gate = Gate(mode=mode, wrong_port=WrongPort.KNOWN if known_only else WrongPort.ANY)
        automaton = compile_doors(doors, known_only=known_only)
        ruleset = compile_ruleset(doors, automaton, gate, CAPACITY)
        packets = list(some_packets(dice, doors, pauses=number % 8 == 0))
        for _ in range(TRIES):
            rig.load(ruleset)
            before = rig.lab.server.call(rig.filter.counters)["dropped_closed"]
            expected, still_open, rejected, delay_s = sent(rig, automaton, doors, packets)
            opened = rig.opened(ruleset, doors)
            if delay_s < MOST_DELAY_S:
                break
        assert opened == expected, f"seed {mode} {batch} {number}"
        dropped = rig.lab.server.call(rig.filter.counters)["dropped_closed"] - before
        assert dropped == (0 if mode is Mode.OBSERVE else rejected), f"seed {mode} {batch} {number}"
        assert rig.lab.server.call(rig.filter.elements).keys() == still_open, f"seed {mode} {batch} {number}"
        total += len(openings(expected))
        used += len(expected) - len(openings(expected))
    assert total > 20  # the streams do open doors
    assert used > 20  # and connect to them


def openings(log: list[Opened]) -> list[Opened]:
    """Return the lines about doors that opened."""
    return [(source, what) for source, what in log if not what.startswith("used ")]


def sent(
    rig: Rig, automaton: Automaton, doors: list[Door], packets: list[Packet | Attempt | float]
) -> tuple[list[Opened], set[Element], int, float]:
    """Send the packets, the sentinel's last; give what the tracker says, what is open then, how many it drops, and how
    long it took without the pauses."""
    tracker, reference = Tracker(automaton, CAPACITY), ReferenceAccess(doors)
    began_s = time.monotonic() + sum(packet for packet in packets if isinstance(packet, float))
    expected: list[Opened] = []
    still_open = {*elements_of(doors[-1:], ip_address(SENTINEL.source))}
    rejected = 0
    for item in packets:
        if isinstance(item, float):
            time.sleep(item)  # a deadline passes in real time only
            continue
        packet, source_port = item if isinstance(item, Attempt) else (item, 40_000)
        if hidden := set_port_of(doors, packet):
            answer = reference.connect(packet, source_port, time.monotonic())
            rejected += answer == "dropped"
            if answer == "used":
                expected.append((packet.source, f"used from {source_port}"))
                still_open.remove(Element(ip_address(packet.source), hidden, once=True))
                time.sleep(TOKEN_S)  # after another use of the same port
                began_s += TOKEN_S
        rig.frames.send(packet, source_port)
        for index in tracker.feed(packet, time.monotonic_ns()):
            expected.append((packet.source, doors[index].name))
            still_open.update(elements_of([doors[index]], ip_address(packet.source)))
            reference.open(packet.source, index, time.monotonic())
    rig.frames.send(SENTINEL)
    return expected, still_open, rejected, time.monotonic() - began_s


def set_port_of(doors: list[Door], packet: Packet) -> SetPort | None:
    """Return how the open sets name the port of a packet; None if no door opens it."""
    if not packet.local:
        there = HostPort(*packet.port, ip_address(packet.destination or b""))
        return there if any(there in door.behind for door in doors) else None
    spans = [span.first for door in doors for span in door.ranges if span.includes(packet.port)]
    return next(iter([*spans, *(packet.port for door in doors if packet.port in door.opens)]), None)


@pytest.mark.parametrize("opens", ["22/tcp", "20-24/tcp", "10.7.0.2:22/tcp"])
def test_of_two_syns_at_the_same_moment_one_is_dropped(rig: Rig, opens: str) -> None:
    """Two processors may find an opening for one connection at once; here it is there again for the second SYN."""
    (door,) = parse(f'[doors.a]\nopens = ["{opens}"]\nonce = true', "f").doors
    host = HOSTS[0].packed if door.behind else None
    rig.load(compile_ruleset([door], compile_doors([door]), Gate(), CAPACITY))
    syn = Packet(SOURCES[0], Port.parse("22/tcp"), 2, host, host is None)
    open_again = SetChanges(dict.fromkeys(elements_of([door], ip_address(SOURCES[0])), 30.0), frozenset())

    def send_both() -> float:
        """Return how long it took."""
        rig.lab.server.call(rig.filter.apply, open_again)
        began_s = time.monotonic()
        rig.frames.send(syn, 20_001)
        rig.lab.server.call(rig.filter.apply, open_again)
        rig.frames.send(syn, 20_002)
        return time.monotonic() - began_s

    assert any(send_both() < TOKEN_S / 2 for _ in range(100))
    assert rig.lab.server.call(rig.filter.elements).keys() == open_again.put.keys()
