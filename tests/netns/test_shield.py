"""The shield with real packets: it drops what the gate drops, opens nothing, and can go at any time."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Door, Packet, Port
from doorward.shield import tables
from doorward.shield.attachment import Attachment, attach, has_tcx
from doorward.shield.libbpf import Place, ShieldProgram
from tests.support import routed, shield_object, shields
from tests.support.daemon import SILENCE_S, RunningDaemon, Visitors, running_daemon, until
from tests.support.frames import FrameSender
from tests.support.shields import FINAL, attached, attachments, loader_of, shield, token_of

pytestmark = pytest.mark.netns("nft", "knock")

CONFIG = """
[gate]
mode = "stealth"
shield = "on"
public = ["80/tcp"]
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
[doors.quick]
knock = ["7001/tcp", "7004/udp"]
opens = ["22/tcp"]
within = "3s"
"""
ROUTER_CONFIG = """
[gate]
mode = "stealth"
shield = "on"
interfaces = ["client", "stranger"]
[doors.inside]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["198.51.100.2:22/tcp", "2222/tcp -> 198.51.100.2:22", "3000-3001/tcp"]
[doors.once]
knock = ["7101/tcp", "7102/udp"]
opens = ["22/tcp"]
once = true
"""
KNOCK = ("7001", "7002:udp", "7003")
KNOCK_PORTS = [Port.parse(text) for text in ("7001/tcp", "7002/udp", "7003/tcp")]
SO_PRIORITY = 12


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    direct_lab.server.start_greeter(80)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


@pytest.fixture
def visitors(direct_lab: Lab) -> Visitors:
    return Visitors(direct_lab)


def listed(daemon: RunningDaemon) -> str:
    return daemon.host.run(["nft", "list", "set", "inet", "doorward", "shielded"]).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_knock_succeeds_through_the_shield(daemon: RunningDaemon, visitors: Visitors, version: int) -> None:
    assert attached(daemon) == [daemon.host.interface]
    guest, stranger = visitors.fresh(version), visitors.fresh(version)
    assert not guest.gets_in()
    guest.knock_and_connect(*KNOCK).close()
    daemon.event("opened", address=str(guest), by="knock", door="ssh")
    other = visitors.fresh(version)
    other.knock_and_connect("7001", "7004:udp").close()
    daemon.event("opened", address=str(other), by="knock", door="quick")
    assert not stranger.gets_in()
    assert stranger.gets_in(80)
    assert daemon.host.interface in listed(daemon)


def test_gate_sees_no_packet_of_a_scan(daemon: RunningDaemon, visitors: Visitors, direct_lab: Lab) -> None:
    attached(daemon)
    source = visitors.fresh(4).source
    before = daemon.counters()
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as frames:
        for number in range(2000, 2030):
            frames.send(Packet(source.packed, Port.parse(f"{number}/tcp"), 2))
    assert not visitors.fresh(4).gets_in(2000)
    assert daemon.counters() == before


def test_shield_at_xdp(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    """It drops and counts each packet of a scan there, and leaves large frames to the interface."""
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    config, hosts = CONFIG.replace('"on"', '"xdp"'), (direct_lab.client, direct_lab.server)
    with running_daemon(direct_lab.server, tmp_path, config) as daemon:
        assert attached(daemon) == shield(daemon)["at_xdp"]
        before, source = daemon.counters(), visitors.fresh(4).source
        with closing(FrameSender(*hosts)) as frames:
            for number in range(2000, 2030):
                frames.send(Packet(source.packed, Port.parse(f"{number}/tcp"), 2))
        try:
            for host in hosts:
                host.ip("link", "set", host.interface, "mtu", "9000")
            visitors.fresh(4).knock_and_connect(*KNOCK).close()
        finally:
            for host in hosts:
                host.ip("link", "set", host.interface, "mtu", "1500")
        counters = daemon.counters()
        assert [name for name in before if counters[name] != before[name]] == ["knocked", "dropped_stealth"]
        daemon.reload(config + "\n")
        until(lambda: shield(daemon)["counters"]["dropped"] == 32, lambda: shield(daemon))


def test_wrong_packet_between_resets(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    guest = visitors.fresh(4)
    guest.knock("7001", "7002:udp", "9", "7003")
    assert not guest.gets_in()


def test_priority_of_a_local_program_opens_nothing(daemon: RunningDaemon, direct_lab: Lab) -> None:
    """Not even with the token; `test_token_of_others_is_cleared` has the other interfaces."""
    attached(daemon)
    with closing(daemon.host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)) as local:
        local.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, struct.pack("=I", token_of(daemon) | FINAL))
        local.sendto(b"", (str(direct_lab.server.ipv4), 7003))
    time.sleep(SILENCE_S)
    assert daemon.elements() == {}
    assert daemon.counters()["knocked"] == 0


def test_banned_source_opens_nothing(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    guest = visitors.fresh(4)
    daemon.run("ban", guest.source)
    guest.knock(*KNOCK)
    assert not guest.gets_in()
    assert guest.element() not in daemon.elements()
    guest.knock(*KNOCK[:2])
    daemon.run("unban", guest.source)
    guest.knock(KNOCK[2])  # of a knock that began under the ban
    assert not guest.gets_in()
    guest.knock(*KNOCK)
    assert guest.gets_in()


@pytest.mark.parametrize("zone", [0, 5])
def test_answers_to_the_host_pass(daemon: RunningDaemon, direct_lab: Lab, zone: int) -> None:
    """Also those to a port that it did not use before the shield was attached, and in a zone that it does not ask."""
    attached(daemon)
    hooks = "".join(
        f"chain {hook} {{ type filter hook {hook} priority raw; ct zone set {zone}; }}; "
        for hook in ("prerouting", "output")
    )
    daemon.host.run(["nft", f"add table inet zones {{ {hooks} }}"])
    with (
        closing(direct_lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)) as there,
        closing(daemon.host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)) as here,
    ):
        there.bind((str(direct_lab.client.ipv4), 5353))
        here.settimeout(5)
        here.sendto(b"question", (str(direct_lab.client.ipv4), 5353))
        _, source = there.recvfrom(100)
        there.sendto(b"answer", source)
        assert here.recv(100) == b"answer"


@pytest.mark.parametrize("version", [4, 6])
def test_answers_do_not_count_as_knock_packets(daemon: RunningDaemon, direct_lab: Lab, version: int) -> None:
    """A packet to the same port that is not an answer resets a knock, and does not reach the gate."""
    shields.needs_conntrack()
    attached(daemon)
    client, server = direct_lab.client, direct_lab.server
    guest, host = (client.ipv4, server.ipv4) if version == 4 else (client.ipv6, server.ipv6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    port = Port.parse("9999/udp")
    with (
        closing(FrameSender(client, server)) as frames,
        closing(server.call(socket.socket, family, socket.SOCK_DGRAM)) as here,
    ):
        here.bind((str(host), port.number))
        here.sendto(b"question", (str(guest), 40000))
        before = daemon.counters()
        for source_port in (40001, 40000):  # the second is where the question went
            for knock in (*KNOCK_PORTS[:2], port, KNOCK_PORTS[2]):
                frames.send(Packet(guest.packed, knock, 2), source_port if knock == port else 40000)
        daemon.event("opened", address=str(guest), by="knock")
        counters = daemon.counters()  # the packet that completes is all that the gate sees, and drops
        assert [name for name in before if counters[name] != before[name]] == ["knocked", "dropped_stealth"]
        assert counters["dropped_stealth"] == before["dropped_stealth"] + 1


def test_reload_keeps_a_knock_in_progress(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    guest = visitors.fresh(4)
    guest.knock(*KNOCK[:2])
    daemon.reload(CONFIG.replace('"80/tcp"', '"80/tcp", "81/tcp"'))
    guest.knock(KNOCK[2])
    assert guest.gets_in()


def test_reload_leaves_drops_to_the_gate_meanwhile(daemon: RunningDaemon, visitors: Visitors, direct_lab: Lab) -> None:
    """The program that is attached until after it has the token and the ports of the doors before."""
    attached(daemon)
    source, before = visitors.fresh(4).source, daemon.counters()["dropped_stealth"]
    daemon.config.write_text(CONFIG.replace("7003", "7005"))
    daemon.process.send_signal(signal.SIGHUP)
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as frames:

        def reaches_the_gate() -> bool:
            frames.send(Packet(source.packed, Port.parse("9/tcp"), 2))
            return daemon.counters()["dropped_stealth"] > before

        until(reaches_the_gate)
    daemon.message("reloaded: ")

    def opens() -> bool:
        guest = visitors.fresh(4)
        guest.knock("7001", "7002:udp", "7005")
        return guest.gets_in()

    until(opens)  # a knock in progress when the new program is attached is lost


def test_reload_turns_it_off_and_on(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    daemon.reload(CONFIG.replace('shield = "on"', 'shield = "off"'))
    until(lambda: attachments(daemon) == 0)
    assert daemon.ask("status")["shield"] is None
    visitors.fresh(4).knock_and_connect(*KNOCK).close()
    daemon.reload(CONFIG)
    assert attached(daemon) == [daemon.host.interface]
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_killed_daemon_takes_the_shield_away(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    daemon.end(signal.SIGKILL)
    until(lambda: attachments(daemon) == 0)
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_killed_loader_leaves_the_gate(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    os.kill(loader_of(daemon), signal.SIGKILL)
    daemon.message("its process ended")
    visitors.fresh(4).knock_and_connect(*KNOCK).close()
    assert "its process ended" in daemon.run("status").stdout


@pytest.mark.netns("bpftool")
def test_detached_link_comes_back(daemon: RunningDaemon, visitors: Visitors) -> None:
    """What `test_other_filters_stay` has for filters."""
    attached(daemon)
    if not has_tcx():
        pytest.skip("this kernel has no tcx")
    infos = [path.read_text() for path in Path(f"/proc/{loader_of(daemon)}/fdinfo").iterdir()]
    links = [line.split()[1] for info in infos for line in info.splitlines() if line.startswith("link_id:")]
    for link in links:
        daemon.host.run(["bpftool", "link", "detach", "id", link])
    assert attachments(daemon) == 0
    visitors.fresh(4).knock_and_connect(*KNOCK).close()
    daemon.reload(CONFIG + "\n")
    until(lambda: attachments(daemon) == 2, lambda: (attachments(daemon), shield(daemon)))
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_restored_table_lists_the_interfaces_again(daemon: RunningDaemon, visitors: Visitors) -> None:
    [interface] = attached(daemon)
    daemon.host.run(["nft", "flush", "ruleset"])
    daemon.message("restored after")
    until(lambda: interface in listed(daemon))
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_off_takes_the_shield_away(daemon: RunningDaemon) -> None:
    attached(daemon)
    daemon.run("off")
    assert attachments(daemon) == 0


def test_interfaces_that_come_and_go_are_shielded(daemon: RunningDaemon) -> None:
    attached(daemon)
    daemon.host.ip("link", "add", "new0", "type", "veth", "peer", "name", "new1")
    daemon.host.ip("link", "add", "br0", "type", "bridge")
    daemon.host.ip("link", "set", "new1", "master", "br0")
    wanted = sorted(["br0", daemon.host.interface, "new0"])  # not a port of the bridge: it would count packets twice
    until(lambda: shield(daemon)["interfaces"] == wanted, lambda: shield(daemon))
    until(lambda: "new0" in listed(daemon))
    daemon.host.ip("link", "delete", "new0")
    until(lambda: "new0" not in listed(daemon))
    daemon.host.ip("link", "add", "new0", "type", "veth", "peer", "name", "new1")
    until(lambda: "new0" in listed(daemon), lambda: shield(daemon))
    assert shield(daemon)["trouble"] == ""


def test_tagged_packets_count_at_the_interface_of_their_vlan(daemon: RunningDaemon, direct_lab: Lab) -> None:
    """And once: at the interface below they pass."""
    attached(daemon)
    for host, address in ((direct_lab.client, "203.0.113.1/24"), (direct_lab.server, "203.0.113.2/24")):
        words = f"ip link add link {host.interface} name tagged type vlan id 5".split()
        if host.run(words, check=False).returncode:
            pytest.skip("this kernel has no VLANs")
        host.ip("address", "add", address, "dev", "tagged")
        host.ip("link", "set", "tagged", "up")
    until(lambda: "tagged" in listed(daemon))
    assert shield(daemon)["interfaces"] == sorted([daemon.host.interface, "tagged"])
    assert not routed.gets_in(direct_lab.client, "203.0.113.2")
    routed.knock(direct_lab.client, "203.0.113.2", "7001/tcp", "7002/udp", "7003/tcp")
    daemon.event("opened", address="203.0.113.1", by="knock")
    assert routed.gets_in(direct_lab.client, "203.0.113.2")


def test_tags_that_give_a_priority_only_are_no_vlan(daemon: RunningDaemon, direct_lab: Lab, visitors: Visitors) -> None:
    """Their VLAN id is 0; a knock whose packets have different priorities may have some with a tag and some without."""
    attached(daemon)
    guest = visitors.fresh(4)
    with closing(FrameSender(direct_lab.client, direct_lab.server)) as sender:
        for port, tag in zip(KNOCK_PORTS, (b"\x81\x00\x60\x00", b"", b"\x81\x00\xe0\x00"), strict=True):
            sender.send(Packet(guest.source.packed, port, 2), tag=tag)
    daemon.event("opened", address=str(guest.source), by="knock")


def test_gate_that_it_does_not_fit_works_without(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    daemon.reload(CONFIG.replace('mode = "stealth"', 'mode = "observe"'))
    until(lambda: attachments(daemon) == 0)
    assert "drops nothing" in shield(daemon)["trouble"]
    assert "drops nothing" in daemon.run("status").stdout
    daemon.reload(CONFIG.replace('mode = "stealth"', 'mode = "guard"'))
    attached(daemon)
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_trial_that_is_taken_back_brings_it_back(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    new = daemon.folder / "new.toml"
    new.write_text(CONFIG.replace("stealth", "observe"))
    daemon.run("apply", new, "--trial", "1s")
    until(lambda: attachments(daemon) == 0)
    daemon.message("the previous gate is being restored")
    until(lambda: attachments(daemon) == 2)
    until(lambda: daemon.host.interface in listed(daemon))
    visitors.fresh(4).knock_and_connect(*KNOCK).close()


def test_what_it_cannot_see_ends_it(daemon: RunningDaemon, visitors: Visitors) -> None:
    attached(daemon)
    policy = "src 192.0.2.0/24 dst 198.51.100.2 dir in"
    is_any = False
    for command, undo, reason in (
        ("ip link add vrf0 type vrf table 10", "ip link delete vrf0", "VRF"),
        (f"ip xfrm policy add {policy} tmpl proto esp mode tunnel", f"ip xfrm policy delete {policy}", "IPsec"),
        ('nft add table ip t { ct helper h { type "ftp" protocol tcp; }; }', "nft delete table ip t", "helpers"),
        (
            "nft add table ip t { ct timeout u { protocol udp; policy = { replied : 900 }; }; }",
            "nft delete table ip t",
            "timeouts",
        ),
    ):
        if daemon.host.run(command.split(), check=False).returncode:
            continue  # this kernel has no such thing
        is_any = True
        daemon.reload(CONFIG + "\n")
        until(lambda reason=reason: reason in shield(daemon)["trouble"], lambda: shield(daemon))  # type: ignore[misc]
        assert attachments(daemon) == 0
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
        daemon.host.run(undo.split())
        daemon.reload(CONFIG)
        attached(daemon)
    if not is_any:
        pytest.skip("this kernel has none of them")


def test_without_rights_the_gate_works(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    """As in a unit without CAP_BPF: the loader has what the daemon has."""
    shield_object.compiled()
    direct_lab.server.start_greeter(22)
    running = RunningDaemon(direct_lab.server, tmp_path, CONFIG)
    running.wrapper = ("setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin")
    try:
        running.start()
        until(lambda: shield(running)["trouble"])
        visitors.fresh(4).knock_and_connect(*KNOCK).close()
    finally:
        running.close()


def test_deadline_lets_everything_pass(direct_lab: Lab) -> None:
    """As behind a daemon that hangs; the gate, which is not loaded here, would still judge each packet."""
    shield_object.compiled()
    doors = [Door("ssh", tuple(KNOCK_PORTS), (Port.parse("22/tcp"),))]
    made = tables.compile_tables(Gate(mode=Mode.STEALTH), compile_doors(doors), doors, [], b"key")
    server = direct_lab.server

    def load() -> tuple[ShieldProgram, Attachment]:
        program = ShieldProgram(made, 1 << 10)
        program.set_local(server.ipv4.packed, is_local=True)
        index = socket.if_nametoindex(server.interface)
        return program, attach(program.program(Place.INGRESS), index, Place.INGRESS)

    program, attachment = server.call(load)
    try:
        program.renew(time.monotonic_ns() + 10**12)
        assert answer(direct_lab.client, str(server.ipv4)) == "silent"
        program.renew(time.monotonic_ns() - 10**9)  # its clock is coarse
        assert answer(direct_lab.client, str(server.ipv4)) == "refused"
    finally:
        server.call(attachment.close)
        program.close()


def test_router_opens_what_is_behind_it(lab: Lab, tmp_path: Path) -> None:
    """Also a range, and a door for one connection."""
    shield_object.compiled()
    lab.server.start_greeter(22)
    for port in (22, 3001):
        lab.router.start_greeter(port)
    with running_daemon(lab.router, tmp_path, ROUTER_CONFIG) as daemon:
        assert attached(daemon) == ["client", "stranger"]
        opened = [(routed.BEHIND[4], 22), (routed.ROUTER[4], 2222), (routed.ROUTER[4], 3001)]
        routed.knock(lab.client, routed.ROUTER[4], "7001", "7002/udp", "7003")
        daemon.event("opened", door="inside")
        assert all(routed.gets_in(lab.client, *to) for to in opened)
        assert not any(routed.gets_in(lab.stranger, *to) for to in opened[:2])
        routed.knock(lab.client, routed.ROUTER[4], "7101", "7102/udp")
        assert [routed.gets_in(lab.client, routed.ROUTER[4]) for _ in range(2)] == [True, False]


def answer(client: NamespaceHost, address: str) -> str:
    """Say what a connection to a port without a listener meets."""
    try:
        client.call(socket.create_connection, (address, 9), SILENCE_S).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
    return "open"
