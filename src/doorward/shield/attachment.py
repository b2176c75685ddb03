"""Attach the shield's programs to an interface: by a link at tcx or XDP, or, before Linux 6.6, as a filter of tc(8).

The egress program has to see each packet that this host sends. At tcx it is attached before all others; one that comes
before it later, or another filter, may end the search, and `may_be_skipped` reports that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from doorward.errors import DoorwardError, HostError
from doorward.escape import visible
from doorward.kernel import netlink
from doorward.kernel.routes import ROUTE
from doorward.shield.libbpf import Place, library

_FIRST = 1 << 3  # BPF_F_BEFORE, before no other in particular
_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE
_OPTIONS_OF_LINK = struct.Struct("@NI")  # the first fields of struct bpf_link_create_opts: its size, flags
_MAX_PROGRAMS = 64  # at one place
_OTHER = "it has another XDP program"
_NO_XDP = {errno.EOPNOTSUPP: "its driver runs no XDP programs", errno.EBUSY: _OTHER, errno.EEXIST: _OTHER}
_LOOPBACK = 1  # its index in each network namespace

_NEW_QDISC, _DELETE_QDISC, _GET_QDISC = 36, 37, 38
_NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 44, 45, 46
_CREATE, _EXCLUSIVE = 0x400, 0x200
_TC = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info (struct tcmsg)
_CLSACT, _CLSACT_HANDLE = 0xFFFF_FFF1, 0xFFFF_0000
_INGRESS, _EGRESS = 0xFFFF_FFF2, 0xFFFF_FFF3  # parents of filters
_KIND, _OPTIONS = 1, 2
_FD, _NAME, _FLAGS = 6, 7, 8  # TCA_BPF_FD and others
_DIRECT_ACTION = 1
_PREFERENCE = 0xF000  # after those that tc(8) numbers itself, from 49,152 down
_INFO = _PREFERENCE << 16 | socket.htons(3)  # ETH_P_ALL
_OURS = b"doorward-shield\0"
_GUEST, _OWNER = 1, 2  # handles of a filter: the second if the qdisc was made for it, which a later process has to know


class Attachment(Protocol):
    """A program that is attached to an interface, in one direction."""

    def replace(self, program: int) -> None:
        """Put another program in its place, between two packets. HostError: something else detached it."""

    def close(self) -> None:
        """Detach it."""

    def may_be_skipped(self) -> bool:
        """Return whether packets may pass without it."""


def has_tcx() -> bool:
    """Return whether the kernel has tcx."""
    return at_tcx(_LOOPBACK, Place.INGRESS) is not None


def at_tcx(interface: int, place: Place) -> list[int] | None:
    """Return the numbers of the programs that are attached to an interface by tcx, in their order; None: no tcx."""
    numbers, count = (ctypes.c_uint32 * _MAX_PROGRAMS)(), ctypes.c_uint32(_MAX_PROGRAMS)
    result = library().bpf_prog_query(interface, place, 0, None, numbers, ctypes.byref(count))
    return None if result < 0 else numbers[: count.value]


def attach(program: int, interface: int, place: Place) -> Attachment:
    """Attach a program to an interface, by its index. HostError: the kernel rejects it."""
    return (ProgramLink if place is Place.XDP or has_tcx() else TcFilter)(program, interface, place)


class ProgramLink:
    """A program at tcx, or at XDP where the driver runs it (native).

    The kernel detaches it with the last descriptor, so also when this process is killed.
    """

    def __init__(self, program: int, interface: int, place: Place) -> None:
        flags = {Place.EGRESS: _FIRST, Place.XDP: _NATIVE}.get(place, 0)
        options = _OPTIONS_OF_LINK.pack(_OPTIONS_OF_LINK.size, flags)
        made = library().bpf_link_create(program, interface, place, options)
        self._interface, self._place, self._link = interface, place, _checked(made, interface, place)

    def replace(self, program: int) -> None:
        """Put another program in its place, between two packets. HostError: something else detached it."""
        _checked(library().bpf_link_update(self._link, program, None), self._interface, self._place)

    def close(self) -> None:
        """Detach it."""
        os.close(self._link)

    def may_be_skipped(self) -> bool:
        """Return whether packets may pass without it."""
        info, programs = ctypes.create_string_buffer(64), at_tcx(self._interface, self._place)
        library().bpf_obj_get_info_by_fd(self._link, info, ctypes.byref(ctypes.c_uint32(len(info))))
        _, _, ours = struct.unpack_from("=3I", info)  # struct bpf_link_info: type, id, program
        return not programs or programs[0] != ours


class TcFilter:
    """A program as a filter of the qdisc clsact. It stays when this process is killed: see `remove_filters`."""

    def __init__(self, program: int, interface: int, place: Place) -> None:
        try:
            handle = _OWNER if _make_qdisc(interface) else _GUEST
            self._filter = _Filter(interface, _INGRESS if place is Place.INGRESS else _EGRESS, handle)
            try:
                self._set(program, _CREATE | _EXCLUSIVE)
            except OSError:
                self.close()
                raise
        except OSError as error:
            raise _not_attached(interface, error.errno) from None

    def replace(self, program: int) -> None:
        """Put another program in its place, between two packets. HostError: something else removed it."""
        try:
            self._set(program, 0)
        except OSError as error:
            raise _not_attached(self._filter.interface, error.errno) from None

    def close(self) -> None:
        """Remove it, and the qdisc if it was made for it and has no other filter."""
        _remove(self._filter)

    def may_be_skipped(self) -> bool:
        """Return whether packets may pass without it."""
        return any(name != _OURS for _, name in _filters(self._filter.interface, self._filter.parent))

    def _set(self, program: int, flags: int) -> None:
        fields = (_FD, struct.pack("=I", program)), (_NAME, _OURS), (_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        options = b"".join(netlink.attribute(kind, data) for kind, data in fields)
        kind = netlink.attribute(_KIND, b"bpf\0")
        _request(_NEW_FILTER, self._filter.packed() + kind + netlink.attribute(_OPTIONS, options), flags)


def remove_filters() -> None:
    """Remove the filters that a killed loader left, if it did; one that stays lets everything pass after a minute."""
    with suppress(DoorwardError, OSError):
        for interface in [*_with_clsact()]:
            for parent in (_INGRESS, _EGRESS):  # the qdisc was made for the second, which the loader attaches first
                for found in [found for found, name in _filters(interface, parent) if name == _OURS]:
                    _remove(found)


class _Filter(NamedTuple):
    interface: int
    parent: int
    handle: int

    def packed(self) -> bytes:
        return _TC.pack(0, self.interface, self.handle, self.parent, _INFO)


def _make_qdisc(interface: int) -> bool:
    """Make the qdisc clsact; return whether it was not there. OSError: there is another one, `ingress`."""
    body = _TC.pack(0, interface, _CLSACT_HANDLE, _CLSACT, 0) + netlink.attribute(_KIND, b"clsact\0")
    try:
        _request(_NEW_QDISC, body, _CREATE | _EXCLUSIVE)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        _request(_NEW_QDISC, body)
        return False
    return True


def _remove(ours: _Filter) -> None:
    with suppress(OSError):  # something else removed it, or the interface
        _request(_DELETE_FILTER, ours.packed())
    with suppress(OSError):
        if ours.handle == _OWNER and not any([*_filters(ours.interface, way)] for way in (_INGRESS, _EGRESS)):
            _request(_DELETE_QDISC, _TC.pack(0, ours.interface, _CLSACT_HANDLE, _CLSACT, 0))


def _filters(interface: int, parent: int) -> Iterator[tuple[_Filter, bytes]]:
    """Yield the filters there, and the names of those that are BPF programs."""
    for body in _dump(_GET_FILTER, interface, parent):
        _, _, handle, _, _ = _TC.unpack_from(body)
        if handle:  # else it is the head of those with one preference
            options = netlink.attributes(body[_TC.size :]).get(_OPTIONS, memoryview(b""))
            yield _Filter(interface, parent, handle), bytes(netlink.attributes(options).get(_NAME, b""))


def _with_clsact() -> Iterator[int]:
    """Yield the interfaces that have the qdisc."""
    for body in _dump(_GET_QDISC, 0, 0):
        if netlink.attributes(body[_TC.size :]).get(_KIND, memoryview(b"")).tobytes() == b"clsact\0":
            _, interface, _, _, _ = _TC.unpack_from(body)
            yield interface


def _dump(kind: int, interface: int, parent: int) -> Iterator[memoryview]:
    with netlink.open_socket(ROUTE, "the filters of tc(8)") as sock:
        body = _TC.pack(0, interface, 0, parent, 0)
        for reply in netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, body)):
            if len(reply.body) >= _TC.size:
                yield reply.body


def _request(kind: int, body: bytes, flags: int = 0) -> None:
    with netlink.open_socket(ROUTE, "the filters of tc(8)") as sock:
        netlink.send_request(sock, netlink.message(kind, netlink.REQUEST | netlink.ACK | flags, body))


def _checked(result: int, interface: int, place: Place) -> int:
    if result < 0:
        raise _not_attached(interface, -result, _NO_XDP if place is Place.XDP else {})
    return result


def _not_attached(interface: int, number: int | None, reasons: Mapping[int, str] = {}) -> HostError:
    name, reason = str(interface), reasons.get(number or 0, os.strerror(number or 0))
    with suppress(OSError):  # it is gone
        name = socket.if_indextoname(interface)
    return HostError(
        "shield-not-attached",
        f"the shield cannot be attached to {visible(name)}: {reason}; see doorward.toml(5), `shield`",
    )
