"""What a gate opens for its fleet is limited by its own configuration, for any value in etcd."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config.values import MAX_FOR_MS
from doorward.core.signed_rules import MAX_HOLDERS
from doorward.fleet.admission import MAX_ENTRIES, MAX_SIGNERS, SHORTEST_PREFIX, Limits, Rejected, Room, admit
from doorward.fleet.etcd_records import OpeningKey
from doorward.fleet.protocol import Item
from doorward.model import Address, Door, Opening, Port, Share, Source, parse_source
from doorward.nftables.ruleset import OPEN_SIZE

DOOR = Door("ssh", (), (Port.parse("22/tcp"),), for_ms=10_000, shared=True)
NOW = 1_000_000
YEAR = 365 * 86_400_000
ALONE, SIGNED = Limits(None, allows_networks=False), Limits(None, allows_networks=True)


def item(source: str = "192.0.2.7", left_ms: int = 5_000, for_ms: int | None = None, by: str = "knock at b") -> Item:
    return Item(OpeningKey("ssh", parse_source(source)), NOW + left_ms, by, left_ms if for_ms is None else for_ms)


def left_ms(found: object) -> int:
    assert isinstance(found, Opening), found
    return round(found.until_s * 1000) - NOW


def reason(found: object) -> str:
    assert isinstance(found, Rejected), found
    return found.reason


@pytest.mark.parametrize(
    ("for_max_ms", "left", "for_ms", "expected"),
    [
        (None, 5_000, 5_000, 5_000),
        (None, YEAR, YEAR, 10_000),  # the door's own `for`
        (None, YEAR - 4_000, YEAR, 6_000),  # announced again: it began four seconds ago
        (None, YEAR - 10_000, YEAR, 0),
        (None, 1 << 53, 1, 10_000),  # begins in the far future
        (None, 1 << 53, 1 << 53, 10_000),
        (None, -1, 5_000, 0),
        (3_600_000, YEAR, YEAR, 3_600_000),
        (2_000, 5_000, 5_000, 2_000),
    ],
)
def test_opening_is_limited_to_the_gates_maximum(for_max_ms: int | None, left: int, for_ms: int, expected: int) -> None:
    found = admit(item(left_ms=left, for_ms=for_ms), DOOR, Limits(for_max_ms, allows_networks=False), NOW)
    assert (left_ms(found) if expected else found) == (expected or None)


@pytest.mark.parametrize(
    ("source", "limits", "expected"),
    [
        ("0.0.0.0/0", SIGNED, "prefix"),
        ("10.0.0.0/15", SIGNED, "prefix"),
        ("192.0.2.7/32", SIGNED, "prefix"),  # an address, which is a second name for it
        ("::/0", SIGNED, "prefix"),
        ("2001:db8::/47", SIGNED, "prefix"),
        ("10.1.0.0/16", ALONE, "network"),
        ("2001:db8:1::/48", ALONE, "network"),
        ("0.0.0.0", SIGNED, "address"),
        ("127.0.0.1", SIGNED, "address"),
        ("224.0.0.1", SIGNED, "address"),
        ("169.254.0.0/16", SIGNED, "address"),
        ("::", SIGNED, "address"),
        ("::1", SIGNED, "address"),
        ("fe80::1", SIGNED, "address"),
        ("ff02::1", SIGNED, "address"),
        ("::ffff:192.0.2.7", SIGNED, "address"),
    ],
)
def test_invalid_addresses_and_networks_are_rejected(source: str, limits: Limits, expected: str) -> None:
    assert reason(admit(item(source), DOOR, limits, NOW)) == expected


@pytest.mark.parametrize("source", ["10.1.0.0/16", "192.0.2.0/24", "2001:db8:1::/48", "2001:db8::/64"])
def test_networks_are_admitted_where_allowed(source: str) -> None:
    assert left_ms(admit(item(source), DOOR, SIGNED, NOW)) == 5_000


def test_only_shared_doors_are_opened() -> None:
    assert reason(admit(item(), DOOR._replace(shared=False), SIGNED, NOW)) == "door"
    assert admit(item(), None, SIGNED, NOW) is None  # another gate's door
    assert admit(item(), DOOR._replace(opens=()), SIGNED, NOW) is None


@pytest.mark.parametrize("by", ["", "root", "knocks at b", "x" * 200])
def test_unknown_origin_is_rejected(by: str) -> None:
    assert reason(admit(item(by=by), DOOR, SIGNED, NOW)) == "way"  # each would be a metric of its own


def test_fleet_openings_leave_room_for_local_knocks() -> None:
    wide = Door("all", (), tuple(Port.parse(f"{n}/tcp") for n in range(1, 33)), shared=True)
    opened = Opening("ssh", parse_source("192.0.2.7"), DOOR.opens, 0, 1, "knock", (Share("fleet", 1),))
    room = Room([opened] * (MAX_ENTRIES[False] - 32))
    assert MAX_ENTRIES[False] < OPEN_SIZE
    assert room.reserve(opened._replace(ports=wide.opens), None)
    assert not room.reserve(opened, None)
    assert room.reserve(opened, opened)  # a known one is extended
    assert not room.reserve(by_signer(0), opened)  # a share takes as much as an opening
    assert room.reserve(by_signer(0), by_signer(0))
    assert room.reserve(opened._replace(address=IPv6Address("2001:db8::7")), None)  # a set of its own
    assert room.reserve(opened._replace(address=parse_source("10.1.0.0/16")), None)


def by_signer(*numbers: int) -> Opening:
    shares = tuple(Share(f"fleet {number:024x}", 1, 7, "key ada at b") for number in numbers)
    return Opening("ssh", parse_source("192.0.2.7"), DOOR.opens, 0, 1, "key ada at b", shares)


def test_fleet_signers_leave_room_for_signers_at_this_gate() -> None:
    room = Room([])
    assert room.reserve(by_signer(MAX_SIGNERS), by_signer(*range(MAX_SIGNERS - 1)))
    assert not room.reserve(by_signer(MAX_SIGNERS), by_signer(*range(MAX_SIGNERS)))
    local = by_signer()._replace(shares=tuple(Share(f"{number:024x}", 1, 7) for number in range(MAX_HOLDERS)))
    assert not room.reserve(by_signer(0), local)


def test_signed_opening_has_a_holder_of_its_own() -> None:
    key = OpeningKey("ssh", parse_source("192.0.2.7"), "0" * 24)
    found = admit(Item(key, NOW + 5_000, "key ada at b", 5_000, 7), DOOR, ALONE, NOW)
    assert isinstance(found, Opening)
    assert found.shares == (Share(f"fleet {key.signer}", (NOW + 5_000) / 1000, 7, "key ada at b"),)
    assert found.shares[0].signer == key.signer
    assert reason(admit(Item(key, NOW + 5_000, "hand at b", 5_000, 7), DOOR, ALONE, NOW)) == "way"


def network(address: Address, bits: int) -> Source:
    return ip_network((address.packed, bits % (address.max_prefixlen + 1)), strict=False)


@given(
    source=st.ip_addresses() | st.builds(network, st.ip_addresses(), st.integers(0, 128)),
    until_ms=st.integers(0, 1 << 53),
    for_ms=st.integers(0, 1 << 53),
    by=st.text() | st.sampled_from(["knock", "key x at y", "hand at z"]),
    for_max_ms=st.none() | st.integers(1, MAX_FOR_MS),
    takes_networks=st.booleans(),
    shared=st.booleans(),
)
def test_no_value_from_etcd_exceeds_the_limits(
    source: Source, until_ms: int, for_ms: int, by: str, for_max_ms: int | None, takes_networks: bool, shared: bool
) -> None:
    door, limits = DOOR._replace(shared=shared), Limits(for_max_ms, takes_networks)
    found = admit(Item(OpeningKey("ssh", source), until_ms, by, for_ms), door, limits, NOW)
    if isinstance(found, Opening):
        assert shared
        assert 0 < left_ms(found) <= min(for_max_ms or DOOR.for_ms, until_ms - NOW)
        assert (found.door, found.ports) == ("ssh", DOOR.opens)
        assert not found.address.is_multicast
        if not isinstance(found.address, Address):
            assert takes_networks
            assert found.address.prefixlen >= SHORTEST_PREFIX[found.address.version]
