"""Live capture of the packets between one address and this host.

Incoming packets are captured as the IP stack sees them, after VLAN tags and bridges were resolved. Outgoing packets
are only available from a socket for all protocols (ETH_P_ALL), which shows them on each interface of a bridge or bond.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from doorward.kernel.bpf import COPIED_EXTENDED_BYTES, address_filter, assemble
from doorward.kernel.interfaces import InterfaceMonitor
from doorward.kernel.packet_socket import attach_filter, packet_socket
from doorward.model import Address
from doorward.packets.datalink import IPV4, IPV6, NetworkPacket

_EVERYTHING = 0x0003  # ETH_P_ALL
_STAMPS = 35  # SO_TIMESTAMPNS, also the type of its control message
_STAMP = struct.Struct("@ll")  # struct timespec
_OUTGOING = 4  # PACKET_OUTGOING
_BEHIND_S = 0.001
_LONGEST_WAIT_S = 1.0  # Python sees a signal that came just before select(2) only after it
_MOST_AT_ONCE = 1000  # packets of one socket before the other has its turn


class LivePacket(NamedTuple):
    """A packet and its time, in ns since the epoch."""

    network: NetworkPacket
    at_ns: int


class LiveCapture:
    """A context manager. HostError: CAP_NET_RAW or a part of the kernel is missing."""

    def __init__(self, address: Address) -> None:
        self._stack = ExitStack()
        try:
            self._stop_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._stack.callback(os.close, self._stop_event)
            self._interfaces = InterfaceMonitor()
            self._stack.callback(self._interfaces.close)
            self._locals = self._interfaces.local_addresses()
            self._outgoing = self._open(_EVERYTHING, address, outgoing=True)
            self._incoming = self._open(IPV4 if address.version == 4 else IPV6, address, outgoing=False)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> LiveCapture:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_local(self, packed: bytes) -> bool:
        """Return whether an address is local to this host."""
        if self._interfaces.changed():
            self._locals = self._interfaces.local_addresses()
        return self._locals.contains(packed)

    def stop(self) -> None:
        """Make `packets` end after the packets that have arrived so far; a signal handler may call this."""
        os.eventfd_write(self._stop_event, 1)

    def packets(self, until_s: float) -> Iterator[LivePacket]:
        """Yield packets as they pass, until a time (on CLOCK_MONOTONIC) or `stop`."""
        ends, sources = False, [self._incoming.fileno(), self._outgoing.fileno(), self._stop_event]
        while not ends:
            left_s = max(until_s - time.monotonic(), 0.0)
            ready = select.select(sources, [], [], min(left_s, _LONGEST_WAIT_S))[0]
            ends = self._stop_event in ready or left_s == 0
            yield from self._waiting()

    def _waiting(self) -> Iterator[LivePacket]:
        """Yield waiting packets, each answer after the packet that it answers."""
        # That packet is at the other socket by now, or a moment later: the kernel may pass a packet to the IP stack,
        # which answers, before it passes it to a packet socket.
        answers = list(_drain(self._outgoing))
        select.select([self._incoming], [], [], _BEHIND_S if answers else 0)
        yield from _drain(self._incoming)
        yield from answers

    def _open(self, ethertype: int, address: Address, *, outgoing: bool) -> socket.socket:
        found = self._stack.enter_context(packet_socket(ethertype))
        attach_filter(found, assemble(address_filter(address.packed, outgoing=outgoing)))
        found.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
        found.setblocking(False)
        for _ in _drain(found):  # packets from before the filter
            pass
        return found


def _drain(receiver: socket.socket) -> Iterator[LivePacket]:
    """Yield the waiting packets, up to a limit."""
    for _ in range(_MOST_AT_ONCE):
        try:
            data, messages, _, address = receiver.recvmsg(COPIED_EXTENDED_BYTES, socket.CMSG_SPACE(_STAMP.size))
        except BlockingIOError:
            return
        interface, _, way = address[:3]
        stamps = [raw for _, kind, raw in messages if kind == _STAMPS and len(raw) == _STAMP.size]
        seconds, nanoseconds = _STAMP.unpack(stamps[0]) if stamps else (0, time.time_ns())
        yield LivePacket(
            NetworkPacket(memoryview(data), way == _OUTGOING, interface), seconds * 1_000_000_000 + nanoseconds
        )
