"""Port lists, as the command line accepts them and messages show them."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.model import Port, Protocol
from doorward.verify.port_set import Ports, count_text, parse_ports, port_numbers, port_ranges, ports_text

PORTS = st.frozensets(st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65535)), max_size=60)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("22", "22/tcp"),
        ("22,80", "22/tcp, 80/tcp"),
        ("20-22,7000/udp", "20-22/tcp, 7000/udp"),
        ("53/udp, 53/TCP", "53/tcp, 53/udp"),
        ("7000:udp", "7000/udp"),
        ("60-61/udp,62/udp", "60-62/udp"),
    ],
)
def test_valid_port_lists(text: str, wanted: str) -> None:
    assert ports_text(parse_ports(text)) == wanted


def test_all_ports() -> None:
    ports = parse_ports("1-65535")
    assert len(ports) == 65535
    assert count_text(ports) == "65,535 TCP ports"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "invalid port '': expected 22, 1-1024, 7000/udp, or several separated by commas"),
        ("22,", "invalid port ''"),
        ("ssh", "invalid port 'ssh'"),
        ("1-2-3", "invalid port '1-2-3'"),
        ("22/sctp", "invalid port '22/sctp'"),
        ("0", "invalid port '0': ports are 1 to 65535"),
        ("1-65536", "invalid port '1-65536': ports are 1 to 65535"),
        ("90-80", "invalid range '90-80': write 80-90"),
        ("٢٢", "invalid port '٢٢'"),
    ],
)
def test_invalid_port_lists(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        parse_ports(text)


@given(PORTS.filter(bool))
def test_ports_round_trip(ports: Ports) -> None:
    assert parse_ports(ports_text(ports, most=100)) == ports


@given(PORTS)
def test_ranges_contain_every_number_once(ports: Ports) -> None:
    numbers = port_numbers(ports, Protocol.TCP)
    ranges = [tuple(map(int, text.split("-"))) for text in port_ranges(numbers)]
    assert [number for each in ranges for number in range(each[0], each[-1] + 1)] == numbers


def test_long_list_is_shortened() -> None:
    assert ports_text(parse_ports("1,3,5,7"), most=2) == "1/tcp, 3/tcp and 2 more"


@given(st.text(max_size=20) | st.text("0123456789-,/tcpud: ", max_size=12))
def test_any_text_is_ports_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_ports(text)
