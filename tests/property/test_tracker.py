"""For any doors and packets the tracker agrees with the reference program."""

from __future__ import annotations

from itertools import cycle, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.core.automaton import compile_doors
from doorward.core.tracker import BURST, PAUSE_NS, Tracker
from doorward.model import Door, Packet, Port, Protocol
from tests.support.effort import EFFORT
from tests.support.reference import Reference
from tests.support.strategies import SOURCES, World, streams, worlds

CAPACITY = 64
PAUSES_MS = st.sampled_from([0, 1, 49, 50, 51, 1950, 1999, 2000])


@settings(max_examples=250 * EFFORT)
@given(st.data())
def test_tracker_agrees_with_the_reference(data: st.DataObject) -> None:
    world = data.draw(worlds())
    automaton = compile_doors(world.doors, public=world.public, known_only=world.known_only)
    tracker = Tracker(automaton, CAPACITY)
    reference = Reference(world.doors, world.public, known_only=world.known_only)
    for packet, now_ns in data.draw(streams(world)):
        assert sorted(tracker.feed(packet, now_ns)) == sorted(reference.see(packet, now_ns))


def knock_packet(door: Door, port: Port) -> Packet:
    destination = door.target.packed if door.target else None
    source = SOURCES[0] if destination is None or len(destination) == 4 else SOURCES[2]
    return Packet(source, port, door.flags.value, destination, destination is None)


@given(st.data())
def test_complete_sequence_always_opens(data: st.DataObject) -> None:
    world = data.draw(worlds())
    tracker = Tracker(compile_doors(world.doors), CAPACITY)
    now_ns = 0
    for packet, now_ns in data.draw(streams(world)):
        tracker.feed(packet, now_ns)
    door = world.doors[-1]
    now_ns += 60_000_000_000  # the earlier deadlines and rate limits have passed
    opened: tuple[int, ...] = ()
    for port in door.knock:
        opened = tracker.feed(knock_packet(door, port), now_ns)
    assert len(world.doors) - 1 in opened


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200), st.integers(1, 20))
def test_state_is_bounded(sources: list[int], capacity: int) -> None:
    knock = (Port(Protocol.UDP, 1), Port(Protocol.UDP, 2))
    tracker = Tracker(compile_doors([Door("a", knock, (Port(Protocol.TCP, 22),))]), capacity)
    for number, source in enumerate(sources):
        tracker.feed(Packet(source.to_bytes(4, "big"), knock[0]), number * 1_000_000)
        assert max(tracker.sizes()) <= capacity


def test_burst_is_exact() -> None:
    knock = tuple(Port(Protocol.UDP, number) for number in (1, 2))
    world = World([Door("a", knock, (Port(Protocol.TCP, 22),))], frozenset(), known_only=False)
    tracker = Tracker(compile_doors(world.doors), CAPACITY)
    wrong = Packet(SOURCES[0], Port(Protocol.UDP, 9))
    for _ in range(BURST - 2):
        tracker.feed(wrong, 0)
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 0) == ()
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 0) == (0,)
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 0) == ()  # the 41st: rate limit exceeded, progress reset
    assert tracker.feed(Packet(SOURCES[0], knock[0]), PAUSE_NS - 1) == ()  # still ignored
    assert tracker.feed(Packet(SOURCES[0], knock[1]), PAUSE_NS) == ()  # counted again, but the wrong first knock
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 2 * PAUSE_NS) == ()
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 3 * PAUSE_NS) == (0,)
    for _ in range(2):
        tracker.feed(wrong, 3 * PAUSE_NS)  # over the rate again
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 4 * PAUSE_NS) == ()  # counted from this moment on
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 5 * PAUSE_NS) == (0,)


@settings(max_examples=100 * EFFORT)
@given(st.lists(st.tuples(PAUSES_MS, st.sampled_from([1, 1, 2, 38, 41])), max_size=40))
def test_rate_limit_and_deadline_agree_with_the_reference_at_ties(bursts: list[tuple[int, int]]) -> None:
    knock = tuple(Port(Protocol.UDP, number) for number in (1, 2, 3))
    doors = [Door("a", knock, (Port(Protocol.TCP, 22),), within_ms=2000)]
    tracker, reference = Tracker(compile_doors(doors), CAPACITY), Reference(doors, frozenset(), known_only=False)
    now_ns, ports = 0, cycle(knock)
    for pause_ms, times in bursts:
        now_ns += pause_ms * 1_000_000
        for port in islice(ports, times):
            packet = Packet(SOURCES[0], port)
            assert list(tracker.feed(packet, now_ns)) == reference.see(packet, now_ns)
