"""The shield in the kernel against the tracker, packet by packet, on one clock (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.config.schema import Gate, Mode, Shield, WrongPort
from doorward.config.toml import parse
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.port_access import SYN_S
from doorward.core.tracker import Tracker
from doorward.errors import HostError, MalformedError
from doorward.model import DEFAULT_FLAGS, Address, Door, FlagFilter, Packet, Port, Protocol
from doorward.nftables.ban_sets import ban_network
from doorward.shield import libbpf, tables
from doorward.shield.opening_slots import slot_of
from tests.support import shield_object, shields
from tests.support.effort import EFFORT
from tests.support.errors import raises
from tests.support.shields import DROP, PASS, RunnableProgram

PORTS = [Port.parse(f"{1000 + n}/{'tcp' if n % 3 else 'udp'}") for n in range(5)]
SIGNED = [Port.parse(text) for text in ("90/tcp", "91/tcp", "92/tcp", "62201/udp", "62202/udp")]
SSH, WEB, DHCP = Port.parse("22/tcp"), Port.parse("80/tcp"), Port.parse("68/udp")
OTHERS = [Port.parse("7/tcp"), SSH, WEB, DHCP]
SOURCES = [
    ip_address(text).packed for text in ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
]
KEY = b"key"
SYN = 2

SERVER = shields.SERVER[6]
TARGET = ip_address("198.51.100.2")  # an own address, which a door may have as its target
FLAGS = [FlagFilter.parse(words) for words in (("syn", "!ack"), ("fin",), ("ack", "!psh"), ("!syn",), ())]

sequences = st.lists(st.sampled_from(PORTS), min_size=1, max_size=5).map(tuple)
groups = st.lists(
    st.tuples(st.sampled_from(FLAGS), st.sampled_from([15_000, 2000])), min_size=1, max_size=5, unique=True
)


@st.composite
def several_doors(draw: st.DrawFn) -> list[Door]:
    """Doors of one automaton, or of several with different last packets each; one of them may have a target."""
    kinds = draw(st.one_of(st.just([(DEFAULT_FLAGS, 15_000)]), groups))
    last = dict(zip(kinds, draw(st.permutations(PORTS)), strict=False)) if len(kinds) > 1 else {}
    knocks = draw(st.lists(st.tuples(st.sampled_from(kinds), sequences), min_size=1, max_size=8, unique=True))
    found = [
        Door(f"d{n}", (*knock[:4], last[kind]) if last else knock, (SSH,), flags=kind[0], within_ms=kind[1])
        for n, (kind, knock) in enumerate(knocks)
    ]
    behind = Door("behind", (PORTS[0],), (SSH,), target=TARGET)
    return [*found, *([behind] if draw(st.integers(0, 3)) == 0 else [])]


pauses_ms = st.sampled_from([0, 0, 0, 1, 5, 20, 49, 50, 51, 300, 1950, 2000, 14_999, 15_000, 16_000])
flags = st.sampled_from([SYN] * 6 + [1, 16, 18, 3, 24])
packets = st.tuples(st.sampled_from(SOURCES), st.sampled_from(PORTS * 4 + OTHERS))
bursts = st.tuples(pauses_ms, packets, st.sampled_from([1] * 12 + [2, 3, 45]), flags)
follows = st.tuples(st.just(0), st.tuples(st.sampled_from(SOURCES), st.integers(0, 8)), st.just(0), st.just(0))


def tables_of(gate: Gate, automaton: Automaton, doors: Sequence[Door] = ()) -> tables.ShieldTables:
    made = tables.compile_tables(gate, automaton, doors, [WEB, *SIGNED], KEY)
    assert tables.parse_tables(made.pack()) == made
    return made


@contextmanager
def loaded(
    made: tables.ShieldTables, sets: int = 1 << 10, objects: Sequence[Path] = libbpf.OBJECTS
) -> Iterator[RunnableProgram]:
    shield_object.compiled()
    try:
        with patch.object(libbpf, "OBJECTS", objects):
            program = RunnableProgram(made, sets)
    except HostError as error:
        shield_object.cannot_load(str(error))
    try:
        for address in shields.SERVER.values():
            program.set_local(address, is_local=True)
        yield program
    finally:
        program.close()


@settings(max_examples=25 * EFFORT)
@given(
    several_doors(),
    st.sampled_from(WrongPort),
    st.booleans(),
    st.sampled_from([Shield.ON, Shield.XDP]),
    st.sampled_from([Mode.STEALTH, Mode.STEALTH, Mode.GUARD]),
    st.lists(st.one_of(bursts, bursts, follows), min_size=200, max_size=400),
)
def test_shield_and_tracker_complete_the_same_knocks(
    doors: Sequence[Door],
    wrong_port: WrongPort,
    plain: bool,
    shield: Shield,
    mode: Mode,
    steps: Sequence[tuple[int, tuple[bytes, Port | int], int, int]],
) -> None:
    automaton = compile_doors(doors, public=[WEB], known_only=wrong_port is WrongPort.KNOWN)
    gate = Gate(mode=mode, shield=shield, wrong_port=wrong_port)
    assert tables.unsupported(gate, automaton) == ""
    machines, known = tables.shielded_machines(automaton), automaton.known_ports or {*PORTS, *OTHERS}
    made, tracker = tables_of(gate, automaton, doors), Tracker(automaton, 1 << 16)
    now_ms, open_slots = 100_000, set[int]()
    with loaded(made, objects=[libbpf.PLAIN] if plain and not made.needs_conntrack else libbpf.OBJECTS) as program:
        program.openings().complete()
        for pause_ms, (source, what), times, some_flags in steps:
            now_ms += pause_ms
            program.renew(0, now_ms)
            ports = doors[what % len(doors)].knock if isinstance(what, int) else [what] * times
            tcp_flags = wanted_flags(doors[what % len(doors)]) if isinstance(what, int) else some_flags
            frames = [shields.frame(source, port, tcp_flags) for port in ports]
            for port, (verdict, priority) in zip(ports, program.run_together(frames), strict=True):
                if made.targets and len(source) == 4:
                    assert (verdict, priority) == (PASS, 0)
                    continue
                packet = Packet(source, port, tcp_flags, None, local=True)
                opened = [move.state for move in tracker.transitions(packet, now_ms * 1_000_000) if move.opened]
                open_slots |= {slot_of(ip_address(source))} if opened else set()
                passes = opened or port in (WEB, DHCP) or (port != SSH and mode is Mode.GUARD)
                passes = passes or (port == SSH and slot_of(ip_address(source)) in open_slots)
                begins = port.protocol is Protocol.UDP or tcp_flags & 18 == SYN
                assert verdict == (PASS if passes or not (begins or program.asks_conntrack) else DROP)
                counts = any(machine.matches(packet) for machine in machines) and port not in automaton.ignored_ports
                is_marked = counts and verdict == PASS and port in known
                marked = made.token if opened else made.counted
                assert priority == (marked if is_marked else 0) | sum(opened)


def wanted_flags(door: Door) -> int:
    return next(flags for flags in (SYN, 1, 16) if door.flags.passes(flags))


@pytest.mark.parametrize(
    "knocks",
    [
        [(DEFAULT_FLAGS, PORTS[1:4]), (DEFAULT_FLAGS, [PORTS[0], PORTS[4]])],
        [(DEFAULT_FLAGS, PORTS[:3]), (DEFAULT_FLAGS, [PORTS[2], PORTS[1]])],
        [(FLAGS[1], [PORTS[1], PORTS[0], PORTS[2]])],
        [(DEFAULT_FLAGS, [DHCP, PORTS[0], PORTS[2]])],
    ],
)
def test_order_of_packets_that_a_driver_reads_together(knocks: Sequence[tuple[FlagFilter, Sequence[Port]]]) -> None:
    """The program at XDP has seen the last one before that at tcx sees the first."""
    doors = [Door(f"d{n}", tuple(knock), (SSH,), flags=flags) for n, (flags, knock) in enumerate(knocks)]
    gate = Gate(mode=Mode.STEALTH, shield=Shield.XDP)
    frames = [shields.frame(SOURCES[0], port, wanted_flags(door)) for door in doors for port in door.knock]
    with loaded(tables_of(gate, compile_doors(doors, public=[WEB]))) as program:
        program.renew(0, 1000)
        program.openings().complete()
        found = program.run_together([*frames, shields.frame(SOURCES[0], SSH)])
        ends = {sum(len(door.knock) for door in doors[: n + 1]) - 1 for n in range(len(doors))}
        opened = {at for at, (_, priority) in enumerate(found) if priority not in (0, program.tables.counted)}
        assert opened == ends
        assert found[-1] == (PASS, 0)
        assert program.run(shields.frame(SOURCES[1], SSH)) == (DROP, 0)


EVERYTHING = """
[gate]
mode = "stealth"
shield = "on"
public = ["80/tcp", "90-92/tcp"]
[signed]
port = "62201/udp"
browser = true
[fwknop]
port = "62202/udp"
[fwknop.stanzas.alice]
doors = ["ssh"]
[doors.ssh]
knock = ["1000/udp", "1001/tcp", "1002/tcp"]
opens = ["22/tcp"]
once = true
[doors.mosh]
opens = ["60000-60010/udp", "2222/tcp -> 10.7.0.2:22", "2223/udp -> 10.7.0.2:53", "10.7.0.3:25/tcp"]
"""


@pytest.mark.parametrize(
    "text", ["22/tcp", "80/tcp", "91/tcp", "2222/tcp", "2223/udp", "60005/udp", "62201/udp", "62202/udp"]
)
def test_ports_that_the_gate_opens_or_reads_pass(text: str) -> None:
    """Those for one connection, of ranges, forwarded, and for signed knocks of any form; they reset no knock."""
    port = Port.parse(text)
    with loaded(everything()) as program:
        program.renew(0, 1000)
        for knock in PORTS[:2]:
            assert program.run(shields.frame(SOURCES[0], knock)) == (DROP, 0)
            assert program.run(shields.frame(SOURCES[0], port)) == (PASS, 0)
        assert program.run(shields.frame(SOURCES[0], PORTS[2]))[1] != 0


def test_openings_are_noted_for_longer_than_they_last() -> None:
    """One for one connection: its SYN may be sent again after that, and the gate accepts it."""
    source, made = ip_address(SOURCES[0]), everything()
    with loaded(made) as program:
        slots = program.openings()
        program.renew(0, 1000)
        for knock in PORTS[:3]:
            program.run(shields.frame(source.packed, knock))
        slots.note(source, time.monotonic() + 30)
        for until_s in slots._words[2 * slot_of(source) :][:2]:
            assert 0 < until_s - time.monotonic() - 30 - SYN_S < 10


def test_host_behind_this_one_is_left_to_the_gate() -> None:
    """What is for its address passes; its port at this host's own address is any other port, and resets a knock."""
    behind, inner = Port.parse("25/tcp"), ip_address("10.7.0.3").packed
    with loaded(everything()) as program:
        program.renew(0, 1000)
        for own, is_complete in ((False, True), (True, False)):
            for knock in PORTS[:2]:
                program.run(shields.frame(SOURCES[0], knock))
            to = None if own else inner
            assert program.run(shields.frame(SOURCES[0], behind, destination=to)) == (DROP if own else PASS, 0)
            assert bool(program.run(shields.frame(SOURCES[0], PORTS[2]))[1]) == is_complete


@pytest.mark.parametrize(
    ("gate", "changes", "reason"),
    [
        (Gate(mode=Mode.OBSERVE), {}, "drops nothing"),
        (Gate(mode=Mode.GUARD), {}, ""),
        (Gate(mode=Mode.STEALTH), {"knock": ()}, "has a port sequence"),
        (Gate(mode=Mode.STEALTH), {"target": ip_address("10.7.0.2")}, "without `target`"),
        (Gate(mode=Mode.STEALTH), {"flags": FlagFilter.parse(("fin",))}, ""),
        (Gate(mode=Mode.STEALTH), {}, ""),
    ],
)
def test_gates_that_it_does_not_fit(gate: Gate, changes: dict[str, Any], reason: str) -> None:
    door = Door("ssh", tuple(PORTS[:3]), (SSH,))._replace(**changes)
    found = tables.unsupported(gate, compile_doors([door]))
    assert reason in found
    assert bool(found) == bool(reason)


def test_bounds_of_several_automata() -> None:
    """A priority has one state: a packet that completes knocks of two automata could open for one of them only."""
    gate = Gate(mode=Mode.STEALTH)
    many = [Door(f"d{n}", (PORTS[0], Port.parse(f"{n + 1}/tcp")), (SSH,), within_ms=1000 + n) for n in range(9)]
    assert tables.unsupported(gate, compile_doors(many[:8])) == ""
    assert "more than 8" in tables.unsupported(gate, compile_doors(many))
    ends_alike = [many[0], many[1]._replace(knock=many[0].knock[1:])]
    assert "same last knock packet" in tables.unsupported(gate, compile_doors(ends_alike))


@pytest.mark.parametrize("path", libbpf.OBJECTS)
def test_eight_automata(path: Path) -> None:
    """All programs load: what the verifier does for each automaton must not double with the next."""
    if path == libbpf.ASKING:
        shields.needs_conntrack()
    knocks = [(PORTS[0], Port.parse(f"{n + 1}/tcp")) for n in range(8)]
    doors = [Door(f"d{n}", knock, (SSH,), within_ms=1000 + n) for n, knock in enumerate(knocks)]
    automaton = compile_doors(doors)
    made = tables_of(Gate(mode=Mode.STEALTH, shield=Shield.XDP), automaton)
    with loaded(made, objects=[path]) as program:
        program.renew(0, 1000)
        for machine, (first, last) in zip(automaton.machines, knocks, strict=True):
            program.run(shields.frame(SOURCES[0], first))
            assert program.run(shields.frame(SOURCES[0], last)) == (PASS, made.token | machine.root + 2)


def test_rate_limit_resets_every_automaton() -> None:
    """Also one whose flags the packets do not have that exceed it."""
    fin = Door("fin", (PORTS[1], PORTS[2]), (SSH,), flags=FLAGS[1])
    made = tables_of(Gate(mode=Mode.STEALTH), compile_doors([Door("syn", (PORTS[4],), (SSH,)), fin]))
    with loaded(made) as program:
        for source, syns, is_complete in ((SOURCES[0], 39, True), (SOURCES[1], 41, False), (SOURCES[2], 41, False)):
            program.renew(0, 1000)
            program.run(shields.frame(source, PORTS[1], 1))
            for _ in range(syns):
                program.run(shields.frame(source, OTHERS[0]))
            program.renew(0, 1200)
            _, priority = program.run(shields.frame(source, PORTS[2], 1))
            assert (priority not in (0, made.counted)) == is_complete


def test_flags_of_established_connections_need_conntrack() -> None:
    fin = Door("fin", tuple(PORTS[:2]), (SSH,), flags=FLAGS[1])
    made = tables_of(Gate(mode=Mode.STEALTH), compile_doors([fin]))
    shield_object.compiled()
    with patch.object(libbpf, "OBJECTS", [libbpf.PLAIN]), raises(HostError, "shield-flags"):
        RunnableProgram(made, 1 << 10)


@pytest.mark.parametrize("source", [SOURCES[0], SOURCES[2]])
def test_packets_of_banned_sources_do_not_count(source: bytes) -> None:
    """A knock that began under a ban opens nothing after it, as in the gate."""
    ban = ban_network(ip_address(source))
    later_ns = time.monotonic_ns() + 10**12
    with loaded(compiled(*PORTS[:2])) as program:
        for end_ns, is_ignored in ((later_ns, True), (1, False), (later_ns, True), (0, False)):
            program.set_bans(tables.parse_bans(tables.pack_bans({ban: end_ns})))
            program.renew(0, 1000)
            assert program.run(shields.frame(source, PORTS[0])) == (DROP, 0)
            program.set_bans(tables.parse_bans(tables.pack_bans({ban: 0})))
            verdict, _ = program.run(shields.frame(source, PORTS[1]))
            assert verdict == (DROP if is_ignored else PASS)


OWN_IPV4 = shields.SERVER[4]


@pytest.mark.parametrize(
    "destination",
    [bytes(10) + b"\xff\xff" + OWN_IPV4, b"\xff" * 12 + OWN_IPV4, bytes(12) + OWN_IPV4, ip_address("ff02::1").packed],
)
def test_ipv6_destinations_made_of_the_ipv4_address_are_not_local(destination: bytes) -> None:
    with loaded(compiled(PORTS[0])) as program:
        program.renew(0, 1000)
        for port in (PORTS[0], OTHERS[0]):
            assert program.run(shields.frame(SOURCES[2], port, destination=destination)) == (PASS, 0)


def test_packets_to_the_loopback_address_of_ipv6_pass() -> None:
    """The kernel rejects them at a device before the gate sees them."""
    loopback = ip_address("::1").packed
    with loaded(compiled(PORTS[0])) as program:
        program.set_local(loopback, is_local=True)
        program.renew(0, 1000)
        assert program.run(shields.frame(SOURCES[2], PORTS[0], destination=loopback)) == (PASS, 0)


LIKE_IPV4 = ip_address("100:0:a00:1::1")  # its first eight bytes have 1 and 10.0.0.1, as numbers in little endian


@pytest.mark.parametrize("source", [LIKE_IPV4, ip_address("ffff:ffff:a00:1::"), ip_address("::ffff:10.0.0.1")])
def test_ipv6_sources_made_of_an_ipv4_address_change_nothing_for_it(source: Address) -> None:
    """Neither its bucket nor its progress in any automaton."""
    doors = [Door("a", (PORTS[0], PORTS[3]), (SSH,)), Door("b", (PORTS[0], PORTS[1]), (SSH,), within_ms=9000)]
    with loaded(tables_of(Gate(mode=Mode.STEALTH), compile_doors(doors))) as program:
        program.renew(0, 1000)
        program.run(shields.frame(SOURCES[0], PORTS[0]))
        for _ in range(50):
            program.run(shields.frame(source.packed, OTHERS[0]))
        assert program.run(shields.frame(SOURCES[0], PORTS[1]))[0] == PASS


def test_ban_of_a_network_made_of_an_ipv4_address_is_not_one_of_that() -> None:
    with loaded(compiled(PORTS[0])) as program:
        program.set_bans(tables.parse_bans(tables.pack_bans({ban_network(LIKE_IPV4): 2**62})))
        program.renew(0, 1000)
        assert program.run(shields.frame(SOURCES[0], PORTS[0]))[0] == PASS


def everything() -> tables.ShieldTables:
    configuration = parse(EVERYTHING, "test")
    public = (*configuration.gate.public, *configuration.signed_ports)
    automaton = compile_doors(configuration.doors, public=public)
    assert tables.unsupported(configuration.gate, automaton) == ""
    return tables_of(configuration.gate, automaton, configuration.doors)


def compiled(*knock: Port) -> tables.ShieldTables:
    return tables_of(Gate(mode=Mode.STEALTH), compile_doors([Door("ssh", knock, (SSH,))], public=[WEB]))


def test_token_of_others_is_cleared() -> None:
    """Also on packets that pass: public ports, fragments, other protocols."""
    made = compiled(*PORTS[:3])
    with loaded(made) as program:
        program.renew(0, 1000)
        for port in (WEB, SSH, PORTS[2], DHCP):
            for forged in (made.token | 4, made.counted):
                _, priority = program.run(shields.frame(SOURCES[0], port), forged)
                assert priority == (made.counted if port == DHCP else 0)
        assert program.run(shields.frame(SOURCES[0], WEB), 6) == (PASS, 6)  # other priorities are others' own


def test_it_can_leave_drops_to_the_gate() -> None:
    """It counts as before; and with another token the gate counts itself."""
    made = compiled(*PORTS[:2])
    with loaded(made) as program:
        for drops in (True, False, True):
            for now_ms, port in enumerate((OTHERS[0], *PORTS[:2]), 100_000):
                program.renew(0, now_ms, drops=drops)
                state = made.root + 2 if port == PORTS[1] else 0
                passes = PASS, made.token | state if state else made.counted
                judged = (DROP, 0) if drops and not state else passes
                assert program.run(shields.frame(SOURCES[0], port)) == judged
            assert program.run(shields.frame(SOURCES[0], DHCP)) == (PASS, made.counted)


def test_sources_are_forgotten_only_near_the_start() -> None:
    """A full table: sources one packet in give way, a source two packets in and one over the rate do not."""
    made = compiled(*PORTS[:3])
    first, second, third = PORTS[:3]
    with loaded(made, sets=1) as program:
        program.renew(0, 1000)
        ahead, limited = (ip_address(text).packed for text in ("10.9.0.1", "10.9.0.2"))
        for port in (first, second):
            program.run(shields.frame(ahead, port))
        for _ in range(41):
            program.run(shields.frame(limited, first))
        for number in range(200):
            program.run(shields.frame(ip_address(f"10.8.0.{number}").packed, first))
        counters = program.counters()
        assert counters["evicted"] > 100
        assert program.run(shields.frame(limited, first)) == (DROP, 0)
        assert program.counters()["throttled"] == counters["throttled"] + 1
        assert program.run(shields.frame(ahead, third)) == (PASS, made.token | 4)


def test_all_addresses_of_a_network_can_knock() -> None:
    """Each has its state in a set of its own, so that as many can knock at once as one by one."""
    made = compiled(*PORTS[:3])
    network = [ip_address(f"2001:db8::{number}").packed for number in range(1, 10)]
    with loaded(made) as program:
        program.renew(0, 1000)
        for port in PORTS[:2]:
            for source in network:
                assert program.run(shields.frame(source, port)) == (DROP, 0)
        for source in network:
            assert program.run(shields.frame(source, PORTS[2])) == (PASS, made.token | 4)
        assert program.counters()["no_room"] == 0


def test_sources_that_completed_a_knock_give_way() -> None:
    made = compiled(*PORTS[:3])
    with loaded(made, sets=1) as program:
        for number in range(8):
            program.renew(0, 1000 + number * 300)
            source = ip_address(f"10.9.0.{number}").packed
            assert [program.run(shields.frame(source, port))[0] for port in PORTS[:3]] == [DROP, DROP, PASS]


@pytest.mark.parametrize(("form", "most"), [("10.9.0.{}", 96), ("2001:db8:0:{}::1", 96)])
def test_evicted_counts_the_knocks_that_were_forgotten(form: str, most: int) -> None:
    """Whatever their buckets; not sources that lose nothing: without progress, or past their deadline."""
    with loaded(compiled(*PORTS[:3]), sets=1) as program:
        for number in range(100):
            program.renew(0, 1000 + 100 * number)
            program.run(shields.frame(ip_address(form.format(number)).packed, PORTS[0]))
        assert program.counters()["evicted"] == most
        program.renew(0, 30_000)
        send(program, form, 20, OTHERS[0])
        assert program.counters()["evicted"] == most


def test_packets_of_a_network_over_the_rate_are_counted() -> None:
    """Also from addresses that the shield does not know."""
    with loaded(compiled(*PORTS[:3])) as program:
        program.renew(0, 1000)
        send(program, "2001:db8::{}", 100, PORTS[0])
        assert program.counters()["throttled"] == 60


@pytest.mark.parametrize("form", ["10.9.0.{}", "2001:db8:0:{}::1"])
def test_first_knocks_of_others_leave_room_for_a_knock(form: str) -> None:
    made = compiled(*PORTS[:3])
    with loaded(made, sets=64) as program:
        program.renew(0, 1000)
        send(program, "10.8.0.{}", 250, PORTS[0])
        program.renew(0, 2000)
        assert send(program, form, 20, *PORTS[:3]) == 20


@pytest.mark.parametrize(
    ("form", "within_ms", "least"),
    [("10.9.0.{}", 15_000, 20), ("10.9.0.{}", 14_000, 10), ("2001:db8:0:{}::1", 15_000, 20)],
)
def test_first_knocks_of_others_leave_room_for_a_second_packet(form: str, within_ms: int, least: int) -> None:
    """Many states remain: also where they are not beside their bucket, which was forgotten."""
    doors = [Door("a", (PORTS[0], PORTS[1]), (SSH,)), Door("b", (PORTS[0], PORTS[3]), (SSH,), within_ms=within_ms)]
    made = tables_of(Gate(mode=Mode.STEALTH), compile_doors(doors))
    with loaded(made, sets=64) as program:
        program.renew(0, 1000)
        send(program, form, 40, PORTS[0])
        program.renew(0, 2000)
        send(program, "10.8.0.{}", 100, OTHERS[0], PORTS[0])
        program.renew(0, 3000)
        assert send(program, form, 40, PORTS[3]) >= least


def send(program: RunnableProgram, form: str, number: int, *ports: Port) -> int:
    """Send packets to these ports from so many sources; return how many complete a knock."""
    sources = [ip_address(form.format(each)).packed for each in range(1, number + 1)]
    found = [[program.run(shields.frame(source, port))[0] for port in ports] for source in sources]
    return sum(verdicts[-1] == PASS for verdicts in found)


def test_packets_that_may_be_answers_pass_and_count() -> None:
    """Conntrack cannot be asked, or it did not know what the host sent: the port is in a zone, or not tracked."""
    udp, other = PORTS[0], PORTS[3]
    made = compiled(udp, PORTS[1])
    with loaded(made, objects=[libbpf.PLAIN]) as program:
        program.renew(0, 1000)
        program.expect_answers([udp.number])
        assert program.run(shields.frame(SOURCES[0], udp)) == (PASS, made.counted)
        assert program.run(shields.frame(SOURCES[1], other)) == (DROP, 0)
        assert program.run(shields.frame(SOURCES[0], PORTS[1])) == (PASS, made.token | 3)


@pytest.mark.parametrize("drops", [True, False])
def test_flow_to_a_hidden_port_outlives_its_opening(drops: bool) -> None:
    """The gate accepts it as established for as long as one end sends; here the host last sent 500 s ago."""
    port = Port.parse("60005/udp")
    with loaded(everything()) as program:
        slots = program.openings()
        slots.complete()
        slots.note(ip_address(SOURCES[0]), time.monotonic() + 60 if drops else 0)
        sent = int(time.monotonic() - 500) << 1
        program._set("busy", struct.pack("<I", tables.UDP_PORTS + port.number), struct.pack("<I", sent))
        program.renew(0, 1000, drops=drops)
        assert program.run(shields.frame(SOURCES[0], port)) == (PASS, 0)
        program.renew(0, 1000, udp_busy_s=300)  # as 300 s later; SOURCES[1] has no opening
        assert program.run(shields.frame(SOURCES[1], port)) == (PASS, 0)


_OPTIONS, _LONG_OPTIONS = b"\1\4" + bytes(4), b"\1\x0c" + bytes(12)  # PadN; after the next header and the length


@pytest.mark.parametrize(
    ("headers", "is_noted"),
    [
        ([], True),
        ([(0, b"\0" + _OPTIONS)], True),
        ([(60, b"\1" + _LONG_OPTIONS)], True),
        ([(0, b"\0" + _OPTIONS), (60, b"\0" + _OPTIONS), (43, b"\0" + _OPTIONS), (44, bytes(2) + b"\1" * 5)], True),
        ([(44, b"\xff\0\1abcd")], True),  # a first fragment
        ([(44, b"\0\x05\xa1abcd")], False),  # a later one
        ([(59, b"\0" + _OPTIONS)], False),  # nothing follows
        ([(60, b"")], False),  # cut short
    ],
)
@pytest.mark.parametrize("port", [PORTS[0], PORTS[1]])
def test_sent_packets_with_extension_headers_are_noted(
    port: Port, headers: list[tuple[int, bytes]], is_noted: bool
) -> None:
    """As a client that asks: its datagram may have to be sent in fragments."""
    extensions, behind = b"", int(port.protocol)
    for number, rest in reversed(headers):
        extensions, behind = bytes([behind]) + rest + extensions, number
    plain = shields.frame(SERVER, Port(port.protocol, 4444), destination=SOURCES[2], source_port=port.number)
    cut = len(plain) if headers[-1:] != [(60, b"")] else 54
    sent = plain[:20] + bytes([behind]) + plain[21:54] + extensions + plain[54:cut]
    with loaded(compiled(*PORTS[:3])) as program:
        program.renew(0, 1000)
        assert program.run(sent, is_sent=True) == (PASS, 0)
        assert (program.run(shields.frame(SOURCES[2], port))[0] == PASS) == is_noted


@pytest.mark.parametrize(("offset", "is_noted"), [(0x2000, True), (0x00B9, False)])
def test_first_fragments_that_are_sent_are_noted(offset: int, is_noted: bool) -> None:
    sent = shields.frame(shields.SERVER[4], SSH, destination=SOURCES[0], source_port=PORTS[1].number)
    with loaded(compiled(*PORTS[:3])) as program:
        program.renew(0, 1000)
        program.run(sent[:20] + offset.to_bytes(2) + sent[22:], is_sent=True)
        assert (program.run(shields.frame(SOURCES[0], PORTS[1]))[0] == PASS) == is_noted


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame[:14] + b"\x46" + frame[15:],  # a header with options
        lambda frame: frame[:20] + b"\x20\x00" + frame[22:],  # a first fragment
        lambda frame: frame[:20] + b"\x00\x01" + frame[22:],  # a later one
        lambda frame: frame[:16] + b"\x00\x14" + frame[18:],  # the ports are behind the packet's end
        lambda frame: frame[:16] + b"\x04\x00" + frame[18:],  # longer than the frame
        lambda frame: frame[:16] + b"\x00\x00" + frame[18:],  # no length
        lambda frame: frame[:23] + b"\x84" + frame[24:],  # SCTP
        lambda frame: frame[:-6],  # cut short
        lambda frame: b"\2" * 6 + frame[6:],  # to another host's Ethernet address
        lambda frame: frame[:12] + b"\x81\x00\x00\x05" + frame[12:],  # tagged
        lambda frame: frame[:30] + b"\xc6\x33\x64\x03" + frame[34:],  # to another host's IP address
    ],
)
def test_what_the_gate_may_read_otherwise_passes(change: Callable[[bytes], bytes]) -> None:
    made = compiled(PORTS[1], PORTS[2])
    with loaded(made) as program:
        program.renew(0, 1000)
        assert program.run(change(shields.frame(SOURCES[0], PORTS[1]))) == (PASS, 0)
        assert program.run(shields.frame(SOURCES[0], PORTS[2])) == (DROP, 0)  # it did not count
        assert program.run(shields.frame(SOURCES[0], PORTS[1])) == (DROP, 0)
        assert program.run(shields.frame(SOURCES[0], PORTS[2]))[0] == PASS


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_malformed(raw: bytes) -> None:
    form = compiled(*PORTS[:3]).pack()
    for some in (raw, form[:-1], form + raw + b"x", raw + form[len(raw) :]):
        with suppress(MalformedError):
            assert tables.parse_tables(some).pack() == some
