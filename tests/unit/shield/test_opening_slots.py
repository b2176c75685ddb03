"""Which slot an opening is noted in, until when, and what the shield hears of it."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from doorward.errors import HostError
from doorward.model import Source
from doorward.shield.opening_slots import SLOTS, OpeningSlots, slot_of
from doorward.shield.tables import OPENING_MARGIN_S
from tests.support.errors import raises

SLOT = struct.Struct("<QQ")  # struct slot in openings.h
NEVER_S = 1 << 62
NOTED_S = 100 + OPENING_MARGIN_S  # of an opening until 100.0


class SharedMap:
    """Memory in place of the program's map."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("openings")
        os.truncate(self.descriptor, (SLOTS + 1) * SLOT.size)
        self.slots = OpeningSlots(self.descriptor)

    def slot(self, number: int) -> tuple[int, ...]:
        """Return what the program reads."""
        return SLOT.unpack(os.pread(self.descriptor, SLOT.size, number * SLOT.size))

    def until_s(self, source: Source) -> int:
        return self.slot(slot_of(source))[0]


@pytest.fixture
def shared() -> Iterator[SharedMap]:
    shared = SharedMap()
    yield shared
    shared.slots.close()
    os.close(shared.descriptor)


@pytest.mark.parametrize(
    ("source", "address"),
    [
        (ip_network("192.0.2.7/32"), "192.0.2.7"),
        (ip_network("2001:db8:1:2::/64"), "2001:db8:1:2::1"),
        (ip_network("2001:db8:1:2:ff00::/72"), "2001:db8:1:2::1"),
        (ip_address("2001:db8:1:2:ff00::"), "2001:db8:1:2::1"),
    ],
)
def test_network_with_one_slot_has_that_of_its_addresses(source: Source, address: str) -> None:
    assert slot_of(source) == slot_of(ip_address(address)) < SLOTS


@pytest.mark.parametrize("network", ["192.0.2.6/31", "0.0.0.0/0", "2001:db8::/63", "::/0"])
def test_network_with_several_has_the_slot_of_everyone(network: str) -> None:
    assert slot_of(ip_network(network)) == SLOTS


def test_opening_is_noted_for_longer_than_it_is_open(shared: SharedMap) -> None:
    """The program's clock is coarse, and it may be asked about a second SYN."""
    guest = ip_address("192.0.2.7")
    shared.slots.note(guest, 100.2)
    assert shared.slot(slot_of(guest)) == (101 + OPENING_MARGIN_S, 0)  # the second number is the program's
    assert [number for number in range(SLOTS + 1) if any(shared.slot(number))] == [slot_of(guest)]


def test_longest_opening_counts(shared: SharedMap) -> None:
    """Of a slot's: another source may have the same, and what has ended early is not noted."""
    guest = ip_address("192.0.2.7")
    for until_s, noted_s in (
        (100.0, NOTED_S),
        (50.0, NOTED_S),
        (math.inf, NEVER_S),
        (200.0, NEVER_S),
        (1e300, NEVER_S),
    ):
        shared.slots.note(guest, until_s)
        assert shared.until_s(guest) == noted_s


def test_all_in_a_wide_network_are_noted_at_once(shared: SharedMap) -> None:
    shared.slots.note(ip_network("10.0.0.0/8"), 100.0)
    assert shared.until_s(ip_network("2001:db8::/32")) == NOTED_S
    assert shared.until_s(ip_address("10.0.0.1")) == 0


def test_map_is_complete_only_when_all_openings_are_noted(shared: SharedMap) -> None:
    shared.slots.note(ip_network("10.0.0.0/8"), 100.0)
    assert not shared.slots.is_complete
    shared.slots.complete()
    assert shared.slots.is_complete
    assert shared.slot(SLOTS) == (NOTED_S, 1)


def test_map_that_cannot_be_mapped_is_refused() -> None:
    read, write = os.pipe()
    try:
        with raises(HostError, "shield-openings"):
            OpeningSlots(read)
    finally:
        os.close(read)
        os.close(write)
