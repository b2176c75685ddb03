"""Messages of the netfilter log, made by hand as the kernel makes them (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from doorward.kernel import netlink
from doorward.model import Address

MARK, PAYLOAD, PREFIX = 2, 9, 10
PACKET = 4 << 8


def packet_from(source: Address) -> bytes:
    """Return an IP header with this source address, and eight bytes after it."""
    if isinstance(source, IPv4Address):
        return bytes([0x45, 0, 0, 28]) + bytes(4) + bytes([64, 17, 0, 0]) + source.packed + bytes(4 + 8)
    return bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + source.packed + bytes(16 + 8)


def logged(prefix: bytes | None, payload: bytes | None, mark: bytes | None = None) -> bytes:
    """Return the body of one NFULNL_MSG_PACKET, with an attribute in front that doorward does not read."""
    body = struct.pack("!BBH", 2, 0, 3328) + netlink.attribute(1, bytes(4))
    for kind, data in (PREFIX, prefix), (MARK, mark), (PAYLOAD, payload):
        body += b"" if data is None else netlink.attribute(kind, data)
    return body
