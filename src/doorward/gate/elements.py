"""The open sets' entries, written to nf_tables itself (linux/netfilter/nf_tables.h): a signed knock waits for this.

libnftables lists tables, chains and sets first, and to close its socket it waits until the kernel has cleared away what
was deleted: 6 to 16 ms an opening, where this takes 0.1 ms. The socket here stays open.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import islice

from doorward import netlink
from doorward.gate.plan import Changes
from doorward.gate.ruleset import TABLE
from doorward.model import Address, Element, Port

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEW_ELEMENT, _DELETE_ELEMENT = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_BATCH_BEGIN, _BATCH_END = 16, 17
_CREATE = 0x400
_INET = 1  # NFPROTO_INET
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ONE_OF_A_LIST = 1
_KEY, _TIMEOUT, _KEY_END = 1, 4, 10
_VALUE = 1
_HEADER = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
_TOGETHER = 500  # elements a message: their attribute holds 64 KiB
_RECEIVE_BYTES = 1 << 16
_SO_SNDBUFFORCE = 32
_NAME = TABLE.split()[1].encode() + b"\0"


class Writer:
    """Writes entries of the network namespace that it was made in."""

    def __init__(self) -> None:
        self._socket = netlink.open_socket(netlink.NETFILTER, "nf_tables")
        self.pid = os.getpid()

    def __del__(self) -> None:
        self._socket.close()

    def apply(self, changes: Changes) -> None:
        """Make all changes in one transaction. OSError: the kernel refused it, and nothing has changed."""
        raw = transaction(changes)
        if len(raw) > self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(raw))
        self._socket.send(raw)
        answers = [netlink.error_of(reply.body) for reply in self._replies() if reply.kind == netlink.ERROR]
        if refused := next(filter(None, answers), 0):
            raise OSError(refused, os.strerror(refused))

    def _replies(self) -> Iterator[netlink.Message]:
        """Give all answers: nf_tables has written them when `send` returns."""
        while True:
            try:
                raw = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from netlink.messages(memoryview(raw))


def transaction(changes: Changes) -> bytes:
    """Give the messages that make all changes at once, or none.

    Kernels before 6.12 silently ignore a longer timeout in an `add` of an entry that exists, and deleting needs it to
    exist: add, delete, add works on all.
    """
    bound = _HEADER.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
    messages = [netlink.message(_BATCH_BEGIN, netlink.REQUEST, bound)]
    for name in sorted({_set_of(element) for element in (*changes.put, *changes.remove)}):
        put = [(element, left_s) for element, left_s in changes.put.items() if _set_of(element) == name]
        adding = [_element(element, max(1, round(left_s * 1000))) for element, left_s in put]
        passing = [_element(element) for element, _ in put]
        removing = [_element(element) for element in changes.remove if _set_of(element) == name]
        messages += _messages(_NEW_ELEMENT, name, adding)
        messages += _messages(_DELETE_ELEMENT, name, passing)
        messages += _messages(_NEW_ELEMENT, name, adding)
        messages += _messages(_DELETE_ELEMENT, name, removing)
    return b"".join((*messages, netlink.message(_BATCH_END, netlink.REQUEST, bound)))


def _messages(kind: int, name: str, elements: Sequence[bytes]) -> Iterator[bytes]:
    left = iter(elements)
    flags = netlink.REQUEST | (_CREATE if kind == _NEW_ELEMENT else 0)
    head = _HEADER.pack(_INET, 0, 0) + netlink.attribute(_TABLE, _NAME)
    head += netlink.attribute(_SET, name.encode() + b"\0")
    while some := b"".join(islice(left, _TOGETHER)):
        yield netlink.message(kind, flags, head + netlink.attribute(_ELEMENTS | netlink.NESTED, some))


def _set_of(element: Element) -> str:
    kind = "open" if isinstance(element.address, Address) else "wide"
    return f"{kind}{element.address.version}"


def _element(element: Element, timeout_ms: int = 0) -> bytes:
    place, port = element
    if isinstance(place, Address):
        parts = _key(_KEY, place, port)
    else:
        parts = _key(_KEY, place.network_address, port) + _key(_KEY_END, place.broadcast_address, port)
    if timeout_ms:
        parts += netlink.attribute(_TIMEOUT, timeout_ms.to_bytes(8))
    return netlink.attribute(_ONE_OF_A_LIST | netlink.NESTED, parts)


def _key(kind: int, address: Address, port: Port) -> bytes:
    """Give the key of the open sets: address, protocol, port, each padded to four bytes."""
    value = address.packed + struct.pack("!B3xH2x", port.protocol, port.number)
    return netlink.attribute(kind | netlink.NESTED, netlink.attribute(_VALUE, value))
