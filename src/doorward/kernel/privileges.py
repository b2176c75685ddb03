"""Drop privileges permanently: user and groups, capabilities (capabilities(7)), system calls (seccomp(2))."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from typing import NamedTuple

from doorward.kernel.bpf import Program, assemble

SERVICE_USER = "doorward"
NET_ADMIN = 1 << 12
LOAD_PROGRAMS = 1 << 38 | 1 << 39  # CAP_PERFMON, CAP_BPF
_SETUID_AND_SETGID = 1 << 6 | 1 << 7  # CAP_SETGID, CAP_SETUID
_LAST_CAPABILITY = 63  # the kernel rejects numbers that it does not have
_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_HEADER, _SETS = struct.Struct("=Ii"), struct.Struct("=6I")  # effective, permitted, inheritable: low words, high words
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 24, 38
_PR_SET_NAME = 15
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 3, 4
_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """A user and its groups, looked up while that is still possible."""

    name: str
    user: int
    group: int
    groups: tuple[int, ...]


def service_identity() -> Identity | None:
    """Return the user that doorward drops privileges to; None without such a user, or if this process may not."""
    if os.geteuid() != 0 or _permitted() & _SETUID_AND_SETGID != _SETUID_AND_SETGID:
        return None
    try:
        found = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    groups = tuple(os.getgrouplist(SERVICE_USER, found.pw_gid))
    return Identity(SERVICE_USER, found.pw_uid, found.pw_gid, groups)


def drop_privileges(identity: Identity | None, keep: int) -> None:
    """Switch to this user (None: stay), with those of the capabilities in `keep` (a bit mask) that are permitted.

    Nothing that is executed later can gain more, and no other process of this user can read this one's memory.
    OSError: the kernel rejected a step.
    """
    left = _permitted() & keep
    for number in range(_LAST_CAPABILITY + 1):
        if not left >> number & 1:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # without CAP_SETPCAP the bounding set stays; see below
    if identity is not None:
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups(identity.groups)
        os.setresgid(identity.group, identity.group, identity.group)
        os.setresuid(identity.user, identity.user, identity.user)
        _prctl(_PR_SET_KEEPCAPS, 0)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    low, high = left & 0xFFFFFFFF, left >> 32
    sets = ctypes.create_string_buffer(_SETS.pack(low, low, 0, high, high, 0))
    if _libc.capset(ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0)), sets):
        _raise()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # no set-user-ID program or file capabilities can restore them
    deny_tracing()  # last: a change of user undoes it


def drop_capabilities(unwanted: int) -> None:
    """Drop these capabilities (a bit mask) here, and in what is executed later; the others stay as they are."""
    for number in range(_LAST_CAPABILITY + 1):
        if unwanted >> number & 1:
            _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, number, 0, 0)
    kept = ~unwanted
    words = (word & kept >> (0 if index < 3 else 32) for index, word in enumerate(_capabilities()))
    if _libc.capset(
        ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0)), ctypes.create_string_buffer(_SETS.pack(*words))
    ):
        _raise()


def deny_tracing() -> None:
    """Keep other processes of the same user from tracing this one or reading its memory, such as keys (prctl(2))."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_process_name(name: str) -> None:
    """Set this process's name, at most 15 bytes, as ps(1) and top(1) show it."""
    raw = ctypes.create_string_buffer(name.encode())
    _prctl(_PR_SET_NAME, ctypes.addressof(raw))


def restrict_system_calls(program: Program) -> None:
    """Allow only the system calls that `program` allows; call `drop_privileges` first. OSError: no seccomp."""
    code = ctypes.create_string_buffer(assemble(program))
    where = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(where))


def exit_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent exits; a change of user undoes that."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _permitted() -> int:
    _, low, _, _, high, _ = _capabilities()
    return int(high << 32 | low)


def _capabilities() -> tuple[int, ...]:
    sets = ctypes.create_string_buffer(_SETS.size)
    if _libc.capget(ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0)), sets):
        _raise()
    return _SETS.unpack(sets.raw[: _SETS.size])


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0)[:4]]
    if _libc.prctl(option, *words):
        _raise()


def _raise() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
