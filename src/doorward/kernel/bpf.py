"""Socket filters in classic BPF (Linux: Documentation/networking/filter.rst) that pass possible knock packets.

A filter only saves work: parser and tracker check again, so one that passes too much is slow but never wrong.
Programs are built from the end: each piece receives what follows it, and jumps are counted from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from doorward.model import FlagFilter, Port, Protocol
from doorward.packets.packet import EXTENSIONS

INSTRUCTION = Struct("=HBBI")  # code, jumps if true and if false, operand (struct sock_filter)
# The kernel accepts 4,096 instructions, but charges the socket for their eBPF translation while the old filter is
# still attached: with the 20 KiB (net.core.optmem_max) of kernels before 6.7, a quarter of them is too much.
MAX_INSTRUCTIONS = 512
MAX_FLAG_FILTERS = 16  # doors rarely differ in flags; more are cheaper in user space
SHORTEST = 28  # an IPv4 and a UDP header
COPIED_BYTES = 80  # IPv4 with all its options, and a TCP header
COPIED_EXTENDED_BYTES = 2048  # IPv6 with extension headers: more than any real packet has

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # A = packet[k]
_LOAD_HALF_X, _LOAD_BYTE_X = 0x48, 0x50  # A = packet[X + k]
_LOAD_LENGTH = 0x80
_X_IMMEDIATE, _X_HEADER = 0x01, 0xB1  # X = k; X = 4 * (packet[k] & 15), IPv4's header length
_AND, _SHIFT_RIGHT = 0x54, 0x74
_JUMP, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x05, 0x15, 0x35, 0x45
_RETURN = 0x06
_MAX_JUMP = 255  # instructions that a conditional jump can skip; beyond it an unconditional one does
_PACKET_TYPE, _INTERFACE, _HARDWARE = 0xFFFFF000 + 4, 0xFFFFF000 + 8, 0xFFFFF000 + 28  # offsets from SKF_AD_OFF
# linux/if_packet.h: to us, broadcast, multicast; then to other hosts, and outgoing.
_FIRST_FOREIGN_TYPE, _OWN_TYPE = 3, 4
_LOOPBACK = 772  # ARPHRD_LOOPBACK


class Instruction(NamedTuple):
    """One instruction; `if_true` and `if_false` are the numbers of instructions that a jump skips."""

    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0


Program = list[Instruction]
_DROP = [Instruction(_RETURN, 0)]
DROP_ALL: Program = _DROP
_PASS = [Instruction(_RETURN, COPIED_BYTES)]
_PASS_EXTENDED = [Instruction(_RETURN, COPIED_EXTENDED_BYTES)]


def knock_filter(flags: Collection[FlagFilter], *, never: Collection[Port] = ()) -> Program:
    """Return a filter that passes TCP and UDP packets with one of these flags: possible knock packets.

    IPv6 with extension headers passes, and packets to the ports `never` do not; if these make the program too long,
    they are left to the reader of the packets.
    """
    program = _incoming(_by_version(_transports(flags, never)))
    return program if len(program) <= MAX_INSTRUCTIONS else _incoming(_by_version(_transports(flags, ())))


def address_filter(packed: bytes, *, outgoing: bool) -> Program:
    """Return a filter for packets from (or, `outgoing`, to) an IPv4 address or the /64 network of an IPv6 address.

    An IPv6 client has several addresses, and may knock from any of them.
    """
    whole = [Instruction(_RETURN, COPIED_EXTENDED_BYTES)]
    offsets = (12, 16) if len(packed) == 4 else (8, 24)
    words = [int.from_bytes(packed[at : at + 4]) for at in range(0, min(len(packed), 8), 4)]
    program: Program = whole
    for number, word in reversed(list(enumerate(words))):
        at = offsets[outgoing] + 4 * number
        program = [Instruction(_LOAD_WORD, at), *_if(_IF_EQUAL, word, program, _DROP)]
    version = 4 if len(packed) == 4 else 6
    program = [Instruction(_LOAD_BYTE, 0), Instruction(_SHIFT_RIGHT, 4), *_if(_IF_EQUAL, version, program, _DROP)]
    own = (
        _if(_IF_EQUAL, _OWN_TYPE, program, _DROP)
        if outgoing
        else _if(_IF_AT_LEAST, _FIRST_FOREIGN_TYPE, _DROP, program)
    )
    return [Instruction(_LOAD_WORD, _PACKET_TYPE), *own]


def on_interfaces(program: Program, indexes: Collection[int] | None) -> Program:
    """Return `program` restricted to packets of these interfaces; None: of all but loopback.

    Packets shorter than an IPv4 and a UDP header never pass.
    """
    program = [Instruction(_LOAD_LENGTH, 0), *_if(_IF_AT_LEAST, SHORTEST, program, _DROP)]
    if indexes is None:
        return [Instruction(_LOAD_HALF, _HARDWARE), *_if(_IF_EQUAL, _LOOPBACK, _DROP, program)]
    tests: Program = [*_DROP]
    for index in sorted(indexes, reverse=True):  # an unconditional jump each: there may be many
        tests = [Instruction(_IF_EQUAL, index, 0, 1), Instruction(_JUMP, len(tests)), *tests]
    return [Instruction(_LOAD_WORD, _INTERFACE), *tests, *program]


def assemble(program: Iterable[Instruction]) -> bytes:
    """Return the program as an array of struct sock_filter."""
    return b"".join(INSTRUCTION.pack(code, true, false, k) for code, k, true, false in program)


def _if(code: int, operand: int, then: Program, otherwise: Program) -> Program:
    """Return a branch between two programs that both end with a return."""
    if len(then) <= _MAX_JUMP:
        return [Instruction(code, operand, 0, len(then)), *then, *otherwise]
    return [Instruction(code, operand, 0, 1), Instruction(_JUMP, len(otherwise)), *otherwise, *then]


def _incoming(program: Program) -> Program:
    return [Instruction(_LOAD_WORD, _PACKET_TYPE), *_if(_IF_AT_LEAST, _FIRST_FOREIGN_TYPE, _DROP, program)]


def _by_version(transports: Program) -> Program:
    """Return a program that loads the transport protocol into A and its header offset into X, for both families."""
    ipv6 = _is_one_of(EXTENSIONS, _PASS_EXTENDED)
    ipv6 = [Instruction(_LOAD_BYTE, 6), *ipv6, Instruction(_X_IMMEDIATE, 40)]
    ipv4 = [
        Instruction(_LOAD_HALF, 6),
        *_if(_IF_ANY_BIT, 0x1FFF, _DROP, []),
        Instruction(_X_HEADER, 0),
        Instruction(_LOAD_BYTE, 9),
        Instruction(_JUMP, len(ipv6)),
    ]
    return [
        Instruction(_LOAD_BYTE, 0),
        Instruction(_SHIFT_RIGHT, 4),
        Instruction(_IF_EQUAL, 4, 2, 0),
        Instruction(_IF_EQUAL, 6, len(ipv4) + 1, 0),
        *_DROP,
        *ipv4,
        *ipv6,
        *transports,
    ]


def _is_one_of(values: Sequence[int], then: Program) -> Program:
    """Return a program that runs `then`, which ends with a return, if A is one of the values; else continues."""
    tests = [Instruction(_IF_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [*tests, Instruction(_JUMP, len(then)), *then]


def _transports(flags: Collection[FlagFilter], never: Collection[Port]) -> Program:
    tcp, udp = ([*_to_ports(protocol, never)] for protocol in (Protocol.TCP, Protocol.UDP))
    return _if(_IF_EQUAL, Protocol.UDP, udp, _if(_IF_EQUAL, Protocol.TCP, _with_flags(flags, tcp), _DROP))


def _with_flags(flags: Collection[FlagFilter], program: Program) -> Program:
    """Return a test for the TCP flags; without a filter no TCP packet is a knock packet."""
    wanted = sorted(set(flags))
    if not wanted:
        return _DROP
    if len(wanted) > MAX_FLAG_FILTERS or any(not flag_filter.mask for flag_filter in wanted):
        return program
    tests: Program = [*_DROP]
    for mask, value in reversed(wanted):
        passed = Instruction(_IF_EQUAL, value, len(tests), 0)
        tests = [Instruction(_LOAD_BYTE_X, 13), Instruction(_AND, mask), passed, *tests]
    return tests + program


def _to_ports(protocol: Protocol, never: Collection[Port]) -> Program:
    """Return a binary search for the destination port in the intervals that pass."""
    listed = {port.number for port in never if port.protocol is protocol}
    changes = {0: True} | dict.fromkeys((n for n in listed if n - 1 not in listed), False)
    changes |= dict.fromkeys((n + 1 for n in listed if n + 1 not in listed), True)
    return [Instruction(_LOAD_HALF_X, 2), *_search(sorted(changes.items()))] if listed else _PASS


def _search(changes: Sequence[tuple[int, bool]]) -> Program:
    """Return a program that applies the last (number, verdict) with number <= A."""
    if len(changes) == 1:
        return _verdict(changes[0][1])
    middle = len(changes) // 2
    return _if(_IF_AT_LEAST, changes[middle][0], _search(changes[middle:]), _search(changes[:middle]))


def _verdict(passes: bool) -> Program:
    return _PASS if passes else _DROP
