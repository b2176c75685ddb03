"""Classic BPF run in Python (Linux: Documentation/networking/filter.rst), and by the kernel."""

from __future__ import annotations

import ctypes
import operator
import socket
import struct
from collections.abc import Callable, Sequence

from doorward.kernel.bpf import Instruction, assemble

PACKET_TYPE, INTERFACE, HARDWARE = (0xFFFFF000 + offset for offset in (4, 8, 28))
ETHERNET, LOOPBACK = 1, 772
_SO_ATTACH_FILTER = 26


class _EndOfPacketError(Exception):
    pass


def kept(
    program: Sequence[Instruction],
    packet: bytes,
    *,
    packet_type: int = 0,
    interface: int = 2,
    hardware: int = ETHERNET,
) -> int:
    """Return how many bytes of the packet the program lets through, 0 for none."""
    about = {PACKET_TYPE: packet_type, INTERFACE: interface, HARDWARE: hardware}
    try:
        return _run(program, packet, about)
    except _EndOfPacketError:
        return 0


_LOADS = {0x20: 4, 0x28: 2, 0x30: 1}
_LOADS_BEYOND_X = {0x48: 2, 0x50: 1}
_CHANGES: dict[int, Callable[[int, int], int]] = {0x54: operator.and_, 0x74: operator.rshift}
_TESTS: dict[int, Callable[[int, int], int]] = {0x15: operator.eq, 0x35: operator.ge, 0x45: operator.and_}


def _run(program: Sequence[Instruction], packet: bytes, about: dict[int, int]) -> int:
    a = x = at = 0
    while program[at].code != 0x06:
        code, k, if_true, if_false = program[at]
        at += 1
        if code in _LOADS:
            a = about[k] if k in about else _load(packet, k, _LOADS[code])
        elif code in _LOADS_BEYOND_X:
            a = _load(packet, x + k, _LOADS_BEYOND_X[code])
        elif code in _CHANGES:
            a = _CHANGES[code](a, k)
        elif code in _TESTS:
            at += if_true if _TESTS[code](a, k) else if_false
        elif code in (0x01, 0xB1):
            x = k if code == 0x01 else 4 * (_load(packet, k, 1) & 15)
        elif code == 0x80:
            a = len(packet)
        else:
            assert code == 0x05, f"no such instruction: {code:#x}"
            at += k
    return min(program[at].operand, len(packet))


def _load(packet: bytes, at: int, size: int) -> int:
    if at + size > len(packet):
        raise _EndOfPacketError
    return int.from_bytes(packet[at : at + size])


class KernelFilter:
    """A program in the kernel, on a pair of Unix sockets: what is sent is what the program sees."""

    def __init__(self, program: Sequence[Instruction]) -> None:
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)
        code = ctypes.create_string_buffer(assemble(program))
        where = struct.pack("HP", len(program), ctypes.addressof(code))
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)

    def kept(self, packet: bytes) -> int:
        try:
            self._sender.send(packet)
        except PermissionError:  # the kernel tells a Unix socket's sender that the filter dropped it
            return 0
        try:
            return len(self._receiver.recv(1 << 16))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()
