"""Packets through shared memory: one packet socket with a TPACKET_V3 ring (packet(7)) per address family.

The sockets request IPv4 and IPv6, not all protocols. So they see what the IP stack sees: each packet once, after VLAN
tags, bonds and bridges were resolved, on the interface that has the address, and never what this host sends.
"""

from __future__ import annotations

import mmap
import select
import struct
import time
from collections.abc import Iterator, Sequence

from doorward.errors import HostError, MalformedError
from doorward.kernel.bpf import Program, assemble, on_interfaces
from doorward.kernel.interfaces import InterfaceMonitor, LocalAddresses
from doorward.kernel.packet_socket import attach_filter, packet_socket
from doorward.model import Packet, Protocol
from doorward.packets.packet import FLAGS_IN_TCP, PORTS, parse

_ETHERTYPES = (0x0800, 0x86DD)
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION = 263, 5, 6, 10
_TPACKET_V3 = 2
BLOCK_BYTES = 1 << 18  # some 1,900 SYNs
BLOCKS = 32  # 8 MiB per family: at 250,000 packets/s, a reader that pauses for 0.2 s loses none
_FRAME_BYTES = 2048  # only checked against the sizes: in a TPACKET_V3 block packets are adjacent
# The kernel hands over a block when it is full or this old, but never an empty one, so an idle host pays for a timer
# and no wake-up. A knock may wait 1 ms; kernels before 6.18 round that up to a tick (4 ms at 250 Hz).
RETIRE_MS = 1
_REQUEST = struct.Struct("=7I")  # struct tpacket_req3
# struct tpacket_block_desc: number of packets, offset of the first, time of the first, time of the last
_BLOCK = struct.Struct("=12xII12xIIII")
_STATUS_AT, _KERNELS, _OURS = 8, 0, 1
# struct tpacket3_hdr: next, seconds, nanoseconds.
_STAMP = struct.Struct("=III")
# The same: next, captured bytes, offset of the network header. Then at 96 bytes, where the kernel puts it for this type
# of socket, an IPv4 header and two ports, unpacked at once: nearly every knock is that. No packet is so short
# (`SHORTEST`) that this would read past its end.
_PACKET = struct.Struct("=I8xI10xH68xBx2s2x2sxB2x4s4s2x2s")
_USUAL_PLACE, _PLAIN, _WHOLE = 96, 0x45, (b"\x40\0", b"\0\0")  # no options, no fragment
_TCP_LENGTH, _UDP_LENGTH = b"\0\x28", b"\0\x1c"  # as the header has it: at least 40 and 28 bytes
_FLAGS_AT = _USUAL_PLACE + 20 + FLAGS_IN_TCP
_COUNTS = struct.Struct("=III")  # struct tpacket_stats_v3: packets, drops, queue freezes
_NS_PER_S = 1_000_000_000
_TOGETHER_NS = 1_000_000  # packets of a block that span less than this get one time, as in the blocks of a flood
_REFRESH_S = 60.0  # the kernel does not announce ranges made local by hand (`ip route add local`), so poll


Group = tuple[list[Packet], int]  # packets in order, and the time of the last in nanoseconds


class TpacketRing:
    """Captures packets with their times on some interfaces, or without names on all but loopback.

    An interface may disappear and come back. HostError: CAP_NET_RAW or a part of the kernel is missing.
    """

    def __init__(self, interfaces: Sequence[str], program: Program) -> None:
        self._interfaces = tuple(interfaces)
        self._program = program
        self._waiting = select.epoll()
        self._links = InterfaceMonitor()
        self._receivers: list[_Receiver] = []
        self.absent: tuple[str, ...] = ()  # configured interfaces that do not exist now
        try:
            self._refresh()
            for ethertype in _ETHERTYPES:
                self._receivers.append(_Receiver(ethertype, self._code))
        except BaseException:
            self.close()
            raise
        for descriptor in (self._links.fileno(), *(receiver.fileno() for receiver in self._receivers)):
            self._waiting.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when packets arrived or interfaces changed."""
        return self._waiting.fileno()

    def close(self) -> None:
        """Close sockets and memory."""
        for receiver in self._receivers:
            receiver.close()
        self._links.close()
        self._waiting.close()

    def set_filter(self, program: Program) -> None:
        """Replace the filter without losing a packet."""
        self._program = program
        self._refresh()

    def read(self) -> Iterator[Group]:
        """Yield the packets that arrived, at most one ring full, so that a flood does not block the caller forever.

        The time is when the kernel captured the packets, to a millisecond, on CLOCK_MONOTONIC. It never decreases
        within a family, which is enough for a tracker, as it separates the families. `local` says whether the
        destination is local to this host.
        """
        for _ in range(BLOCKS):  # in turns, so that a flood in one family does not starve the other
            ready = [receiver for receiver in self._receivers if receiver.is_ready()]
            # Read after the packets arrived, so the addresses apply to them, too.
            if self._links.changed() or time.monotonic() - self._refreshed_s > _REFRESH_S:
                self._refresh()
            for receiver in ready:
                yield from receiver.read_block(self._locals)
            if not ready:
                return

    def drops(self) -> int:
        """Return the number of packets lost since the start because the ring was full."""
        return sum(receiver.drops() for receiver in self._receivers)

    @property
    def malformed(self) -> int:
        """Return the number of packets that passed the filter but were neither TCP nor UDP, or truncated."""
        return sum(receiver.malformed for receiver in self._receivers)

    def _refresh(self) -> None:
        """Look up the interfaces' current indexes and the host's local addresses."""
        found = {name: self._links.find_index(name) for name in self._interfaces}
        self.absent = tuple(name for name, index in found.items() if index is None)
        indexes = {index for index in found.values() if index is not None} if self._interfaces else None
        self._code = assemble(on_interfaces(self._program, indexes))
        for receiver in self._receivers:
            receiver.attach(self._code)
        self._locals = self._links.local_addresses()
        self._refreshed_s = time.monotonic()


class _Receiver:
    """One packet socket and its ring, bound to no interface: the filter selects them."""

    def __init__(self, ethertype: int, code: bytes) -> None:
        self._next = 0  # the block that the kernel fills next, or has filled
        self._last_ns = 0
        self._drops = 0
        self.malformed = 0
        self._socket = packet_socket(ethertype)
        try:
            self.attach(code)  # before the ring, whose creation discards unfiltered packets
            self._memory = self._mapped()
        except BaseException:
            self._socket.close()
            raise
        self._view = memoryview(self._memory)
        self._words = self._view.cast("I")

    def _mapped(self) -> mmap.mmap:
        request = _REQUEST.pack(
            BLOCK_BYTES, BLOCKS, _FRAME_BYTES, BLOCKS * BLOCK_BYTES // _FRAME_BYTES, RETIRE_MS, 0, 0
        )
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, request)
            return mmap.mmap(self._socket.fileno(), BLOCKS * BLOCK_BYTES)
        except OSError as error:
            raise HostError(
                "no-packet-ring",
                f"no packet ring ({error.strerror}); the kernel needs TPACKET_V3 (since 3.2) and"
                f" {BLOCKS * BLOCK_BYTES >> 20} MiB for each family",
            ) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._words.release()
        self._view.release()
        self._memory.close()
        self._socket.close()

    def attach(self, program: bytes) -> None:
        """Attach a filter; it replaces the previous one."""
        attach_filter(self._socket, program)

    def drops(self) -> int:
        """Return the total of lost packets; the kernel resets its counter on each read."""
        self._drops += _COUNTS.unpack(self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size))[1]
        return self._drops

    def is_ready(self) -> bool:
        """Return whether the kernel has filled the next block."""
        return bool(self._words[self._status()] & _OURS)

    def read_block(self, locals_: LocalAddresses) -> list[Group]:
        """Return the packets of the next block, which must be ready, and release it to the kernel."""
        found = self._groups(self._next * BLOCK_BYTES, locals_)
        # In one store. Assigning four bytes to a slice makes two (memmove): if this CPU is interrupted between them,
        # the kernel fills the block meanwhile, and the second store hides that from us forever.
        self._words[self._status()] = _KERNELS
        self._next = (self._next + 1) % BLOCKS
        return found

    def _status(self) -> int:
        return (self._next * BLOCK_BYTES + _STATUS_AT) // 4

    def _groups(self, start: int, locals_: LocalAddresses) -> list[Group]:
        """Parse a block. The kernel stamps packets with the wall clock, which may jump.

        So only their age is derived from it, and no time is later than now or earlier than the previous one.
        """
        count, first, began_s, began_ns, ended_s, ended_ns = _BLOCK.unpack_from(self._view, start)
        at, now_ns = start + first, time.monotonic_ns()
        offset_ns = now_ns - time.time_ns()
        ended_ns += ended_s * _NS_PER_S
        if 0 <= ended_ns - began_ns - began_s * _NS_PER_S < _TOGETHER_NS:
            return [(self._packets(at, count, locals_), self._moment(ended_ns + offset_ns, now_ns))]
        found: list[Group] = []
        for _ in range(count):
            following, seconds, nanoseconds = _STAMP.unpack_from(self._view, at)
            moment_ns = self._moment(seconds * _NS_PER_S + nanoseconds + offset_ns, now_ns)
            found.append((self._packets(at, 1, locals_), moment_ns))
            at += following
        return found

    def _moment(self, moment_ns: int, now_ns: int) -> int:
        self._last_ns = max(self._last_ns, min(moment_ns, now_ns))
        return self._last_ns

    def _packets(self, at: int, count: int, locals_: LocalAddresses) -> list[Packet]:
        """Parse `count` packets, like `parse`, but those typical of a flood in a third of the time."""
        found: list[Packet] = []
        view, unpack, own, add = self._view, _PACKET.unpack_from, locals_.addresses, found.append
        tcp, udp, new = PORTS[Protocol.TCP], PORTS[Protocol.UDP], tuple.__new__
        for _ in range(count):
            (following, kept, network,
             head, length, fragment, protocol, source, destination, port) = unpack(view, at)  # fmt: skip
            begin = at
            at += following
            if head == _PLAIN and fragment in _WHOLE and network == _USUAL_PLACE and destination in own:
                if protocol == 6 and length >= _TCP_LENGTH and kept >= 40:
                    add(new(Packet, (source, tcp[port], view[begin + _FLAGS_AT], destination, True)))
                    continue
                if protocol == 17 and length >= _UDP_LENGTH:
                    add(new(Packet, (source, udp[port], 0, destination, True)))
                    continue
            self._parse(view[begin + network : begin + network + kept], locals_, found)
        return found

    def _parse(self, data: memoryview, locals_: LocalAddresses, found: list[Packet]) -> None:
        try:
            packet = parse(data)
        except MalformedError:
            self.malformed += 1
            return
        local = locals_.contains(packet.destination or b"")
        found.append(packet if local else packet._replace(local=False))
