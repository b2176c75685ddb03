"""What limits the shield on this host: what it cannot see, where it is not attached, which UDP ports are in use."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from doorward.errors import HostError
from doorward.kernel import netlink
from doorward.kernel.routes import ROUTE
from doorward.kernel.sock_diag import read_socket, sockets
from doorward.shield.libbpf import UDP_BUSY_S
from doorward.shield.report import INTERFACE

_DEVICES = Path("/sys/class/net")
_UDP_TIMEOUTS = "nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"
_ETHERNET = "1"  # ARPHRD_ETHER
_GET_LINK, _LINK_BYTES, _LINK_INFO, _INFO_KIND = 18, 16, 18, 1  # struct ifinfomsg, IFLA_LINKINFO
_XFRM, _GET_POLICY = 6, 21  # NETLINK_XFRM, XFRM_MSG_GETPOLICY
_GET_OBJECT, _OBJECT_TYPE = 10 << 8 | 19, 3  # NFT_MSG_GETOBJ, NFTA_OBJ_TYPE
_UNSEEN = 3, 7, 9  # NFT_OBJECT_CT_HELPER, NFT_OBJECT_CT_TIMEOUT, NFT_OBJECT_CT_EXPECT
_ANY_STATE = 0xFFF


def obstacle() -> str:
    """Return what makes the shield drop packets that the gate accepts, or ""."""
    if _has_replies(ROUTE, netlink.message(_GET_LINK, netlink.REQUEST | netlink.DUMP, bytes(_LINK_BYTES)), is_vrf):
        return "there is a VRF, and which addresses are local depends on it"
    if _has_replies(_XFRM, netlink.message(_GET_POLICY, netlink.REQUEST | netlink.DUMP, bytes(64))):
        return "there are IPsec policies, and it cannot see which packets answer those in a tunnel"
    request = netlink.message(_GET_OBJECT, netlink.REQUEST | netlink.DUMP, netlink.FAMILY_HEADER.pack(0, 0, 0))
    if _has_replies(netlink.NETFILTER, request, _is_unseen):
        return "nftables has conntrack helpers, timeouts or expectations, and it cannot see which packets they let in"
    return ""


def can_attach(name: str) -> bool:
    """Return whether packets have an Ethernet header there, and go to no other interface but tagged ones (VLANs)."""
    device = _DEVICES / name
    if not INTERFACE.fullmatch(name):
        return False
    try:
        uppers = [path.name.removeprefix("upper_") for path in device.glob("upper_*")]
        is_ethernet = (device / "type").read_text().strip() == _ETHERNET
        return is_ethernet and all("DEVTYPE=vlan" in (_DEVICES / upper / "uevent").read_text() for upper in uppers)
    except OSError:  # it is gone
        return False


def has_vlans(name: str) -> bool:
    """Return whether an interface has VLANs: a driver may remove their tags before a program at XDP sees the frame."""
    return any((_DEVICES / name).glob("upper_*"))


def udp_ports() -> frozenset[int]:
    """Return the ports of this host's UDP sockets: one may be sent to for long after it last sent."""
    return frozenset(
        read_socket(bytes(body), family).connection.destination_port
        for family in (socket.AF_INET, socket.AF_INET6)
        for body in sockets(family, socket.IPPROTO_UDP, _ANY_STATE)
    )


def udp_busy_s() -> int:
    """Return the most seconds that conntrack keeps a flow of UDP after its last packet, rounded up."""
    found = [UDP_BUSY_S]
    for name in _UDP_TIMEOUTS:
        with suppress(OSError, ValueError):  # no conntrack
            found.append(int(Path("/proc/sys/net/netfilter", name).read_text()) + 60)
    return max(found)


def is_vrf(reply: netlink.NetlinkMessage) -> bool:
    """Return whether a description of an interface is that of a VRF."""
    info = netlink.attributes(reply.body[_LINK_BYTES:]).get(_LINK_INFO, memoryview(b""))
    return netlink.attributes(info).get(_INFO_KIND, memoryview(b"")).tobytes() == b"vrf\0"


def _is_unseen(reply: netlink.NetlinkMessage) -> bool:
    kind = netlink.family_attributes(reply.body).get(_OBJECT_TYPE)
    return kind is not None and struct.unpack("!I", kind)[0] in _UNSEEN


def _has_replies(
    family: int, request: bytes, is_one: Callable[[netlink.NetlinkMessage], bool] = lambda _: True
) -> bool:
    """Return whether the kernel lists anything (that is one); a kernel without that family has nothing."""
    try:
        with netlink.open_socket(family, "what the shield cannot see") as sock:
            return any(map(is_one, netlink.dump(sock, request)))
    except HostError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return False
        raise
