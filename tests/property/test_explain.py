"""`explain` agrees with the tracker for any packets, and finds a single fault in a correct knock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from doorward.config.schema import Configuration, Gate, WrongPort
from doorward.core.automaton import compile_doors
from doorward.core.tracker import Tracker
from doorward.explain.compiled_config import CompiledConfig, build_config
from doorward.explain.replay import CapturedPacket, PacketVerdict
from doorward.explain.sources import SourceTraces
from doorward.explain.summary import rows, summarize
from doorward.model import Door, Packet, Port, Protocol
from doorward.packets.decode import Flow
from tests.support.strategies import World, streams, worlds

HERE = bytes([198, 51, 100, 2])
CLIENT = bytes([192, 0, 2, 1])


def seen(number: int, packet: Packet, at_ns: int) -> CapturedPacket:
    """Return a packet as a capture shows it, from a port of its own."""
    flow = Flow(
        packet.source, packet.destination or HERE, packet.port.protocol, 1024 + number, packet.port, packet, number
    )
    return CapturedPacket(number, at_ns, flow)


def elsewhere(stream: list[tuple[Packet, int]]) -> list[tuple[Packet, int]]:
    """Move the IPv6 sources out of the loopback's network."""
    return [
        (packet if len(packet.source) == 4 else packet._replace(source=b"\x20\x01" + packet.source[2:]), at_ns)
        for packet, at_ns in stream
    ]


def house_in(world: World) -> CompiledConfig:
    gate = Gate(public=tuple(sorted(world.public)), wrong_port=WrongPort.KNOWN if world.known_only else WrongPort.ANY)
    return build_config(Configuration(gate, tuple(world.doors)))


@given(st.data())
def test_opened_doors_are_those_of_the_tracker(data: st.DataObject) -> None:
    world = data.draw(worlds())
    stream = elsewhere(data.draw(streams(world)))
    config = house_in(world)
    tracker = Tracker(compile_doors(world.doors, public=world.public, known_only=world.known_only), 1000)
    expected = [(at_ns, opened) for packet, at_ns in stream if (opened := tracker.feed(packet, at_ns))]
    traces = SourceTraces(config, HERE.__eq__)
    taken = [traces.feed(seen(number, packet, at_ns)) for number, (packet, at_ns) in enumerate(stream)]
    steps = [step for step in taken if step is not None]
    assert len(steps) == len(stream)
    assert [(step.captured.at_ns, step.opened) for step in steps if step.opened] == expected
    assert all((step.verdict is PacketVerdict.OPENS) == bool(step.opened) for step in steps)


@given(st.data())
def test_every_capture_has_a_diagnosis(data: st.DataObject) -> None:
    world = data.draw(worlds())
    stream = elsewhere(data.draw(streams(world)))
    config = house_in(world)
    traces = SourceTraces(config, HERE.__eq__)
    traces.feed_all(seen(number, packet, at_ns) for number, (packet, at_ns) in enumerate(stream))
    found = summarize(config, traces, frozenset([HERE]), HERE.__eq__)
    for each in found.sources:
        assert each.diagnosis.fault.what
        assert each.diagnosis.fault.kind != "unexplained", [row.meaning for row in rows(config, each.trace)]
        opened = any(step.opened for step in each.trace.steps)
        assert opened or not each.diagnosis.opened
        for row in rows(config, each.trace):
            assert row.packet
            assert row.meaning


PORTS = st.builds(Port, st.sampled_from(Protocol), st.integers(1000, 60_000))
KNOCKS = st.lists(PORTS, min_size=3, max_size=8, unique_by=lambda port: port.number).map(tuple)
Script = list[tuple[Port, float]]


@dataclass
class Fault:
    """One fault in a correct knock (its packets with their times), and the expected diagnosis."""

    kind: str
    do: Callable[[st.DataObject, Door, Script], Script]


def late(data: st.DataObject, door: Door, knock: Script) -> Script:
    place = data.draw(st.integers(1, len(knock) - 1))
    beyond_s = door.within_ms / 1000 - (knock[place][1] - knock[0][1]) + data.draw(st.floats(0.001, 20.0))
    return [(port, at_s + beyond_s if n >= place else at_s) for n, (port, at_s) in enumerate(knock)]


def missing(data: st.DataObject, _: Door, knock: Script) -> Script:
    place = data.draw(st.integers(1, len(knock) - 2))
    return knock[:place] + knock[place + 1 :]


def stray(data: st.DataObject, door: Door, knock: Script) -> Script:
    port = data.draw(PORTS.filter(lambda port: port.number not in {each.number for each in (*door.knock, *door.opens)}))
    place = data.draw(st.integers(1, len(knock) - 1))
    return [*knock[:place], (port, (knock[place - 1][1] + knock[place][1]) / 2), *knock[place:]]


def wrong_port(data: st.DataObject, door: Door, knock: Script) -> Script:
    port = data.draw(PORTS.filter(lambda port: port.number not in {each.number for each in (*door.knock, *door.opens)}))
    place = data.draw(st.integers(1, len(knock) - 2))
    return [(port if n == place else each, at_s) for n, (each, at_s) in enumerate(knock)]


def other_protocol(data: st.DataObject, _: Door, knock: Script) -> Script:
    place = data.draw(st.integers(0, len(knock) - 1))
    (protocol, number), at_s = knock[place]
    other = Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP
    return [*knock[:place], (Port(other, number), at_s), *knock[place + 1 :]]


def swapped(data: st.DataObject, _: Door, knock: Script) -> Script:
    place = data.draw(st.integers(0, len(knock) - 2))
    order = [port for port, _ in knock]
    order[place : place + 2] = order[place + 1], order[place]
    return [(port, at_s) for port, (_, at_s) in zip(order, knock, strict=True)]


def reversed_(_: st.DataObject, __: Door, knock: Script) -> Script:
    return [(port, at_s) for (port, _), (_, at_s) in zip(knock[::-1], knock, strict=True)]


FAULTS = st.sampled_from(
    [
        Fault("late", late),
        Fault("missing", missing),
        Fault("stray", stray),
        Fault("wrong_port", wrong_port),
        Fault("protocol", other_protocol),
        Fault("order", swapped),
        Fault("reversed", reversed_),
    ]
)


@settings(max_examples=300)
@given(st.data(), KNOCKS, FAULTS, st.floats(0.001, 0.4), st.integers(0, 3))
def test_single_fault_in_a_correct_knock_is_found(
    data: st.DataObject, ports: tuple[Port, ...], fault: Fault, pause_s: float, tries: int
) -> None:
    door = Door("ssh", ports, (Port(Protocol.TCP, 22),), within_ms=5000)
    config = build_config(Configuration(Gate(), (door,)))
    knock = [(port, 1000 + n * pause_s) for n, port in enumerate(ports)]
    script = fault.do(data, door, knock)
    assume(len(script) > 1)
    script = [(port, at_s + round_ * 200) for round_ in range(tries + 1) for port, at_s in script]  # people try again
    traces = SourceTraces(config, HERE.__eq__)
    for number, (port, at_s) in enumerate(script):
        traces.feed(seen(number, Packet(CLIENT, port, 2 if port.protocol is Protocol.TCP else 0), round(at_s * 1e9)))
    (summary,) = summarize(config, traces, frozenset([HERE]), HERE.__eq__, source=ip_address(CLIENT)).sources
    kinds = {"protocol": ("tcp_for_udp", "udp_for_tcp"), "order": ("order", "overtaken")}
    assert summary.diagnosis.fault.kind in kinds.get(fault.kind, (fault.kind,)), summary.diagnosis
    assert not summary.diagnosis.opened
    assert summary.diagnosis.also == ()
