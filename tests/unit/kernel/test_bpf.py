"""The socket filter, in an interpreter and in the kernel itself: only possible knock packets pass."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from doorward.kernel.bpf import (
    COPIED_BYTES,
    COPIED_EXTENDED_BYTES,
    MAX_INSTRUCTIONS,
    SHORTEST,
    Instruction,
    Program,
    address_filter,
    knock_filter,
    on_interfaces,
)
from doorward.model import DEFAULT_FLAGS, FlagFilter, Port, Protocol
from doorward.packets.packet import DESTINATION_OPTIONS, EXTENSIONS, FRAGMENT
from tests.support.captures import ip
from tests.support.classic_bpf import LOOPBACK, KernelFilter, kept
from tests.support.headers import Extension, ipv4, ipv6, tcp, udp

TCP, UDP = Protocol.TCP, Protocol.UDP
ANY = FlagFilter.parse(())
FIN = FlagFilter.parse(("fin",))


def takes(program: Program, packet: bytes) -> bool:
    """Return the verdict of the interpreter and the kernel, which must agree."""
    here = kept(program, packet)
    there = KernelFilter(program)
    assert there.kept(packet) == here
    there.close()
    return here > 0


@pytest.mark.parametrize(
    ("packet", "taken"),
    [
        (ipv4(TCP, tcp()), True),
        (ipv4(TCP, tcp(flags=0x12)), False),
        (ipv4(TCP, tcp(flags=0xC2)), True),  # syn with the bits of congestion notification
        (ipv4(TCP, tcp(), options=bytes(40)), True),
        (ipv4(TCP, tcp(flags=0x10), options=b"\2" * 40), False),
        (ipv4(TCP, tcp(), fragment=0x2000), True),
        (ipv4(TCP, tcp(), fragment=0x2001), False),
        (ipv4(UDP, udp()), True),
        (ipv4(UDP, udp(), fragment=1), False),
        (ipv4(1, bytes(8)), False),
        (ipv6(TCP, tcp()), True),
        (ipv6(TCP, tcp(flags=0x10)), False),
        (ipv6(UDP, udp()), True),
        (ipv6(58, bytes(8)), False),
        *((ipv6(TCP, tcp(flags=0x10), chain=[Extension(kind)]), True) for kind in EXTENSIONS),  # left to user space
        (ipv6(50, bytes(40)), False),
        (b"\x55" + ipv4(TCP, tcp())[1:], False),
        (b"\x45", False),
        (ipv4(TCP, tcp())[:33], False),
        (ipv6(TCP, tcp())[:53], False),
        (b"", False),
    ],
)
def test_the_default_filter(packet: bytes, taken: bool) -> None:
    assert takes(knock_filter([DEFAULT_FLAGS]), packet) == taken


@pytest.mark.parametrize(
    ("flags", "passing"),
    [
        ([], set()),
        ([DEFAULT_FLAGS], {2, 3, 0x42}),
        ([FIN], {1, 3, 0x11}),
        ([DEFAULT_FLAGS, FIN], {1, 2, 3, 0x11, 0x42}),
        ([DEFAULT_FLAGS, ANY], {0, 1, 2, 3, 0x10, 0x11, 0x12, 0x42}),
        ([FlagFilter(mask, 0) for mask in range(1, 40)], {0, 1, 2, 3, 0x10, 0x11, 0x12, 0x42}),  # too many to test
    ],
)
def test_flags(flags: list[FlagFilter], passing: set[int]) -> None:
    program = knock_filter(flags)
    all_flags = (0, 1, 2, 3, 0x10, 0x11, 0x12, 0x42)
    for build in (ipv4, ipv6):
        assert {each for each in all_flags if takes(program, build(TCP, tcp(flags=each)))} == passing
        assert takes(program, build(UDP, udp()))


NUMBERS = {0, 1, 2, 21, 22, 23, 6999, 7000, 7001, 8000, 65534, 65535}


def ports(text: str) -> list[Port]:
    return [Port.parse(word) for word in text.split()]


@pytest.mark.parametrize(
    ("never", "tcp_taken", "udp_taken"),
    [
        ("", NUMBERS, NUMBERS),
        ("22/tcp", NUMBERS - {22}, NUMBERS),
        ("21/tcp 22/tcp 23/tcp 8000/udp", NUMBERS - {21, 22, 23}, NUMBERS - {8000}),
        ("1/tcp 65535/tcp 65534/udp 65535/udp", NUMBERS - {1, 65535}, NUMBERS - {65534, 65535}),
    ],
)
def test_ports(never: str, tcp_taken: set[int], udp_taken: set[int]) -> None:
    program = knock_filter([DEFAULT_FLAGS], never=ports(never))
    for packet_of in (ipv4, ipv6):
        assert {n for n in NUMBERS if takes(program, packet_of(TCP, tcp(n)))} == tcp_taken
        assert {n for n in NUMBERS if takes(program, packet_of(UDP, udp(n)))} == udp_taken


@pytest.mark.parametrize("count", [1, 10, 60, 80, 100, 200, 1000, 20_000])
def test_many_ports_are_searched_or_left_to_user_space(count: int) -> None:
    dice = random.Random(count)
    never = {Port(dice.choice(list(Protocol)), dice.randrange(1, 65536)) for _ in range(count)}
    program = knock_filter([DEFAULT_FLAGS, FIN], never=never)
    assert len(program) <= MAX_INSTRUCTIONS
    assert program == knock_filter([FIN, DEFAULT_FLAGS], never=never)
    kernel = KernelFilter(program)
    for port in [*dice.sample(sorted(never), min(count, 100)), *(Port(TCP, dice.randrange(65536)) for _ in range(50))]:
        packet = ipv4(port.protocol, tcp(port.number) if port.protocol is TCP else udp(port.number))
        may_be_knock_packet = port not in never
        taken = kept(program, packet) > 0
        assert taken or not may_be_knock_packet
        assert taken == may_be_knock_packet or count > 60
        assert (kernel.kept(packet) > 0) == taken
    kernel.close()


def test_long_port_lists_are_dropped() -> None:
    many = [Port(TCP, number) for number in range(2, 2000, 2)]
    assert knock_filter([DEFAULT_FLAGS], never=many) == knock_filter([DEFAULT_FLAGS])


def test_copied_bytes() -> None:
    program = knock_filter([DEFAULT_FLAGS])
    assert kept(program, ipv4(UDP, udp(data=bytes(1000)))) == COPIED_BYTES
    assert kept(program, ipv4(TCP, tcp(options=bytes(40)), options=bytes(40))) == COPIED_BYTES
    long = ipv6(TCP, tcp() + bytes(4000), chain=[Extension(FRAGMENT), Extension(DESTINATION_OPTIONS, 200)])
    assert kept(program, long) == COPIED_EXTENDED_BYTES


@pytest.mark.parametrize(
    ("packet_type", "taken"), [(0, True), (1, True), (2, True), (3, False), (4, False), (6, False)]
)
def test_only_incoming_packets_pass(packet_type: int, taken: bool) -> None:
    program = knock_filter([DEFAULT_FLAGS])
    assert bool(kept(program, ipv4(TCP, tcp()), packet_type=packet_type)) == taken


def test_interfaces() -> None:
    program, packet = knock_filter([DEFAULT_FLAGS]), ipv4(TCP, tcp())
    anywhere = on_interfaces(program, None)
    assert kept(anywhere, packet)
    assert not kept(anywhere, packet, hardware=LOOPBACK)
    for count in (0, 1, 2, 300):
        chosen = on_interfaces(program, set(range(2, 2 + count)))
        assert [n for n in range(1, 400) if kept(chosen, packet, interface=n)] == list(range(2, 2 + count))
        assert bool(kept(chosen, packet, hardware=LOOPBACK)) == (count > 0)  # loopback is captured if it is named
        KernelFilter(chosen).close()


def test_no_packet_is_shorter_than_the_ring_reads() -> None:
    everything = [Instruction(0x06, 96)]
    for program in (on_interfaces(everything, None), on_interfaces(everything, [2])):
        assert [n for n in range(40) if kept(program, bytes(n))] == list(range(SHORTEST, 40))


FOUR, SIX = ip_address("192.0.2.7").packed, ip_address("2001:db8:1:2::7").packed
RELATIVE, STRANGER = ip_address("2001:db8:1:2:ffff::8").packed, ip_address("2001:db8:1:3::7").packed
OTHER4 = ip_address("192.0.2.8").packed


def from_to(source: bytes, destination: bytes) -> bytes:
    return ip(ip_address(source), ip_address(destination), 17, udp())


@pytest.mark.parametrize(
    ("address", "other", "taken"),
    [(FOUR, FOUR, True), (FOUR, OTHER4, False), (SIX, SIX, True), (SIX, RELATIVE, True), (SIX, STRANGER, False)],
)
def test_one_address_or_its_network(address: bytes, other: bytes, taken: bool) -> None:
    here = ip_address("198.51.100.2" if len(address) == 4 else "2001:db8:ff::2").packed
    coming, going = (address_filter(address, outgoing=outgoing) for outgoing in (False, True))
    assert bool(kept(coming, from_to(other, here))) == taken
    assert not kept(coming, from_to(other, here), packet_type=3)  # to another host
    assert not kept(coming, from_to(here, other))
    assert bool(kept(going, from_to(here, other), packet_type=4)) == taken
    assert not kept(going, from_to(here, other))
    for program in (coming, going):
        assert not kept(program, b"\x45", packet_type=4 if program is going else 0)
        KernelFilter(program).close()
