"""Notifications of rtnetlink about links and addresses."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from doorward.kernel.interfaces import InterfaceMonitor
from doorward.lab.namespace import ip
from doorward.model import Address
from tests.support.daemon import until
from tests.support.processes import own_namespace

pytestmark = pytest.mark.netns

ADDRESSES = [ip_address(text) for text in ("10.62.0.1", "2001:db8:62::1")]


@pytest.fixture
def links() -> Iterator[InterfaceMonitor]:
    with own_namespace():
        ip("link", "set", "lo", "up")
        with closing(InterfaceMonitor()) as links:
            yield links


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_reading_on_every_change_gives_the_current_addresses(links: InterfaceMonitor, address: Address) -> None:
    """At any speed: the kernel reports an address before it becomes local, and before it stops being local."""
    packed, over = address.packed, threading.Event()
    held: list[bool] = [False]

    def follow() -> None:
        while not over.is_set():
            if select.select([links], [], [], 0.05)[0] and links.changed():
                held[0] = links.local_addresses().contains(packed)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        for _ in range(100):
            ip("address", "add", str(address), "dev", "lo", *(["nodad"] if address.version == 6 else []))
            until(lambda: held[0])
            ip("address", "delete", str(address), "dev", "lo")
            until(lambda: not held[0])
    finally:
        over.set()
        follower.join()


def test_remote_routes_are_not_a_change(links: InterfaceMonitor) -> None:
    ip("address", "add", "10.62.0.1", "dev", "lo")
    assert links.changed()
    ip("route", "add", "10.77.0.0/16", "dev", "lo")
    ip("route", "delete", "10.77.0.0/16", "dev", "lo")
    assert not links.changed()
    ip("address", "delete", "10.62.0.1", "dev", "lo")
    assert links.changed()
