"""A fleet in network namespaces: gates, etcd nodes and a client on one switch."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from doorward.errors import HostError
from doorward.fleet import etcd_codec
from doorward.fleet.etcd import Etcd, EtcdAccess
from doorward.lab.namespace import NamespaceHost, ip
from doorward.lab.topology import HOST_SETTINGS, _tear_down, _write_sysctls
from doorward.model import Address, Element, Port
from tests.conftest import unavailable
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitor, until
from tests.support.etcd import Node, cluster, needs_etcd

CONFIG = """
[gate]
name = "edge-{number}"
[fleet]
name = "example"
endpoints = [{endpoints}]
plain = true
{fleet}
[doors.ssh]
knock = ["7001/udp", "7002/udp"]
opens = ["22/tcp"]
for = "{for_}"
shared = true
{more}
"""
KNOCK = (7001, 7002)


class Switch:
    """A bridge in a namespace of its own, and hosts at its ports; `cut` pulls a host's plug."""

    def __init__(self, names: list[str]) -> None:
        prefix = f"doorward-{os.getpid()}-{secrets.token_hex(3)}-"
        self._bridge = NamespaceHost(
            prefix + "switch", "bridge", IPv4Address("198.51.100.254"), IPv6Address("2001:db8:2::fe"), ""
        )
        self.hosts = {
            name: NamespaceHost(
                prefix + name,
                "eth0",
                IPv4Address(f"198.51.100.{number}"),
                IPv6Address(f"2001:db8:2::{number:x}"),
                f"02:00:00:00:02:{number:02x}",
            )
            for number, name in enumerate(names, 1)
        }
        self.all = [*self.hosts.values(), self._bridge]

    def build(self) -> None:
        ip(batch=[f"netns add {host.namespace}" for host in self.all])
        for host in self.hosts.values():
            host.call(_write_sysctls, HOST_SETTINGS)
        self._bridge.ip(batch=["link add bridge type bridge", "link set bridge up"])
        ip(
            batch=[
                f"link add {name} netns {self._bridge.namespace} type veth "
                f"peer name eth0 netns {host.namespace} address {host.mac}"
                for name, host in self.hosts.items()
            ]
        )
        self._bridge.ip(batch=[f"link set {name} master bridge up" for name in self.hosts])
        client = self.hosts["client"]
        for host in self.hosts.values():
            lines = ["link set lo up", "link set eth0 up"]
            lines += [f"address add {host.ipv4}/24 dev eth0", f"address add {host.ipv6}/64 dev eth0 nodad"]
            if host is not client:  # whatever address the client makes up finds its way back
                lines += [f"route add 0.0.0.0/0 via {client.ipv4}", f"route add ::/0 via {client.ipv6}"]
            host.ip(batch=lines)

    def cut(self, name: str) -> None:
        self._bridge.ip(batch=[f"link set {name} down"])

    def join(self, name: str) -> None:
        self._bridge.ip(batch=[f"link set {name} up"])

    def close(self) -> None:
        _tear_down(self.all)


class Fleet:
    """Gates and nodes of one fleet."""

    def __init__(
        self, folder: Path, gates: int, nodes: int, for_: str = "10m", fleet: str = "", more: str = ""
    ) -> None:
        self._folder, self._count = folder, gates
        names = ["client", *(f"gate{n}" for n in range(1, gates + 1)), *(f"etcd{n}" for n in range(1, nodes + 1))]
        self.switch = Switch(names)
        self.client = self.switch.hosts["client"]
        self.nodes = [self._node(n) for n in range(1, nodes + 1)]
        self.endpoints = tuple(node.client for node in self.nodes)
        self.for_, self.fleet, self.more = for_, fleet, more
        self.gates: list[RunningDaemon] = []
        self._numbers = itertools.count(1)
        self._etcd: Etcd | None = None

    def close(self) -> None:
        if self._etcd is not None:
            self._etcd.close()
        self.switch.close()

    def renew(self) -> None:
        """Return to the state after the start, for another test: all run and are in touch, and nothing is open."""
        for node in self.nodes:
            if node.process is None:
                node.start()
                node.await_ready()
        for name in self.switch.hosts:
            self.switch.join(name)
        for gate in self.gates:
            if gate.process.poll() is not None:
                gate.start()
            gate.close_openings()
        for kind in ("openings", "closes", "seen"):
            self.etcd().delete(f"/doorward/example/{kind}/", f"/doorward/example/{kind}0")
        self._go_round()
        self.await_everywhere(set())
        for gate in self.gates:
            until(lambda: (gate.ask("status")["signed"] or {"takes": True})["takes"])  # noqa: B023 - called at once
            gate.forget()

    def _go_round(self) -> None:
        """Open and close for an address that no test uses: what happened before has reached every gate and its log."""
        guest = self.visitor(self.gates[0])
        self.gates[0].ask("open", door="ssh", address=str(guest))
        for gate in self.gates:
            gate.event("opened", address=str(guest))
        until(lambda: self.gates[0].ask("status")["fleet"]["owed"] == 0)
        self.gates[-1].ask("close", door="ssh", address=str(guest))
        for gate in self.gates:
            gate.event("closed", address=str(guest))

    def _node(self, number: int) -> Node:
        host = self.switch.hosts[f"etcd{number}"]
        client, peer = (f"http://{host.ipv4}:{port}" for port in (2379, 2380))
        return Node(f"etcd{number}", self._folder / f"etcd{number}", client, peer, host.popen)

    def text(self, number: int) -> str:
        """Return a gate's configuration."""
        endpoints = ", ".join(f'"{endpoint}"' for endpoint in self.endpoints)
        return CONFIG.format(number=number, endpoints=endpoints, fleet=self.fleet, for_=self.for_, more=self.more)

    def add_gate(self, number: int) -> RunningDaemon:
        folder = self._folder / f"gate{number}"
        return RunningDaemon(self.switch.hosts[f"gate{number}"], folder, self.text(number))

    def etcd(self) -> Etcd:
        """Return a client of etcd's that runs on the client host."""
        if self._etcd is not None:
            return self._etcd
        access = EtcdAccess(self.endpoints, 5.0)
        made = Etcd(access)
        connect = made._send_once
        made._send_once = lambda *words: self.client.call(connect, *words)  # type: ignore[method-assign]
        self._etcd = made
        return made

    def forge(self, *keys: tuple[str, str, dict[str, object]]) -> None:
        """Write openings into etcd at one revision, as its attacker: door, place, and what differs from an hour."""
        puts = []
        for door, place, fields in keys:
            wall_ms, hour_ms = time.time_ns() // 1_000_000, 3_600_000
            said = {"door": door, "address": place, "for_ms": hour_ms, "until_ms": wall_ms + hour_ms, "spare_ms": 0}
            value = json.dumps(said | {"signer": "", "dated_ms": 0, "by": "knock", "gate": "edge-9"} | fields)
            puts.append(etcd_codec.to_put(f"/doorward/example/openings/{door}/{place}", value.encode()))
        self.etcd().txn([], puts)

    def visitor(self, gate: RunningDaemon, source: Address | None = None) -> Visitor:
        """Give somebody with an address of his own, before a gate."""
        if source is None:
            number = next(self._numbers)
            source = ip_address(f"10.1.{number >> 8}.{number & 255}")
            self.client.add_addresses([source])
        return Visitor(self.client, source, gate.host.ipv4)

    def knock(self, visitor: Visitor, *ports: int) -> None:
        """Send datagrams to these ports."""

        def go() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((str(visitor.source), 0))
                for port in ports or KNOCK:
                    sender.sendto(b"", (str(visitor.server), port))

        self.client.call(go)

    def await_everywhere(
        self, wanted: set[str], gates: list[RunningDaemon] | None = None, within_s: float = PATIENCE_S
    ) -> float:
        """Wait until all gates have just these openings; gives how many seconds it took."""
        began_s = time.monotonic()
        while True:
            have = [{o["address"] for o in gate.openings()} for gate in (gates or self.gates)]
            if all(each == wanted for each in have):
                return time.monotonic() - began_s
            assert time.monotonic() - began_s < within_s, (wanted, have)
            time.sleep(0.02)


def element(source: Address, port: str = "22/tcp") -> Element:
    return Element(source, Port.parse(port))


@contextmanager
def running_fleet(fleet: Fleet, prepare: Callable[[Fleet], None] = lambda _: None) -> Iterator[Fleet]:
    """Run etcd and all gates, in touch with each other."""
    needs_etcd()
    with ExitStack() as stack:
        stack.callback(fleet.close)
        try:
            fleet.switch.build()
        except HostError as error:
            unavailable(str(error))
        stack.enter_context(cluster(fleet.nodes))
        for number in range(1, fleet._count + 1):
            gate = fleet.add_gate(number)
            fleet.gates.append(gate)
            stack.callback(gate.close)
        prepare(fleet)
        for gate in fleet.gates:
            gate.start()
        for gate in fleet.gates:
            gate.message("connected to the fleet")
            gate.host.start_greeter(22)
        yield fleet


def datagram(source: IPv4Address, to: IPv4Address, port: int, data: bytes = b"") -> bytes:
    """Return an IPv4 packet with a UDP datagram in it, from an address that nobody has."""
    udp = struct.pack("!HHHH", 40_000, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source.packed, to.packed)
    return head + udp


def until_all_let_in(fleet: Fleet) -> float:
    """Knock at the first gate and try the others all the time; gives the milliseconds until the last lets in."""
    first, *others = fleet.gates if len(fleet.gates) > 1 else fleet.gates * 2
    guest = fleet.visitor(first)

    def go() -> float:
        waiting, tries = {gate.host.ipv4 for gate in others}, {}
        poll = select.poll()
        began_s = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((str(guest.source), 0))
            for port in (7001, 7002):
                sender.sendto(b"", (str(guest.server), port))
        while waiting:
            assert time.monotonic() < began_s + 10
            for address in waiting:
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                sock.bind((str(guest.source), 0))
                sock.connect_ex((str(address), 22))
                tries[sock.fileno()] = sock, address
                poll.register(sock, select.POLLOUT)
            for number, _ in poll.poll(2):
                poll.unregister(number)  # one that is let in
                waiting.discard(tries[number][1])
        took_ms = 1000 * (time.monotonic() - began_s)
        for sock, _ in tries.values():
            sock.close()
        return took_ms

    return fleet.client.call(go)
