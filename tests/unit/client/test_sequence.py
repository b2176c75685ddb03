"""Real sockets on loopback, observed by a capture; waiting with a fake clock."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from doorward.client.connector import Reply, knock_until_open
from doorward.client.sequence import Target, knock, resolve, send
from doorward.errors import DoorwardError, HostError, UsageError
from doorward.model import Port, Protocol
from tests.support.errors import raises
from tests.support.processes import pending_syns

LOOPBACK = {4: Target(socket.AF_INET, ("127.0.0.1", 0)), 6: Target(socket.AF_INET6, ("::1", 0, 0, 0))}
NOWHERE = Target(socket.AF_INET, ("255.255.255.255", 0))  # no socket may send there: nothing ever leaves
SYN = 0x02
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a packet capture needs root")


def tcp(*numbers: int) -> tuple[Port, ...]:
    return tuple(Port(Protocol.TCP, number) for number in numbers)


def udp(number: int) -> Port:
    return Port(Protocol.UDP, number)


@contextmanager
def closed_ports(version: int, count: int) -> Iterator[list[int]]:
    """Silent ports of both protocols; bound, so that no other program can use them."""
    target = LOOPBACK[version]
    with ExitStack() as held:
        numbers = []
        for _ in range(count):
            stream = held.enter_context(socket.socket(target.family, socket.SOCK_STREAM))
            stream.bind(target.at(0))
            numbers.append(stream.getsockname()[1])
        yield numbers


@contextmanager
def listener(version: int = 4) -> Iterator[socket.socket]:
    target = LOOPBACK[version]
    with socket.socket(target.family, socket.SOCK_STREAM) as server:
        server.bind(target.at(0))
        server.listen(0)
        yield server


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops every further SYN."""
    with listener() as server, socket.create_connection(server.getsockname()):
        yield server.getsockname()[1]


def capture_until(sniffer: socket.socket, version: int, last: int) -> list[tuple[int, int, int, bytes]]:
    """Capture loopback up to the datagram to port `last`: protocol, port, TCP flags, payload."""
    start, protocol_at = {4: (20, 9), 6: (40, 6)}[version]
    seen: list[tuple[int, int, int, bytes]] = []
    while True:
        packet, (_, _, kind, *_) = sniffer.recvfrom(65535)
        if kind == socket.PACKET_OUTGOING:  # loopback shows each packet twice
            continue
        protocol, body = packet[protocol_at], packet[start:]
        port = int.from_bytes(body[2:4])
        if protocol == Protocol.UDP and port == last:
            return seen
        flags, payload = (body[13], b"") if protocol == Protocol.TCP else (0, body[8:])
        seen.append((protocol, port, flags, payload))


@needs_root
@pytest.mark.parametrize("version", [4, 6])
def test_sequence_sends_one_packet_per_port_in_order(version: int) -> None:
    ether_type = {4: 0x0800, 6: 0x86DD}[version]
    with (
        closed_ports(version, 4) as (first, second, third, end),
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ether_type))) as sniffer,
    ):
        sniffer.bind(("lo", ether_type))
        sniffer.settimeout(10)
        sequence = (*tcp(first), udp(second), *tcp(first, third), udp(third))
        knock([LOOPBACK[version]], sequence, delay_s=0)
        assert send(LOOPBACK[version], udp(end)) == 0
        seen = capture_until(sniffer, version, end)
    assert [packet for packet in seen if packet[1] in (first, second, third)] == [
        (Protocol.TCP, first, SYN, b""),
        (Protocol.UDP, second, 0, b"\0"),
        (Protocol.TCP, first, SYN, b""),
        (Protocol.TCP, third, SYN, b""),
        (Protocol.UDP, third, 0, b"\0"),
    ]


def test_no_socket_is_left_to_retransmit_the_syn() -> None:
    with silent_port() as port:
        with socket.socket() as careless:
            careless.setblocking(False)
            assert careless.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            assert pending_syns(port) == 1  # what a client that keeps its socket leaves behind
        assert send(LOOPBACK[4], *tcp(port)) == errno.EINPROGRESS
        assert pending_syns(port) == 0


def test_closed_ports_do_not_end_a_sequence() -> None:
    reported: list[tuple[int, Port]] = []
    pauses: list[float] = []
    with closed_ports(4, 2) as (first, second):
        sequence = (udp(first), *tcp(second), udp(first), *tcp(second))
        used = knock(
            [LOOPBACK[4]],
            sequence,
            0.25,
            report=lambda _, place, port: reported.append((place, port)),
            sleep=pauses.append,
        )
    assert used == LOOPBACK[4]
    assert reported == list(enumerate(sequence, 1))
    assert pauses == [0.25] * 3  # between the packets: none before the first, none after the last


def test_open_port_may_be_part_of_a_sequence() -> None:
    with listener() as server:
        assert send(LOOPBACK[4], *tcp(server.getsockname()[1])) in (0, errno.EINPROGRESS)


@pytest.mark.parametrize("protocol", Protocol)
def test_next_address_is_used_if_the_first_is_unreachable(protocol: Protocol) -> None:
    with closed_ports(4, 1) as (port,):
        assert knock([NOWHERE, LOOPBACK[4]], (Port(protocol, port),)) == LOOPBACK[4]


def test_unreachable_host_error_lists_every_address() -> None:
    with raises(HostError, "unreachable"):
        knock([NOWHERE, NOWHERE], tcp(7000))


@pytest.mark.parametrize("answer", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES])
def test_icmp_reply_to_an_earlier_packet_is_ignored(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    results = iter([0, answer, errno.EINPROGRESS])
    monkeypatch.setattr("doorward.client.sequence.send", lambda *_: next(results))
    knock([LOOPBACK[4]], tcp(1, 2, 3), delay_s=0)
    assert list(results) == []


def test_locally_dropped_packet_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([0, errno.EPERM])
    monkeypatch.setattr("doorward.client.sequence.send", lambda *_: next(results))
    with raises(HostError, "send-failed"):
        knock([LOOPBACK[4]], tcp(1, 2, 3), delay_s=0)


def test_resolve_keeps_to_the_family() -> None:
    assert resolve("127.0.0.1") == [LOOPBACK[4]]
    assert resolve("::1", socket.AF_INET6) == [LOOPBACK[6]]
    with raises(UsageError, "no-address"):
        resolve("127.0.0.1", socket.AF_INET6)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (socket.EAI_NONAME, UsageError, "unknown-host"),
        (socket.EAI_AGAIN, HostError, "no-name-server"),
    ],
)
def test_unknown_host_is_an_error(
    monkeypatch: pytest.MonkeyPatch, error: int, kind: type[DoorwardError], code: str
) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(error, "as the library says it")

    monkeypatch.setattr("doorward.client.sequence.socket.getaddrinfo", fail)
    with raises(kind, code):
        resolve("gate.example")


@pytest.mark.parametrize("name", ["\u00e9" * 80, "\u00e9..example"])
def test_invalid_host_name_is_an_error(name: str) -> None:
    with raises(UsageError, "invalid-host-name"):
        resolve(name)


class Rehearsal:
    """A clock that advances only by sleeping, and a port that opens at the `opens_at`-th attempt."""

    def __init__(self, opens_at: int, otherwise: Reply) -> None:
        self.now_s = 100.0
        self.opens_at = opens_at
        self.otherwise = otherwise
        self.script: list[tuple[str, float]] = []

    def knock(self) -> Target:
        self.script.append(("knock", self.now_s - 100))
        return LOOPBACK[4]

    def visit(self, target: Target, patience_s: float) -> Reply:
        assert target == LOOPBACK[4]
        self.script.append(("visit", self.now_s - 100))
        self.opens_at -= 1
        if self.opens_at == 0:
            return Reply.OPEN
        self.now_s += patience_s if self.otherwise is Reply.SILENT else 0
        return self.otherwise

    def wait(self, duration_s: float) -> None:
        self.now_s += duration_s

    def run(self, timeout_s: float) -> tuple[Reply, int]:
        return knock_until_open(self.knock, self.visit, timeout_s, now=lambda: self.now_s, sleep=self.wait)


def test_first_connection_attempt_follows_the_knock_immediately() -> None:
    rehearsal = Rehearsal(opens_at=1, otherwise=Reply.SILENT)
    assert rehearsal.run(30) == (Reply.OPEN, 1)
    assert rehearsal.script == [("knock", 0), ("visit", 0)]


def test_pauses_grow_up_to_a_bound() -> None:
    rehearsal = Rehearsal(opens_at=7, otherwise=Reply.REFUSED)
    assert rehearsal.run(30) == (Reply.OPEN, 7)
    assert [at for what, at in rehearsal.script if what == "knock"] == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5]


def test_a_last_round_uses_what_is_left() -> None:
    rehearsal = Rehearsal(opens_at=0, otherwise=Reply.SILENT)
    assert rehearsal.run(10) == (Reply.SILENT, 4)
    assert [at for what, at in rehearsal.script if what == "knock"] == [0, 2, 5, 9]
    assert rehearsal.now_s == 110


@pytest.mark.parametrize("otherwise", [Reply.REFUSED, Reply.SILENT])
@pytest.mark.parametrize("timeout_s", [0.1, 1, 5, 30])
def test_the_timeout_bounds_the_whole(otherwise: Reply, timeout_s: float) -> None:
    rehearsal = Rehearsal(opens_at=0, otherwise=otherwise)
    reply, rounds = rehearsal.run(timeout_s)
    assert (reply, rounds) == (otherwise, len(rehearsal.script) // 2)
    assert rehearsal.now_s - 100 <= timeout_s
