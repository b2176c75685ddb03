"""Openings that forward: a client, a router with doorward, the host behind it, and a stranger."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from doorward.config.toml import parse
from doorward.core.diff import SetChanges
from doorward.daemon.ruleset_loader import compile_configuration
from doorward.lab.topology import STRANGER_NET, Lab
from doorward.model import Packet, Port, elements_of
from doorward.nftables.libnftables import NftFirewall
from tests.support.daemon import PATIENCE_S, SILENCE_S, RunningDaemon, echoes, running_daemon, until
from tests.support.frames import FrameSender
from tests.support.routed import BEHIND, ROUTER, both_families, connect, gets_in, knock

pytestmark = pytest.mark.netns("nft")

DOORS = """
[gate]
mode = "{mode}"
interfaces = ["client", "stranger"]
[doors.inside]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["2222/tcp -> 198.51.100.2:22", "2222/tcp -> [2001:db8:2::2]:22", "2223/tcp -> 198.51.100.2:22"]
masquerade = {masquerade}
for = "{for_}"
"""
KNOCK = ("7001", "7002/udp", "7003")
SAYS_SOURCE = """
import socket
with socket.create_server(("::", 22), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        connection, address = server.accept()
        connection.sendall((address[0].removeprefix("::ffff:") + "\\n").encode())
        connection.close()
"""


def doors(mode: str = "guard", *, masquerade: bool = False, for_: str = "30s") -> str:
    return DOORS.format(mode=mode, masquerade=str(masquerade).lower(), for_=for_)


@contextmanager
def router(lab: Lab, folder: Path, text: str) -> Iterator[RunningDaemon]:
    lab.server.start_greeter(22)
    lab.router.start_greeter(2222)  # the router's own, which nobody must reach through the door
    with running_daemon(lab.router, folder, text) as daemon:
        yield daemon


@both_families
@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_opening_leads_to_the_host_behind(lab: Lab, tmp_path: Path, mode: str, version: int) -> None:
    with router(lab, tmp_path, doors(mode)) as daemon:
        assert not gets_in(lab.client, ROUTER[version], 2222)
        assert gets_in(lab.stranger, BEHIND[version])  # no door names that port, so it is not touched
        knock(lab.client, ROUTER[version], *KNOCK)
        daemon.event("opened", door="inside")
        with connect(lab.client, ROUTER[version], 2222, PATIENCE_S):
            assert len(source_ports(lab)) == 1
        assert not gets_in(lab.stranger, ROUTER[version], 2222)


@pytest.mark.parametrize("masquerade", [False, True], ids=["plain", "masquerade"])
@both_families
def test_source_that_the_host_behind_sees(lab: Lab, tmp_path: Path, version: int, masquerade: bool) -> None:
    speaker = lab.server.popen(["python3", "-c", SAYS_SOURCE], stdout=-1, text=True)
    assert speaker.stdout is not None
    assert speaker.stdout.readline() == "ready\n"
    with running_daemon(lab.router, tmp_path, doors(masquerade=masquerade)) as daemon:
        knock(lab.client, ROUTER[version], *KNOCK)
        daemon.event("opened", door="inside")
        own = lab.client.ipv4 if version == 4 else lab.client.ipv6
        for port, address in ((2222, ROUTER[version]), (22, BEHIND[version])):
            with connect(lab.client, address, port, PATIENCE_S) as connection:
                seen = connection.recv(100).decode().strip()
            is_hidden = masquerade and port == 2222  # a connection that the door did not forward keeps its source
            assert seen == (ROUTER[version] if is_hidden else str(own))
    speaker.terminate()
    speaker.communicate()


@both_families
def test_observe_forwards_to_open_sources_alone(lab: Lab, tmp_path: Path, version: int) -> None:
    """Never by the port alone: without an opening the router's own service answers, as without doorward."""
    with router(lab, tmp_path, doors("observe")) as daemon:
        assert gets_in(lab.stranger, ROUTER[version], 2222)
        assert source_ports(lab) == set()
        knock(lab.client, ROUTER[version], *KNOCK)
        daemon.event("opened", door="inside")
        with connect(lab.client, ROUTER[version], 2222, PATIENCE_S):
            assert len(source_ports(lab)) == 1


def source_ports(lab: Lab) -> set[str]:
    """Return the peers of established connections to the host behind."""
    lines = lab.server.run(["ss", "-Htn", "state", "established", "sport", "=", ":22"]).stdout.splitlines()
    return {line.split()[-1] for line in lines}


def test_unwatched_interface_and_loopback_reach_the_own_port(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, doors().replace('"client", ', "")) as daemon:
        daemon.run("open", "inside", lab.client.ipv4)
        with connect(lab.client, ROUTER[4], 2222, PATIENCE_S):
            assert source_ports(lab) == set()
        with connect(lab.router, "127.0.0.1", 2222, PATIENCE_S):
            assert source_ports(lab) == set()


def test_forwarded_packet_to_the_same_port_of_another_host(lab: Lab, tmp_path: Path) -> None:
    lab.server.start_greeter(2222)
    with router(lab, tmp_path, doors()) as daemon:
        daemon.run("open", "inside", lab.client.ipv4)
        with connect(lab.client, BEHIND[4], 2222, PATIENCE_S):
            assert source_ports(lab) == set()
        assert gets_in(lab.stranger, BEHIND[4], 2222)


def test_port_without_a_host_of_the_family_is_hidden(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, doors()) as daemon:
        lab.router.start_greeter(2223)
        knock(lab.client, ROUTER[6], *KNOCK)
        opened = daemon.event("opened", door="inside")
        assert opened["ports"] == ["2222/tcp"]
        assert not gets_in(lab.client, ROUTER[6], 2223)
        lab.router.run(
            ["nft", "add", "element", "inet", "doorward", "open6", f"{{ {lab.client.ipv6} . tcp . 2223 timeout 9s }}"]
        )
        assert not gets_in(lab.client, ROUTER[6], 2223)  # where the look-up fails, the packet is dropped


def test_established_connections_survive(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, doors(for_="1500ms")) as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        with connect(lab.client, ROUTER[4], 2222, PATIENCE_S) as connection:
            daemon.event("closed", door="inside", by="time")
            assert not gets_in(lab.client, ROUTER[4], 2222)
            assert echoes(connection)
            daemon.reload(doors("stealth"))
            assert echoes(connection)
            daemon.end()
            daemon.start()
            lab.router.run(["nft", "delete table inet doorward"])
            daemon.message("restored")
            assert echoes(connection)
            assert not gets_in(lab.stranger, ROUTER[4], 2222)


def test_reloads_forward_throughout(lab: Lab, tmp_path: Path) -> None:
    """A connection that begins during a commit is forwarded, and a closed port stays silent."""
    with router(lab, tmp_path, doors()) as daemon:
        frames = FrameSender(lab.stranger, STRANGER_NET.station(lab.router.namespace, "stranger", 1))
        knock(lab.client, ROUTER[4], *KNOCK)
        daemon.event("opened", door="inside")
        for _ in range(10):
            daemon.process.send_signal(1)
            for number in range(10):
                with connect(lab.client, ROUTER[4], 2222, PATIENCE_S):
                    pass
                frames.send(Packet(ip_address("203.0.113.2").packed, Port.parse("2222/tcp"), 2), 40000 + number)
            daemon.await_notice("READY=1")
        frames.close()
        until(lambda: daemon.counters()["dropped_closed"] >= 100)
        sockets = lab.router.run(["ss", "-Htn", "sport", "=", ":2222"]).stdout
        assert sockets == ""  # no packet reached the router's own service


@both_families
def test_earlier_translation_of_another_table_wins_and_is_reported(lab: Lab, tmp_path: Path, version: int) -> None:
    family = "ip" if version == 4 else "ip6"
    host = BEHIND[4] if version == 4 else f"[{BEHIND[6]}]"
    rules = f"""table inet first {{ chain prerouting {{
        type nat hook prerouting priority dstnat - 10;
        fib daddr type local tcp dport 2222 dnat {family} to {host}:23
    }}; }}"""
    with router(lab, tmp_path, doors()) as daemon:
        assert "redirect-overridden" not in codes(daemon)
        lab.router.run(["nft", "-f", "-"], stdin=rules)
        assert "redirect-overridden" in codes(daemon)


def codes(daemon: RunningDaemon) -> str:
    return daemon.run("doctor", "--json", "-c", daemon.config, check=False).stdout


def test_silence_is_the_same_as_that_of_a_closed_door(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, doors("stealth")), pytest.raises(TimeoutError):
        lab.stranger.call(socket.create_connection, (ROUTER[4], 2222), SILENCE_S)


NETWORKS = """
[doors.all]
opens = ["2222/tcp -> 198.51.100.2:22", "2222/tcp -> [2001:db8:2::2]:22", "{behind}:23/tcp", "50000-50009/tcp"]
[signed]
"""


@both_families
def test_openings_to_networks(lab: Lab, tmp_path: Path, version: int) -> None:
    """Signed knocks alone open for networks; here the elements are written as the daemon writes them."""
    for port in (22, 23):
        lab.server.start_greeter(port)
    lab.router.start_greeter(50005)
    behind = BEHIND[4] if version == 4 else f"[{BEHIND[6]}]"
    configuration = parse(NETWORKS.format(behind=behind), "f")
    nft = NftFirewall()
    lab.router.call(nft.load, compile_configuration(configuration, 1 << 30), {})
    places = ((ROUTER[version], 2222), (BEHIND[version], 23), (ROUTER[version], 50005))
    assert not any(gets_in(lab.client, *place) for place in places)
    (door,) = configuration.doors
    network = ip_network("192.0.2.0/24" if version == 4 else "2001:db8:1::/64")
    elements = dict.fromkeys(elements_of([door], network), 30.0)
    lab.router.call(nft.apply, SetChanges(elements, frozenset()))
    assert lab.router.call(nft.elements).keys() == elements.keys()
    assert all(gets_in(lab.client, *place) for place in places)
    assert not any(gets_in(lab.stranger, *place) for place in places)
    lab.router.call(nft.load, compile_configuration(configuration, 1 << 30), {})
    assert all(gets_in(lab.client, *place) for place in places)
    lab.router.call(nft.apply, SetChanges({}, frozenset(elements)))
    assert not any(gets_in(lab.client, *place) for place in places)


def test_shared_address_is_no_way_to_the_own_port(lab: Lab, tmp_path: Path) -> None:
    """An open client that sends to the broadcast address of its network does not reach the router's own service."""
    text = '[doors.dns]\nopens = ["2224/udp -> 198.51.100.2:53"]\n'
    with running_daemon(lab.router, tmp_path, text) as daemon, lab.router.call(udp_socket) as receiver:
        receiver.bind(("", 2224))
        receiver.settimeout(SILENCE_S)
        with lab.stranger.call(udp_socket) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for is_open in (False, True):
                if is_open:
                    daemon.run("open", "dns", lab.stranger.ipv4)
                for address in ("203.0.113.255", "203.0.113.1"):
                    sender.sendto(b"?", (address, 2224))
                    with pytest.raises(TimeoutError):
                        receiver.recv(9)


def udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
