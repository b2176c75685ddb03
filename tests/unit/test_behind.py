"""Ports of hosts behind this one, from the configuration to the open sets."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from itertools import islice

import pytest

from doorward.config.toml import parse
from doorward.core.opening_table import OpeningTable
from doorward.core.openings import Reject, SetElements, on_knock, on_reconcile
from doorward.doctor import hosts_behind, lockout
from doorward.doctor.host import LocalAddress
from doorward.errors import ConfigError, InvalidValueError
from doorward.explain.compiled_config import build_config
from doorward.explain.replay import CapturedPacket, PacketVerdict, Replayer
from doorward.kernel import netlink
from doorward.kernel.sock_diag import matching_entry
from doorward.model import Address, Door, Element, HostPort, Packet, Port, Redirect, parse_open_port, set_port
from doorward.nftables.libnftables import read_elements
from doorward.packets.decode import Flow
from tests.support.doctor_facts import WELL
from tests.support.errors import raises

V4, V6 = ip_address("192.0.2.7"), ip_address("2001:db8::7")
HOST4, HOST6 = ip_address("10.7.0.2"), ip_address("fd07::2")
SSH4, SSH6 = HostPort(*Port.parse("22/tcp"), HOST4), HostPort(*Port.parse("22/tcp"), HOST6)
LOCAL = Port.parse("80/tcp")
KNOCK = (Port.parse("7001/tcp"), Port.parse("7002/udp"))
ONLY4 = Door("only4", KNOCK, (), behind=(SSH4,))
BOTH = Door("both", KNOCK, (LOCAL,), behind=(SSH4, SSH6))


@pytest.mark.parametrize(
    ("text", "port"),
    [("10.7.0.2:22/tcp", SSH4), ("[fd07::2]:22/tcp", SSH6), ("80/tcp", LOCAL), (" 80:tcp ", LOCAL)],
)
def test_notation(text: str, port: object) -> None:
    assert parse_open_port(text) == port
    assert parse_open_port(str(port)) == port


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("127.0.0.1:22/tcp", "not-forwarded"),
        ("224.0.0.1:22/udp", "not-forwarded"),
        ("[fe80::1]:22/tcp", "not-forwarded"),
        ("[::ffff:10.7.0.2]:22/tcp", "not-forwarded"),
        ("0.0.0.0:22/tcp", "not-forwarded"),
        ("host:22/tcp", "invalid-address"),
        ("[10.7.0.2]:22/tcp", "invalid-address"),
        ("10.7.0.0/24:22/tcp", "invalid-address"),
        ("[fe80::1%eth0]:22/tcp", "invalid-address"),
        ("10.7.0.2:0/tcp", "port-range"),
        ("10.7.0.2:22", "invalid-port"),
        ("fd07::2:22/tcp", "invalid-port"),
    ],
)
def test_invalid_notation(text: str, code: str) -> None:
    with raises(InvalidValueError, code):
        parse_open_port(text)


def faults(text: str) -> list[tuple[str, int]]:
    with pytest.raises(ConfigError) as found:
        parse(text, "doorward.toml")
    return [(fault.code, fault.line) for fault in found.value.faults]


def test_configuration() -> None:
    text = '[doors.both]\nknock = ["7001/tcp", "7002/udp"]\nopens = ["10.7.0.2:22/tcp", "80/tcp", "[fd07::2]:22/tcp"]\n'
    assert parse(text, "doorward.toml").doors == (BOTH,)


FORWARDING = '[doors.a]\nopens = ["2222/tcp -> 10.7.0.2:22", "2222/tcp->[fd07::2]:22/tcp", "80/tcp"]\nmasquerade = true'


def test_redirect() -> None:
    (door,) = parse(FORWARDING, "doorward.toml").doors
    port = Port.parse("2222/tcp")
    assert (door.opens, door.redirects) == ((port, LOCAL), (Redirect(port, SSH4), Redirect(port, SSH6)))
    assert str(door.redirects[1]) == "2222/tcp -> [fd07::2]:22"
    assert door._replace(redirects=door.redirects[:1]).opens_to(V6) == (LOCAL,)
    assert door._replace(opens=(port,), redirects=door.redirects[:1]).exclusion(V6)


@pytest.mark.parametrize(
    "text", ["2222/tcp -> 22/tcp", "2222/tcp -> 10.7.0.2:22/udp", "2222/tcp ->", "2222/tcp -> 10.7.0.2"]
)
def test_invalid_redirect(text: str) -> None:
    assert faults(f'[doors.a]\nopens = ["{text}"]')[0] == ("invalid-redirect", 2)


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ('opens = ["2222/tcp -> 10.7.0.3:22", "2222/tcp -> [fd07::2]:22"]', "redirect-conflict"),
        ('opens = ["2222/tcp -> 10.7.0.2:22"]', "redirect-conflict"),
        ('opens = ["2222/tcp"]', "redirect-conflict"),
        ('opens = ["2223/tcp -> 10.7.0.2:22", "2223/tcp -> 10.7.0.3:22"]', "redirect-conflict"),
        ('opens = ["10.7.0.2:22/tcp"]', "redirect-to-hidden-port"),
        ('opens = ["2224/tcp -> 10.7.0.2:22", "2224/tcp"]', "redirect-conflict"),
        ('opens = ["22/tcp"]\nmasquerade = true', "nothing-to-masquerade"),
    ],
)
def test_conflicts(other: str, code: str) -> None:
    found = faults(f"{FORWARDING}\n[doors.b]\n{other}")
    assert [each for each, _ in found] == [code]
    assert found[0][1] in (2, 5, 6)
    parse(f'{FORWARDING}\n[doors.b]\nopens = ["2222/tcp -> 10.7.0.2:22", "2222/tcp -> [fd07::2]:22"]', "doorward.toml")


def test_target_opens_no_port_of_this_host() -> None:
    assert faults('[doors.a]\nknock = ["7001/tcp"]\ntarget = "10.7.0.2"\nopens = ["22/tcp"]') == [
        ("opens-and-target", 4)
    ]


def test_target_opens_no_range_of_this_host() -> None:
    text = '[doors.a]\nknock = ["7001/tcp"]\ntarget = "10.7.0.2"\nopens = ["10.7.0.2:22/tcp", "30-40/tcp"]'
    assert faults(text) == [("opens-and-target", 4)]


def test_knock_port_that_a_door_opens_at_its_target() -> None:
    text = '[doors.a]\ntarget = "10.7.0.2"\nopens = ["10.7.0.2:22/tcp"]\nknock = ["22/tcp"]'
    assert faults(text) == [("unusable-knock-port", 4)]
    parse(text.replace('target = "10.7.0.2"', ""), "doorward.toml")  # knocked at this host's own port 22


@pytest.mark.parametrize(
    ("door", "source", "ports"),
    [(BOTH, V4, (LOCAL, SSH4)), (BOTH, V6, (LOCAL, SSH6)), (ONLY4, V4, (SSH4,)), (ONLY4, V6, None)],
)
def test_opens_what_the_address_family_reaches(door: Door, source: Address, ports: tuple[Port, ...] | None) -> None:
    table = OpeningTable()
    effects = on_knock(table, [door], source, 0.0)
    if ports is None:
        assert [each.code for each in effects if isinstance(each, Reject)] == ["family"]
        assert len(table) == 0
    else:
        (change,) = [each for each in effects if isinstance(each, SetElements)]
        assert change.elements == tuple(Element(source, port) for port in ports)


def test_openings_are_found_by_what_the_family_reaches() -> None:
    for source, ports in ((V4, (LOCAL, SSH4)), (V6, (LOCAL, SSH6))):
        table = OpeningTable()
        on_reconcile(table, {Element(source, port): 20.0 for port in ports}, [ONLY4, BOTH], 0.0)
        assert [(opening.door, opening.ports) for opening in table] == [("both", ports)]


def test_listed_elements() -> None:
    text = (
        "192.0.2.7 . 10.7.0.2 . tcp . 22 timeout 30s expires 12s, 192.0.2.7 . 6 . 17 expires 1s,"
        " 2001:db8::/64 . fd07::2 . 6 . 22 expires 2s"
    )
    assert [(str(e.address), str(e.port)) for e in read_elements(text)] == [
        ("192.0.2.7", "10.7.0.2:22/tcp"),
        ("192.0.2.7", "17/tcp"),
        ("2001:db8::/64", "[fd07::2]:22/tcp"),
    ]


def tracked(source: Address, port: int, host: Address, host_port: int) -> memoryview:
    """Return a conntrack message: from `source` to some address's `port`, answered by a host behind this one."""

    def direction(kind: int, sender: Address, ports: tuple[int, int]) -> bytes:
        ends = netlink.attribute(1 if sender.version == 4 else 3, sender.packed)
        numbers = b"".join(netlink.attribute(2 + n, struct.pack("!H", ports[n])) for n in (0, 1))
        carried = netlink.attribute(1, b"\6") + numbers
        both = netlink.attribute(1 | netlink.NESTED, ends) + netlink.attribute(2 | netlink.NESTED, carried)
        return netlink.attribute(kind | netlink.NESTED, both)

    entry = direction(1, source, (50000, port)) + direction(2, host, (host_port, 50000))
    return memoryview(bytes(4) + entry + netlink.attribute(12, b"\0\0\0\7"))


@pytest.mark.parametrize(
    ("entry", "is_meant"),
    [
        (tracked(V4, 22, HOST4, 22), True),
        (tracked(V4, 2222, HOST4, 22), True),  # after destination NAT
        (tracked(V4, 22, HOST4, 2222), False),
        (tracked(V4, 22, V4, 22), False),
        (tracked(ip_address("192.0.2.8"), 22, HOST4, 22), False),
    ],
)
def test_connections_to_cut(entry: memoryview, is_meant: bool) -> None:
    assert (matching_entry(entry, V4, [SSH4]) is not None) == is_meant


def test_doctor() -> None:
    configuration = parse('[doors.a]\nopens = ["10.7.0.2:22/tcp", "[fd07::2]:22/tcp"]', "doorward.toml")
    assert list(hosts_behind.check("/f", configuration, WELL)) == []
    found = hosts_behind.check("/f", configuration, replace(WELL, forwarding=frozenset({4})))
    assert [(each.code, each.where) for each in found] == [("not-forwarding", "net.ipv6.conf.all.forwarding")]
    local = WELL.network._replace(locals=(LocalAddress("eth1", ip_interface("10.7.0.2/24")),))
    assert [each.code for each in hosts_behind.check("/f", configuration, replace(WELL, network=local))] == [
        "host-is-local"
    ]


@pytest.mark.parametrize(
    ("opens", "code"),
    [("20-30/tcp", "ssh-hidden"), ("22/tcp -> 10.7.0.2:22", "ssh-forwarded"), ("10.7.0.2:22/tcp", "ssh-stays-open")],
)
def test_doctor_finds_lockouts(opens: str, code: str) -> None:
    configuration = parse(f'[doors.a]\nknock = ["7001/tcp"]\nopens = ["{opens}"]', "doorward.toml")
    assert code in [each.code for each in lockout.check("/f", configuration, WELL)]


def test_explain() -> None:
    """A packet to the host behind is hidden before the knock and enters after it; another host is elsewhere."""
    door = BOTH._replace(opens=())
    configuration = parse('[doors.a]\nopens = ["10.7.0.2:22/tcp"]', "doorward.toml")
    replayer = Replayer(build_config(replace(configuration, doors=(door,))), b"here".__eq__)
    verdicts = []
    ssh = Port.parse("22/tcp")
    script = [(HOST4.packed, ssh), *((b"here", p) for p in KNOCK), (HOST4.packed, ssh), (b"\x0a\7\0\3", ssh)]
    for number, (destination, port) in enumerate(script):
        packet = Packet(V4.packed, port, 2)
        flow = Flow(V4.packed, destination, port.protocol, 1024, port, packet, number)
        verdicts.append(replayer.replay(CapturedPacket(number, number * 10**8, flow)).verdict)
    assert verdicts[0] is PacketVerdict.HIDDEN
    assert verdicts[2:] == [PacketVerdict.OPENS, PacketVerdict.ENTERS, PacketVerdict.ELSEWHERE]


RANGES = '[gate]\npublic = ["59999/udp"]\n[doors.a]\nopens = ["60000-61000/udp"]\n[doors.b]\n'


@pytest.mark.parametrize(
    "opens",
    ['["60000-61000/udp"]', '["61001/udp", "59998/udp", "60500/tcp"]', '["61001-61002/udp", "60000-61000/tcp"]'],
)
def test_ranges_that_do_not_overlap(opens: str) -> None:
    parse(f"{RANGES}opens = {opens}", "doorward.toml")


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        ('opens = ["60999-61001/udp"]', 6),
        ('opens = ["60001-60002/udp"]', 6),
        ('opens = ["61000/udp"]', 4),
        ('opens = ["59990-59999/udp"]', 6),
        ('opens = ["1/udp"]\nknock = ["60001/udp"]', 4),
        ('opens = ["1/udp"]\n[signed]\nport = "60001/udp"', 4),
    ],
)
def test_ranges_that_overlap(rest: str, line: int) -> None:
    assert faults(RANGES + rest) == [("range-overlap", line)]


def test_port_in_the_wider_of_two_overlapping_ranges() -> None:
    expected = [("range-overlap", 4), ("range-overlap", 6)]
    assert faults(RANGES + 'opens = ["60001-60002/udp", "60500/udp"]') == expected


def test_all_doors_together_have_so_many_ranges() -> None:
    def doors(*counts: int) -> str:
        spans = (f'"{first}-{first + 1}/tcp"' for first in range(1, 60_000, 2))
        opens = (", ".join(islice(spans, count)) for count in counts)
        return "\n".join(f"[doors.d{number}]\nopens = [{each}]" for number, each in enumerate(opens))

    assert len(parse(doors(*32 * [32]), "f").doors) == 32
    assert faults(doors(*32 * [32], 1)) == [("too-many-ranges", 66)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("61000-60000/udp", "reversed-range"),
        ("0-5/udp", "port-range"),
        ("1-70000/udp", "port-range"),
        ("10.7.0.2:1-2/udp", "invalid-port"),
        ("1-2/udp -> 10.7.0.2:1", "invalid-port"),
    ],
)
def test_invalid_ranges(text: str, code: str) -> None:
    assert faults(f'[doors.a]\nopens = ["{text}"]')[0] == (code, 2)


def test_range_is_opened_by_its_first_port() -> None:
    span = parse_open_port("60000-61000/udp")
    assert (str(span), set_port(span)) == ("60000-61000/udp", Port.parse("60000/udp"))
    (_, door), found = (
        parse('[doors.b]\nopens = ["1/tcp"]\n[doors.a]\nopens = ["60000-61000/udp", "22/tcp"]', "f").doors,
        [],
    )
    table = OpeningTable()
    on_reconcile(
        table, {Element(V4, Port.parse("60000/udp")): 9.0, Element(V4, Port.parse("22/tcp")): 9.0}, [door], 0.0
    )
    found += [(opening.door, {*map(str, opening.ports)}) for opening in table]
    assert found == [("a", {"60000-61000/udp", "22/tcp"})]
    assert table.wanted_until([Element(V4, Port.parse("60000/udp"))]) == {Element(V4, Port.parse("60000/udp")): 9.0}


def test_range_in_explain() -> None:
    config = build_config(parse(f'{RANGES}opens = ["60000-61000/udp", "22/tcp"]', "f"))
    replayer = Replayer(config, b"here".__eq__)
    for number, text in enumerate(("60000/udp", "60500/udp", "61000/udp", "61001/udp", "60500/tcp")):
        port = Port.parse(text)
        flow = Flow(V4.packed, b"here", port.protocol, 1024, port, Packet(V4.packed, port, 2), number)
        step = replayer.replay(CapturedPacket(number, number * 10**8, flow))
        assert (step.verdict is PacketVerdict.HIDDEN) == (number < 3)
        assert str(step.service) == ("60000-61000/udp" if number < 3 else text)
