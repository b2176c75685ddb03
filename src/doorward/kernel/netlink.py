"""The subset of netlink (RFC 3549, netlink(7)) that doorward implements: messages, attributes, dumps."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from doorward.errors import HostError, MalformedError

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
ATTRIBUTE = struct.Struct("=HH")  # length, type
FAMILY_HEADER = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3
NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 16
_SO_RCVBUFFORCE = 33

NETFILTER = 12
SOCK_DIAG = 4


class NetlinkMessage(NamedTuple):
    """One netlink message: its type, and the body after the header."""

    kind: int
    body: memoryview


def align(length: int) -> int:
    """Round up to a multiple of four bytes."""
    return (length + 3) & ~3


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """Return one framed message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, data: bytes) -> bytes:
    """Return one framed attribute, padded."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data + bytes(align(len(data)) - len(data))


def messages(raw: memoryview) -> Iterator[NetlinkMessage]:
    """Yield the messages of one datagram; MalformedError on a wrong length."""
    at = 0
    while at < len(raw):
        if len(raw) - at < HEADER.size:
            raise MalformedError("header-size", f"netlink: {len(raw) - at} bytes left, a header needs {HEADER.size}")
        length, kind, _, _, _ = HEADER.unpack_from(raw, at)
        if not HEADER.size <= length <= len(raw) - at:
            raise MalformedError("message-size", f"netlink: a message of {length} bytes in {len(raw) - at}")
        yield NetlinkMessage(kind, raw[at + HEADER.size : at + length])
        at += align(length)


def attributes(raw: memoryview) -> dict[int, memoryview]:
    """Return attributes by type, the last one of each type; MalformedError on a wrong length."""
    return dict(iter_attributes(raw))


def family_attributes(body: memoryview) -> dict[int, memoryview]:
    """Return the attributes that follow a netfilter message's family header; MalformedError on a wrong length."""
    return attributes(body[FAMILY_HEADER.size :])


def iter_attributes(raw: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield attributes in order, for lists with many of one type; MalformedError on a wrong length."""
    at = 0
    while len(raw) - at >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(raw, at)
        if not ATTRIBUTE.size <= length <= len(raw) - at:
            raise MalformedError("attribute-size", f"netlink: an attribute of {length} bytes in {len(raw) - at}")
        yield kind & _TYPE_MASK, raw[at + ATTRIBUTE.size : at + length]
        at += align(length)


def error_for(body: memoryview) -> int:
    """Return the errno of an NLMSG_ERROR, 0 for an acknowledgment."""
    if len(body) < 4:
        raise MalformedError("error-without-number", "netlink: an error without its number")
    number: int = struct.unpack_from("=i", body)[0]
    return -number


def raise_error(reply: NetlinkMessage) -> None:
    """Raise the OSError that a message reports, if it reports one."""
    if reply.kind == ERROR and (number := error_for(reply.body)):
        raise OSError(number, os.strerror(number))


def open_socket(family: int, purpose: str) -> socket.socket:
    """Return a netlink socket; the HostError names what is missing and what needs it."""
    try:
        if sys.platform != "linux":
            raise OSError(errno.EAFNOSUPPORT, "not Linux")
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    except OSError as error:
        raise HostError(
            "no-netlink", f"no netlink socket for {purpose} ({error.strerror}); the kernel must support it"
        ) from None


def enlarge_receive_buffer(sock: socket.socket, size: int) -> None:
    """Set the receive buffer's size in bytes; without CAP_NET_ADMIN it is limited by net.core.rmem_max."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:  # the capability counts in the initial user namespace only
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def send_request(sock: socket.socket, request: bytes) -> None:
    """Send a request that the kernel acknowledges; OSError with its errno on failure."""
    sock.send(request)
    for reply in messages(memoryview(sock.recv(_RECEIVE_BYTES))):
        raise_error(reply)


def drain(sock: socket.socket) -> None:
    """Discard what waits on a non-blocking socket: until all is read the kernel drops more without another ENOBUFS."""
    while True:
        try:
            sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def dump(sock: socket.socket, request: bytes) -> Iterator[NetlinkMessage]:
    """Send a dump request and yield every reply; OSError with the kernel's errno on failure."""
    sock.send(request)
    while True:
        for reply in messages(memoryview(sock.recv(_RECEIVE_BYTES))):
            if reply.kind == DONE:
                return
            raise_error(reply)
            yield reply
