"""Any bytes give a value or MalformedError, and what was framed is read back."""

from __future__ import annotations

import struct
import sys
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.kernel.nflog import NflogEvent, parse_event
from doorward.packets.packet import source_address
from tests.support.netfilter_log import logged, packet_from

addresses = st.ip_addresses()
# Bytes with lengths in them that are nearly right, for pure noise dies at the first check.
nearly = st.lists(
    st.one_of(
        st.binary(max_size=24),
        st.tuples(st.integers(0, 40), st.integers(0, 12), st.binary(max_size=40)).map(
            lambda part: struct.pack("=HH", part[0], part[1]) + part[2]
        ),
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.binary(max_size=40)).map(
            lambda part: netlink.HEADER.pack(part[0], part[1], 0, 0, 0) + part[2]
        ),
    ),
    max_size=6,
).map(b"".join)
anything = st.binary(max_size=200) | nearly
prefixes = st.sampled_from([b"doorward 0123abcd knock \0", b"doorward 0123abcd", b"\xff"]) | st.binary(max_size=30)
events = st.builds(logged, st.none() | prefixes, st.none() | anything, st.none() | st.binary(max_size=6))


@given(anything)
def test_messages(raw: bytes) -> None:
    try:
        found = list(netlink.messages(memoryview(raw)))
    except MalformedError:
        return
    assert sum(len(one.body) for one in found) <= len(raw)


@given(anything)
def test_attributes(raw: bytes) -> None:
    try:
        found = netlink.attributes(memoryview(raw))
    except MalformedError:
        return
    assert sum(map(len, found.values())) <= len(raw)


@given(anything)
def test_errors(raw: bytes) -> None:
    try:
        number = netlink.error_for(memoryview(raw))
    except MalformedError:
        assert len(raw) < 4
        return
    assert number == -int.from_bytes(raw[:4], sys.byteorder, signed=True)


@given(anything | events)
def test_events(raw: bytes) -> None:
    try:
        event = parse_event(memoryview(raw))
    except MalformedError:
        return
    assert event.what in {"knock", "full", "throttled"}
    assert 0 <= event.state < 1 << 32


@given(events, st.integers(0, 80))
def test_events_cut_short(raw: bytes, keep: int) -> None:
    try:
        parse_event(memoryview(raw)[:keep])
    except MalformedError:
        return


@given(anything)
def test_packets(raw: bytes) -> None:
    try:
        source = source_address(memoryview(raw))
    except MalformedError:
        return
    assert isinstance(source, IPv4Address | IPv6Address)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=50))))
def test_framed_messages_are_read_back(parts: list[tuple[int, bytes]]) -> None:
    framed = [netlink.message(kind, netlink.REQUEST, body) for kind, body in parts]
    stream = b"".join(one + bytes(netlink.align(len(one)) - len(one)) for one in framed)
    assert [(one.kind, bytes(one.body)) for one in netlink.messages(memoryview(stream))] == parts


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=50)), st.sampled_from([0, netlink.NESTED]))
def test_framed_attributes_are_read_back(parts: dict[int, bytes], nested: int) -> None:
    stream = b"".join(netlink.attribute(kind | nested, data) for kind, data in parts.items())
    assert {kind: bytes(data) for kind, data in netlink.attributes(memoryview(stream)).items()} == parts


@given(
    addresses, st.integers(0, (1 << 32) - 1), st.sampled_from(["knock", "full", "throttled"]), st.integers(0, 1 << 31)
)
def test_events_are_read_back(source: IPv4Address | IPv6Address, state: int, what: str, generation: int) -> None:
    name = f"{generation:08x}"
    body = logged(f"doorward {name} {what} \0".encode(), packet_from(source), struct.pack("!I", state))
    assert parse_event(memoryview(body)) == NflogEvent(name, what, state, source)
