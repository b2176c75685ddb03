"""Doors to a host behind this one: a client, a router with doorward, the host behind it, and a stranger."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import STRANGER_NET, Lab
from doorward.model import Address, Element, Packet, Port, parse_open_port, set_port
from tests.support.daemon import (
    PATIENCE_S,
    SLOWNESS,
    RunningDaemon,
    echoes,
    running_daemon,
    until,
)
from tests.support.frames import FrameSender
from tests.support.routed import BEHIND, ROUTER, both_families, connect, gets_in, knock

pytestmark = pytest.mark.netns("nft")

DOORS = """
[gate]
mode = "{mode}"
interfaces = ["client", "stranger"]
public = ["2222/tcp"]
[doors.here]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["198.51.100.2:22/tcp", "[2001:db8:2::2]:22/tcp"]
for = "{for_}"
[doors.there4]
knock = ["7101/tcp", "7102/udp"]
target = "198.51.100.2"
opens = ["198.51.100.2:25/tcp"]
[doors.there6]
knock = ["7101/tcp", "7102/udp"]
target = "2001:db8:2::2"
opens = ["[2001:db8:2::2]:25/tcp"]
[doors.only4]
knock = ["7201/tcp", "7202/udp"]
opens = ["198.51.100.2:26/tcp"]
"""
KNOCK = ("7001", "7002/udp", "7003")
PORTS = (22, 23, 25, 26)  # of which no door names 23

# What sends on ports of the router: a table of the operator's, for both families.
FORWARDING = f"""table inet forwarding {{ chain prerouting {{
    type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 2222 dnat ip to {BEHIND[4]}:22
    fib daddr type local tcp dport 2222 dnat ip6 to [{BEHIND[6]}]:22
}}; }}"""


def has_ssh(lab: Lab) -> bool:
    return ":22 " in lab.server.run(["ss", "-Hltn"]).stdout


@contextmanager
def router(lab: Lab, folder: Path, mode: str = "guard", for_: str = "30s") -> Iterator[RunningDaemon]:
    for port in PORTS:
        if not (port == 22 and has_ssh(lab)):
            lab.server.start_greeter(port)
    with running_daemon(lab.router, folder, DOORS.format(mode=mode, for_=for_)) as daemon:
        yield daemon


def source(host: NamespaceHost, version: int) -> Address:
    return host.ipv4 if version == 4 else host.ipv6


def echoes_at_once(connection: socket.socket) -> None:
    connection.settimeout(2 * SLOWNESS)
    connection.sendall(b"are you there\n")
    while connection.recv(100):
        pass


@both_families
@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_knock_at_this_host_opens_a_routed_host(lab: Lab, tmp_path: Path, mode: str, version: int) -> None:
    with router(lab, tmp_path, mode) as daemon:
        there = BEHIND[version]
        assert not gets_in(lab.client, there)
        assert gets_in(lab.client, there, 23)  # what no door names passes, in every mode
        knock(lab.client, ROUTER[version], *KNOCK)
        port = f"[{there}]:22/tcp" if version == 6 else f"{there}:22/tcp"
        daemon.event("opened", door="here", address=str(source(lab.client, version)), ports=[port])
        assert gets_in(lab.client, there)
        assert not gets_in(lab.client, there, 25)
        assert not gets_in(lab.stranger, there)
        assert daemon.openings()[0]["ports"] == [port]
        assert port in daemon.run("status").stdout
        assert Element(source(lab.client, version), set_port(parse_open_port(port))) in daemon.elements()


@both_families
def test_knock_at_the_host_behind_opens_it(lab: Lab, tmp_path: Path, version: int) -> None:
    with router(lab, tmp_path, "stealth") as daemon:
        there = BEHIND[version]
        assert not gets_in(lab.client, there, 25)
        knock(lab.client, ROUTER[version], "7101", "7102/udp")  # the target's sequence, sent to the router
        assert not gets_in(lab.client, there, 25)
        knock(lab.client, there, "7101", "7102/udp")
        daemon.event("opened", door=f"there{version}")
        assert gets_in(lab.client, there, 25)
        assert not gets_in(lab.stranger, there, 25)


@both_families
@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_port_that_another_table_forwards(lab: Lab, tmp_path: Path, mode: str, version: int) -> None:
    lab.router.run(["nft", "-f", "-"], stdin=FORWARDING)
    with router(lab, tmp_path, mode) as daemon:
        assert not gets_in(lab.client, ROUTER[version], 2222)
        assert not gets_in(lab.client, BEHIND[version])
        knock(lab.client, ROUTER[version], *KNOCK)
        daemon.event("opened", door="here")
        assert gets_in(lab.client, ROUTER[version], 2222)
        assert gets_in(lab.client, BEHIND[version])
        assert not gets_in(lab.stranger, ROUTER[version], 2222)


@pytest.mark.netns("iptables-nft")
def test_container_is_hidden_at_its_own_address(lab: Lab, tmp_path: Path) -> None:
    """Docker's rules as recorded, with the lab's server as the container."""
    rules = (Path(__file__).parent.parent / "recorded/docker.rules").read_text()
    rules = rules.replace("-A DOCKER-USER -i eth0 -j DROP\n", "")
    renamed = {"172.17.0.0/16": "198.51.100.0/24", "172.17.0.2": BEHIND[4], "docker0": "server", "8080": "2222"}
    for old, new in renamed.items():
        rules = rules.replace(old, new)
    rules = rules.replace("--dport 80 ", "--dport 22 ").replace(f"{BEHIND[4]}:80", f"{BEHIND[4]}:22")
    lab.router.run(["iptables-nft-restore"], stdin=rules)
    with router(lab, tmp_path):
        for address, port in ((ROUTER[4], 2222), (BEHIND[4], 22)):
            assert not gets_in(lab.client, address, port)
        knock(lab.client, ROUTER[4], *KNOCK)
        assert gets_in(lab.client, ROUTER[4], 2222)
        assert not gets_in(lab.stranger, ROUTER[4], 2222)


OTHER_FIREWALL = """table inet filter { chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
}; }"""
LED_TO = """
[gate]
mode = "stealth"
interfaces = ["client", "stranger"]
{mark}
[doors.inside]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = [
    "198.51.100.2:22/tcp", "2200/tcp -> 198.51.100.2:23",
    "[2001:db8:2::2]:22/tcp", "2200/tcp -> [2001:db8:2::2]:23",
]
"""


def test_doctor_finds_what_drops_forwarded_packets(lab: Lab, tmp_path: Path) -> None:
    """Without its remedy the doors lead nowhere; with it they open, for those who knocked."""
    lab.router.run(["nft", "-f", "-"], stdin=OTHER_FIREWALL)
    for port in (22, 23):
        lab.server.start_greeter(port)
    places = [(where[version], port) for version in (4, 6) for where, port in ((BEHIND, 22), (ROUTER, 2200))]
    with running_daemon(lab.router, tmp_path, LED_TO.format(mark="")) as daemon:

        def in_the_way() -> list[dict[str, Any]]:
            found = json.loads(daemon.run("doctor", "--json", "-c", daemon.config, check=False).stdout)["findings"]
            return [each for each in found if each["code"].startswith("firewall-b")]

        for version in (4, 6):
            knock(lab.client, ROUTER[version], *KNOCK)
            daemon.event("opened", door="inside", address=str(source(lab.client, version)))
        assert not any(gets_in(lab.client, *place) for place in places)
        (found,) = in_the_way()
        assert found["where"] == "inet filter, chain forward: its policy drops"
        assert all(port in found["what"] for port in ("198.51.100.2:22/tcp", "[2001:db8:2::2]:22/tcp", "2200/tcp"))
        daemon.reload(LED_TO.format(mark='accept_mark = "0x1000/0x1000"'))
        for command in found["commands"]:
            lab.router.run(["sh", "-c", command])
        assert in_the_way() == []
        assert all(gets_in(lab.client, *place) for place in places)
        assert not any(gets_in(lab.stranger, *place) for place in places)


def test_established_connections_survive_what_ends_an_opening(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, for_="1500ms") as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        connections = [connect(lab.client, BEHIND[4], 22, PATIENCE_S)]
        daemon.event("closed", door="here", by="time")
        assert not gets_in(lab.client, BEHIND[4])
        assert echoes(connections[0])
        daemon.reload(DOORS.format(mode="stealth", for_="30s"))
        assert echoes(connections[0])
        daemon.run("open", "here", lab.client.ipv4)
        connections.append(connect(lab.client, BEHIND[4], 22, PATIENCE_S))
        daemon.run("close", "here", lab.client.ipv4)
        assert not gets_in(lab.client, BEHIND[4])
        assert all(echoes(connection) for connection in connections)
        daemon.run("open", "here", lab.client.ipv4)
        assert daemon.ask("close", door="here", address=str(lab.client.ipv4), cut=True)["cut"] == 2
        for connection in connections:
            with pytest.raises(TimeoutError):
                echoes_at_once(connection)
            connection.close()


@both_families
def test_connections_older_than_conntrack_continue(lab: Lab, tmp_path: Path, version: int) -> None:
    """The router had no rules at all, so the kernel does not know them; the client sends first."""
    lab.server.start_greeter(22)
    with connect(lab.client, BEHIND[version], 22, PATIENCE_S) as connection, router(lab, tmp_path):
        assert not gets_in(lab.client, BEHIND[version])
        assert echoes(connection)
        assert not gets_in(lab.client, BEHIND[version])


def test_packets_without_syn_are_hidden_where_conntrack_was_active(lab: Lab, tmp_path: Path) -> None:
    tracking = "table inet old {\n chain c {\n type filter hook forward priority 0\n ct state new counter\n }\n}\n"
    lab.router.run(["nft", "-f", "-"], stdin=tracking)
    lab.server.start_greeter(22)
    assert gets_in(lab.client, BEHIND[4])
    with router(lab, tmp_path) as daemon:
        listed = lab.router.run(["nft", "list", "set", "inet", "doorward", "picked_up"]).stdout
        assert "elements" not in listed
        before = daemon.counters()["dropped_closed"]
        frames = FrameSender(lab.stranger, STRANGER_NET.station(lab.router.namespace, "stranger", 1))
        ack = Packet(lab.stranger.ipv4.packed, Port.parse("22/tcp"), 16, ip_address(BEHIND[4]).packed)
        frames.send(ack)
        until(lambda: daemon.counters()["dropped_closed"] == before + 1)
        frames.close()


def test_openings_survive_a_restart_and_a_repair(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path) as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        daemon.event("opened", door="here")
        daemon.end()
        assert gets_in(lab.client, BEHIND[4])
        daemon.start()
        assert daemon.openings()[0]["ports"] == [f"{BEHIND[4]}:22/tcp"]
        lab.router.run(["nft", "delete table inet doorward"])
        daemon.message("restored")
        assert gets_in(lab.client, BEHIND[4])
        assert not gets_in(lab.stranger, BEHIND[4])
        daemon.end()
        lab.router.run(["nft", "delete table inet doorward"])  # as a boot: the ledger alone has the opening
        daemon.start()
        assert gets_in(lab.client, BEHIND[4])
        assert not gets_in(lab.stranger, BEHIND[4])


def test_doors_can_be_removed_while_they_are_open(lab: Lab, tmp_path: Path) -> None:
    without = '[doors.own]\nknock = ["7301/tcp", "7302/tcp"]\nopens = ["22/tcp"]\n'
    with router(lab, tmp_path) as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        daemon.event("opened", door="here")
        daemon.reload(without)
        assert gets_in(lab.stranger, BEHIND[4])  # no door names it any more
        daemon.run("close", "here", lab.client.ipv4)
        daemon.event("closed", door="here", by="hand")
        daemon.reload(DOORS.format(mode="guard", for_="30s"))
        assert not gets_in(lab.client, BEHIND[4])
        knock(lab.client, ROUTER[4], *KNOCK)
        assert gets_in(lab.client, BEHIND[4])
        daemon.reload(without)
        daemon.end()
        lab.router.run(["nft", "delete table inet doorward"])
        daemon.start()
        daemon.reload(DOORS.format(mode="guard", for_="30s"))
        assert not gets_in(lab.stranger, BEHIND[4])


def test_door_to_hosts_of_the_other_family_is_rejected(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path) as daemon:
        knock(lab.client, ROUTER[6], "7201", "7202/udp")
        daemon.event("refused", door="only4", address=str(lab.client.ipv6))
        assert daemon.openings() == []
        assert "IPv4" in daemon.run("open", "only4", lab.client.ipv6, check=False).stderr
        knock(lab.client, ROUTER[4], "7201", "7202/udp")
        assert gets_in(lab.client, BEHIND[4], 26)


def test_mode_observe_drops_nothing(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path, "observe") as daemon:
        assert gets_in(lab.stranger, BEHIND[4])
        knock(lab.client, ROUTER[4], *KNOCK)
        daemon.event("opened", door="here")
        assert gets_in(lab.client, BEHIND[4])


def test_banned_source_stays_out(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path) as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        assert gets_in(lab.client, BEHIND[4])
        daemon.run("ban", lab.client.ipv4)
        assert not gets_in(lab.client, BEHIND[4])
        assert gets_in(lab.client, BEHIND[4], 23)


def test_interfaces_that_are_not_watched(lab: Lab, tmp_path: Path) -> None:
    with router(lab, tmp_path) as daemon:
        daemon.reload(DOORS.format(mode="guard", for_="30s").replace('"client", ', ""))
        assert gets_in(lab.client, BEHIND[4])
        assert not gets_in(lab.stranger, BEHIND[4])


@pytest.mark.parametrize("change", [lambda text: text, lambda text: text.replace("26/tcp", "27/tcp")], ids=["", "door"])
def test_reloads_hide_the_host_throughout(lab: Lab, tmp_path: Path, change: Callable[[str], str]) -> None:
    """Neither an opening nor a hidden port changes while the ruleset is replaced."""
    texts = [DOORS.format(mode="guard", for_="30s"), change(DOORS.format(mode="guard", for_="30s"))]
    with router(lab, tmp_path) as daemon:
        knock(lab.client, ROUTER[4], *KNOCK)
        daemon.event("opened", door="here")
        prober = lab.stranger.popen(["python3", "-c", PROBE, BEHIND[4], "22"], stdout=-1, text=True)
        for number in range(10):
            daemon.reload(texts[number % 2])
            assert gets_in(lab.client, BEHIND[4])
        prober.terminate()
        out, _ = prober.communicate(timeout=PATIENCE_S)
        assert out.count(".") > 100
        assert "open" not in out
    until(lambda: prober.poll() is not None)


# SYNs without waiting for an answer: a connection in progress that turns out to be established is a hole.
PROBE = """
import select, socket, sys, time
while True:
    tries = []
    for _ in range(20):
        s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], int(sys.argv[2]))); tries.append(s)
        sys.stdout.write(".")
    time.sleep(0.01)
    if any(not s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for s in select.select([], tries, [], 0)[1]):
        sys.stdout.write("open")
    sys.stdout.flush()
    [s.close() for s in tries]
"""
