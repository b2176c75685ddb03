"""How full the gate's sets are, and who is in the middle of a knock, at a cost that no flood can raise.

The kernel tells how many elements a set has with the set itself (since Linux 6.16), and what it holds a message at a
time: reading ends after a few.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import NamedTuple

from doorward import netlink
from doorward.errors import MalformedError
from doorward.gate import objects
from doorward.model import Address

_GET_ELEMENTS = objects.GET_SET + 3
_TABLE, _SET, _ELEMENTS, _SET_COUNT = 1, 2, 3, 20
_TIMEOUT = 0x10  # NFT_SET_TIMEOUT
_KEY, _DATA, _EXPIRATION, _VALUE = 1, 2, 5, 1
_ADDRESS_BYTES = {"4": 4, "6": 16}
_DEADLINES = ("window", "hurried")  # the maps whose elements' time is that of the knock


class Fill(NamedTuple):
    """How many elements a set has, and how many it takes (0: any number). `elements` None: the kernel does not tell."""

    name: str
    elements: int | None
    size: int


class Attempt(NamedTuple):
    """A source in the middle of a knock: in which state, and for how long the knock still counts."""

    source: Address
    state: int
    left_ms: int


class Gauges(NamedTuple):
    """What the gate's sets tell."""

    fills: list[Fill]
    attempts: list[Attempt]


def read(most: int) -> Gauges:
    """Read all of it, and of who is in progress at most `most` from each map."""
    found = fills()
    return Gauges(found, attempts([fill.name for fill in found if fill.elements != 0], most))


def fills() -> list[Fill]:
    """Tell of the sets and maps whose elements end by themselves. Nothing where there is no table."""
    return objects.asked(lambda: objects.dump(objects.GET_SET, fill_in), [])


def fill_in(body: memoryview) -> Fill | None:
    """Read a set of one message; None where it is another table's, or its elements stay."""
    parts = objects.parts_of(body)
    if parts is None or not objects.flags_of(parts) & _TIMEOUT:
        return None
    found = objects.set_in(body)
    count = objects.number_of(parts[_SET_COUNT]) if _SET_COUNT in parts else None
    return None if found is None else Fill(found.name, count, found.size)


def attempts(names: Iterable[str], most: int) -> list[Attempt]:
    """Give sources in progress, at most `most` of each map: `names` are those of the table's maps."""
    names = list(names)
    states: dict[Address, int] = {}
    for name in names:
        if name.startswith("progress"):
            states |= {attempt.source: attempt.state for attempt in _listed(name, most)}
    begun = [each for name in names if name.startswith(_DEADLINES) for each in _listed(name, most)]
    return [each._replace(state=states.get(each.source, each.state)) for each in begun]


def _listed(name: str, most: int) -> list[Attempt]:
    return objects.asked(lambda: list(islice(_elements(name), most)), [])


def _elements(name: str) -> Iterator[Attempt]:
    """Read a map's elements as they are asked for; the kernel walks no further than that."""
    address_bytes = _ADDRESS_BYTES[name.split("_")[0][-1]]
    request = struct.pack("!BBH", objects.INET, 0, 0) + netlink.attribute(_TABLE, objects.NAME)
    request += netlink.attribute(_SET, name.encode() + b"\0")
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        for reply in netlink.dump(sock, netlink.message(_GET_ELEMENTS, netlink.REQUEST | netlink.DUMP, request)):
            yield from elements_in(reply.body, address_bytes)


def elements_in(body: memoryview, address_bytes: int) -> Iterator[Attempt]:
    """Read one message of a map's elements; with a target a key is the source and the target."""
    parts = objects.parts_of(body)
    if parts is None or _ELEMENTS not in parts:
        return
    for _, element in netlink.in_order(parts[_ELEMENTS]):
        inside = netlink.attributes(element)
        key = _value(inside, _KEY)
        if len(key) not in (address_bytes, 2 * address_bytes):
            raise MalformedError(f"nf_tables: a source of {len(key)} bytes")
        source = bytes(key[:address_bytes])
        left = inside.get(_EXPIRATION, memoryview(b""))
        state = int.from_bytes(_value(inside, _DATA), sys.byteorder)
        yield Attempt(IPv4Address(source) if address_bytes == 4 else IPv6Address(source), state, int.from_bytes(left))


def _value(parts: dict[int, memoryview], kind: int) -> memoryview:
    return objects.part_of(netlink.attributes(objects.part_of(parts, kind)), _VALUE)
