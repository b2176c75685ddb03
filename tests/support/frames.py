"""Packets built by hand and sent as frames, so that a test may claim any source, port and flags."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from ipaddress import ip_address

from doorward.lab.namespace import NamespaceHost
from doorward.model import Address, Packet, Protocol


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(packet: Packet, destination: Address, source_port: int = 40000) -> bytes:
    """Return an IPv4 or IPv6 packet with a TCP header or an empty UDP datagram, checksums right."""
    protocol, number = packet.port
    if protocol is Protocol.TCP:
        body = struct.pack("!HHIIBBHHH", source_port, number, 1, 0, 5 << 4, packet.flags, 1024, 0, 0)
        checksum_at = 16
    else:
        body = struct.pack("!HHHH", source_port, number, 8, 0)
        checksum_at = 6
    pseudo = packet.source + destination.packed
    pseudo += (
        struct.pack("!BBH", 0, protocol, len(body))
        if len(packet.source) == 4
        else struct.pack("!IxxxB", len(body), protocol)
    )
    check = checksum(pseudo + body)
    body = body[:checksum_at] + struct.pack("!H", check or 0xFFFF) + body[checksum_at + 2 :]
    if len(packet.source) == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, packet.source, destination.packed
        )
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), protocol, 64, packet.source, destination.packed) + body


class FrameSender:
    """Sends frames from one host to another on the same wire, in order."""

    def __init__(self, sender: NamespaceHost, receiver: NamespaceHost) -> None:
        self._socket = sender.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((sender.interface, 0))
        self._receiver = receiver
        self._macs = bytes.fromhex(receiver.mac.replace(":", "")) + bytes.fromhex(sender.mac.replace(":", ""))

    def send(self, packet: Packet, source_port: int = 40000, tag: bytes = b"") -> None:
        version = ip_address(packet.source).version
        own = self._receiver.ipv4 if version == 4 else self._receiver.ipv6
        destination = own if packet.destination is None else ip_address(packet.destination)
        ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
        self._socket.send(self._macs + tag + ethertype + ip_packet(packet, destination, source_port))

    def send_raw(self, packet: bytes) -> None:
        """Send an IPv4 or IPv6 packet as it is."""
        ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        self._socket.send(self._macs + ethertype + packet)

    def close(self) -> None:
        self._socket.close()


def open_tunnel(name: str) -> int:
    """Open a TUN device, which has no link header, as PPP has none; what is written to it comes in."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(handle, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    return handle
