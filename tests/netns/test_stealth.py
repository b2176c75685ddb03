"""Stealth keeps what a host needs to live: replies, neighbours, path MTU, DHCP, ping as configured, public ports."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address
from tests.support.daemon import FIRST_SYN_S, SILENCE_S, RunningDaemon, running_daemon, standing_lab, until
from tests.support.frames import FrameSender, checksum

pytestmark = pytest.mark.netns

CONFIG = """
[gate]
mode = "stealth"
public = ["80/tcp", "8000-8002/tcp", "53/udp", "5000-5001/udp"]
ping = {ping}
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
"""
ECHO = {  # family, protocol, request with its checksum (the kernel makes the one of ICMPv6), the reply's first byte
    4: (socket.AF_INET, socket.IPPROTO_ICMP, b"\x08\0\xf7\xff\0\0\0\0", 0),
    6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, b"\x80\0\0\0\0\0\0\0", 129),
}
SO_BINDTODEVICE = 25
CHUNK = 1 << 20


class Site(NamedTuple):
    """A host in stealth."""

    lab: Lab
    daemon: RunningDaemon

    def address(self, version: int) -> Address:
        return self.lab.server.ipv4 if version == 4 else self.lab.server.ipv6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stealth")
    with standing_lab() as lab:
        for port in (22, 80, 8000, 8002, 8003):
            lab.server.start_greeter(port)
        with running_daemon(lab.server, folder, CONFIG.format(ping="true")) as daemon:
            yield Site(lab, daemon)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def answer(host: NamespaceHost, address: Address, port: int) -> str:
    """Say what a connection meets."""
    try:
        with host.call(socket.create_connection, (str(address), port), SILENCE_S):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"


def ping(host: NamespaceHost, address: Address) -> bool:
    family, protocol, request, reply = ECHO[address.version]
    with host.call(socket.socket, family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(SILENCE_S)
        raw.sendto(request, (str(address), 0))
        try:
            while True:
                packet, sender = raw.recvfrom(2048)
                if sender[0] == str(address) and packet[20 if address.version == 4 else 0] == reply:
                    return True
        except TimeoutError:
            return False


def datagrams(host: NamespaceHost, address: Address | str, port: int, *, device: str = "") -> socket.socket:
    """Return a bound UDP socket."""
    family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
    sock = host.call(socket.socket, family, socket.SOCK_DGRAM)
    sock.settimeout(SILENCE_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
    sock.bind((str(address), port))
    return sock


def test_public_ports_answer_and_nothing_else_does(site: Site, version: int) -> None:
    address = site.address(version)
    seen = {port: answer(site.lab.client, address, port) for port in (80, 8000, 8001, 8002, 8003, 22, 7001, 9)}
    closed_public = {8001: "refused"}
    assert seen == {
        80: "open",
        8000: "open",
        8002: "open",
        8003: "silent",
        22: "silent",
        7001: "silent",
        9: "silent",
    } | (closed_public)


@pytest.mark.parametrize(("port", "passes"), [(53, True), (5000, True), (5001, True), (5002, False), (52, False)])
def test_public_datagrams_pass_and_others_do_not(site: Site, version: int, port: int, passes: bool) -> None:
    address = site.address(version)
    asking = site.lab.client.call(socket.socket, family_of(version), socket.SOCK_DGRAM)
    with datagrams(site.lab.server, address, port) as served, asking:
        asking.settimeout(SILENCE_S)
        asking.connect((str(address), port))
        asking.send(b"question")
        if passes:
            served.sendto(*served.recvfrom(100))
            assert asking.recv(100) == b"question"
        else:
            with pytest.raises(TimeoutError):
                served.recv(100)


def test_outgoing_connections_work(site: Site, version: int) -> None:
    client = site.lab.client
    client_address = client.ipv4 if version == 4 else client.ipv6
    with client.call(socket.create_server, (str(client_address), 0), family=family_of(version)) as listener:
        target = listener.getsockname()[:2]
        with site.lab.server.call(socket.create_connection, target, FIRST_SYN_S) as connection:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"remote speaks")
                assert connection.recv(100) == b"remote speaks"
    with datagrams(client, client_address, 0) as remote:
        with site.lab.server.call(socket.socket, family_of(version), socket.SOCK_DGRAM) as local:
            local.settimeout(SILENCE_S)
            local.connect(remote.getsockname()[:2])
            local.send(b"question")
            remote.sendto(*remote.recvfrom(100))
            assert local.recv(100) == b"question"
        closed = remote.getsockname()[:2]
    with site.lab.server.call(socket.socket, family_of(version), socket.SOCK_DGRAM) as local:
        local.settimeout(SILENCE_S)
        local.connect(closed)
        local.send(b"nobody there")
        with pytest.raises(ConnectionRefusedError):  # the error belongs to what this host sent
            local.recv(100)


def family_of(version: int) -> socket.AddressFamily:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def test_neighbours_are_found_again(site: Site) -> None:
    """Both sides must resolve: the router asks for the server, and the server for the router."""
    router, server = site.lab.router, site.lab.server
    for way in ("-4", "-6"):
        for host, device in ((router, "server"), (server, "eth0")):
            host.ip(way, "neigh", "flush", "dev", device)
    assert ping(router, server.ipv6)
    assert answer(site.lab.client, server.ipv6, 80) == "open"
    assert answer(site.lab.client, server.ipv4, 80) == "open"
    router.ip("-6", "neigh", "flush", "dev", "server")
    server.ip("-6", "neigh", "flush", "dev", "eth0")
    assert ping(server, router.ipv6)
    states = {entry["dst"]: entry["state"] for entry in json.loads(server.ip("-6", "-j", "neigh"))}
    assert states[str(router.ipv6)] == ["REACHABLE"]


def test_ping_is_answered_as_configured(site: Site, version: int) -> None:
    site.daemon.reload(CONFIG.format(ping="false"))
    assert not ping(site.lab.client, site.address(version))
    assert ping(site.lab.server, site.lab.client.ipv4 if version == 4 else site.lab.client.ipv6)
    site.daemon.reload(CONFIG.format(ping="true"))
    assert ping(site.lab.client, site.address(version))


def test_a_path_that_narrows_is_noticed(site: Site, version: int) -> None:
    """The router's answer to packets that are too large for the link to the client reaches the server's stack."""
    lab, address = site.lab, site.address(version)
    client_address = lab.client.ipv4 if version == 4 else lab.client.ipv6
    with ExitStack() as stack:
        listener = lab.server.call(socket.create_server, (str(address), 8001), family=family_of(version))
        stack.enter_context(listener)
        reading = stack.enter_context(lab.client.call(socket.create_connection, (str(address), 8001), FIRST_SYN_S))
        sending = stack.enter_context(listener.accept()[0])
        reading.settimeout(10)
        assert transferred(sending, reading) == CHUNK
        lab.router.ip("link", "set", "client", "mtu", "1280")
        stack.callback(lab.router.ip, "link", "set", "client", "mtu", "1500")
        assert transferred(sending, reading) == CHUNK
        route = json.loads(lab.server.ip("-j", "route", "get", str(client_address)))[0]
    assert route["metrics"][0]["mtu"] == 1280


def transferred(sending: socket.socket, reading: socket.socket) -> int:
    sender = threading.Thread(target=sending.sendall, args=(os.urandom(CHUNK),))
    sender.start()
    count = 0
    while count < CHUNK:
        count += len(reading.recv(1 << 16))
    sender.join()
    return count


@pytest.mark.parametrize("to", ["255.255.255.255", "198.51.100.2"], ids=["broadcast", "unicast"])
def test_a_dhcp_reply_reaches_the_client_that_listens(site: Site, to: str) -> None:
    router, server = site.lab.router, site.lab.server
    with datagrams(server, "0.0.0.0", 68, device="eth0") as waiting:
        with datagrams(router, router.ipv4, 67, device="server") as dhcp:
            dhcp.sendto(b"offer", (to, 68))
            assert waiting.recvfrom(100) == (b"offer", (str(router.ipv4), 67))
        with datagrams(router, router.ipv4, 6767, device="server") as other:  # no server sends from there
            other.sendto(b"forged", (to, 68))
            with pytest.raises(TimeoutError):
                waiting.recv(100)


def test_a_dhcpv6_reply_reaches_the_client_that_listens(site: Site) -> None:
    router, server = site.lab.router, site.lab.server
    with datagrams(server, "::", 546, device="eth0") as waiting, datagrams(router, "::", 547, device="server") as dhcp:
        dhcp.sendto(b"advertise", (link_local(server, "eth0"), 546))
        assert waiting.recv(100) == b"advertise"


def link_local(host: NamespaceHost, device: str) -> str:
    shown = json.loads(host.ip("-6", "-j", "address", "show", "dev", device, "scope", "link"))
    (address,) = (info["local"] for info in shown[0]["addr_info"] if info)
    return str(address)


def test_without_a_dhcp_client_its_ports_are_silent_too(site: Site) -> None:
    router, server = site.lab.router, site.lab.server
    for address, source, ports in (
        (str(server.ipv4), str(router.ipv4), (67, 68)),
        (link_local(server, "eth0"), "::", (547, 546)),
    ):
        with datagrams(router, source, ports[0], device="server") as probe:
            probe.connect((address, ports[1]))
            probe.send(b"anybody?")
            with pytest.raises(TimeoutError):  # an unreachable port would raise ConnectionRefusedError
                probe.recv(100)


REASSEMBLY_TIMES = ("ipv4/ipfrag_time", "ipv6/ip6frag_time", "netfilter/nf_conntrack_frag6_timeout")
ETH_P_ALL = 3


def ipv4_packet(
    source: NamespaceHost, to: NamespaceHost, body: bytes, *, more_fragments: bool = False, options: bytes = b""
) -> bytes:
    """Return an IPv4 packet with a UDP header in `body`, or with TCP where there are options."""
    words = 5 + len(options) // 4
    fields = (0x40 | words, 0, 4 * words + len(body), 7, 0x2000 * more_fragments, 64, 6 if options else 17, 0)
    head = struct.pack("!BBHHHBBH", *fields) + source.ipv4.packed + to.ipv4.packed + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6_packet(source: NamespaceHost, to: NamespaceHost, next_header: int, body: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), next_header, 64)
    return head + source.ipv6.packed + to.ipv6.packed + body


def icmp_types(frames: list[bytes]) -> list[tuple[int, int]]:
    """Return version and type of the ICMP packets, but not those by which neighbors find each other."""
    found = [(4, f[14 + 4 * (f[14] & 15)]) for f in frames if f[12:14] == b"\x08\0" and f[23] == 1]
    found += [(6, f[54]) for f in frames if f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] < 128]
    return found


def test_fragments_and_options_are_not_answered(site: Site) -> None:
    """A fragment without its others, an unknown hop-by-hop option, a bad option to a public port; without a route too.

    A host that forwards nothing still answers a packet to an IPv6 address to which it has no route.
    """
    router, server = site.lab.router, site.lab.server
    nowhere = replace(server, ipv6=IPv6Address("2001:db8:dead::1"))
    server.ip("-6", "route", "add", "unreachable", "2001:db8:dead::/48")
    for name in REASSEMBLY_TIMES:
        server.call(Path("/proc/sys/net", name).write_text, "0")
    udp = struct.pack("!HHHH", 40000, 9, 64, 0) + bytes(8)
    syn = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 5 << 4, 2, 1024, 0, 0)
    packets = [
        ipv4_packet(router, server, udp, more_fragments=True),
        ipv6_packet(router, server, 44, struct.pack("!BBHI", 17, 0, 1, 7) + udp),
        ipv6_packet(router, server, 0, bytes([59, 0, 0x80, 4, 0, 0, 0, 0])),
        ipv4_packet(router, server, syn, options=bytes([7, 2, 0, 0])),
        ipv6_packet(router, nowhere, 17, udp),
    ]
    before = site.daemon.counters()["dropped_stealth"]
    sender = FrameSender(router, server)
    with router.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind((router.interface, ETH_P_ALL))
        for packet in packets:
            sender.send_raw(packet)
        until(lambda: site.daemon.counters()["dropped_stealth"] == before + len(packets))
        frames = []
        wire.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                frames.append(wire.recv(2048))
    sender.close()
    assert len(frames) >= len(packets)  # it heard its own
    assert icmp_types(frames) == []
