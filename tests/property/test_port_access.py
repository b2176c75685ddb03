"""For any openings and connections, what explain replays lets in what the reference program lets in."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st

from doorward.core.port_access import PortAccess
from doorward.model import Door, HostPort, OpenPort, Packet, Port, PortRange, Protocol, Redirect
from tests.support.reference import ReferenceAccess

PORTS = (Port.parse("22/tcp"), Port.parse("23/tcp"))
THERE = ip_address("10.7.0.2").packed
BEHIND = HostPort(Protocol.TCP, 25, ip_address(THERE))
RANGE = PortRange(Protocol.TCP, 3000, 3005)
REDIRECTS = (
    Redirect(Port.parse("24/tcp"), HostPort(Protocol.TCP, 22, ip_address("10.7.0.2"))),
    Redirect(Port.parse("26/tcp"), HostPort(Protocol.TCP, 22, ip_address("fd07::2"))),
)
DOORS = (
    Door("plain", (), PORTS[:1], for_ms=40_000),
    Door("once", (), PORTS[:1], for_ms=30_000, once=True),
    Door("both", (), PORTS, for_ms=100_000, once=True),
    Door("udp", (), (Port.parse("53/udp"),)),
    Door("behind", (), (), for_ms=30_000, once=True, behind=(BEHIND,)),
    Door("range", (), (), for_ms=30_000, once=True, ranges=(RANGE,)),
    Door("forwarded", (), tuple(each.port for each in REDIRECTS), for_ms=30_000, once=True, redirects=REDIRECTS),
    Door("all", (), PORTS[:1], for_ms=20_000, behind=(BEHIND,), ranges=(RANGE,)),
)
# The port of a packet, the address that it is for, and by what doors open it.
PLACES: tuple[tuple[Port, bytes | None, OpenPort], ...] = (
    *((port, None, port) for port in (*PORTS, Port.parse("53/udp"), *DOORS[6].opens)),
    (Port.parse("25/tcp"), THERE, BEHIND),
    *((Port.parse(port), None, RANGE) for port in ("3000/tcp", "3005/tcp")),
)
SOURCES = st.sampled_from([bytes([192, 0, 2, 7]), bytes([192, 0, 2, 8])])
OPENS = st.tuples(SOURCES, st.sampled_from(range(len(DOORS))))
CONNECTIONS = st.tuples(SOURCES, st.sampled_from(PLACES), st.sampled_from([2, 2, 0xC2, 16, 3]), st.integers(1, 3))
HOME = bytes([192, 0, 2, 7])


@example([(0, (HOME, 2)), (0, (HOME, 1)), (30, (HOME, PLACES[0], 2, 1))])
@given(st.lists(st.tuples(st.floats(0, 50), st.one_of(OPENS, CONNECTIONS)), max_size=40))
def test_the_same_connections_come_in(
    events: list[tuple[float, tuple[bytes, int] | tuple[bytes, tuple[Port, bytes | None, OpenPort], int, int]]],
) -> None:
    access, reference, now_s = PortAccess(1000), ReferenceAccess(DOORS), 0.0
    for pause_s, event in events:
        now_s += pause_s
        if len(event) == 2:
            access.open(event[0], DOORS[event[1]], now_s)
            reference.open(event[0], event[1], now_s)
        else:
            source, (port, destination, opened_as), flags, source_port = event
            packet = Packet(source, port, flags, destination, local=destination is None)
            is_let_in = access.left_s(packet, source_port, now_s, opened_as) > 0
            assert is_let_in == (reference.connect(packet, source_port, now_s) != "dropped")
