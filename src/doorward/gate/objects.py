"""What the loaded table has, asked of nf_tables itself (linux/netfilter/nf_tables.h).

libnftables reads all entries of all sets before it lists their names: 16 s and half a gigabyte where a flood has filled
them, in which no reload and no repair may wait.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from doorward import netlink
from doorward.errors import HostError, MalformedError
from doorward.gate.ruleset import TABLE, Existing

T = TypeVar("T")

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _GET_SET, _GET_OBJECT = (_SUBSYSTEM | kind for kind in (4, 10, 19))
_INET = 1  # NFPROTO_INET
_FAMILY_HEADER = 4  # struct nfgenmsg
_TABLE = 1  # the same number for chains, sets and objects
_CHAIN_NAME, _SET_NAME, _OBJECT_NAME = 3, 2, 2
_SET_FLAGS, _SET_DESCRIPTION, _SET_SIZE = 3, 9, 1
_ANONYMOUS, _MAP = 0x1, 0x8
_OBJECT_TYPE, _COUNTER = 3, 1
_OBJECT_DATA, _COUNTER_PACKETS = 4, 2
_NAME = TABLE.split()[1].encode() + b"\0"


def existing() -> list[Existing]:
    """List the table's chains, sets, maps and counters; nothing where there is no table."""
    return _asked(lambda: [*_chains(), *_sets(), *(Existing("counter", name) for name, _ in _counters())], [])


def counted() -> dict[str, int]:
    """Give the packets that each of the table's counters has counted; nothing where there is no table."""
    return _asked(lambda: dict(_counters()), {})


def _asked(question: Callable[[], T], without_table: T) -> T:
    try:
        return question()
    except OSError as error:
        if error.errno == errno.ENOENT:
            return without_table
        if error.errno == errno.EPERM:
            raise HostError(
                "listing nftables needs CAP_NET_ADMIN; run doorward as root or give it that capability"
            ) from None
        raise HostError(f"nf_tables does not list its tables: {os.strerror(error.errno or 0)}") from None
    except (MalformedError, KeyError, struct.error) as error:
        raise HostError(f"nf_tables answers what doorward cannot read ({error}); use Linux 5.11 or newer") from None


def _chains() -> Iterator[Existing]:
    for parts in _dump(_GET_CHAIN):
        yield Existing("chain", _text(parts[_CHAIN_NAME]))


def _sets() -> Iterator[Existing]:
    for parts in _dump(_GET_SET):
        flags = _number(parts[_SET_FLAGS]) if _SET_FLAGS in parts else 0
        if not flags & _ANONYMOUS:
            described = netlink.attributes(parts[_SET_DESCRIPTION]) if _SET_DESCRIPTION in parts else {}
            size = _number(described[_SET_SIZE]) if _SET_SIZE in described else 0
            yield Existing("map" if flags & _MAP else "set", _text(parts[_SET_NAME]), size)


def _counters() -> Iterator[tuple[str, int]]:
    for parts in _dump(_GET_OBJECT):
        if _number(parts[_OBJECT_TYPE]) == _COUNTER:
            packets = netlink.attributes(parts[_OBJECT_DATA])[_COUNTER_PACKETS]
            yield _text(parts[_OBJECT_NAME]), struct.unpack("!Q", packets)[0]


def _dump(kind: int) -> Iterator[dict[int, memoryview]]:
    request = struct.pack("!BBH", _INET, 0, 0) + netlink.attribute(_TABLE, _NAME)
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        for reply in netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, request)):
            parts = netlink.attributes(reply.body[_FAMILY_HEADER:])
            if bytes(parts.get(_TABLE, b"")) == _NAME:  # of chains the kernel lists those of all tables
                yield parts


def _text(raw: memoryview) -> str:
    return bytes(raw).rstrip(b"\0").decode("ascii")


def _number(raw: memoryview) -> int:
    value: int = struct.unpack("!I", raw)[0]
    return value
