"""The netfilter log: constructed messages, and the kernel's own in a namespace."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from doorward.errors import HostError, MalformedError
from doorward.kernel.nflog import LogSocket, NflogEvent, bound_pid, event_log, parse_event
from doorward.lab.namespace import ip
from doorward.nftables.libnftables import NftFirewall
from tests.support.errors import raises
from tests.support.netfilter_log import logged, packet_from
from tests.support.processes import as_nobody, open_descriptors, own_namespace

GROUP = 3328
HERE, THERE = ip_address("192.0.2.7"), ip_address("2001:db8::7")
P4, P6 = packet_from(HERE), packet_from(THERE)
MARK = struct.pack("!I", 70_000)


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (logged(b"doorward 0123abcd knock \0", P4, MARK), NflogEvent("0123abcd", "knock", 70_000, HERE)),
        (logged(b"doorward 0123abcd knock\0", P6, MARK), NflogEvent("0123abcd", "knock", 70_000, THERE)),
        (logged(b"doorward ffffffff full \0", P4, MARK), NflogEvent("ffffffff", "full", 70_000, HERE)),
        (logged(b"doorward 0123abcd throttled \0", P4), NflogEvent("0123abcd", "throttled", 0, HERE)),
        (logged(b"doorward 0123abcd throttled", P4, b"\1\2"), NflogEvent("0123abcd", "throttled", 0, HERE)),
    ],
)
def test_messages_of_doorwards_rules(body: bytes, event: NflogEvent) -> None:
    assert parse_event(memoryview(body)) == event


GOOD = b"doorward 0123abcd knock \0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\2\0",
        logged(None, P4, MARK),
        logged(GOOD, None, MARK),
        logged(GOOD, b"", MARK),
        logged(GOOD, P4[:12], MARK),
        logged(b"", P4),
        logged(b"ufw-block: \0", P4),
        logged(b"doorward 0123ABCD knock \0", P4),
        logged(b"doorward 0123abcd open \0", P4),
        logged(b"doorward 0123abcd knock \0 and more", P4),
        logged(b" doorward 0123abcd knock \0", P4),
        logged(GOOD, P4)[:-4],
    ],
)
def test_other_messages_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_event(memoryview(body))


@pytest.fixture
def namespace() -> Iterator[None]:
    with own_namespace():
        ip("link", "set", "lo", "up")
        yield


def send(count: int = 1, port: int = 7000) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"knock", ("127.0.0.1", port))


def awaited(log: LogSocket[NflogEvent]) -> list[NflogEvent] | None:
    """Return the events without their time, which must be the current one if the kernel reports it."""
    select.select([log], [], [], 5)
    events = log.read()
    assert all(event.at_us == 0 or abs(event.at_us / 1e6 - time.time()) < 60 for event in events or ())
    return None if events is None else [event._replace(at_us=0) for event in events]


TO_LOG = f"group {GROUP} snaplen 128 queue-threshold 1"
RULES = f"""
table inet test {{
    chain input {{
        type filter hook input priority 0
        udp dport 7000 meta mark set 513 log prefix "doorward 0123abcd knock " {TO_LOG}
        udp dport 7001 log prefix "doorward 0123abcd throttled " {TO_LOG}
        udp dport 7002 log prefix "somebody else's " {TO_LOG}
    }}
}}
"""


@pytest.mark.netns
@pytest.mark.usefixtures("namespace")
def test_messages_from_the_kernel() -> None:
    NftFirewall().run(RULES)
    log = event_log(GROUP)
    assert log.read() == []
    send(port=7000)
    assert awaited(log) == [NflogEvent("0123abcd", "knock", 513, ip_address("127.0.0.1"))]
    send(port=7001)
    assert awaited(log) == [NflogEvent("0123abcd", "throttled", 0, ip_address("127.0.0.1"))]
    send(port=7002)
    assert awaited(log) == []
    assert log.malformed == 1
    assert log.read() == []
    log.close()


@pytest.mark.netns
@pytest.mark.usefixtures("namespace")
def test_overflow_is_reported_once_after_the_events_that_arrived() -> None:
    NftFirewall().run(RULES)
    log = event_log(GROUP)
    log._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    send(500)
    assert awaited(log) is None
    kept = 0
    while events := log.read():
        kept += len(events)
    assert 0 < kept < 500
    send()
    assert awaited(log) == [NflogEvent("0123abcd", "knock", 513, ip_address("127.0.0.1"))]
    log.close()


@pytest.mark.netns
@pytest.mark.usefixtures("namespace")
def test_only_one_process_can_bind_the_group() -> None:
    assert bound_pid(GROUP) is None
    first = event_log(GROUP)
    before = open_descriptors()
    assert bound_pid(GROUP) == os.getpid()
    with pytest.raises(HostError, match=f"another doorward is running here: process {os.getpid()} has its log"):
        event_log(GROUP)
    assert open_descriptors() == before
    event_log(GROUP + 1).close()
    first.close()
    event_log(GROUP).close()


@pytest.mark.netns
@pytest.mark.usefixtures("namespace")
def test_without_the_capability() -> None:
    with raises(HostError, "no-net-admin"):
        as_nobody(lambda: event_log(GROUP).close())
