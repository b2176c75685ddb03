"""Hidden ports at the shield: closed to all but those who have an opening, whatever opened it, and to stray packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support import shield_object
from tests.support.daemon import RunningDaemon, Visitor, Visitors, echoes, running_daemon, until
from tests.support.frames import FrameSender
from tests.support.shields import attached, counted, drops_at_shield, needs_conntrack
from tests.support.signed_site import SignedSite

pytestmark = pytest.mark.netns("nft", "knock")

DOORS = """
[gate]
mode = "stealth"
shield = "on"
public = ["80/tcp"]
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
[doors.single]
knock = ["7101/tcp", "7102/udp"]
opens = ["23/tcp"]
once = true
"""
CONFIG = f"{DOORS}\n[signed]\n"
KNOCK, ONCE = ("7001", "7002:udp", "7003"), ("7101", "7102:udp")
HIDDEN = [Port.parse("22/tcp"), Port.parse("23/tcp")]
STRANGERS = ip_address("10.7.0.1").packed, ip_address("2001:db8:7::1").packed
SYN = 0x02
STRAY = 0x10, 0x04, 0x14, 0x12, 0x01, 0x00  # ACK, RST, RST+ACK, SYN+ACK, FIN, none
STRAY_PORTS = [Port.parse(text) for text in ("22/tcp", "9/tcp", "7001/tcp")]


@pytest.fixture(params=["on", "xdp"])
def site(direct_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SignedSite]:
    shield_object.compiled()
    for port in (22, 23):
        direct_lab.server.start_greeter(port)
    site = SignedSite(direct_lab, tmp_path, CONFIG.replace('shield = "on"', f'shield = "{request.param}"'))
    with site.running():
        yield site


def is_closed_to_strangers(site: SignedSite) -> None:
    """Wait until the shield is attached; it drops what strangers send to hidden ports."""
    attached(site.daemon)
    packets = [Packet(source, port, SYN) for source in STRANGERS for port in HIDDEN]
    with closing(FrameSender(site.lab.client, site.lab.server)) as frames:
        drops_at_shield(site.daemon, frames.send, packets)


def opened_in_all_ways(site: SignedSite) -> list[Visitor]:
    """Open to visitors by the command, by port sequences and by a signed knock, each in time for the first SYN."""
    by_hand, *by_ports, by_key = [*site.visitors.crowd(4, 2), *site.visitors.crowd(6, 2)]
    site.daemon.run("open", "ssh", by_hand)
    by_hand.connect().close()
    for visitor in by_ports:
        visitor.knock_and_connect(*KNOCK).close()
    site.send(by_key, site.laptop.packet(site.files.server, "ssh"))
    site.daemon.event("opened", address=str(by_key), by="key laptop")
    by_key.connect().close()
    return [by_hand, *by_ports, by_key]


def test_openings_pass_the_shield(site: SignedSite) -> None:
    """After a restart, a flush of the ruleset and a reload with other doors, too; strangers never do."""
    is_closed_to_strangers(site)
    guests, once = opened_in_all_ways(site), site.visitors.fresh(4)
    with once.knock_and_connect(*ONCE, port=23) as single:
        assert echoes(single)
        assert not once.gets_in(23)

        def restart() -> None:
            site.daemon.end()
            site.daemon.start()

        def flush() -> None:
            site.daemon.host.run(["nft", "flush", "ruleset"])
            site.daemon.message("restored after")

        def change_doors() -> None:
            site.daemon.reload(site.text + '[doors.more]\nknock = ["7201/tcp", "7202/udp"]\nopens = ["24/tcp"]\n')

        for change in (None, restart, flush, change_doors):
            if change is not None:
                change()
            is_closed_to_strangers(site)
            for guest in guests:
                guest.connect().close()
            assert echoes(single)


def test_network_that_is_open_passes_the_shield(site: SignedSite) -> None:
    """As do packets of all others then, which the gate drops: a network has many slots."""
    is_closed_to_strangers(site)
    first, other = site.visitors.crowd(4, 2)
    site.files.authorize(f'addresses="10.1.0.0/16" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    site.send(first, site.laptop.packet(site.files.server, "ssh", asked=ip_network("10.1.0.0/24")))
    site.daemon.event("opened", address="10.1.0.0/24")
    other.connect().close()
    before = counted(site.daemon)["dropped"], site.daemon.counters()["dropped_closed"]
    with closing(FrameSender(site.lab.client, site.lab.server)) as frames:
        frames.send(Packet(STRANGERS[0], HIDDEN[0], SYN))
    until(lambda: site.daemon.counters()["dropped_closed"] == before[1] + 1)
    assert counted(site.daemon)["dropped"] == before[0]


def test_stray_packets_are_dropped_and_connections_go_on(direct_lab: Lab, tmp_path: Path) -> None:
    """Also connections that are older than the daemon, which conntrack does not know; in both directions."""
    needs_conntrack()
    shield_object.compiled()
    client, server, visitors = direct_lab.client, direct_lab.server, Visitors(direct_lab)
    server.start_greeter(22)
    client.start_greeter(4444)
    guests = [visitors.fresh(version) for version in (4, 6)]

    def connections() -> list[socket.socket]:
        abroad = [server.call(socket.create_connection, (str(to), 4444), 5) for to in (client.ipv4, client.ipv6)]
        return [*(guest.connect() for guest in guests), *abroad]

    with ExitStack() as stack:
        old = [stack.enter_context(each) for each in connections()]
        daemon: RunningDaemon = stack.enter_context(running_daemon(server, tmp_path, DOORS))
        attached(daemon)
        assert all(map(echoes, old))
        for guest in guests:
            guest.knock(*KNOCK)
        new = [stack.enter_context(each) for each in connections()]
        frames = stack.enter_context(closing(FrameSender(client, server)))
        packets = [Packet(source, port, flags) for source in STRANGERS for port in STRAY_PORTS for flags in STRAY]
        drops_at_shield(daemon, frames.send, packets)
        assert all(map(echoes, (*old, *new)))

        server.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
        daemon.reload(DOORS)  # which looks at the host at once
        drops_at_shield(daemon, frames.send, [Packet(STRANGERS[0], HIDDEN[0], SYN)])
        before, at_gate = counted(daemon)["dropped"], daemon.counters()
        for packet in packets:
            frames.send(packet)

        def seen_by_gate() -> int:
            return sum(daemon.counters().values()) - sum(at_gate.values())

        until(lambda: seen_by_gate() >= len(packets), lambda: (at_gate, daemon.counters()))
        assert counted(daemon)["dropped"] == before
        assert all(map(echoes, (*old, *new)))
