"""Answers of the kernel: sockets, conntrack entries, routes, errors."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address

from doorward.errors import MalformedError
from doorward.kernel import netlink
from doorward.kernel.interfaces import local_route
from doorward.kernel.sock_diag import matching_entry, reachable_port, read_socket
from doorward.model import Port

SOURCES = [ip_address("192.0.2.7"), ip_address("2001:db8::7")]
PORTS = (Port.parse("22/tcp"),)


def one(data: bytes) -> None:
    """Read what one recv gave as an answer to each question that doorward asks."""
    with suppress(MalformedError):
        for message in netlink.messages(memoryview(data)):
            _body(message.body)


def _body(body: memoryview) -> None:
    with suppress(MalformedError):
        assert netlink.error_for(body) == -int.from_bytes(body[:4], "little", signed=True)
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(MalformedError):
            assert 0 <= reachable_port(body, family) <= 65535
        with suppress(MalformedError):
            assert read_socket(bytes(body), family).socket_id in bytes(body)
    with suppress(MalformedError):
        if (route := local_route(body)) is not None:
            bits, prefix = route
            assert bits <= len(prefix) * 8 in (32, 128)
    for source in SOURCES:
        with suppress(MalformedError):
            entry = matching_entry(body, source, PORTS)
            assert entry is None or source.packed in entry
