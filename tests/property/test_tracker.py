"""For any doors and packets the tracker agrees with the reference program."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.core.automaton import compile_doors
from doorward.core.tracker import BURST, Tracker
from doorward.model import Door, Packet, Port, Protocol
from tests.support.effort import EFFORT
from tests.support.reference import Reference
from tests.support.strategies import SOURCES, World, streams, worlds

CAPACITY = 64


@settings(max_examples=250 * EFFORT)
@given(st.data())
def test_tracker_agrees_with_the_reference(data: st.DataObject) -> None:
    world = data.draw(worlds())
    automaton = compile_doors(world.doors, public=world.public, known_only=world.known_only)
    tracker = Tracker(automaton, CAPACITY)
    reference = Reference(world.doors, world.public, known_only=world.known_only)
    for packet, now_s in data.draw(streams(world)):
        assert sorted(tracker.feed(packet, now_s)) == sorted(reference.see(packet, now_s))


def knock_packet(door: Door, port: Port) -> Packet:
    destination = door.target.packed if door.target else None
    source = SOURCES[0] if destination is None or len(destination) == 4 else SOURCES[2]
    return Packet(source, port, door.flags.value, destination, destination is None)


@given(st.data())
def test_complete_sequence_always_opens(data: st.DataObject) -> None:
    world = data.draw(worlds())
    tracker = Tracker(compile_doors(world.doors), CAPACITY)
    now_s = 0.0
    for packet, now_s in data.draw(streams(world)):
        tracker.feed(packet, now_s)
    door = world.doors[-1]
    now_s += 60  # the earlier deadlines and rate limits have passed
    opened: tuple[int, ...] = ()
    for port in door.knock:
        opened = tracker.feed(knock_packet(door, port), now_s)
    assert len(world.doors) - 1 in opened


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200), st.integers(1, 20))
def test_state_is_bounded(sources: list[int], capacity: int) -> None:
    knock = (Port(Protocol.UDP, 1), Port(Protocol.UDP, 2))
    tracker = Tracker(compile_doors([Door("a", knock, (Port(Protocol.TCP, 22),))]), capacity)
    for number, source in enumerate(sources):
        tracker.feed(Packet(source.to_bytes(4, "big"), knock[0]), number / 1000)
        assert max(tracker.sizes()) <= capacity


def test_burst_is_exact() -> None:
    knock = tuple(Port(Protocol.UDP, number) for number in (1, 2))
    world = World([Door("a", knock, (Port(Protocol.TCP, 22),))], frozenset(), known_only=False)
    tracker = Tracker(compile_doors(world.doors), CAPACITY)
    wrong = Packet(SOURCES[0], Port(Protocol.UDP, 9))
    for _ in range(BURST - 2):
        tracker.feed(wrong, 0.0)
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 0.0) == ()
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 0.0) == (0,)
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 0.0) == ()  # the 41st: rate limit exceeded, progress reset
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 0.06) == ()  # within the rate again, but the wrong first knock
    assert tracker.feed(Packet(SOURCES[0], knock[0]), 0.12) == ()
    assert tracker.feed(Packet(SOURCES[0], knock[1]), 0.18) == (0,)
