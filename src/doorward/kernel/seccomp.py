"""The system calls permitted to a process that reads untrusted input (seccomp(2)). Pure: returns a BPF program.

It may receive from its sockets, send to the daemon, and allocate memory. It can open no file, start no process and
reach no other host; other calls fail with EPERM, and calls of another architecture kill the process.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from doorward.kernel.bpf import Instruction, Program


class _Machine(NamedTuple):
    audit: int  # AUDIT_ARCH_* of linux/audit.h
    calls: dict[str, int]


# By uname(2) machine name; all are little-endian, hence an argument's low word comes first.
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "close": 3, "poll": 7, "mmap": 9, "munmap": 11, "brk": 12, "rt_sigprocmask": 14, "rt_sigreturn": 15,
            "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "sendto": 44, "recvfrom": 45, "exit": 60,
            "futex": 202, "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "ppoll": 271,
            "getrandom": 318,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "close": 57, "ppoll": 73, "exit": 93, "exit_group": 94, "futex": 98, "clock_gettime": 113,
            "sched_yield": 124, "restart_syscall": 128, "rt_sigprocmask": 135, "rt_sigreturn": 139, "getpid": 172,
            "sendto": 206, "recvfrom": 207, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "madvise": 233,
            "getrandom": 278,
        },
    ),
}  # fmt: skip
_FIRST_X32 = 0x40000000  # x86-64's second set of calls, under the same architecture
_CALL, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # struct seccomp_data
_PROT_EXEC, _MAP_ANONYMOUS = 0x4, 0x20
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _END = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # SECCOMP_RET_ALLOW, _ERRNO | EPERM, _KILL_PROCESS


def is_supported(machine: str) -> bool:
    """Return whether there is a filter for this machine, as uname(2) names it."""
    return machine in _MACHINES


def reader_filter(machine: str, receive_from: Collection[int], send_to: Collection[int]) -> Program:
    """Return the filter for a process that receives from and sends to these descriptors only."""
    audit, calls = _MACHINES[machine]
    special = {
        "recvfrom": _with_argument(0, receive_from),
        "sendto": _with_argument(0, send_to),
        "mmap": _anonymous_memory(),
    }
    program = [
        Instruction(_LOAD, _ARCHITECTURE),
        Instruction(_IF_EQUAL, audit, 1, 0),
        Instruction(_RETURN, _END),
        Instruction(_LOAD, _CALL),
        Instruction(_IF_AT_LEAST, _FIRST_X32, 0, 1),
        Instruction(_RETURN, _END),
    ]
    for name, number in calls.items():
        verdict = special.get(name, [Instruction(_RETURN, _ALLOW)])
        program += [Instruction(_IF_EQUAL, number, 0, len(verdict)), *verdict]
    return [*program, Instruction(_RETURN, _REFUSE)]


def _with_argument(index: int, values: Collection[int]) -> Program:
    """Return a test that allows a call if this argument (an int: its low word) is one of the values."""
    tests = [part for value in values for part in (Instruction(_IF_EQUAL, value, 0, 1), Instruction(_RETURN, _ALLOW))]
    return [Instruction(_LOAD, _ARGUMENTS + 8 * index), *tests, Instruction(_RETURN, _REFUSE)]


def _anonymous_memory() -> Program:
    """Return a test that allows mmap only of anonymous memory that is not executable."""
    return [
        Instruction(_LOAD, _ARGUMENTS + 8 * 3),
        Instruction(_IF_ANY_BIT, _MAP_ANONYMOUS, 0, 3),
        Instruction(_LOAD, _ARGUMENTS + 8 * 2),
        Instruction(_IF_ANY_BIT, _PROT_EXEC, 1, 0),
        Instruction(_RETURN, _ALLOW),
        Instruction(_RETURN, _REFUSE),
    ]
