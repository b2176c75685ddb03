"""What the loaded table has, asked of nf_tables itself (linux/netfilter/nf_tables.h).

libnftables reads all entries of all sets before it lists their names: 16 s and half a gigabyte where a flood has filled
them, in which no reload and no repair may wait.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TypeVar

from doorward import netlink
from doorward.errors import HostError, MalformedError
from doorward.gate.ruleset import TABLE, Existing

T = TypeVar("T")

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, GET_SET, _GET_OBJECT = (_SUBSYSTEM | kind for kind in (4, 10, 19))
INET = 1  # NFPROTO_INET
_FAMILY_HEADER = 4  # struct nfgenmsg
_TABLE = 1  # the same number for chains, sets and objects
_CHAIN_NAME, _SET_NAME, _OBJECT_NAME = 3, 2, 2
_SET_FLAGS, _SET_DESCRIPTION, _SET_SIZE = 3, 9, 1
_ANONYMOUS, _MAP = 0x1, 0x8
_OBJECT_TYPE, _COUNTER = 3, 1
_OBJECT_DATA, _COUNTER_PACKETS = 4, 2
NAME = TABLE.split()[1].encode() + b"\0"


def existing() -> list[Existing]:
    """List the table's chains, sets, maps and counters; nothing where there is no table."""
    return asked(lambda: [*dump(_GET_CHAIN, chain_in), *dump(GET_SET, set_in), *_named_counters()], [])


def counted() -> dict[str, int]:
    """Give the packets that each of the table's counters has counted; nothing where there is no table."""
    return asked(lambda: dict(dump(_GET_OBJECT, counter_in)), {})


def _named_counters() -> list[Existing]:
    return [Existing("counter", name) for name, _ in dump(_GET_OBJECT, counter_in)]


def chain_in(body: memoryview) -> Existing | None:
    """Read one message of the answer; None where it tells of another table. MalformedError: it is none."""
    parts = parts_of(body)
    return None if parts is None else Existing("chain", text_of(part_of(parts, _CHAIN_NAME)))


def set_in(body: memoryview) -> Existing | None:
    """Read a set or a map, as `chain_in` does; those without a name are left out."""
    parts = parts_of(body)
    flags = 0 if parts is None else flags_of(parts)
    if parts is None or flags & _ANONYMOUS:
        return None
    described = netlink.attributes(parts[_SET_DESCRIPTION]) if _SET_DESCRIPTION in parts else {}
    size = number_of(described[_SET_SIZE]) if _SET_SIZE in described else 0
    return Existing("map" if flags & _MAP else "set", text_of(part_of(parts, _SET_NAME)), size)


def flags_of(parts: dict[int, memoryview]) -> int:
    """Give the flags of a set."""
    return number_of(parts[_SET_FLAGS]) if _SET_FLAGS in parts else 0


def counter_in(body: memoryview) -> tuple[str, int] | None:
    """Read a counter's name and packets, as `chain_in` does; None for other objects too."""
    parts = parts_of(body)
    if parts is None or number_of(part_of(parts, _OBJECT_TYPE)) != _COUNTER:
        return None
    packets = part_of(netlink.attributes(part_of(parts, _OBJECT_DATA)), _COUNTER_PACKETS)
    if len(packets) != 8:
        raise MalformedError(f"nf_tables: a count of {len(packets)} bytes")
    return text_of(part_of(parts, _OBJECT_NAME)), int.from_bytes(packets)


def asked(question: Callable[[], T], without_table: T) -> T:
    """Ask the kernel; what it refuses is a HostError that names the remedy."""
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
    except MalformedError as error:
        raise HostError(f"nf_tables answers what doorward cannot read ({error}); use Linux 5.11 or newer") from None


def dump(kind: int, read: Callable[[memoryview], T | None]) -> list[T]:
    """Give all things of a kind that `read` finds in the answers."""
    request = struct.pack("!BBH", INET, 0, 0) + netlink.attribute(_TABLE, NAME)
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        replies = netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, request))
        return [found for reply in replies if (found := read(reply.body)) is not None]


def parts_of(body: memoryview) -> dict[int, memoryview] | None:
    """Give the attributes of a thing of this table; of chains the kernel lists those of all."""
    parts = netlink.attributes(body[_FAMILY_HEADER:])
    return parts if bytes(parts.get(_TABLE, b"")) == NAME else None


def part_of(parts: dict[int, memoryview], kind: int) -> memoryview:
    """Give an attribute that must be there."""
    if kind not in parts:
        raise MalformedError(f"nf_tables: a thing without attribute {kind}")
    return parts[kind]


def text_of(raw: memoryview) -> str:
    """Read a name."""
    return bytes(raw).rstrip(b"\0").decode(errors="replace")


def number_of(raw: memoryview) -> int:
    """Read a number of four bytes."""
    if len(raw) != 4:
        raise MalformedError(f"nf_tables: a number of {len(raw)} bytes")
    return int.from_bytes(raw)
