"""Links, host tables and app exports, parsed as the clients parse them."""

from __future__ import annotations

import json
import tomllib
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client.hosts import parse_hosts
from doorward.client.link_uri import format_link, parse_link
from doorward.config import knockd
from doorward.config.schema import Configuration, Gate, Signed
from doorward.errors import UsageError
from doorward.init.client_setup import (
    delay_ms,
    hosts_table,
    is_shareable,
    knock_link,
    knock_on_ports,
    knockd_stanza,
    shareable_doors,
    validate_address,
)
from doorward.model import DEFAULT_FLAGS, Door, FlagFilter, Port, Protocol
from tests.support.errors import raises

KEY = "x25519:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
SSH = (Port(Protocol.TCP, 22),)
knocks = st.lists(st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65_535)), min_size=1, max_size=32)
doors = st.builds(
    lambda name, knock, within_ms: Door(name, tuple(knock), SSH, within_ms),
    st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(lambda name: name != "options"),
    knocks,
    st.integers(1, 3_600_000),
)
addresses = st.sampled_from(["192.0.2.7", "2001:db8::7", "[2001:db8::7]", "server.example"])


def door(name: str = "ssh", *knock: str, **fields: Any) -> Door:
    ports = tuple(map(Port.parse, knock or ("7013/tcp", "9241/udp")))
    return Door(name, ports, SSH)._replace(**fields)


def configured(*doors: Door, gate: Gate | None = None, signed: Signed | None = None) -> Configuration:
    return Configuration(gate or Gate(), doors, signed)


# Knock on Ports reads these, after its source (SequencesDataV1); it passes over what it does not know.
TYPES = {"name": str, "host": str, "delay": int, "ipv": str, "type": str, "port": int, "content": str, "encoding": str}
WORDS = {
    "ipv": {"prefer_ipv4", "prefer_ipv6", "only_ipv4", "only_ipv6", "both_ipv4_ipv6"},
    "type": {"udp", "tcp", "icmp"},
    "encoding": {"raw", "base64", "hex"},
}


def imported(text: str) -> list[dict[str, Any]]:
    """Read a file as the app does."""
    whole = json.loads(text)
    assert whole["version"] == 1
    for table in [*whole["sequences"], *(step for entry in whole["sequences"] for step in entry["steps"])]:
        for key in table.keys() & TYPES.keys():
            assert type(table[key]) is TYPES[key]
        assert all(table[key] in words for key, words in WORDS.items() if key in table)
    found: list[dict[str, Any]] = whole["sequences"]
    return found


@given(doors, addresses)
def test_app_export_has_every_knock_in_time(door: Door, address: str) -> None:
    (found,) = imported(json.dumps(knock_on_ports(door, address)))
    assert [(step["type"], step["port"]) for step in found["steps"]] == [
        (port.protocol.name.lower(), port.number) for port in door.knock
    ]
    assert all(step.get("content") for step in found["steps"] if step["type"] == "udp")
    assert 0 <= found["delay"] <= 15_000
    assert found["delay"] * (len(door.knock) - 1) <= door.within_ms / 2
    assert not found["host"].startswith("[")


@pytest.mark.parametrize(
    ("address", "versions"),
    [("192.0.2.7", "only_ipv4"), ("2001:db8::7", "only_ipv6"), ("server.example", "both_ipv4_ipv6")],
)
def test_app_uses_the_ip_version_of_the_address(address: str, versions: str) -> None:
    assert knock_on_ports(door(), address)["sequences"][0] == {
        "name": f"ssh at {address}",
        "host": address,
        "delay": 250,
        "ipv": versions,
        "steps": [{"type": "tcp", "port": 7013}, {"type": "udp", "port": 9241, "content": "0", "encoding": "raw"}],
    }


def test_delay_fits_the_doors_time_limit() -> None:
    assert delay_ms(door(within_ms=15_000)) == 250
    assert delay_ms(door("ssh", "7013/tcp", "9241/udp", "8116/tcp", within_ms=400)) == 100
    assert delay_ms(door("ssh", "7013/tcp")) == 250


@given(doors)
def test_stanza_parses_as_knockd_conf(door: Door) -> None:
    (found,) = knockd.parse(knockd_stanza(door, "192.0.2.7"), "knockd.conf").doors
    assert (found.name, found.knock) == (door.name, door.knock)
    assert found.within_ms <= max(door.within_ms, 1000)
    assert found.flags.passes(2)
    assert not found.flags.passes(18)


@given(st.lists(doors, min_size=1, max_size=5, unique_by=lambda door: door.name), addresses, st.booleans())
def test_link_and_hosts_table_agree(doors: list[Door], address: str, signed: bool) -> None:
    configuration = configured(*doors, signed=Signed() if signed else None)
    link = knock_link(configuration, KEY if signed else None, address, doors)
    assert parse_link(format_link(link)) == link
    (host,) = parse_hosts(hosts_table("web 1", link).encode(), "hosts.toml").values()
    assert (host.name, host.address) == ("web 1", address.strip("[]"))
    assert (host.server_key, host.doors) == (link.key, {door.name: door.knock for door in doors})


def test_custom_port_and_gate_name() -> None:
    gate, signed = Gate(name="web"), Signed(ports=(Port(Protocol.UDP, 5000),), confirm=True)
    configuration = configured(door("db")._replace(knock=()), gate=gate, signed=signed)
    link = knock_link(configuration, KEY, "192.0.2.7", configuration.doors)
    assert (link.signed_ports, link.gate, link.doors) == (signed.ports, "web", (("db", ()),))
    table = tomllib.loads(hosts_table("home", link))
    assert table["home"] == {
        "address": "192.0.2.7",
        "server_key": KEY,
        "signed_port": "5000/udp",
        "gate": "web",
        "confirm": True,
        "doors": {"db": []},
    }


@pytest.mark.parametrize(
    ("numbers", "in_table"),
    [((62201,), None), ((5000,), "5000/udp"), ((62201, 443), ["62201/udp", "443/udp"])],
)
def test_ports_for_signed_knocks(numbers: tuple[int, ...], in_table: object) -> None:
    signed = Signed(ports=tuple(Port(Protocol.UDP, number) for number in numbers))
    configuration = configured(door("db"), signed=signed)
    link = parse_link(format_link(knock_link(configuration, KEY, "192.0.2.7", configuration.doors)))
    assert link.signed_ports == (() if in_table is None else signed.ports)
    assert tomllib.loads(hosts_table("home", link))["home"].get("signed_port") == in_table
    (host,) = parse_hosts(hosts_table("home", link).encode(), "hosts.toml").values()
    assert host.signed_ports == signed.ports


ODD = FlagFilter.parse(("fin", "!syn"))


@pytest.mark.parametrize(
    ("door", "by_sequence", "by_signature"),
    [
        (door(), True, True),
        (door(knock=()), False, True),
        (door(flags=ODD), False, True),
        (door("d", "9241/udp", flags=ODD), True, True),  # datagrams have no flags
        (door(target=ip_address("192.0.2.9")), False, True),
        (door(flags=DEFAULT_FLAGS), True, True),
    ],
)
def test_doors_that_clients_can_open(door: Door, by_sequence: bool, by_signature: bool) -> None:
    assert is_shareable(door, signed=False) is by_sequence
    assert is_shareable(door, signed=True) is by_signature
    doors = knock_link(configured(door), KEY, "192.0.2.7", [door]).doors
    assert doors == ((door.name, door.knock if by_sequence else ()),)


def test_link_holds_64_doors() -> None:
    many = [door(f"d{number}", f"{7000 + number}/tcp", "9/udp") for number in range(70)]
    first, others = shareable_doors(configured(*many), signed=False)
    assert (len(first), others) == (64, 6)
    with raises(UsageError, "too-many-doors"):
        knock_link(configured(*many), None, "192.0.2.7", many)


@pytest.mark.parametrize("text", ["192.0.2.7", "2001:db8::7", "[2001:db8::7]", "server.example", "münchen.example"])
def test_addresses(text: str) -> None:
    assert validate_address(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a/b", "user@host", "a:b", "[::1", "a\nb", "x" * 300])
def test_invalid_addresses(text: str) -> None:
    with raises(UsageError, "invalid-host"):
        validate_address(text)


@pytest.mark.parametrize(
    ("door", "code"),
    [
        (door(knock=()), "no-sequence"),
        (door(flags=ODD), "door-needs-flags"),
    ],
)
def test_doors_that_apps_cannot_open(door: Door, code: str) -> None:
    for share in (knock_on_ports, knockd_stanza):
        with raises(UsageError, code):
            share(door, "192.0.2.7")
