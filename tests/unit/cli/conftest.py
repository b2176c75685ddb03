"""Fixtures of the commands' tests."""

from __future__ import annotations

import socket
import time
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


@pytest.fixture
def in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a local time that is 5:45 h ahead of UTC."""
    monkeypatch.setenv("TZ", "XXX-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
