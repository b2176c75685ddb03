"""Link-layer headers: from a captured frame to its IP packet, for the link types of Linux and the BSDs.

Numbers and layouts: libpcap's registry (LINKTYPE_…). Any input gives a packet, or a MalformedError that names
its content.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from doorward.errors import MalformedError

IPV4, IPV6, PPPOE = 0x0800, 0x86DD, 0x8864
_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)  # 802.1Q, 802.1ad, and its predecessor
MAX_TAGS = 4
_ETHERNET_BYTES, _TAG_BYTES = 14, 4
_LONGEST_LENGTH = 1500  # of Ethernet's type field: up to here it is a length (IEEE 802.3)
_SNAP = b"\xaa\xaa\x03\0\0\0"  # RFC 1042
_HALF = Struct("!H")
_COOKED = Struct("!HH10xH")  # LINUX_SLL: packet type, device type, protocol
_COOKED2 = Struct("!H2xIHB9x")  # LINUX_SLL2: protocol, interface, device type, packet type
_FOR_US, _LAST_FOREIGN_TYPE, _OURS = 0, 3, 4  # linux/if_packet.h: 0 to 3 came in
_LOOPBACK_DEVICE = 772  # ARPHRD_LOOPBACK
_PPP_IPV4, _PPP_IPV6 = 0x0021, 0x0057
_FAMILIES_IPV4, _FAMILIES_IPV6 = (2,), (10, 24, 28, 30)  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD, macOS
_LOG_PAYLOAD = 9  # NFULA_PAYLOAD


class NetworkPacket(NamedTuple):
    """A packet from its network header on, with direction and interface if the link type has them."""

    packet: memoryview
    outgoing: bool | None = None
    interface: str = ""
    is_cooked: bool = False  # from `-i any`, which may show one packet on several interfaces


class UnknownLinkError(MalformedError):
    """An unsupported link type: all frames of the capture have it."""


def strip_link_header(link: int, data: bytes) -> NetworkPacket:
    """Return the IP packet of a frame; MalformedError names any other content."""
    reader = _READERS.get(link)
    if reader is None:
        name = _NAMES.get(link, "which doorward does not know")
        raise UnknownLinkError(
            "unsupported-link-type", f"link type {link} ({name}); capture on a network interface, or with `-i any`"
        )
    return reader(memoryview(data))


def _needs(frame: memoryview, size: int, what: str) -> None:
    if len(frame) < size:
        raise MalformedError("frame-too-short", f"{what} of {len(frame)} bytes, it needs {size}")


def _by_type(frame: memoryview, at: int, kind: int) -> memoryview:
    """Return the packet of an EtherType at `at`, behind tags, LLC and PPPoE."""
    for _ in range(MAX_TAGS):
        if kind not in _TAGS:
            break
        _needs(frame, at + _TAG_BYTES, "a VLAN tag's frame")
        kind = _HALF.unpack_from(frame, at + 2)[0]
        at += _TAG_BYTES
    if kind <= _LONGEST_LENGTH and bytes(frame[at : at + 6]) == _SNAP:
        _needs(frame, at + 8, "a SNAP frame")
        kind = _HALF.unpack_from(frame, at + 6)[0]
        at += 8
    if kind == PPPOE:
        return _ppp(frame[at + 6 :])
    if kind not in (IPV4, IPV6):
        raise MalformedError("not-ip", f"no IP packet: protocol {kind:#06x} ({_ETHERTYPES.get(kind, 'unknown')})")
    return frame[at:]


def _ethernet(frame: memoryview) -> NetworkPacket:
    _needs(frame, _ETHERNET_BYTES, "an Ethernet frame")
    return NetworkPacket(_by_type(frame, _ETHERNET_BYTES, _HALF.unpack_from(frame, 12)[0]))


def _cooked(frame: memoryview) -> NetworkPacket:
    _needs(frame, _COOKED.size, "a cooked frame")
    way, device, kind = _COOKED.unpack_from(frame)
    return _any(_by_type(frame, _COOKED.size, kind), way, device, "")


def _cooked2(frame: memoryview) -> NetworkPacket:
    _needs(frame, _COOKED2.size, "a cooked frame (version 2)")
    kind, index, device, way = _COOKED2.unpack_from(frame)
    return _any(_by_type(frame, _COOKED2.size, kind), way, device, f"interface {index}")


def _any(packet: memoryview, way: int, device: int, interface: str) -> NetworkPacket:
    outgoing = True if way == _OURS else False if _FOR_US <= way <= _LAST_FOREIGN_TYPE else None
    return NetworkPacket(packet, outgoing, "lo" if device == _LOOPBACK_DEVICE else interface, True)


def _raw(frame: memoryview) -> NetworkPacket:
    return NetworkPacket(frame)


def _bsd_loopback(frame: memoryview) -> NetworkPacket:
    """Parse BSD loopback: the address family in four bytes, in host or network byte order."""
    _needs(frame, 4, "a loopback frame")
    families = {int.from_bytes(frame[:4], "little"), int.from_bytes(frame[:4], "big")}
    if not families & {*_FAMILIES_IPV4, *_FAMILIES_IPV6}:
        raise MalformedError("not-ip", f"no IP packet: address family {int.from_bytes(frame[:4])}")
    return NetworkPacket(frame[4:], interface="lo")


def _ppp(frame: memoryview) -> memoryview:
    at = 2 if bytes(frame[:2]) == b"\xff\x03" else 0  # address and control, unless left out
    short = len(frame) > at and frame[at] & 1  # a protocol may be compressed to one byte (RFC 1661, section 6.5)
    _needs(frame, at + (1 if short else 2), "a PPP frame")
    kind = frame[at] if short else _HALF.unpack_from(frame, at)[0]
    if kind not in (_PPP_IPV4, _PPP_IPV6):
        raise MalformedError("not-ip", f"no IP packet: PPP protocol {kind:#06x}")
    return frame[at + (1 if short else 2) :]


def _ppp_with_direction(frame: memoryview) -> NetworkPacket:
    """Parse PPP as pppd writes it: the first byte is 1 for sent frames."""
    _needs(frame, 1, "a PPP frame")
    return NetworkPacket(_ppp(frame[1:]), outgoing=frame[0] == 1)


def _cisco_hdlc(frame: memoryview) -> NetworkPacket:
    _needs(frame, 4, "an HDLC frame")
    if frame[0] == 0xFF:
        return NetworkPacket(_ppp(frame))
    return NetworkPacket(_by_type(frame, 4, _HALF.unpack_from(frame, 2)[0]))


def _netfilter_log(frame: memoryview) -> NetworkPacket:
    """Parse the netfilter log (`-i nflog:N`): family, version, group; then attributes in host byte order."""
    _needs(frame, 4, "a netfilter log message")
    at = 4
    while len(frame) - at >= 4:
        length, kind = (int.from_bytes(frame[at + n : at + n + 2], "little") for n in (0, 2))
        if length > 0xFF00 or kind > 0xFF:  # written on a host with the other byte order
            length, kind = (int.from_bytes(frame[at + n : at + n + 2], "big") for n in (0, 2))
        if length < 4:
            raise MalformedError("attribute-size", f"a netfilter log attribute of {length} bytes")
        if kind == _LOG_PAYLOAD:
            return NetworkPacket(frame[at + 4 : at + length])
        at += (length + 3) // 4 * 4
    raise MalformedError("no-packet", "a netfilter log message without a packet")


_READERS: dict[int, Callable[[memoryview], NetworkPacket]] = {
    0: _bsd_loopback,
    1: _ethernet,
    9: lambda frame: NetworkPacket(_ppp(frame)),
    12: _raw,
    14: _raw,
    50: lambda frame: NetworkPacket(_ppp(frame)),
    51: lambda frame: NetworkPacket(_ppp(frame[6:])),
    101: _raw,
    104: _cisco_hdlc,
    108: _bsd_loopback,
    113: _cooked,
    166: _ppp_with_direction,
    228: _raw,
    229: _raw,
    239: _netfilter_log,
    276: _cooked2,
}
_NAMES = {
    105: "802.11",
    117: "OpenBSD's pflog",
    119: "802.11 with a Prism header",
    127: "802.11 with a radiotap header",
    187: "Bluetooth",
    189: "USB",
    192: "802.11 with a PPI header",
    195: "802.15.4",
    201: "Bluetooth",
    220: "USB",
    227: "a CAN bus",
    231: "D-Bus",
    247: "Infiniband",
    249: "USB",
    253: "netlink",
    258: "OpenBSD's radio",
    271: "a virtual socket",
}
_ETHERTYPES = {
    0x0806: "ARP",
    0x8035: "RARP",
    0x8847: "MPLS",
    0x8848: "MPLS",
    0x8863: "PPPoE discovery",
    0x888E: "802.1X",
    0x88CC: "LLDP",
    0x88E5: "MACsec, encrypted",
}
