"""UDP sockets that send from a port and receive nothing there (udp(7), ip(7), ipv6(7))."""

from __future__ import annotations

import socket
import struct

from doorward.kernel.bpf import DROP_ALL, assemble
from doorward.kernel.packet_socket import attach_filter
from doorward.model import Address

_SO_LOCK_FILTER = 44
_IP_PKTINFO = 8  # missing from the module `socket` in Python 3.11
_IN_PKTINFO, _IN6_PKTINFO = struct.Struct("=i4s4x"), struct.Struct("=16sI")


def open_send_only(family: socket.AddressFamily, port: int) -> socket.socket:
    """Bind this port of every address. Nobody else can bind it; OSError if somebody has, or if it is not permitted.

    The filter that drops every datagram comes first, and cannot be removed.
    """
    sender = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        attach_filter(sender, assemble(DROP_ALL))
        sender.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel's minimum
        if family == socket.AF_INET6:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sender.bind(("", port))
    except BaseException:
        sender.close()
        raise
    return sender


def send_from(
    sender: socket.socket, datagram: bytes, source: Address, to: Address, to_port: int, interface: int
) -> None:
    """Send a datagram from this address of the host, never waiting. OSError: the kernel rejects it.

    It does so where `source` is not an address of this host. `interface`: an index, used for link-local addresses.
    """
    scope = interface if to.version == 6 and to.is_link_local else 0
    if to.version == 4:
        control = (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, source.packed))
        sender.sendmsg([datagram], [control], 0, (str(to), to_port))
    else:
        control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(source.packed, scope))
        sender.sendmsg([datagram], [control], 0, (str(to), to_port, 0, scope))
