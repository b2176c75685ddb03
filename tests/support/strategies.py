"""Doors and packet streams for hypothesis: few ports, so that sequences overlap and packets mean something."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import NamedTuple

from hypothesis import strategies as st

from doorward.model import DEFAULT_FLAGS, Address, Door, FlagFilter, HostPort, Packet, Port, PortRange, Protocol

SYMBOLS = [Port(protocol, number) for protocol in Protocol for number in (1001, 1002, 1003)]
SERVICES = [Port(Protocol.TCP, number) for number in range(2001, 2031)]
FLAGS = [DEFAULT_FLAGS, FlagFilter.parse(("fin",)), FlagFilter.parse(())]
SOURCES = [
    bytes([192, 0, 2, 1]),
    bytes([192, 0, 2, 2]),
    bytes(15) + b"\1",
    bytes(15) + b"\2",
    bytes(7) + b"\1" + bytes(8),
]
RANGED = [Port(Protocol.TCP, 3003), Port(Protocol.UDP, 3003), Port(Protocol.TCP, 3005), Port(Protocol.TCP, 3006)]
WITHIN_MS = [400, 15_000]
RANGES = [PortRange(list(Protocol)[number % 2], 3000 + 10 * number, 3005 + 10 * number) for number in range(30)]
HOSTS = [ip_address("10.7.0.2"), ip_address("fd07::2")]  # behind this host


class World(NamedTuple):
    """A configuration: doors that each open a port of their own, here or behind this host, and public ports."""

    doors: list[Door]
    public: frozenset[Port]
    known_only: bool


@st.composite
def worlds(draw: st.DrawFn, least: int = 1, most: int = 12) -> World:
    symbols = st.sampled_from(SYMBOLS)
    keys = st.tuples(
        st.lists(symbols, min_size=1, max_size=5).map(tuple),
        st.sampled_from(FLAGS),
        st.sampled_from(WITHIN_MS),
        st.sampled_from([None, None, None, *HOSTS]),
    )
    chosen = draw(st.lists(keys, min_size=least, max_size=most, unique=True))
    doors = []
    for number, (knock, flags, within_ms, target) in enumerate(chosen):
        host = target or draw(st.sampled_from([None, None, *HOSTS]))
        behind = () if host is None else (HostPort(*SERVICES[number], host),)
        opens = () if behind else (SERVICES[number],)
        ranges = () if target else draw(st.sampled_from([(), (), (RANGES[number],)]))
        door = Door(f"door{number}", knock, opens, within_ms, 30_000, flags, target, behind=behind, ranges=ranges)
        doors.append(door._replace(once=door.is_for_one_possible and draw(st.booleans())))
    used = {port for door in doors for port in door.knock}
    public = frozenset(port for port in [Port(Protocol.TCP, 80), *SYMBOLS] if port not in used)
    return World(doors, draw(st.sampled_from([frozenset(), public])), draw(st.booleans()))


@st.composite
def streams(draw: st.DrawFn, world: World) -> list[tuple[Packet, int]]:
    """Packets and their times in nanoseconds: much of it pieces of right sequences, else nothing would ever open."""
    ports = st.sampled_from([*SYMBOLS, SERVICES[0], *RANGED, Port(Protocol.TCP, 80), Port(Protocol.UDP, 9)])
    pieces = st.sampled_from([door.knock for door in world.doors])
    run = st.one_of(pieces, st.lists(ports, min_size=1, max_size=3).map(tuple))
    stream: list[tuple[Packet, int]] = []
    now_ms = 1_000_000
    for knocks in draw(st.lists(run, max_size=24)):
        source, flags = draw(st.sampled_from(SOURCES)), draw(st.sampled_from([2, 2, 2, 1, 3, 16, 18]))
        now_ms += draw(st.sampled_from([0, 3, 50, 300, 400, 3000, 15_000, 20_000]))
        behind = next(host.packed for host in HOSTS if len(host.packed) == len(source))
        destination = draw(st.sampled_from([None, None, behind]))
        for port in knocks:
            now_ms += draw(st.sampled_from([0, 0, 10, 110]))
            flags_of = flags if port.protocol is Protocol.TCP else 0
            stream.append((Packet(source, port, flags_of, destination, destination is None), now_ms * 1_000_000))
    return stream


def _is_plain(address: Address) -> bool:
    return not str(address).startswith("::ffff:")


# What a signed knock may ask for: it has no form for an IPv4 address in IPv6's form.
plain_addresses: st.SearchStrategy[Address] = st.ip_addresses().filter(_is_plain)
plain_networks = st.tuples(plain_addresses, st.integers(1, 127)).map(
    lambda both: ip_network((both[0], min(both[1], both[0].max_prefixlen - 1)), strict=False)
)
