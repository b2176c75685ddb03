"""The netfilter log, by which the kernel reports complete and rejected knocks (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from doorward.errors import HostError, MalformedError
from doorward.kernel import netlink
from doorward.model import Address
from doorward.packets.decode import decode_flow
from doorward.packets.packet import UdpDatagram, parse_udp, source_address

_SUBSYSTEM = 4 << 8
_PACKET, _CONFIG = _SUBSYSTEM | 0, _SUBSYSTEM | 1
_CFG_CMD, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_BIND, _COPY_PACKET = 1, 2
_MARK, _TIMESTAMP, _INTERFACE, _PAYLOAD, _PREFIX = 2, 3, 4, 9, 10
_MOMENT = struct.Struct("!QQ")  # struct nfulnl_msg_packet_timestamp: seconds, microseconds
_EVENT_BYTES, _DATAGRAM_BYTES = 128, 2048  # copied from a packet: its headers; a whole signed knock
_RECEIVE_BUFFER_BYTES = 4 << 20  # some 10,000 messages: enough for 10,000 simultaneous knocks
_RECEIVE_BYTES = 1 << 17
_MESSAGES_A_READ = 512
_LAST_US = 1 << 63
_SIGNED = b"doorward signed\0"
_PREFIX_TEXT = re.compile(rb"doorward ([0-9a-f]{8}) (knock|full|throttled|step|wrong|used) ?\0?")


class NflogEvent(NamedTuple):
    """An event of the ruleset: the generation of its tables, what happened, the last state, the source.

    `what` is "knock" (a door opened), "full" (it did not: the set is full), "throttled" (over the rate limit, no
    state), "used" (a connection used up an opening: no state, but its `source_port`, 0 if unknown), and in the log of
    steps "step" (a knock packet that completes nothing yet) or "wrong" (progress reset, no state).
    """

    generation: str
    what: str
    state: int
    source: Address
    at_us: int = 0  # since the epoch, by the kernel's clock; 0 if it has no time stamp (before Linux 5.18)
    source_port: int = 0


def parse_event(body: memoryview) -> NflogEvent:
    """Parse one NFULNL_MSG_PACKET; MalformedError for anything that doorward's rules do not send."""
    found = netlink.family_attributes(body)
    prefix = _PREFIX_TEXT.fullmatch(bytes(found.get(_PREFIX, b"")))
    if prefix is None or _PAYLOAD not in found:
        raise MalformedError("foreign-message", "netfilter log: a message that is not from doorward's rules")
    mark = found.get(_MARK)
    state = struct.unpack("!I", mark)[0] if mark is not None and len(mark) == 4 else 0
    at_us, what, payload = _microseconds(found.get(_TIMESTAMP, b"")), prefix[2].decode(), found[_PAYLOAD]
    source_port = decode_flow(payload).source_port if what == "used" else 0
    return NflogEvent(prefix[1].decode(), what, state, source_address(payload), at_us, source_port)


def _microseconds(raw: memoryview | bytes) -> int:
    if len(raw) != _MOMENT.size:
        return 0
    seconds, rest = _MOMENT.unpack(raw)
    at_us: int = seconds * 1_000_000 + rest
    return at_us if at_us < _LAST_US else 0


class LoggedDatagram(NamedTuple):
    """A datagram to a port for signed knocks, and the index of the interface that it arrived on (0: unknown)."""

    udp: UdpDatagram
    interface: int = 0


def parse_datagram(body: memoryview) -> LoggedDatagram:
    """Parse one NFULNL_MSG_PACKET with a whole UDP packet; MalformedError as above."""
    found = netlink.family_attributes(body)
    if bytes(found.get(_PREFIX, b"")) != _SIGNED or _PAYLOAD not in found:
        raise MalformedError("foreign-message", "netfilter log: a message that is not from doorward's rules")
    interface = bytes(found.get(_INTERFACE, b""))
    return LoggedDatagram(parse_udp(found[_PAYLOAD]), int.from_bytes(interface) if len(interface) == 4 else 0)


Event = TypeVar("Event")


class LogSocket(Generic[Event]):
    """A netlink socket bound to one of the log groups. Only one process per network namespace can bind it."""

    def __init__(self, group: int, parse: Callable[[memoryview], Event], copy_bytes: int = _EVENT_BYTES) -> None:
        self._parse, self._copy_bytes = parse, copy_bytes
        self._socket = netlink.open_socket(netlink.NETFILTER, "the netfilter log")
        try:
            # The port id is the PID, so that a second daemon can name the process that has the group.
            self._socket.bind((os.getpid(), 0))
        except OSError:
            self._socket.bind((0, 0))
        try:
            self._configure(group)
        except OSError as error:
            self._socket.close()
            raise _bind_error(error, group) from None
        self._socket.setblocking(False)
        self._dropped = False
        self.malformed = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket and release the group."""
        self._socket.close()

    def read(self) -> list[Event] | None:
        """Return the waiting events, at most a few hundred; None if the kernel dropped some (ENOBUFS)."""
        events: list[Event] = []
        if self._dropped:
            self._dropped = False
            return None
        try:
            for _ in range(_MESSAGES_A_READ):  # one message per knock, so that each is reported at once
                events += self._events(memoryview(self._socket.recv(_RECEIVE_BYTES)))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            if not events:
                return None
            self._dropped = True  # reported by the next call; first the events that arrived
        return events

    def _events(self, raw: memoryview) -> list[Event]:
        events: list[Event] = []
        for item in netlink.messages(raw):
            if item.kind == _PACKET:
                try:
                    events.append(self._parse(item.body))
                except MalformedError:  # another program may log to the same group
                    self.malformed += 1
        return events

    def _configure(self, group: int) -> None:
        netlink.enlarge_receive_buffer(self._socket, _RECEIVE_BUFFER_BYTES)
        head = netlink.FAMILY_HEADER.pack(socket.AF_UNSPEC, 0, group)
        for kind, value in (
            (_CFG_CMD, struct.pack("!B", _BIND)),
            (_CFG_MODE, struct.pack("!IBx", self._copy_bytes, _COPY_PACKET)),
            (_CFG_THRESHOLD, struct.pack("!I", 1)),  # report each knock at once
        ):
            body = head + netlink.attribute(kind, value)
            netlink.send_request(self._socket, netlink.message(_CONFIG, netlink.REQUEST | netlink.ACK, body))


def event_log(group: int) -> LogSocket[NflogEvent]:
    """Open a log of knocks."""
    return LogSocket(group, parse_event)


def datagram_log(group: int) -> LogSocket[LoggedDatagram]:
    """Open the log of signed knocks."""
    return LogSocket(group, parse_datagram, _DATAGRAM_BYTES)


def bound_pid(group: int) -> int | None:
    """Return the PID (netlink port id) bound to a log group in this network namespace."""
    try:
        rows = Path("/proc/net/netfilter/nfnetlink_log").read_text().splitlines()
    except OSError:
        return None
    columns = [row.split() for row in rows]
    return next((int(row[1]) for row in columns if len(row) > 1 and row[0] == str(group)), None)


def _bind_error(error: OSError, group: int) -> HostError:
    holder = bound_pid(group)
    if holder is not None:  # the kernel returns EPERM if another process has the group
        return HostError(
            "other-daemon", f"another doorward is running here: process {holder} has its log; stop it first"
        )
    if error.errno == errno.EPERM:
        return HostError(
            "no-net-admin",
            "reading the netfilter log needs CAP_NET_ADMIN; run doorward as root or give it that capability",
        )
    return HostError(
        "no-nflog", f"netfilter log group {group}: {error.strerror}; the kernel needs nfnetlink_log (since 2.6.14)"
    )
