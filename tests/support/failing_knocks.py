"""Knocks that fail, each in its own way: what a client does, and the expected diagnosis of `doorward explain`."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from doorward.lab.topology import Lab
from doorward.model import Address, Packet, Port, Protocol
from tests.support.captures import ip
from tests.support.daemon import FIRST_SYN_S, RunningDaemon, Visitor, Visitors
from tests.support.frames import FrameSender
from tests.support.tcpdump import MARKER

DOORS = """
[gate]
mode = "stealth"
public = ["80/tcp"]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
[doors.web]
knock = ["7101/tcp", "7102/tcp"]
opens = ["443/tcp"]
[doors.hasty]
knock = ["7201/tcp", "7202/tcp", "7203/tcp"]
within = "500ms"
opens = ["23/tcp"]
[doors.brief]
knock = ["7301/tcp", "7302/udp"]
opens = ["24/tcp"]
for = "500ms"
[doors.rough]
knock = ["7401/tcp", "7402/tcp"]
opens = ["26/tcp", "27/tcp", "28/tcp"]
[doors.twin]
knock = ["7500/tcp", "7500/tcp", "7501/tcp"]
opens = ["29/tcp"]
[doors.strict]
knock = ["7601/tcp", "7602/tcp", "7603/tcp"]
flags = ["syn", "!ack", "!ece", "!cwr"]
opens = ["30/tcp"]
[doors.wake]
knock = ["4001/tcp", "4002/tcp", "4003/tcp"]
target = "192.0.2.77"
on_open = ["/bin/true"]
[doors.hand]
opens = ["31/tcp"]
"""
ELSEWHERE, UNREACHABLE, TARGET = (ip_address(f"192.0.2.{number}") for number in (9, 66, 77))
OTHER_FIREWALL = """
table inet other {
    chain input {
        type filter hook input priority 0
        tcp dport 27 reject with icmpx type admin-prohibited
        tcp dport 28 drop
    }
}
"""
KNOCK = ("7000", "8000:udp", "9000")
SYN, FIN = 2, 1


@dataclass
class Scene:
    """A server with the doors, and clients with addresses of their own."""

    lab: Lab
    daemon: RunningDaemon
    visitors: Visitors
    frames: FrameSender
    tunnel: Callable[[str, str, Sequence[str]], None]
    ports: Iterable[int] = field(default_factory=lambda: itertools.count(20_000))

    def sockets(self, source: Address, to: Address, *ports: str, source_port: int = 0) -> None:
        """Knock from an address to any other, by plain sockets."""
        self.lab.client.call(_knock, str(source), str(to), [Port.parse(port) for port in ports], source_port)

    def raw(self, source: Address, *ports: str, flags: int = SYN) -> None:
        """Send frames without a pause."""
        for port, number in zip(ports, self.ports, strict=False):
            parsed = Port.parse(port)
            self.frames.send(Packet(source.packed, parsed, flags if parsed.protocol is Protocol.TCP else 0), number)

    def packet(self, packet: bytes) -> None:
        """Send an IPv4 packet made by hand."""
        self.frames.send_raw(packet)

    def relative(self, visitor: Visitor) -> Visitor:
        """Return a visitor with another address of the same IPv6 network."""
        other = IPv6Address(int(visitor.source) + 1)
        self.lab.client.add_addresses([other])
        return Visitor(visitor.host, other, visitor.server)


def _knock(source: str, to: str, ports: list[Port], source_port: int) -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    for port in ports:
        kind = socket.SOCK_STREAM if port.protocol is Protocol.TCP else socket.SOCK_DGRAM
        with socket.socket(family, kind) as knocker:
            knocker.bind((source, source_port))
            knocker.setblocking(False)
            if kind == socket.SOCK_STREAM:
                knocker.connect_ex((to, port.number))
            else:
                knocker.sendto(b"\0", (to, port.number))


class Played(NamedTuple):
    """The source to explain, and the other addresses of the case."""

    source: Address
    others: tuple[Address, ...] = ()


Act = Callable[[Scene, Visitor], Played | None]


class Case(NamedTuple):
    """One way of failing. `says`: a part of the diagnosis; `opened`: whether the kernel opens the door."""

    kind: str
    says: str
    act: Act
    opened: bool = False
    version: int = 4
    words: tuple[str, ...] = ()
    judged: bool = True  # whether the kernel saw what the capture shows


def knocks(*ports: str, delay_ms: int = 0) -> Act:
    def act(_: Scene, visitor: Visitor) -> None:
        visitor.knock(*ports, delay_ms=delay_ms)

    return act


def knocks_then(*ports: str, visit: int) -> Act:
    """Knock, and try to connect."""

    def act(_: Scene, visitor: Visitor) -> None:
        visitor.knock(*ports)
        visits(visitor, visit)

    return act


def visits(visitor: Visitor, port: int) -> None:
    with suppress(OSError):
        visitor.connect(port, FIRST_SYN_S).close()


def gets_in(_: Scene, visitor: Visitor) -> None:
    visitor.knock_and_connect(*KNOCK).close()


def only_visits(_: Scene, visitor: Visitor) -> None:
    visits(visitor, 23)
    visits(visitor, 23)


def too_late(scene: Scene, visitor: Visitor) -> None:
    visitor.knock("7301", "7302:udp")
    scene.daemon.event("closed", door="brief", address=str(visitor), by="time")
    visits(visitor, 24)


def too_early(_: Scene, visitor: Visitor) -> None:
    visits(visitor, 22)
    visitor.knock(*KNOCK)


def too_fast(scene: Scene, visitor: Visitor) -> None:
    noise = [f"{number}/tcp" for number in range(3000, 3045)]
    scene.raw(visitor.source, *noise, "7000/tcp", *noise[:2], "8000/udp", *noise[:2], "9000/tcp")


def network_too_fast(scene: Scene, visitor: Visitor) -> Played:
    other, noise = scene.relative(visitor), [f"{number}/tcp" for number in range(3000, 3045)]
    scene.raw(other.source, *noise)
    for port in ("7000/tcp", "8000/udp", "9000/tcp"):
        scene.raw(visitor.source, port)
        scene.raw(other.source, *noise[:2])
    return Played(visitor.source, (other.source,))


def to_another_host(scene: Scene, visitor: Visitor) -> None:
    scene.sockets(visitor.source, ELSEWHERE, "7000/tcp", "8000/udp", "9000/tcp")


def partly_to_another_host(scene: Scene, visitor: Visitor) -> None:
    scene.sockets(visitor.source, visitor.server, "7000/tcp")
    scene.sockets(visitor.source, ELSEWHERE, "8000/udp")
    scene.sockets(visitor.source, visitor.server, "9000/tcp")


def to_an_unreachable_host(scene: Scene, visitor: Visitor) -> None:
    scene.sockets(visitor.source, UNREACHABLE, "7000/tcp", "8000/udp", "9000/tcp")


def to_the_target(scene: Scene, visitor: Visitor) -> None:
    scene.sockets(visitor.source, TARGET, "4001/tcp", "4002/tcp", "4003/tcp")


def with_ecn(scene: Scene, visitor: Visitor) -> None:
    setting = Path("/proc/sys/net/ipv4/tcp_ecn")
    scene.lab.client.call(setting.write_text, "1")
    visitor.knock("7601", "7602", "7603")
    scene.lab.client.call(setting.write_text, "2")


def with_fin(scene: Scene, visitor: Visitor) -> None:
    visitor.knock("7000", "8000:udp")
    scene.raw(visitor.source, "9000/tcp", flags=FIN)


def in_a_connection(scene: Scene, visitor: Visitor) -> None:
    """Knock from a port to which the server has sent before."""
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
            for host in (scene.lab.client, scene.lab.server)
        )
        ours.bind((str(visitor.source), 4444))
        theirs.bind((str(visitor.server), 8000))
        theirs.sendto(b"hello", (str(visitor.source), 4444))
        ours.settimeout(10)
        ours.recv(10)
        visitor.knock("7000")
        ours.sendto(b"\0", (str(visitor.server), 8000))
        visitor.knock("9000")


def without_a_whole_header(scene: Scene, visitor: Visitor) -> None:
    visitor.knock("7000", "8000:udp")
    short = struct.pack("!HHIHH", 40_000, 9000, 1, 0, 0)
    scene.packet(ip(visitor.source, visitor.server, 6, short))


def in_pieces(scene: Scene, visitor: Visitor) -> None:
    """Send only the second fragment of a knock."""
    visitor.knock("7000")
    scene.packet(ip(visitor.source, visitor.server, 17, bytes(16), fragment=3, number=77))
    visitor.knock("9000")


def from_two(version: int, *, relative: bool = False) -> Act:
    def act(scene: Scene, visitor: Visitor) -> Played:
        other = scene.relative(visitor) if relative else scene.visitors.fresh(version)
        visitor.knock("7000")
        scene.sockets(other.source, other.server, "8000/udp")
        visitor.knock("9000")
        return Played(visitor.source, (other.source,))

    return act


def knock_here_visit_there(version: int, *, relative: bool = False) -> Act:
    def act(scene: Scene, visitor: Visitor) -> Played:
        other = scene.relative(visitor) if relative else scene.visitors.fresh(version)
        visitor.knock(*KNOCK)
        visits(other, 22)
        return Played(visitor.source, (other.source,))

    return act


def overtaken(scene: Scene, visitor: Visitor) -> None:
    scene.raw(visitor.source, "7000/tcp", "9000/tcp", "8000/udp")


def sent_again(_: Scene, visitor: Visitor) -> None:
    """Knock with a pending connect, whose TCP retransmits the SYN after a second."""
    connecting = visitor.host.call(socket.socket)
    with connecting:
        connecting.bind((str(visitor.source), 0))
        connecting.setblocking(False)
        connecting.connect_ex((str(visitor.server), 7000))
        visitor.knock("8000:udp")
        time.sleep(1.2)  # the client's kernel retransmits it after a second, without notice
        visitor.knock("9000")


def visit_another_host(scene: Scene, visitor: Visitor) -> None:
    visitor.knock(*KNOCK)
    scene.sockets(visitor.source, ELSEWHERE, "22/tcp")


def never_hears(scene: Scene, _: Visitor) -> Played:
    """Knock from an unused address, so that the answers do not arrive."""
    source = ip_address("10.9.0.1")
    scene.raw(source, "7000/tcp", "8000/udp", "9000/tcp", "22/tcp")
    return Played(source)


def sweeps(scene: Scene, visitor: Visitor) -> None:
    scene.raw(visitor.source, *(f"{number}/tcp" for number in range(6990, 7050)))


def from_the_host_itself(scene: Scene, _: Visitor) -> Played:
    server = scene.lab.server.ipv4
    ports = [Port.parse(port) for port in ("7000/tcp", "8000/udp", "9000/tcp")]
    scene.lab.server.call(_knock, str(server), str(server), ports, 0)
    return Played(server)


def by_the_tunnel(scene: Scene, _: Visitor) -> Played:
    scene.tunnel("10.60.0.9", "10.60.0.1", ("7000/tcp", "8000/udp", "9000/tcp"))
    return Played(ip_address("10.60.0.9"))


def mark(scene: Scene, number: int) -> None:
    """Send the packet that every capture on the wire shows last."""
    source, to = scene.lab.client.ipv4, scene.lab.server.ipv4
    scene.sockets(source, to, f"{MARKER}/udp", source_port=number)


CASES = [
    Case("connected", "success: door ssh opened, and the connection to 22/tcp came", gets_in, opened=True),
    Case("ran", "success: door wake opened and its command ran", to_the_target, opened=True),
    Case("late", "ms after the first; `within` is 500ms", knocks("7201", "7202", "7203", delay_ms=300)),
    Case(
        "late_after_repeat",
        "after the first packet to 7201/tcp; sending that again does not restart `within`",
        knocks("7201", "7201", "7202", "7203", delay_ms=200),
    ),
    Case("too_fast", "knock packets within two seconds; the limit is 20/s (burst 40)", too_fast),
    Case("network_too_fast", "rate limit exceeded: its network (/64) sent", network_too_fast, version=6),
    Case("elsewhere", "the knocks went to 192.0.2.9, which is not this host", to_another_host),
    Case("part_elsewhere", "the second knock went to 192.0.2.9, the others to 198.51.100.2", partly_to_another_host),
    Case("not_the_target", "which is not the target of door wake, 192.0.2.77", knocks("4001", "4002", "4003")),
    Case("flags_ecn", "flags were SYN+ECE+CWR; `flags` of door strict is syn,!ack,!ece,!cwr: the client", with_ecn),
    Case("flags", "the third knock's flags were FIN; `flags` of door ssh is syn,!ack", with_fin),
    Case("tcp_for_udp", "second knock came as 8000/tcp; door ssh expects 8000/udp", knocks("7000", "8000", "9000")),
    Case(
        "udp_for_tcp", "third knock came as 9000/udp; door ssh expects 9000/tcp", knocks("7000", "8000:udp", "9000:udp")
    ),
    Case(
        "established",
        "the second knock (8000/udp) belongs to an established connection from port 4444",
        in_a_connection,
    ),
    Case("broken", "third knock has an incomplete header: protocol 6: 12 bytes", without_a_whole_header),
    Case("fragment", "the second knock (8000/udp) was fragmented", in_pieces),
    Case("split_addresses", "knock 2 from 10.1.0.", from_two(4)),
    Case("split_families", "IPv4 and IPv6 mixed", from_two(6)),
    Case("split_network", "two addresses of one client", from_two(6, relative=True), version=6),
    Case("overtaken", "before the second: packets overtook each other", overtaken),
    Case("order", "before the second: the order was", knocks("7000", "9000", "8000:udp", delay_ms=100)),
    Case("reversed", "in reverse: 9000/tcp 8000/udp 7000/tcp", knocks("9000", "8000:udp", "7000")),
    Case("wrong_port", "second knock went to 8001/udp; door ssh expects 8000/udp", knocks("7000", "8001:udp", "9000")),
    Case("retransmitted", "retransmitted its SYN to 7000/tcp after", sent_again),
    Case("restarted", "restarted: another packet to 7000/tcp came between", knocks("7000", "8000:udp", "7000", "9000")),
    Case("other_door", "a packet to 7101/tcp, a knock of door web,", knocks("7000", "7101", "8000:udp", "9000")),
    Case("stray", "8443/tcp between knocks 1 and 2 reset the progress", knocks("7000", "8443", "8000:udp", "9000")),
    Case("scan", "port scan: 15 other ports in", knocks("7000", *map(str, range(3000, 3015)), "8000:udp", "9000")),
    Case("repeat_missing", "expects 7500/tcp twice in a row; it came once", knocks("7500", "7501")),
    Case("alone", "only one of three knocks arrived: 7202/tcp and 7203/tcp are missing", knocks("7201")),
    Case("first_missing", "only two of three knocks arrived: 7000/tcp is missing", knocks("8000:udp", "9000")),
    Case("last_missing", "only two of three knocks arrived: 9000/tcp is missing", knocks("7000", "8000:udp")),
    Case("missing", "only two of three knocks arrived: 8000/udp is missing", knocks("7000", "9000")),
    Case("no_connection", "web opened, but no connection to 443/tcp followed", knocks("7101", "7102"), opened=True),
    Case("too_late", "after the knock; `for` of door brief is 500ms", too_late, opened=True),
    Case("too_early", "before the last knock, and was not retried", too_early, opened=True),
    Case("other_address", "the connection to 22/tcp came from 10.1.0.", knock_here_visit_there(4), opened=True),
    Case("other_family", ": IPv4 and IPv6", knock_here_visit_there(6), opened=True),
    Case("other_in_network", "of one client", knock_here_visit_there(6, relative=True), opened=True, version=6),
    Case("connection_elsewhere", "connection to 22/tcp went to 192.0.2.9", visit_another_host, opened=True),
    Case("other_protocol", "went to 22/udp; the door opens 22/tcp", knocks(*KNOCK, "22:udp"), opened=True),
    Case("wrong_door", "went to 443/tcp, which door web opens", knocks_then(*KNOCK, visit=443), opened=True),
    Case("other_port", "2222/tcp, which the door does not open (22/tcp)", knocks_then(*KNOCK, visit=2222), opened=True),
    Case("refused", "but 26/tcp refused it", knocks_then("7401", "7402", visit=26), opened=True),
    Case("rejected", "198.51.100.2 answered: prohibited", knocks_then("7401", "7402", visit=27), opened=True),
    Case("unanswered", "to 28/tcp came", knocks_then("7401", "7402", visit=28), opened=True),
    Case("answer_lost", "was accepted, but the answer did not reach the client", never_hears, opened=True),
    Case("no_knock", "no knock: 2 packets went to 23/tcp, and none to a port of a sequence", only_visits),
    Case("sweep", "port scan: 60 ports in", sweeps),
    Case("unknown_sequence", "went to a port of a door: 1111/tcp 2222/tcp 3333/tcp", knocks("1111", "2222", "3333")),
    Case("no_sequence", "door hand has no port sequence", knocks(*KNOCK), opened=True, words=("--door", "hand")),
    Case("nothing", "none of its packets was a knock", lambda _, visitor: visits(visitor, 80)),
]
PLACES = [  # what only one capture shows
    Case("unreachable", "198.51.100.2 answered for 7000/tcp: unreachable", to_an_unreachable_host),
    Case("own_packets", "the knocks came from this host itself (198.51.100.2)", from_the_host_itself),
    Case("interface", "the knocks arrived on tun0; `interfaces` lists only eth0", by_the_tunnel),
]
