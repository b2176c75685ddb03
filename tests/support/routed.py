"""The lab's router, whose gate is between clients and the host behind it."""

from __future__ import annotations

import socket

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import SERVER_NET
from tests.support.daemon import DOORWARD, SILENCE_S

BEHIND = {4: "198.51.100.2", 6: "2001:db8:2::2"}  # the lab's server
ROUTER = {4: str(SERVER_NET.ipv4[1]), 6: str(SERVER_NET.ipv6[1])}
both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def connect(host: NamespaceHost, address: str, port: int, timeout_s: float = SILENCE_S) -> socket.socket:
    return host.call(socket.create_connection, (address, port), timeout_s)


def gets_in(host: NamespaceHost, address: str, port: int = 22) -> bool:
    try:
        connect(host, address, port).close()
    except TimeoutError:
        return False
    return True


def knock(host: NamespaceHost, address: str, *ports: str) -> None:
    host.run([*DOORWARD, "knock", address, *ports])
