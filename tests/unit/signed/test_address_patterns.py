"""Lists of addresses as sshd's `from=` takes them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import InvalidValueError
from doorward.signed.address_patterns import parse
from tests.support.errors import raises


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8 2001:db8::7"),
        ("203.0.113.0/24", "203.0.113.0 203.0.113.255", "203.0.114.0 ::cb00:7107"),
        ("2001:db8::/32", "2001:db8::1 2001:db8:ffff::", "2001:db9:: 32.1.13.184"),
        ("2001:DB8::7", "2001:db8::7", "2001:db8::8"),
        ("0.0.0.0/0,::/0", "203.0.113.7 2001:db8::7", ""),
        ("203.0.113.0/24,!203.0.113.9", "203.0.113.8", "203.0.113.9"),
        ("!203.0.113.9,203.0.113.0/24", "203.0.113.8", "203.0.113.9"),
        ("*,!203.0.113.0/24", "198.51.100.1 2001:db8::7", "203.0.113.9"),
        ("203.0.113.*", "203.0.113.9", "203.0.114.9"),
        ("203.0.113.?", "203.0.113.9", "203.0.113.10"),
        ("203.0.113.0/24,!203.0.113.1?", "203.0.113.9 203.0.113.100", "203.0.113.10"),
        ("2001:DB8:*", "2001:db8::7", "2001:db9::7 203.0.113.7"),
        ("*", "203.0.113.7 ::1", ""),
        ("*.*", "203.0.113.7", "2001:db8::7"),
    ],
)
def test_pattern_list_matches(text: str, inside: str, outside: str) -> None:
    places = parse(text, wildcards=True)
    assert [each for each in inside.split() if not places.matches(ip_address(each))] == []
    assert [each for each in outside.split() if places.matches(ip_address(each))] == []


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("203.0.113.0/24", "203.0.113.0/24 203.0.113.16/28", "203.0.112.0/23 2001:db8::/32 0.0.0.0/0"),
        ("203.0.113.0/24,!203.0.113.9", "203.0.113.16/28", "203.0.113.8/31 203.0.113.0/24"),
        ("2001:db8::/32,!203.0.113.9", "2001:db8:1::/48", "2001::/16 203.0.113.0/24"),
    ],
)
def test_whole_networks(text: str, inside: str, outside: str) -> None:
    places = parse(text, wildcards=False)
    assert [each for each in inside.split() if not places.matches(ip_network(each))] == []
    assert [each for each in outside.split() if places.matches(ip_network(each))] == []


def test_wildcards_never_match_networks() -> None:
    assert not parse("*", wildcards=True).matches(ip_network("203.0.113.0/24"))
    assert not parse("0.0.0.0/0,!198.51.100.*", wildcards=True).matches(ip_network("203.0.113.0/24"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty item in the list; write addresses, e.g. 203.0.113.0/24,2001:db8::7"),
        ("203.0.113.7,", "empty item in the list; write addresses, e.g. 203.0.113.0/24,2001:db8::7"),
        ("!", "empty item in the list; write addresses, e.g. 203.0.113.0/24,2001:db8::7"),
        ("home.example", "invalid address 'home.example' (host names are not allowed); write addresses or prefixes"),
        ("*.example", "invalid address '*.example' (host names are not allowed); write addresses or prefixes"),
        ("203.0.113.7, ::1", "' ::1' contains a space; write the list without spaces"),
        ("203.0.113.7/24", "'203.0.113.7/24' has host bits set; write 203.0.113.0/24"),
        ("2001:db8::1/32", "'2001:db8::1/32' has host bits set; write 2001:db8::/32"),
        ("203.0.113.256", "invalid address '203.0.113.256'; write e.g. 203.0.113.0/24 or 2001:db8::7"),
        ("203.0.113.0/33", "invalid address '203.0.113.0/33'; write e.g. 203.0.113.0/24 or 2001:db8::7"),
        ("203.0.113.0/255.255.255.0", "invalid address '203.0.113.0/255.255.255.0' (host names are not allowed)"),
        ("fe80::1%eth0", "invalid address 'fe80::1%eth0' (host names are not allowed); write addresses or prefixes"),
        ("!203.0.113.9", "'!203.0.113.9' only excludes addresses; include some, e.g. *,!203.0.113.9"),
        ("cafe", "invalid address 'cafe'; write e.g. 203.0.113.0/24 or 2001:db8::7"),
    ],
)
def test_invalid_patterns_have_a_remedy(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=r"; .") as raised:
        parse(text, wildcards=True)
    assert str(raised.value).startswith(fault)


def test_wildcards_are_rejected_in_addresses() -> None:
    with raises(InvalidValueError, "wildcard"):
        parse("203.0.113.*", wildcards=False)
    with raises(InvalidValueError, "only-exclusions"):
        parse("!203.0.113.9", wildcards=False)
    with raises(InvalidValueError, "exclusion"):
        parse("203.0.113.0/24,!203.0.113.9", wildcards=False, exceptions=False)


ADDRESSES = st.ip_addresses()
WRITTEN = st.lists(
    st.tuples(
        st.sampled_from(["", "!"]), st.ip_addresses().map(str) | st.text("0123456789abcdef:.*?/! ", max_size=12)
    ).map("".join)
)


@given(WRITTEN.map(",".join) | st.text(), ADDRESSES)
def test_any_text_gives_a_list_or_a_clear_fault(text: str, address: object) -> None:
    try:
        places = parse(text, wildcards=True)
    except ValueError as error:
        what, _, instead = str(error).rpartition("; ")
        assert (bool(what), bool(instead), str(error).isprintable()) == (True, True, True)  # noqa: PT017
        return
    assert places.matches(address) in (True, False)  # type: ignore[arg-type]


def test_many_wildcards_take_no_time() -> None:
    places = parse("*1*" * 20 + "2", wildcards=True)
    assert not places.matches(ip_address("1111:1111:1111:1111:1111:1111:1111:1111"))
