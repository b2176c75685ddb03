"""A copy of this host's network in an unnamed namespace, which the kernel removes when its process ends.

Each interface is one end of a veth pair; the other ends are in a second namespace. Packets sent there arrive as if
they came from outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from doorward.doctor.frames import build_frame
from doorward.doctor.network import ROUTE, dump_bodies
from doorward.errors import DoorwardError
from doorward.kernel import netlink
from doorward.kernel.routes import LOCAL

_CLONE_NEWNET = 0x40000000
_CREATE = netlink.REQUEST | netlink.ACK | 0x600  # NLM_F_CREATE | NLM_F_EXCL
_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS, _NEW_ROUTE, _GET_ROUTE, _NEW_RULE, _GET_RULE = (
    16, 18, 20, 22, 24, 26, 32, 34)  # fmt: skip
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, flags that change
_UP, _NO_ARP = 0x1, 0x80
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_INFO, _IFLA_NAMESPACE = 1, 3, 4, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_ADDRESS_BYTES, _ROUTE_BYTES = 8, 12  # struct ifaddrmsg, rtmsg, fib_rule_hdr
_IFA_CACHE, _IFA_FLAGS, _NO_DAD, _NO_PREFIX_ROUTE = 6, 8, 0x02, 0x200
_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_CACHE, _RTA_VIA = 5, 9, 12, 18
_BY_KERNEL, _CLONED, _ON_LINK = 2, 0x200, 0x4  # RTPROT_KERNEL: adding the address makes these routes
_LOOPBACK = 1  # the index of `lo` in every namespace
MAX_LINKS, MAX_ROUTES = 1024, 4096  # more would take too long
_SETTINGS = Path("/proc/sys/net")
_OF_INTERFACE = {
    "ipv4": ("forwarding", "rp_filter", "accept_local", "route_localnet", "src_valid_mark"),
    "ipv6": ("disable_ipv6", "forwarding"),
}
_OF_HOST = tuple(f"netfilter/nf_conntrack_{name}" for name in ("checksum", "tcp_be_liberal", "tcp_loose"))
_libc = ctypes.CDLL(None, use_errno=True)


class UncheckedError(DoorwardError):
    """A part of another firewall cannot be tested in a copy; the message says which and why."""


class Link(NamedTuple):
    """One interface."""

    ifindex: int
    name: bytes
    address: bytes
    mtu: int
    is_up: bool


class HostNetwork(NamedTuple):
    """What is copied: interfaces; addresses, routes and rules as rtnetlink(7) messages; and sysctl settings."""

    links: tuple[Link, ...]
    addresses: tuple[bytes, ...]
    routes: tuple[bytes, ...]
    rules: tuple[bytes, ...]
    settings: dict[str, str]

    def forwarding(self, versions: Collection[int]) -> HostNetwork:
        """Return the network of the same host if it forwards packets of these address families."""
        on = tuple(f"ipv{version}/" for version in versions)
        names = (name for name in self.settings if name.startswith(on) and name.endswith("/forwarding"))
        return self._replace(settings=self.settings | dict.fromkeys(names, "1"))


def snapshot() -> HostNetwork:
    """Return the network of the calling process."""
    links = tuple(link for link in map(_link, dump_bodies(_GET_LINK, (socket.AF_UNSPEC,))) if link.ifindex != _LOOPBACK)
    routes = tuple(sorted(filter(None, map(_route, dump_bodies(_GET_ROUTE))), key=_is_through_gateway))
    if len(links) > MAX_LINKS or len(routes) > MAX_ROUTES:
        raise UncheckedError(
            "network-too-large", f"{len(links)} interfaces and {len(routes)} routes are too many to copy"
        )
    names = [f"{version}/conf/{name}/{word}" for version, words in _OF_INTERFACE.items() for word in words
             for name in ("all", "default", *(os.fsdecode(link.name) for link in links))]  # fmt: skip
    settings = {}
    for name in (*names, *_OF_HOST):
        with suppress(FileNotFoundError):  # no IPv6, or the interface was removed meanwhile
            settings[name] = (_SETTINGS / name).read_text()
    return HostNetwork(
        links,
        tuple(map(_address, dump_bodies(_GET_ADDRESS))),
        routes,
        tuple(map(bytes, dump_bodies(_GET_RULE))),
        settings,
    )


class Replica:
    """Move the calling process permanently into a copy of the network `seen`; UncheckedError if that fails."""

    def __init__(self, seen: HostNetwork) -> None:
        if not has_module("veth") or not Path("/proc/net/packet").exists():
            raise UncheckedError(
                "module-missing", "a kernel module is not loaded; `modprobe -a veth af_packet`, and run doctor again"
            )
        self._links = {link.ifindex: link for link in seen.links}
        self.index = {os.fsdecode(link.name): link.ifindex for link in seen.links if link.is_up}
        _new_namespace()
        try:
            with suppress(FileNotFoundError):
                (_SETTINGS / "ipv6/conf/default/disable_ipv6").write_text("1")  # the far ends must send nothing
            outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._outside = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            far_ends = netlink.open_socket(ROUTE, "a copy of the network")
            _new_namespace()
            self._raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)}
            with suppress(OSError):
                self._raw[6] = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            with far_ends:
                _copy(seen, outside, far_ends)
        except OSError as error:
            raise UncheckedError("network-not-copied", f"the host's network cannot be copied: {error}") from None

    def send_in(self, packed: bytes, index: int) -> None:
        """Make an IP packet arrive through an interface."""
        self._outside.sendto(build_frame(packed, self._links[index].address), (f"p{index}", 0))

    def send_out(self, packed: bytes, destination: str) -> None:
        """Send an IP packet as a local program would."""
        self._raw[packed[0] >> 4].sendto(packed, (destination, 0))


def _new_namespace() -> None:
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise UncheckedError(
            "no-namespace", "needs CAP_SYS_ADMIN" if number == errno.EPERM else f"no namespace: {os.strerror(number)}"
        )


def has_module(name: str) -> bool:
    """Return whether the kernel already has this module, so that using it loads nothing."""
    try:
        loaded = Path("/proc/modules").read_text()
    except FileNotFoundError:  # a kernel without loadable modules
        return True
    if any(line.startswith(f"{name} ") for line in loaded.splitlines()):
        return True
    with suppress(OSError):
        return f"/{name}.ko" in Path("/lib/modules", os.uname().release, "modules.builtin").read_text()
    return False


def _copy(seen: HostNetwork, outside: int, far_ends: socket.socket) -> None:
    with netlink.open_socket(ROUTE, "a copy of the network") as sock:
        netlink.send_request(sock, netlink.message(_NEW_LINK, netlink.REQUEST | netlink.ACK, _flags(_LOOPBACK, _UP)))
        for link in seen.links:
            netlink.send_request(sock, netlink.message(_NEW_LINK, _CREATE, _pair(link, outside)))
            far = _flags(0, _UP) + _far_name(link)
            netlink.send_request(far_ends, netlink.message(_NEW_LINK, netlink.REQUEST | netlink.ACK, far))
        for name, value in seen.settings.items():
            with suppress(FileNotFoundError):
                (_SETTINGS / name).write_text(value)
        for kind, bodies in ((_NEW_ADDRESS, seen.addresses), (_NEW_ROUTE, seen.routes), (_NEW_RULE, seen.rules)):
            for body in bodies:
                try:
                    netlink.send_request(sock, netlink.message(kind, _CREATE, body))
                except FileExistsError:  # created by the kernel, as on the host
                    continue


def _flags(index: int, flags: int) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, _UP | _NO_ARP)


def _pair(link: Link, outside: int) -> bytes:
    """Return the request for a veth pair; without ARP no answer from outside is needed."""
    mtu = netlink.attribute(_IFLA_MTU, struct.pack("=I", link.mtu))
    far = _flags(0, 0) + _far_name(link) + mtu
    far += netlink.attribute(_IFLA_NAMESPACE, struct.pack("=I", outside))
    data = netlink.attribute(_IFLA_INFO_DATA, netlink.attribute(_VETH_INFO_PEER, far))
    near = _flags(link.ifindex, _NO_ARP | (_UP if link.is_up else 0)) + netlink.attribute(_IFLA_NAME, link.name + b"\0")
    near += netlink.attribute(_IFLA_ADDRESS, link.address) + mtu
    return near + netlink.attribute(_IFLA_INFO, netlink.attribute(_IFLA_INFO_KIND, b"veth") + data)


def _far_name(link: Link) -> bytes:
    return netlink.attribute(_IFLA_NAME, b"p%d\0" % link.ifindex)


def _link(body: memoryview) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    parts = netlink.attributes(body[_LINK.size :])
    address = bytes(parts.get(_IFLA_ADDRESS, b""))
    if len(address) != 6 or address[0] & 1 or not any(address):  # such as a tunnel
        address = b"\x02\0" + struct.pack("!I", index)
    mtu = struct.unpack("=I", parts[_IFLA_MTU])[0] if _IFLA_MTU in parts else 1500
    return Link(index, bytes(parts[_IFLA_NAME]).rstrip(b"\0"), address, min(max(mtu, 1280), 65535), bool(flags & _UP))


def _address(body: memoryview) -> bytes:
    """Return the address without its lifetime, ready for immediate use."""
    attributes = dict(netlink.iter_attributes(body[_ADDRESS_BYTES:]))
    flags = struct.unpack("=I", attributes.pop(_IFA_FLAGS, b"\0\0\0\0"))[0] & _NO_PREFIX_ROUTE | _NO_DAD
    attributes.pop(_IFA_CACHE, None)
    head = body[:2].tobytes() + bytes([flags & 0xFF]) + body[3:_ADDRESS_BYTES].tobytes()
    return head + _pack_attributes(attributes) + netlink.attribute(_IFA_FLAGS, struct.pack("=I", flags))


def _route(body: memoryview) -> bytes:
    """Return a configured or advertised route; empty for one that the kernel creates itself.

    That to an IPv6 address of the host is copied, too: the kernel creates it only a moment after the address.
    """
    flags = struct.unpack_from("=I", body, 8)[0]
    is_own = body[0] == socket.AF_INET6 and body[7] == LOCAL
    if (body[5] == _BY_KERNEL and not is_own) or flags & _CLONED:
        return b""
    attributes = dict(netlink.iter_attributes(body[_ROUTE_BYTES:]))
    attributes.pop(_RTA_CACHE, None)
    return body[:8].tobytes() + struct.pack("=I", flags & _ON_LINK) + _pack_attributes(attributes)


def _is_through_gateway(body: bytes) -> bool:
    """Return whether the route needs a gateway, which earlier routes must reach."""
    kinds = {kind for kind, _ in netlink.iter_attributes(memoryview(body)[_ROUTE_BYTES:])}
    return bool(kinds & {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA})


def _pack_attributes(parts: dict[int, memoryview]) -> bytes:
    return b"".join(netlink.attribute(kind, bytes(raw)) for kind, raw in parts.items())
