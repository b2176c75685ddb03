"""Fixtures of the client commands' tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.empty_home import empty_ssh_directory as empty_ssh_directory


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    """Open a UDP port on the loopback interface for a knock packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(10)
        yield datagrams
