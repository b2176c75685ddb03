"""Notifications of ruleset changes by nf_tables (linux/netfilter/nf_tables.h, group NFNLGRP_NFTABLES).

Elements that packets add to sets are not reported. The messages of a transaction arrive together; the last one,
NEWGEN, names the process that made it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import struct
from typing import NamedTuple

from doorward.errors import HostError, MalformedError
from doorward.kernel import netlink
from doorward.kernel.bpf import Instruction, assemble
from doorward.kernel.packet_socket import attach_filter
from doorward.nftables.ruleset import TABLE

_GROUP = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_RULE, _NEW_GEN, _GET_GEN = (_SUBSYSTEM | kind for kind in (1, 7, 15, 16))
_NEW_ELEMENT, _DEL_ELEMENT = _SUBSYSTEM | 12, _SUBSYSTEM | 14
_INET = 1  # NFPROTO_INET
_TABLE_NAME, _SET_NAME = 1, 2  # the same number in the messages of every kind
_TABLE_FLAGS, _TABLE_HANDLE, _RULE_HANDLE = 2, 4, 3
_GEN_PROCESS, _GEN_PROGRAM = 2, 3
_NAME = TABLE.split()[1].encode() + b"\0"
_OPENINGS = re.compile(rb"(open(_behind)?(_nets)?|once(_behind)?)[46]\0")
# Packets fill these, and an operator may empty them: the rules stay the same.
_DYNAMIC = re.compile(
    rb"(open(_behind)?(_nets)?|once(_behind)?(_limit)?|once_syn|preexisting|ratelimit|throttled|scanners|signed|browser|fwknop"
    rb"|first_knock|short_window|progress)[46]"
)
_RECEIVE_BUFFER_BYTES = 8 << 20  # a few hundred thousand elements that another program loads at once
_RECEIVE_BYTES = 1 << 17
_SO_DETACH_FILTER = 27
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_MESSAGES_A_READ = 1024


class RulesetChange(NamedTuple):
    """A transaction: its process (PID in the initial namespace), program name, and effect on the table.

    `scope` is "rules" if rules, chains, maps or the table itself changed, "openings" if elements of the open sets did,
    "" if nothing of this gate changed.
    """

    process: int
    program: str
    scope: str


def own_pid() -> int:
    """Return this process's PID as a RulesetChange names it; in a container it differs from getpid(2)."""
    with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
        sock.send(netlink.message(_GET_GEN, netlink.REQUEST, netlink.FAMILY_HEADER.pack(0, 0, 0)))
        for reply in netlink.messages(memoryview(sock.recv(_RECEIVE_BYTES))):
            if reply.kind == _NEW_GEN:
                return _parse_generation(reply.body)[0]
    raise HostError(
        "kernel-too-old", "the kernel does not report which process changes nf_tables; it must be Linux 5.11 or newer"
    )


def fingerprint() -> bytes:
    """Return a digest of the handles of table and rules, unique to each load; set elements do not count.

    b"" if they changed meanwhile, or cannot be read.
    """
    try:
        return _sum_of_handles()
    except (OSError, MalformedError, KeyError):
        return b""


def _sum_of_handles() -> bytes:
    found = hashlib.blake2s(digest_size=16)
    head = netlink.FAMILY_HEADER.pack(_INET, 0, 0) + netlink.attribute(_TABLE_NAME, _NAME)
    for kind, wanted in ((_GET_TABLE, (_TABLE_HANDLE, _TABLE_FLAGS)), (_GET_RULE, (_RULE_HANDLE,))):
        with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
            for reply in netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, head)):
                parts = netlink.family_attributes(reply.body)
                if bytes(parts.get(_TABLE_NAME, b"")) == _NAME:  # all tables are listed
                    found.update(b"".join(bytes(parts[each]) for each in wanted))
    return found.digest()


class RulesetMonitor:
    """A netlink socket that receives every transaction of this network namespace."""

    def __init__(self) -> None:
        self._socket = netlink.open_socket(netlink.NETFILTER, "nf_tables")
        netlink.enlarge_receive_buffer(self._socket, _RECEIVE_BUFFER_BYTES)
        try:
            self._bind()
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as error:
            self._socket.close()
            raise HostError(
                "no-net-admin",
                f"monitoring nftables needs CAP_NET_ADMIN ({error.strerror}); run doorward as root or give"
                " it that capability",
            ) from None
        self._socket.setblocking(False)
        self._scope = ""

    def _bind(self) -> None:
        """Bind to a port id, without which nothing arrives; the PID is left to libnftables, see `ignore_pid`."""
        try:
            self._socket.bind((1 << 31 | os.getpid(), 0))
        except OSError:
            self._socket.bind((0, 0))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ignore_pid(self, process: int) -> None:
        """Skip the messages of a child that loads a ruleset, except the end of its transactions: there are too many.

        libnftables binds its socket to the PID unless that port id is taken; then all of the child's messages arrive.
        """
        program = [
            Instruction(0x20, 12),  # the sender of the first message; the same for the whole datagram
            Instruction(0x15, int.from_bytes(struct.pack("=I", process), "big"), 0, 2),
            Instruction(0x28, 4),  # its type
            Instruction(0x15, int.from_bytes(struct.pack("=H", _NEW_GEN), "big"), 0, 1),
            Instruction(0x06, 0xFFFFFFFF),
            Instruction(0x06, 0),
        ]
        attach_filter(self._socket, assemble(program))

    def clear_filter(self) -> None:
        """Receive everything again: the PID may be reused by another process."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def read(self) -> list[RulesetChange] | None:
        """Return the transactions of up to a thousand datagrams; None if some were dropped or cannot be parsed."""
        changes: list[RulesetChange] = []
        try:
            for _ in range(_MESSAGES_A_READ):
                changes += self._changes(self._socket.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            pass
        except MalformedError:  # of a newer kernel; the caller compares the ruleset instead
            self._drain()
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._drain()
            return None
        return changes

    def _drain(self) -> None:
        self._scope = ""
        netlink.drain(self._socket)

    def _changes(self, raw: bytes) -> list[RulesetChange]:
        changes: list[RulesetChange] = []
        for kind, body in netlink.messages(memoryview(raw)):
            if kind == _NEW_GEN:
                changes.append(RulesetChange(*_parse_generation(body), self._scope))
                self._scope = ""
            elif _NAME in raw and self._scope != "rules":
                self._scope = _scope(kind, body) or self._scope
        return changes


def _scope(kind: int, body: memoryview) -> str:
    """Return the scope of one message of a transaction; MalformedError on a wrong length."""
    if kind >> 8 != _SUBSYSTEM >> 8 or len(body) < netlink.FAMILY_HEADER.size or body[0] != _INET:
        return ""
    parts = netlink.family_attributes(body)
    if bytes(parts.get(_TABLE_NAME, b"")) != _NAME:
        return ""
    if kind in (_NEW_ELEMENT, _DEL_ELEMENT):
        name = bytes(parts.get(_SET_NAME, b""))
        if _DYNAMIC.match(name):
            return "openings" if _OPENINGS.fullmatch(name) else ""
    return "rules"


def _parse_generation(body: memoryview) -> tuple[int, str]:
    parts = netlink.family_attributes(body)
    process, program = parts.get(_GEN_PROCESS, b""), bytes(parts.get(_GEN_PROGRAM, b""))
    if len(process) != 4:
        raise MalformedError("no-process", "nf_tables: the end of a transaction does not name its process")
    return struct.unpack("!I", process)[0], program.rstrip(b"\0").decode(errors="replace")
