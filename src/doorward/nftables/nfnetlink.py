"""Read and write the loaded table by nf_tables netlink messages (linux/netfilter/nf_tables.h).

libnftables reads all elements of all sets before it lists their names: 16 s and half a gigabyte after a flood has
filled them, too long for a reload or a repair.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import NamedTuple, TypeVar

from doorward.core.diff import SetChanges
from doorward.errors import HostError, MalformedError
from doorward.kernel import netlink
from doorward.model import Address, Element, HostPort, SetPort
from doorward.nftables.maps import open_set
from doorward.nftables.ruleset import TABLE, Existing

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _GET_SET, _GET_OBJECT = (_SUBSYSTEM << 8 | kind for kind in (4, 10, 19))
_NEW_ELEMENT, _GET_ELEMENTS, _DELETE_ELEMENT = (_SUBSYSTEM << 8 | kind for kind in (12, 13, 14))
_BATCH_BEGIN, _BATCH_END = 16, 17
_CREATE = 0x400
_INET = 1  # NFPROTO_INET
_TABLE = 1  # the same number for chains, sets, objects and elements
_CHAIN_NAME, _SET_NAME, _OBJECT_NAME = 3, 2, 2
_SET_FLAGS, _SET_DESCRIPTION, _SET_COUNT, _SET_SIZE = 3, 9, 20, 1
_ANONYMOUS, _MAP, _EXPIRES = 0x1, 0x8, 0x10
_OBJECT_TYPE, _COUNTER = 3, 1
_OBJECT_DATA, _COUNTER_PACKETS = 4, 2
_ELEMENTS = 3
_LIST_ELEMENT = 1
_KEY, _DATA, _TIMEOUT, _EXPIRATION, _KEY_END = 1, 2, 4, 5, 10
_VALUE = 1
_ELEMENTS_PER_MESSAGE = 500  # their attribute has room for 64 KiB
_RECEIVE_BYTES = 1 << 16
_SO_SNDBUFFORCE = 32
_NAME = TABLE.split()[1].encode() + b"\0"
_HEAD = netlink.FAMILY_HEADER.pack(_INET, 0, 0) + netlink.attribute(_TABLE, _NAME)  # of every request about the table
_ADDRESS_BYTES = {"4": 4, "6": 16}
_DEADLINES = ("first_knock", "short_window")  # the maps whose timeouts are the deadlines of knocks

T = TypeVar("T")


class SetWriter:
    """Writes set elements in the network namespace in which it was created."""

    def __init__(self) -> None:
        self._socket = netlink.open_socket(netlink.NETFILTER, "nf_tables")
        self.pid = os.getpid()

    def __del__(self) -> None:
        self._socket.close()

    def apply(self, changes: SetChanges) -> None:
        """Make all changes in one transaction. OSError: the kernel rejected it, and nothing has changed."""
        raw = transaction(changes)
        if len(raw) > self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(raw))
        self._socket.send(raw)
        for reply in list(self._replies()):
            netlink.raise_error(reply)

    def _replies(self) -> Iterator[netlink.NetlinkMessage]:
        """Return all replies: nf_tables has written them when `send` returns."""
        while True:
            try:
                raw = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from netlink.messages(memoryview(raw))


def transaction(changes: SetChanges) -> bytes:
    """Return the messages that make all changes at once, or none.

    Kernels before 6.12 silently ignore a longer timeout in an `add` of an existing element, and `delete` needs it to
    exist: add, delete, add works on all.
    """
    bound = netlink.FAMILY_HEADER.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
    messages = [netlink.message(_BATCH_BEGIN, netlink.REQUEST, bound)]
    for name in sorted({set_name(element) for element in (*changes.put, *changes.remove)}):
        put = [(element, left_s) for element, left_s in changes.put.items() if set_name(element) == name]
        adding = [_element(element, max(1, round(left_s * 1000))) for element, left_s in put]
        passing = [_element(element) for element, _ in put]
        removing = [_element(element) for element in changes.remove if set_name(element) == name]
        messages += _messages(_NEW_ELEMENT, name, adding)
        messages += _messages(_DELETE_ELEMENT, name, passing)
        messages += _messages(_NEW_ELEMENT, name, adding)
        messages += _messages(_DELETE_ELEMENT, name, removing)
    return b"".join((*messages, netlink.message(_BATCH_END, netlink.REQUEST, bound)))


def _messages(kind: int, name: str, elements: Sequence[bytes]) -> Iterator[bytes]:
    left = iter(elements)
    flags = netlink.REQUEST | (_CREATE if kind == _NEW_ELEMENT else 0)
    head = _HEAD + netlink.attribute(_SET_NAME, name.encode() + b"\0")
    while some := b"".join(islice(left, _ELEMENTS_PER_MESSAGE)):
        yield netlink.message(kind, flags, head + netlink.attribute(_ELEMENTS | netlink.NESTED, some))


def set_name(element: Element) -> str:
    """Return the name of the open set that an element belongs to."""
    address, port, once = element
    return open_set(port, address.version, once=once, is_network=not isinstance(address, Address))


def _element(element: Element, timeout_ms: int = 0) -> bytes:
    source, port, _ = element
    if isinstance(source, Address):
        parts = _key(_KEY, source, port)
    else:
        parts = _key(_KEY, source.network_address, port) + _key(_KEY_END, source.broadcast_address, port)
    if timeout_ms:
        parts += netlink.attribute(_TIMEOUT, timeout_ms.to_bytes(8))
    return netlink.attribute(_LIST_ELEMENT | netlink.NESTED, parts)


def _key(kind: int, address: Address, port: SetPort) -> bytes:
    """Return the key of the open sets: address, host behind this one, protocol, port, each padded to four bytes."""
    host = port.host.packed if isinstance(port, HostPort) else b""
    value = address.packed + host + struct.pack("!B3xH2x", port.protocol, port.number)
    return netlink.attribute(kind | netlink.NESTED, netlink.attribute(_VALUE, value))


def present(elements: Iterable[Element]) -> frozenset[Element]:
    """Return those of these elements that are in their sets; none without a table."""
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        return frozenset(e for e in elements if request_reply(partial(_is_present, sock, e), without_table=False))


def _is_present(sock: socket.socket, element: Element) -> bool:
    wanted = netlink.attribute(_SET_NAME, set_name(element).encode() + b"\0")
    wanted += netlink.attribute(_ELEMENTS | netlink.NESTED, _element(element))
    netlink.send_request(sock, netlink.message(_GET_ELEMENTS, netlink.REQUEST, _HEAD + wanted))
    return True


def existing() -> list[Existing]:
    """Return the table's chains, sets, maps and counters; [] without a table."""
    return request_reply(lambda: [*dump(_GET_CHAIN, parse_chain), *dump(_GET_SET, parse_set), *_named_counters()], [])


def read_counters() -> dict[str, int]:
    """Return the packets of each of the table's counters; {} without a table."""
    return request_reply(lambda: dict(dump(_GET_OBJECT, parse_counter)), {})


def _named_counters() -> list[Existing]:
    return [Existing("counter", name) for name, _ in dump(_GET_OBJECT, parse_counter)]


def parse_chain(body: memoryview) -> Existing | None:
    """Parse a chain from one message; None if it belongs to another table. MalformedError on a wrong length."""
    parts = table_attributes(body)
    return None if parts is None else Existing("chain", to_text(required_attribute(parts, _CHAIN_NAME)))


def parse_set(body: memoryview) -> Existing | None:
    """Parse a set or a map, like `parse_chain`; None for anonymous ones too."""
    parts = table_attributes(body)
    flags = 0 if parts is None else set_flags(parts)
    if parts is None or flags & _ANONYMOUS:
        return None
    described = netlink.attributes(parts[_SET_DESCRIPTION]) if _SET_DESCRIPTION in parts else {}
    size = to_u32(described[_SET_SIZE]) if _SET_SIZE in described else 0
    return Existing("map" if flags & _MAP else "set", to_text(required_attribute(parts, _SET_NAME)), size)


def set_flags(parts: dict[int, memoryview]) -> int:
    """Return the flags of a set."""
    return to_u32(parts[_SET_FLAGS]) if _SET_FLAGS in parts else 0


def parse_counter(body: memoryview) -> tuple[str, int] | None:
    """Parse a counter's name and packets, like `parse_chain`; None for other objects too."""
    parts = table_attributes(body)
    if parts is None or to_u32(required_attribute(parts, _OBJECT_TYPE)) != _COUNTER:
        return None
    packets = required_attribute(netlink.attributes(required_attribute(parts, _OBJECT_DATA)), _COUNTER_PACKETS)
    if len(packets) != 8:
        raise MalformedError("count-size", f"nf_tables: a count of {len(packets)} bytes")
    return to_text(required_attribute(parts, _OBJECT_NAME)), int.from_bytes(packets)


def request_reply(request: Callable[[], T], without_table: T) -> T:
    """Return the result of a request, or `without_table` if its object is missing; a HostError if it is rejected."""
    try:
        return request()
    except OSError as error:
        if error.errno == errno.ENOENT:
            return without_table
        if error.errno == errno.EPERM:
            raise HostError(
                "no-net-admin", "listing nftables needs CAP_NET_ADMIN; run doorward as root or give it that capability"
            ) from None
        raise HostError(
            "table-not-listed", f"nf_tables cannot list the table: {os.strerror(error.errno or 0)}"
        ) from None
    except MalformedError as error:
        raise HostError(
            "invalid-kernel-answer", f"cannot parse the answer of nf_tables ({error}); use Linux 5.11 or newer"
        ) from None


def dump(kind: int, read: Callable[[memoryview], T | None]) -> list[T]:
    """Return all values that `read` finds in the replies to a dump request."""
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        replies = netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, _HEAD))
        return [found for reply in replies if (found := read(reply.body)) is not None]


def table_attributes(body: memoryview) -> dict[int, memoryview] | None:
    """Return the attributes of an object of this table, else None: the kernel lists the chains of all tables."""
    parts = netlink.family_attributes(body)
    return parts if bytes(parts.get(_TABLE, b"")) == _NAME else None


def required_attribute(parts: dict[int, memoryview], kind: int) -> memoryview:
    """Return a required attribute; MalformedError if it is missing."""
    if kind not in parts:
        raise MalformedError("missing-attribute", f"nf_tables: an object without attribute {kind}")
    return parts[kind]


def to_text(raw: memoryview) -> str:
    """Parse a name."""
    return bytes(raw).rstrip(b"\0").decode(errors="replace")


def to_u32(raw: memoryview) -> int:
    """Parse a number of four bytes."""
    if len(raw) != 4:
        raise MalformedError("number-size", f"nf_tables: a number of {len(raw)} bytes")
    return int.from_bytes(raw)


class SetUsage(NamedTuple):
    """A set's number of elements (None: the kernel does not report it) and its maximum size (0: unlimited)."""

    name: str
    elements: int | None
    size: int


class ProgressEntry(NamedTuple):
    """A source in the middle of a knock: its state, and the remaining time."""

    source: Address
    state: int
    left_ms: int


class GateUsage(NamedTuple):
    """How full the gate's sets are, and the knocks in progress."""

    fills: list[SetUsage]
    attempts: list[ProgressEntry]


def read_usage(most: int) -> GateUsage:
    """Return the usage of all sets, and at most `most` knocks in progress per map."""
    found = read_set_usage()
    return GateUsage(found, read_attempts([fill.name for fill in found if fill.elements != 0], most))


def read_set_usage() -> list[SetUsage]:
    """Return the usage of the sets and maps whose elements expire; [] without a table."""
    return request_reply(lambda: dump(_GET_SET, parse_usage), [])


def parse_usage(body: memoryview) -> SetUsage | None:
    """Parse a set from one message; None if it belongs to another table, or its elements do not expire."""
    parts = table_attributes(body)
    if parts is None or not set_flags(parts) & _EXPIRES:
        return None
    found = parse_set(body)
    count = to_u32(parts[_SET_COUNT]) if _SET_COUNT in parts else None
    return None if found is None else SetUsage(found.name, count, found.size)


def read_attempts(names: Iterable[str], most: int) -> list[ProgressEntry]:
    """Return the knocks in progress, at most `most` per map; `names` are those of the table's maps."""
    names = list(names)
    states: dict[Address, int] = {}
    for name in names:
        if name.startswith("progress"):
            states |= {attempt.source: attempt.state for attempt in _listed(name, most)}
    begun = [entry for name in names if name.startswith(_DEADLINES) for entry in _listed(name, most)]
    return [entry._replace(state=states.get(entry.source, entry.state)) for entry in begun]


def _listed(name: str, most: int) -> list[ProgressEntry]:
    return request_reply(lambda: list(islice(_elements(name), most)), [])


def _elements(name: str) -> Iterator[ProgressEntry]:
    """Yield a map's elements on demand; the kernel walks no further than that."""
    address_bytes = _ADDRESS_BYTES[next(c for c in name if c in _ADDRESS_BYTES)]
    request = _HEAD + netlink.attribute(_SET_NAME, name.encode() + b"\0")
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        for reply in netlink.dump(sock, netlink.message(_GET_ELEMENTS, netlink.REQUEST | netlink.DUMP, request)):
            yield from parse_elements(reply.body, address_bytes)


def parse_elements(body: memoryview, address_bytes: int) -> Iterator[ProgressEntry]:
    """Parse one message of a map's elements; for doors with a target a key is the source and the target."""
    parts = table_attributes(body)
    if parts is None or _ELEMENTS not in parts:
        return
    for _, element in netlink.iter_attributes(parts[_ELEMENTS]):
        inside = netlink.attributes(element)
        key = _value(inside, _KEY)
        if len(key) not in (address_bytes, 2 * address_bytes):
            raise MalformedError("source-size", f"nf_tables: a source of {len(key)} bytes")
        source = bytes(key[:address_bytes])
        left = inside.get(_EXPIRATION, memoryview(b""))
        state = int.from_bytes(_value(inside, _DATA), sys.byteorder)
        yield ProgressEntry(
            IPv4Address(source) if address_bytes == 4 else IPv6Address(source), state, int.from_bytes(left)
        )


def _value(parts: dict[int, memoryview], kind: int) -> memoryview:
    return required_attribute(netlink.attributes(required_attribute(parts, kind)), _VALUE)
