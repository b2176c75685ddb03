"""Where knocks come in: devices without a link header, addresses that come and go, IPv6 extension headers."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.errors import HostError
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address, Packet, Port
from doorward.packets.packet import DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING
from tests.support.daemon import until
from tests.support.frames import checksum, ip_packet, open_tunnel
from tests.support.headers import AUTHENTICATION, Extension, extension
from tests.support.knockd import DEBIAN, OURS, SYN, Program, RunningKnockd, Site, running_knockd

pytestmark = pytest.mark.netns("/usr/sbin/knockd")

DOOR = "[door]\nSequence = 7000,8000:udp,9000\nTCPFlags = syn\nCommand = :\n"
KNOCK = ("7000/tcp", "8000/udp", "9000/tcp")
LAST = "[last]\nSequence = 1999\nTCPFlags = syn\n"

programs = pytest.mark.parametrize("program", [DEBIAN, *OURS], ids=lambda program: program.name)
engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


class Tunnel:
    """A TUN device, which has no link header, as PPP has none; what is written to it comes in by it."""

    def __init__(self, host: NamespaceHost, name: str, *addresses: str) -> None:
        self._handle = host.call(open_tunnel, name)
        host.ip(batch=[f"link set {name} up", *(f"address add {address} dev {name}" for address in addresses)])

    def send(self, source: str, destination: str, ports: Sequence[str]) -> None:
        for port in ports:
            packet = Packet(ip_address(source).packed, Port.parse(port), SYN)
            os.write(self._handle, ip_packet(packet, ip_address(destination)))

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def tunnel(host: NamespaceHost, name: str, *addresses: str) -> Iterator[Tunnel]:
    found = Tunnel(host, name, *addresses)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel has no TUN devices")
@programs
def test_a_device_without_a_link_header(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    server = direct_lab.server
    with (
        tunnel(server, "tun0", "10.60.0.1/24") as here,
        running_knockd(program, server, tmp_path, DOOR, interface="tun0") as knockd,
    ):
        here.send("10.60.0.9", "10.60.0.1", KNOCK)
        knockd.await_line("10.60.0.9: door: OPEN SESAME")


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel has no TUN devices")
@engines
def test_a_tunnel_carries_ipv6_and_is_one_of_any_and_no_other(
    direct_lab: Lab, tmp_path: Path, program: Program
) -> None:
    server = direct_lab.server
    with (
        tunnel(server, "tun0", "10.60.0.1/24", "2001:db8:60::1/64") as here,
        running_knockd(program, server, tmp_path, DOOR, interface="any") as knockd,
    ):
        here.send("2001:db8:60::9", "2001:db8:60::1", KNOCK)
        knockd.await_line("2001:db8:60::9: door: OPEN SESAME")
        place = Site(direct_lab, knockd)
        here.send("10.60.0.9", "10.60.0.1", KNOCK[:1])  # a knock may come in by several interfaces of `any`
        place.send("10.60.0.9", *KNOCK[1:])
        knockd.await_line("10.60.0.9: door: OPEN SESAME")
        place.close()


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel has no TUN devices")
@engines
def test_a_tunnel_that_comes_up_while_knockd_runs(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    """As pppd's device does: it is made when the peer answers, and gone with the line."""
    server = direct_lab.server
    with running_knockd(program, server, tmp_path, DOOR, interface="tun0") as knockd:
        for number in (1, 2):
            with tunnel(server, "tun0", "10.60.0.1/24") as here:
                until(lambda: _opens(here, knockd, f"10.60.0.{10 + number}"))  # noqa: B023 - called at once


def _opens(here: Tunnel, knockd: RunningKnockd, source: str) -> bool:
    here.send(source, "10.60.0.1", KNOCK)
    return (source, "door") in knockd.opened()


@engines
@pytest.mark.parametrize("kind", ["ipip", "gre", "sit"])
def test_a_tunnel_of_the_kernels(direct_lab: Lab, tmp_path: Path, program: Program, kind: str) -> None:
    client, server = direct_lab.client, direct_lab.server
    inner = ("2001:db8:61::1", "2001:db8:61::2") if kind == "sit" else ("10.61.0.1", "10.61.0.2")
    bits = 64 if kind == "sit" else 24
    for host, peer, address in ((client, server, inner[0]), (server, client, inner[1])):
        try:
            host.ip("link", "add", "t0", "type", kind, "local", str(host.ipv4), "remote", str(peer.ipv4))
        except HostError:
            pytest.skip(f"this kernel has no {kind} tunnels")
        host.ip(batch=["link set t0 up", f"address add {address}/{bits} dev t0" + " nodad" * (kind == "sit")])
    with running_knockd(program, server, tmp_path, DOOR, interface="t0") as knockd:
        client.run(["knock", inner[1], "7000", "8000:udp", "9000"])
        knockd.await_line(f"{inner[0]}: door: OPEN SESAME")


@engines
@pytest.mark.parametrize("address", ["10.62.0.1", "2001:db8:62::1"], ids=["IPv4", "IPv6"])
def test_an_address_that_comes_and_goes_while_it_runs(
    direct_lab: Lab, tmp_path: Path, program: Program, address: str
) -> None:
    """A packet to an address that is not the host's is not a knock; from the moment when it is one it is."""
    server, to = direct_lab.server, ip_address(address)
    prefix = f"{address}/{to.max_prefixlen}"
    change = [prefix, "dev", "eth0", *(["nodad"] if to.version == 6 else [])]
    source = "10.7.7.{}" if to.version == 4 else "2001:db8:7::{}"
    with (
        running_knockd(program, server, tmp_path, DOOR + LAST) as knockd,
        wire(direct_lab) as send,
        closing(Site(direct_lab, knockd)) as place,
    ):
        for number in (1, 3):
            for packet in knock_from(source.format(number), address):
                send(packet)
            settled = source.format(100 + number)
            place.send(settled, "1999")
            knockd.await_line(f"{settled}: last: OPEN SESAME")
            assert (source.format(number), "door") not in knockd.opened()
            server.ip("address", "add", *change)
            until(
                lambda: address in local_routes(server, to)
            )  # the kernel makes an IPv6 address its own a little later
            for packet in knock_from(source.format(number + 1), address):
                send(packet)
            knockd.await_line(f"{source.format(number + 1)}: door: OPEN SESAME")
            server.ip("address", "delete", prefix, "dev", "eth0")


def local_routes(host: NamespaceHost, like: Address) -> list[str]:
    return host.ip(f"-{like.version}", "route", "show", "table", "local").split()


def knock_from(source: str, destination: str) -> list[bytes]:
    to = ip_address(destination)
    return [ip_packet(Packet(ip_address(source).packed, Port.parse(port), SYN), to) for port in KNOCK]


@contextmanager
def wire(lab: Lab) -> Iterator[Callable[[bytes], None]]:
    """Return what sends a packet to the server's machine, whatever its address."""
    macs = bytes.fromhex(lab.server.mac.replace(":", "") + lab.client.mac.replace(":", ""))
    with lab.client.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((lab.client.interface, 0))
        yield lambda packet: sock.sendall(macs + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet)


CHAINS: dict[str, tuple[Extension, ...]] = {
    "none": (),
    "hop-by-hop": (Extension(HOP_BY_HOP),),
    "destination options": (Extension(DESTINATION_OPTIONS, 2),),
    "hop-by-hop, destination options": (Extension(HOP_BY_HOP), Extension(DESTINATION_OPTIONS)),
    "routing": (Extension(ROUTING),),
}


def extended(packet: bytes, chain: Sequence[Extension]) -> bytes:
    """Put extension headers into an IPv6 packet; its checksums do not cover them."""
    raw, following = packet[40:], packet[6]
    for header in reversed(chain):
        raw, following = extension(header, following) + raw, header.kind
    return packet[:4] + struct.pack("!HB", len(raw), following) + packet[7:40] + raw


@engines
def test_ipv6_extension_headers_before_a_knock(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    server = direct_lab.server
    with running_knockd(program, server, tmp_path, DOOR) as knockd, wire(direct_lab) as send:
        for number, chain in enumerate(CHAINS.values(), 1):
            for packet in knock_from(f"2001:db8:7:{number:x}::1", str(server.ipv6)):
                send(extended(packet, chain))
        for number, name in enumerate(CHAINS, 1):
            assert knockd.await_part(f"2001:db8:7:{number:x}::1: door: OPEN SESAME"), name


@engines
def test_an_authentication_header_hides_a_knock(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    """nf_tables takes AH for the transport, and reads behind it once IPsec has verified it; so does the ring."""
    server, behind = direct_lab.server, "2001:db8:7::1"
    with running_knockd(program, server, tmp_path, DOOR + LAST) as knockd, wire(direct_lab) as send:
        for packet in knock_from(behind, str(server.ipv6)):
            send(extended(packet, [Extension(AUTHENTICATION)]))
        place = Site(direct_lab, knockd)
        place.send("2001:db8:8::1", "1999")
        knockd.await_line("2001:db8:8::1: last: OPEN SESAME")
        assert (behind, "door") not in knockd.opened()
        place.close()


def fragments(packet: bytes, size: int) -> list[bytes]:
    """Cut what follows an IPv6 header into fragments of `size` bytes (RFC 8200, 4.5), with one number for all."""
    body = packet[40:]
    number = zlib.crc32(packet)
    found = []
    for at in range(0, len(body), size):
        part = body[at : at + size]
        head = struct.pack("!BBHI", packet[6], 0, at | (at + size < len(body)), number)
        found.append(packet[:4] + struct.pack("!HB", len(head + part), FRAGMENT) + packet[7:40] + head + part)
    return found


DATAGRAMS = "[door]\nSequence = 7000:udp,7100:udp\nCommand = :\n"


def datagram(source: str, destination: str, number: int) -> bytes:
    """Return an IPv6 packet with a UDP datagram of 40 bytes: enough for a fragment more."""
    packet = ip_packet(Packet(ip_address(source).packed, Port.parse(f"{number}/udp"), 0), ip_address(destination))
    data = bytes(32)
    body = struct.pack("!HHHH", 40000, number, 8 + len(data), 0) + data
    check = checksum(packet[8:40] + struct.pack("!IxxxB", len(body), 17) + body)
    body = body[:6] + struct.pack("!H", check or 0xFFFF) + body[8:]
    return packet[:4] + struct.pack("!H", len(body)) + packet[6:40] + body


@engines
def test_a_knock_in_fragments(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    """Whole datagrams count, in one fragment or in several. Of one that stays incomplete the ring sees the ports."""
    server = direct_lab.server
    whole, split, half = (f"2001:db8:7:{number}::1" for number in (1, 2, 3))
    with running_knockd(program, server, tmp_path, DATAGRAMS + LAST) as knockd, wire(direct_lab) as send:
        for source, size, count in ((whole, 64, 1), (split, 24, 2), (half, 24, 1)):
            for number in (7000, 7100):
                for fragment in fragments(datagram(source, str(server.ipv6), number), size)[:count]:
                    send(fragment)
        place = Site(direct_lab, knockd)
        place.send("2001:db8:8::1", "1999")
        knockd.await_line("2001:db8:8::1: last: OPEN SESAME")
        assert {source for source, door in knockd.opened() if door == "door"} == (
            {whole, split} if program.name == "kernel" else {whole, split, half}
        )
        place.close()
