"""Options of a signed knock, as users write them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client.request_options import (
    LONGEST_FOR_S,
    AutomaticAddress,
    parse_for_s,
    parse_from,
    parse_gate,
    parse_signed_ports,
)
from doorward.model import Port


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_for_s, "30s", 30),
        (parse_for_s, "2000ms", 2),
        (parse_for_s, "1d", 86400),
        (parse_from, "192.0.2.7", ip_address("192.0.2.7")),
        (parse_from, "2001:db8::/64", ip_network("2001:db8::/64")),
        (parse_from, "auto", AutomaticAddress()),
        (parse_gate, "paris-2", "paris-2"),
        (parse_gate, "SHA256:abc+/", "SHA256:abc+/"),
        (parse_signed_ports, "62201", (Port.parse("62201/udp"),)),
        (parse_signed_ports, "1:udp", (Port.parse("1/udp"),)),
        (parse_signed_ports, "443,53/udp", (Port.parse("443/udp"), Port.parse("53/udp"))),
    ],
)
def test_valid_values(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_for_s, "30", "invalid duration '30'; write the unit too: \"30s\""),
        (parse_for_s, "0s", "is zero"),
        (parse_for_s, "500ms", "'500ms' is not a whole number of seconds; write e.g. \"1s\""),
        (parse_for_s, f"{LONGEST_FOR_S + 1}s", "is longer than a knock can request; write a shorter time"),
        (parse_from, "here", "invalid address 'here'; write e.g. \"192.0.2.7\", \"192.0.2.0/24\" or \"auto\""),
        (parse_from, "192.0.2.1/24", "invalid address"),
        (parse_from, "::ffff:192.0.2.1", "invalid address"),
        (parse_from, "::ffff:192.0.2.0/120", "invalid address"),
        (parse_gate, "a b", "invalid gate name 'a b'; use at most 64 letters, digits, - and _"),
        (parse_signed_ports, "22/tcp", "22/tcp is not a UDP port, which signed knocks need; write 22/udp"),
        (parse_signed_ports, "knock", "invalid port 'knock'"),
        (parse_signed_ports, "53,", "invalid port ''"),
        (parse_signed_ports, "53,443,53/udp", "duplicate port 53/udp; write it once"),
        (parse_signed_ports, "1,2,3,4,5,6,7,8,9", "9 ports for signed knocks; write 1 to 8"),
    ],
)  # fmt: skip
def test_errors_have_a_remedy(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 # the text is looked at below
        parse(text)
    assert message in str(raised.value)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    for parse in (parse_for_s, parse_from, parse_gate, parse_signed_ports):
        try:
            parse(text)
        except ValueError:
            continue
