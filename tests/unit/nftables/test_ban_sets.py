"""Addresses and networks in the ban sets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import HostError
from doorward.model import Address, Source, parse_source
from doorward.nftables.ban_sets import ban_commands, ban_network, covers, parse_bans
from tests.support.errors import raises


@pytest.mark.parametrize(
    ("address", "banned"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:a:b:c:d:e:f", "2001:db8:a:b::/64"),
        ("2001:db8:a:b::", "2001:db8:a:b::/64"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff::/64"),
    ],
)
def test_ipv6_ban_covers_the_whole_64(address: str, banned: str) -> None:
    assert str(ban_network(ip_address(address))) == banned


@pytest.mark.parametrize(
    ("source", "is_covered"),
    [
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("192.0.2.0/24", False),  # it contains other hosts
        ("192.0.2.6/31", False),
        ("2001:db8::7", True),
        ("2001:db8:0:1::7", False),
        ("2001:db8::/64", True),
        ("2001:db8::/96", True),
        ("2001:db8::/63", False),
    ],
)
def test_ban_covers_only_what_is_wholly_inside(source: str, *, is_covered: bool) -> None:
    bans: list[Source] = [ip_address("192.0.2.7"), ip_network("2001:db8::/64")]
    assert any(covers(ban, parse_source(source)) for ban in bans) is is_covered


LISTED = """table inet doorward {
    set banned4 {
        type ipv4_addr
        size 65536
        flags timeout
        elements = { 192.0.2.7 timeout 1h expires 59m58s400ms,
                 203.0.113.9 timeout 5s expires 4s }
    }
}
table inet doorward {
    set banned6 {
        type ipv6_addr
        size 65536
        flags timeout
        elements = { 2001:db8:: timeout 365d expires 364d23h59m59s }
    }
}
"""


def test_parses_the_listing_of_nft() -> None:
    assert parse_bans(LISTED) == [
        (ip_address("192.0.2.7"), "59m58s400ms"),
        (ip_address("203.0.113.9"), "4s"),
        (ip_network("2001:db8::/64"), "364d23h59m59s"),
    ]
    assert parse_bans(LISTED.replace("expires", "-")) == []
    with raises(HostError, "unknown-element"):
        parse_bans(LISTED.replace("192.0.2.7", "192.0.2"))


@given(st.ip_addresses(), st.floats(0.001, 86_400))
def test_ban_commands_use_the_key_that_the_rules_look_up(address: Address, left_s: float) -> None:
    add, delete, again = ban_commands("inet doorward", {ban_network(address): left_s})
    key = address if address.version == 4 else ip_address(int(address) >> 64 << 64) if int(address) >> 64 else "::"
    assert add == again
    assert add.startswith(f"add element inet doorward banned{address.version} {{ {key} timeout ")
    assert delete == f"delete element inet doorward banned{address.version} {{ {key} }}"
