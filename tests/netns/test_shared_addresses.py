"""Hidden UDP ports at addresses that several hosts share: broadcast, multicast, anycast; and addresses of a VRF."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.errors import HostError
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support.daemon import SILENCE_S, RunningDaemon, Visitor, running_daemon, standing_lab
from tests.support.signed import PORT, Signed, Signer

pytestmark = pytest.mark.netns("nft")

HIDDEN, SHOWN, KNOCKED = 5000, 5001, (7001, 7002)
CONFIG = """
[gate]
mode = "{mode}"
{public}
[signed]
[doors.service]
knock = ["7001/udp", "7002/udp"]
opens = ["5000/udp"]
"""
PUBLIC = 'public = ["5001/udp"]'
SHARED = ("198.51.100.255", "255.255.255.255", "224.0.0.1", "ff02::1", "2001:db8:2::")
OWN = ("198.51.100.2", "2001:db8:2::2", "10.9.9.9", "2001:db8:9::9")  # the last two are another interface's
SO_BINDTODEVICE = 25


def udp_sockets(host: NamespaceHost, port: int) -> dict[int, socket.socket]:
    """Return a socket of each family, bound to the host's interface."""
    made = {}
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        sock = made[version] = host.call(socket.socket, family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, host.interface.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
    return made


class Wire:
    """A server whose services answer on every address, and a client on the same wire."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, stack: ExitStack) -> None:
        self.lab, self.daemon = lab, daemon
        self._stack, self._serving = stack, list[socket.socket]()
        for port in (HIDDEN, SHOWN, PORT):
            self._serving += udp_sockets(lab.server, port).values()
        end, self._end = socket.socketpair()
        thread = threading.Thread(target=self._echo, args=(end,))
        thread.start()
        for closing in (end.close, thread.join, self._end.close):
            stack.callback(closing)

    def _echo(self, end: socket.socket) -> None:
        while end not in (ready := select.select([end, *self._serving], [], [])[0]):
            for sock in ready:
                data, sender = sock.recvfrom(2048)
                sock.sendto(data, sender[:2])  # without the scope id, which in a VRF names the VRF
        for sock in self._serving:
            sock.close()

    def answers(self, port: int, to: tuple[str, ...] = SHARED, padding: int = 0) -> set[str]:
        """Send a datagram to each address, and return the addresses at which one was answered."""
        sockets = udp_sockets(self.lab.client, 0)
        for address in to:
            sockets[ip_address(address).version].sendto(address.encode().ljust(padding), (address, port))
        found: set[str] = set()
        while found < set(to) and (ready := select.select(list(sockets.values()), [], [], SILENCE_S)[0]):
            found |= {sock.recv(2048).decode().strip() for sock in ready}
        for sock in sockets.values():
            sock.close()
        return found

    def knock(self, address: str) -> None:
        """Send the door's sequence to an address."""
        sockets = udp_sockets(self.lab.client, 0)
        for port in KNOCKED:
            sockets[ip_address(address).version].sendto(b"", (address, port))
        for sock in sockets.values():
            sock.close()

    def close(self) -> None:
        self._end.send(b"end")


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("shared")
    with ExitStack() as stack:
        lab = stack.enter_context(standing_lab(direct=True))
        # A router answers at the anycast address of its subnet (RFC 4291, 2.6.1).
        lab.server.call(Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text, "1")
        # Its neighbor advertisement may take a second (RFC 4861, 7.2.7), which the test need not wait for.
        lab.client.ip("neigh", "replace", "2001:db8:2::", "lladdr", lab.server.mac, "dev", "eth0")
        for address in OWN[2:]:
            lab.server.ip("address", "add", address, "dev", "lo")
            lab.client.ip("route", "add", address, "via", str(lab.server.ipv6 if ":" in address else lab.server.ipv4))
        Signed(folder / "configuration", Signer())
        daemon = stack.enter_context(running_daemon(lab.server, folder, CONFIG.format(mode="guard", public="")))
        wire = Wire(lab, daemon, stack)
        yield wire
        wire.close()


@pytest.mark.parametrize(("mode", "public"), [("guard", ""), ("stealth", PUBLIC), ("observe", "")])
def test_a_hidden_udp_port_is_silent_at_shared_addresses(wire: Wire, mode: str, public: str) -> None:
    """The port that is not hidden shows that the service answers at each of them."""
    wire.daemon.reload(CONFIG.format(mode=mode, public=public))
    seen: set[str] = set() if mode != "observe" else {*SHARED, *OWN}
    assert wire.answers(SHOWN, SHARED + OWN) == {*SHARED, *OWN}
    assert wire.answers(HIDDEN, SHARED + OWN) == seen
    handed_on = wire.daemon.counters()["signed"]
    assert wire.answers(PORT, padding=448) == seen & {*SHARED}
    assert wire.daemon.counters()["signed"] == handed_on


@pytest.mark.parametrize(("mode", "public"), [("guard", ""), ("stealth", PUBLIC)])
def test_only_a_packet_to_an_address_of_this_host_is_a_knock(wire: Wire, mode: str, public: str) -> None:
    wire.daemon.reload(CONFIG.format(mode=mode, public=public))
    client, server = wire.lab.client, wire.lab.server
    for source, shared, *own in (
        (client.ipv4, "198.51.100.255", OWN[0], OWN[2]),
        (client.ipv6, "2001:db8:2::", OWN[1], OWN[3]),
    ):
        element = Visitor(client, source, server.ipv4).element(f"{HIDDEN}/udp")
        wire.knock(shared)
        assert element not in wire.daemon.elements()
        for address in own:
            wire.knock(address)
            wire.daemon.event("opened", address=str(source))
            assert element in wire.daemon.elements()
            assert wire.answers(HIDDEN, (address, shared)) == {address, shared}
            wire.daemon.ask("close", door="service", address=str(source))


VRF = """
link add vrf0 type vrf table 10
link set vrf0 up
link set eth0 master vrf0
address add 198.51.100.2/24 dev eth0
address add 2001:db8:2::2/64 dev eth0 nodad
address add 198.51.100.9/32 dev vrf0
"""


def test_the_addresses_of_a_vrf_are_guarded_too(direct_lab: Lab, tmp_path: Path) -> None:
    server = direct_lab.server
    try:
        server.ip("address", "flush", "dev", "eth0", "scope", "global")
        server.ip(batch=VRF.strip().splitlines())
    except HostError as error:
        if "Unknown device type" not in str(error):
            raise
        pytest.skip("this kernel has no VRFs (CONFIG_NET_VRF)")
    addresses = ("198.51.100.2", "198.51.100.9", "2001:db8:2::2", "198.51.100.255", "224.0.0.1", "ff02::1")
    Signed(tmp_path / "configuration", Signer())
    with ExitStack() as stack:
        text = CONFIG.format(mode="guard", public="")
        wire = Wire(direct_lab, stack.enter_context(running_daemon(server, tmp_path, text)), stack)
        direct_lab.client.ip("route", "add", "198.51.100.9/32", "dev", "eth0")
        assert wire.answers(SHOWN, addresses) == {*addresses}
        assert wire.answers(HIDDEN, addresses) == set()
        for address in addresses[:3]:
            wire.knock(address)
            source = wire.daemon.event("opened", door="service")["address"]
            assert wire.answers(HIDDEN, (address,)) == {address}
            wire.daemon.ask("close", door="service", address=source)
        wire.close()
