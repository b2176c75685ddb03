"""Packet sockets (packet(7)) and their filters."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from doorward.errors import HostError
from doorward.kernel.bpf import INSTRUCTION

_SO_ATTACH_FILTER = 26


def packet_socket(ethertype: int) -> socket.socket:
    """Return a socket for packets of this type, from the network header on; HostError if not permitted or supported."""
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(ethertype))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise HostError(
                "no-net-raw", "capturing packets needs CAP_NET_RAW; run doorward as root or give it that capability"
            ) from None
        raise HostError(
            "no-packet-socket", f"no packet socket ({error.strerror}); the kernel needs CONFIG_PACKET"
        ) from None


def attach_filter(receiver: socket.socket, code: bytes) -> None:
    """Attach an assembled filter; it replaces the previous one."""
    kept = ctypes.create_string_buffer(code, len(code))
    where = struct.pack("HP", len(code) // INSTRUCTION.size, ctypes.addressof(kept))  # struct sock_fprog
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)
    except OSError as error:
        raise HostError(
            "filter-rejected",
            f"the kernel rejects the packet filter ({error.strerror}); raise the sysctl net.core.optmem_max",
        ) from None
