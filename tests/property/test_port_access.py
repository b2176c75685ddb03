"""For any openings and connections, what explain replays lets in what the reference program lets in."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from doorward.core.port_access import PortAccess
from doorward.model import Door, Packet, Port
from tests.support.reference import ReferenceAccess

PORTS = (Port.parse("22/tcp"), Port.parse("23/tcp"))
DOORS = (
    Door("plain", (), PORTS[:1], for_ms=40_000),
    Door("once", (), PORTS[:1], for_ms=30_000, once=True),
    Door("both", (), PORTS, for_ms=100_000, once=True),
    Door("udp", (), (Port.parse("53/udp"),)),
)
SOURCES = st.sampled_from([bytes([192, 0, 2, 7]), bytes([192, 0, 2, 8])])
OPENS = st.tuples(SOURCES, st.sampled_from(range(len(DOORS))))
CONNECTIONS = st.tuples(
    SOURCES, st.sampled_from([*PORTS, Port.parse("53/udp")]), st.sampled_from([2, 2, 0xC2, 16, 3]), st.integers(1, 3)
)


@example([(0, (b"\xc0\x00\x02\x07", 2)), (0, (b"\xc0\x00\x02\x07", 1)), (30, (b"\xc0\x00\x02\x07", PORTS[0], 2, 1))])
@given(st.lists(st.tuples(st.floats(0, 50), st.one_of(OPENS, CONNECTIONS)), max_size=40))
def test_the_same_connections_come_in(
    events: list[tuple[float, tuple[bytes, int] | tuple[bytes, Port, int, int]]],
) -> None:
    access, reference, now_s = PortAccess(1000), ReferenceAccess(DOORS), 0.0
    for pause_s, event in events:
        now_s += pause_s
        if len(event) == 2:
            access.open(event[0], DOORS[event[1]], now_s)
            reference.open(event[0], event[1], now_s)
        else:
            packet = Packet(event[0], event[1], event[2])
            is_let_in = access.left_s(packet, event[3], now_s) > 0
            assert is_let_in == (reference.connect(packet, event[3], now_s) != "dropped")
