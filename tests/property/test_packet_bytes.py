"""Any bytes are a packet or malformed; what was put together is read back; the socket filter loses no knock packet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward.core.automaton import compile_doors
from doorward.errors import MalformedError
from doorward.kernel.bpf import knock_filter
from doorward.model import DEFAULT_FLAGS, Door, FlagFilter, Packet, Port, Protocol
from doorward.packets.packet import EXTENSIONS, MAX_EXTENSIONS, parse
from tests.support.classic_bpf import kept
from tests.support.headers import HERE4, HERE6, THERE4, THERE6, Extension, ipv4, ipv6, tcp, udp
from tests.support.reference import is_knock_packet

numbers = st.integers(0, 65535)
chains = st.lists(
    st.builds(Extension, st.sampled_from(EXTENSIONS), st.integers(0, 12), st.just(0)), max_size=MAX_EXTENSIONS
)
words = st.integers(0, 10).flatmap(lambda count: st.binary(min_size=count * 4, max_size=count * 4))
transports = st.one_of(
    st.tuples(st.just(Protocol.TCP), numbers, st.integers(0, 255), words),
    st.tuples(st.just(Protocol.UDP), numbers, st.just(0), st.binary(max_size=30)),
)


def body(transport: tuple[Protocol, int, int, bytes]) -> bytes:
    protocol, number, flags, extra = transport
    return tcp(number, flags, extra) if protocol is Protocol.TCP else udp(number, extra)


built = st.one_of(
    st.builds(lambda t, options: ipv4(t[0], body(t), options=options), transports, words),
    st.builds(lambda t, chain: ipv6(t[0], body(t), chain=chain), transports, chains),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A packet with some bytes changed and its end cut off: pure noise dies at the first check."""
    raw = bytearray(draw(built))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)):
        raw[at % len(raw)] = value
    return bytes(raw[: draw(st.integers(0, len(raw)))])


anything = st.binary(max_size=120) | damaged()


@given(anything)
def test_any_bytes(raw: bytes) -> None:
    try:
        packet = parse(memoryview(raw))
    except MalformedError:
        return
    assert len(packet.source) in (4, 16)
    assert packet.destination is not None
    assert len(packet.destination) == len(packet.source)
    assert 0 <= packet.port.number <= 65535
    assert 0 <= packet.flags <= 255


@given(transports, words, st.binary(max_size=8))
def test_ipv4_is_read_back(transport: tuple[Protocol, int, int, bytes], options: bytes, padding: bytes) -> None:
    protocol, number, flags, _ = transport
    raw = ipv4(protocol, body(transport), options=options) + padding
    assert parse(memoryview(raw)) == Packet(HERE4, Port(protocol, number), flags, THERE4)


@given(transports, chains, st.binary(max_size=8))
def test_ipv6_is_read_back(transport: tuple[Protocol, int, int, bytes], chain: list[Extension], padding: bytes) -> None:
    protocol, number, flags, _ = transport
    raw = ipv6(protocol, body(transport), chain=chain) + padding
    assert parse(memoryview(raw)) == Packet(HERE6, Port(protocol, number), flags, THERE6)


filters = st.lists(
    st.sampled_from([DEFAULT_FLAGS, FlagFilter.parse(("fin",)), FlagFilter.parse(())]), min_size=1, max_size=2
)
ports = st.builds(Port, st.sampled_from(Protocol), st.sampled_from([1, 7000, 7001, 65535]))


@given(anything, filters, st.frozensets(ports), st.booleans())
def test_the_filter_loses_no_knock_packet(
    raw: bytes, flags: list[FlagFilter], never: frozenset[Port], known_only: bool
) -> None:
    doors = [Door(f"d{n}", (Port(Protocol.TCP, 7000),), (), 15_000 + n, 30_000, each) for n, each in enumerate(flags)]
    automaton = compile_doors(doors, public=never, known_only=known_only)
    program = knock_filter(flags, never=automaton.ignored_ports)
    try:
        is_counted = is_knock_packet(automaton, parse(memoryview(raw)))
    except MalformedError:
        is_counted = False
    size = kept(program, raw)
    assert size > 0 or not is_counted
    if is_counted:  # and what it keeps is enough
        assert parse(memoryview(raw)[:size]) == parse(memoryview(raw))
