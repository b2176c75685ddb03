"""The sealed confirmation: its sender gets it once, and nobody else gets a byte; tcpdump sees all that is sent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.daemon.confirmation_outcomes import CONFIRMATIONS_AT_ONCE, CONFIRMATIONS_PER_S
from doorward.kernel.sock_diag import listening_ports
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.model import Address, Port
from doorward.signed.envelope import RANDOM_BYTES, plaintext_capacity, seal
from doorward.signed.message import CONFIRM, pack_body, pack_plaintext
from doorward.signed.reply import REPLY_BYTES, Confirmation, ReplySecret, open_reply, reply_secret
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, LATE_S, PATIENCE_S, RunningDaemon, Visitor, until
from tests.support.service_user import AS_THE_UNIT, GROUP, for_the_user, open_folder, service_user, status_of, wrapped
from tests.support.signed import PORT, Signer, sealed
from tests.support.signed_site import SENT_BY_GATE, SignedSite
from tests.support.tcpdump import tcpdump

pytestmark = pytest.mark.netns("nft", "tcpdump")

PORTS = ("62201/udp", "443/udp", "53/udp")
CONFIG = """
[gate]
mode = "{mode}"
[signed]
confirm = {confirm}
port = {ports}
[doors.ssh]
opens = ["22/tcp"]
for = "10m"
[doors.note]
on_open = ["/bin/true"]
"""


def config(*, mode: str = "stealth", confirm: str = "true", ports: tuple[str, ...] = PORTS) -> str:
    return CONFIG.format(mode=mode, confirm=confirm, ports=list(ports))


class Site(SignedSite):
    """A gate that confirms."""

    def packet(self, door: str = "ssh", **fields: object) -> tuple[bytes, ReplySecret]:
        """Make a packet that asks for a confirmation; return the secret of that too."""
        body = pack_body(self.laptop.request(door, flags=CONFIRM, **fields))  # type: ignore[arg-type]
        return self.sealed(body)

    def sealed(self, body: bytes) -> tuple[bytes, ReplySecret]:
        server = self.files.server
        capacity = plaintext_capacity(server.public.suite, server.public.suite.lengths[0])
        plaintext = pack_plaintext(body, self.laptop.sign(server, body), capacity, b"")
        packet = seal(server.public, plaintext, os.urandom(RANDOM_BYTES))
        return packet, reply_secret(packet[:16], plaintext)


@pytest.fixture(scope="module")
def standing_site(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    module_lab.server.start_greeter(22)
    site = Site(module_lab, tmp_path_factory.mktemp("gate"), config())
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: Site) -> Site:
    standing_site.renew()
    return standing_site


@pytest.fixture
def lone(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """Run a daemon for this test alone: it bans, uses a limit up, or opens for what no command can close."""
    site = Site(direct_lab, tmp_path, config())
    with site.running():
        yield site


@pytest.mark.parametrize("mode", ["observe", "guard", "stealth"])
def test_a_knock_that_opened_is_confirmed_to_its_sender(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    """From every port, by IPv4 and IPv6, in every mode; also for an address that the knock names."""
    site = Site(direct_lab, tmp_path, config(mode=mode))
    with site.running() as daemon:
        for version in (4, 6):
            for port in PORTS:
                guest, named = site.visitors.crowd(version, 2)
                for asked in (None, named.source):
                    site.files.authorize(f'addresses="{named}" {site.laptop.line}')
                    daemon.message("accepting signed knocks")
                    packet, secret = site.packet(asked=asked, for_s=30)
                    (reply,) = site.exchange(guest, packet, port=Port.parse(port).number)
                    found = open_reply(secret, reply)
                    assert found.source == (asked or guest.source)
                    assert found.left_s in range(30 - round(LATE_S), 31)
                    assert abs(found.time_ms - time.time() * 1000) < 1000 * LATE_S
                    daemon.event("confirmed", door="ssh", to=str(guest), address=str(found.source))
        counts = daemon.ask("status")["signed"]["confirmations"]
        assert counts == {"is_on": True, "ports": sorted(PORTS), "not_open": {}, "counts": {"sent": 12}}


def test_a_link_local_address_is_answered_on_its_interface(site: Site) -> None:
    server, client = (link_local(host) for host in (site.lab.server, site.lab.client))
    packet, secret = site.packet()

    def go() -> bytes:
        scope = socket.if_nametoindex("eth0")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
            own.connect((str(server), PORT, 0, scope))
            own.send(packet)
            own.settimeout(PATIENCE_S)
            return own.recv(2000)

    assert open_reply(secret, site.lab.client.call(go)).source == client


def link_local(host: NamespaceHost) -> Address:
    (line,) = host.run(["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]).stdout.splitlines()
    return ip_address(line.split()[3].split("/")[0])


def test_a_door_that_only_runs_a_command_is_confirmed_without_a_time(site: Site) -> None:
    guest = site.visitors.fresh(4)
    packet, secret = site.packet("note")
    (reply,) = site.exchange(guest, packet)
    assert open_reply(secret, reply)[:2] == (guest.source, 0)


def test_nobody_else_receives_a_byte(site: Site) -> None:
    """Copies, old packets, wrong doors, gates and keys, bits changed, other lengths, and a key that is revoked."""
    daemon, server = site.daemon, site.files.server
    guest, thief, other = site.visitors.crowd(4, 3)
    with tcpdump(site.lab.server, *SENT_BY_GATE) as capture:
        packet, _ = site.packet()
        site.send(guest, packet, packet, packet)  # the copies arrive while the first is under way
        daemon.event("confirmed", to=str(guest))
        site.send(thief, packet)
        daemon.event("refused", address=str(thief))
        body = pack_body(site.laptop.request(flags=CONFIRM))
        first, again = site.sealed(body)[0], site.sealed(body)[0]
        site.send(guest, first, again)
        daemon.event("confirmed", to=str(guest))
        refused = [daemon.event("refused", address=str(guest))["reason"] for _ in range(3)]
        assert ["used already" in reason for reason in refused] == [False, False, True]
        assert len(site.sent_by_gate(capture)) == 2
        wrong = [
            site.packet(ahead_ms=-61_500)[0],
            site.packet(ahead_ms=61_500)[0],
            site.packet("sesame")[0],
            site.packet(gate="another")[0],
            Signer("stranger").packet(server, flags=CONFIRM),
            sealed(server, body, Signer().sign(server, body)),
            site.packet(asked=other.source)[0],  # which the key may not
            site.laptop.packet(server),  # right, but does not ask
        ]
        for number, bad in enumerate(wrong):
            visitor = site.visitors.fresh(4)
            site.send(visitor, bad)
            daemon.event("opened" if number == len(wrong) - 1 else "refused", address=str(visitor))
        fresh = site.packet()[0]
        site.send(thief, *(fresh[:at] + bytes([fresh[at] ^ 1]) + fresh[at + 1 :] for at in range(0, len(fresh), 7)))
        site.send(thief, *(fresh[:length] for length in range(0, len(fresh), 7)))
        for line in (f'expiry-time="20200101Z" {site.laptop.line}', Signer("other").line):
            site.files.authorize(line)
            daemon.message("accepting signed knocks")
            visitor = site.visitors.fresh(4)
            site.send(visitor, site.packet()[0])
            daemon.event("refused", address=str(visitor))
        assert len(site.sent_by_gate(capture)) == 3  # two confirmations, and the marker before


def test_a_banned_address_and_a_full_set_are_not_confirmed(lone: Site) -> None:
    daemon = lone.daemon
    guest, banned, late = lone.visitors.crowd(4, 3)
    lone.files.authorize(f'addresses="10.0.0.0/8,192.0.2.0/24,{banned}" {lone.laptop.line}')
    daemon.message("accepting signed knocks")
    daemon.run("ban", banned)
    with tcpdump(lone.lab.server, *SENT_BY_GATE) as capture:
        lone.send(banned, lone.packet()[0])
        lone.send(guest, lone.packet(asked=banned.source)[0])
        daemon.event("refused", address=str(banned))
        fill = ", ".join(f"{ip_address(0x0A000000 + n)} . tcp . 22" for n in range(1 << 16))
        daemon.host.run(["nft", "-f", "-"], stdin=f"add element inet doorward open4 {{ {fill} }}")
        lone.send(late, lone.packet()[0])
        assert daemon.event("refused", address=str(late))
        assert len(lone.sent_by_gate(capture)) == 0


def test_a_copy_after_a_restart_and_a_kill_is_not_confirmed(site: Site) -> None:
    guest = site.visitors.fresh(4)
    packet, _ = site.packet()
    with tcpdump(site.lab.server, *SENT_BY_GATE) as capture:
        site.send(guest, packet)
        site.daemon.event("confirmed")
        for number in (signal.SIGTERM, signal.SIGKILL):
            site.daemon.end(number)
            site.daemon.start()
            site.daemon.message("accepting signed knocks")
            site.send(guest, packet)
            site.daemon.event("refused", address=str(guest))
        assert len(site.sent_by_gate(capture)) == 1
    fresh, secret = site.packet()
    (reply,) = site.exchange(guest, fresh)
    assert open_reply(secret, reply).source == guest.source


def test_sources_that_are_no_other_host_get_nothing(lone: Site) -> None:
    """The client makes frames with any source, as an attacker on the network path can."""
    server = lone.lab.server
    with tcpdump(server, "-i", "any", "-Q", "out", f"udp and src port {PORT}") as capture:
        for source in (server.ipv4, ip_address("127.0.0.1"), ip_address("224.0.0.1"), ip_address("255.255.255.255")):
            send_raw(lone, source, server.ipv4, lone.packet()[0], 40_000)
        send_raw(lone, lone.visitors.fresh(4).source, server.ipv4, lone.packet()[0], 0)  # port 0
        for text in ("::", "::1", str(server.ipv6), "ff02::1", "::ffff:192.0.2.9", "::ffff:127.0.0.1"):
            send_raw(lone, ip_address(text), server.ipv6, lone.packet()[0], 40_000)
        guest = lone.visitors.fresh(4)
        lone.send(guest, lone.packet()[0])
        lone.daemon.event("confirmed", to=str(guest))
        assert len(capture.await_frames(1)) == 1


def send_raw(site: Site, source: Address, to: Address, payload: bytes, port: int) -> None:
    """Send a datagram with any source address and port."""
    udp = port.to_bytes(2) + PORT.to_bytes(2) + (8 + len(payload)).to_bytes(2) + bytes(2) + payload
    if to.version == 4:
        family, head = socket.AF_INET, bytes([0x45, 0]) + (20 + len(udp)).to_bytes(2) + bytes(4) + bytes([64, 17, 0, 0])
    else:
        family, head = socket.AF_INET6, bytes([0x60, 0, 0, 0]) + len(udp).to_bytes(2) + bytes([17, 64])

    def go() -> None:
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(head + source.packed + to.packed + udp, (str(to), 0))

    site.lab.client.call(go)


def test_a_flood_of_good_knocks_is_answered_at_a_limited_rate(lone: Site) -> None:
    guest = lone.visitors.fresh(4)
    packets = [lone.packet()[0] for _ in range(CONFIRMATIONS_AT_ONCE + 500)]
    begun_s = time.monotonic()
    lone.send(guest, *packets)

    def counts() -> dict[str, int]:
        found: dict[str, int] = lone.daemon.ask("status")["signed"]["confirmations"]["counts"]
        return found

    until(lambda: sum(counts().values()) == len(packets), counts)
    took_s = time.monotonic() - begun_s
    assert counts()["sent"] <= CONFIRMATIONS_AT_ONCE + CONFIRMATIONS_PER_S * took_s + 1


@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_the_reply_lets_no_packet_in(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    """Its flow is in conntrack, and still each packet to the port is judged before conntrack, and none is received."""
    site = Site(direct_lab, tmp_path, config(mode=mode))
    with site.running() as daemon:
        guest = site.visitors.fresh(4)
        packet, _ = site.packet()

        def go(guest: Visitor = guest, packet: bytes = packet) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                own.bind((str(guest), 41_000))
                own.connect((str(guest.server), PORT))
                own.send(packet)
                own.settimeout(PATIENCE_S)
                assert len(own.recv(2000)) == REPLY_BYTES
                for _ in range(5):
                    own.send(b"a reply to the reply")
                own.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    own.recv(2000)

        site.lab.client.call(go)
        assert daemon.counters()["signed_length"] == 5
        row = daemon.host.run(["ss", "-Hlunm", f"sport = :{PORT}"]).stdout
        assert re.findall(r"skmem:\(r(\d+),", row) == ["0", "0"]  # nothing waits in either socket


def test_without_confirm_no_socket_is_bound(direct_lab: Lab, tmp_path: Path) -> None:
    site = Site(direct_lab, tmp_path, config(confirm="false"))
    with site.running() as daemon:
        bound = {str(port) for port in daemon.host.call(listening_ports)}
        assert bound.isdisjoint(PORTS)
        guest = site.visitors.fresh(4)
        assert site.exchange(guest, site.packet()[0]) == []
        assert daemon.event("unconfirmed", to=str(guest))["code"] == "off"
        assert "; not confirmed: [signed] has no confirm = true" in daemon.run("log").stdout
        daemon.reload(config())
        assert set(PORTS) <= {str(port) for port in daemon.host.call(listening_ports)}
        daemon.reload(config(confirm="false"))
        assert {str(port) for port in daemon.host.call(listening_ports)}.isdisjoint(PORTS)


@pytest.mark.netns("setpriv", "unshare")
@pytest.mark.parametrize("starter", ["root", "the unit"])
def test_low_ports_are_opened_before_the_rights_are_dropped(direct_lab: Lab, starter: str) -> None:
    """A new one at a reload needs a restart: the daemon goes on, says so, and shows it."""
    with open_folder() as folder, service_user(direct_lab.server):
        site = Site(direct_lab, folder, config(ports=PORTS[:2]))
        daemon = RunningDaemon(direct_lab.server, folder, site.text)
        site.daemon = daemon
        daemon.wrapper = [*wrapped(folder / "hold"), *(AS_THE_UNIT if starter != "root" else [])]
        for_the_user(daemon)
        for path in (site.files.key_file, site.files.keys_file):
            os.chown(path, 0, GROUP)
            path.chmod(0o640)
        daemon.start()
        try:
            daemon.message("accepting signed knocks")
            assert status_of(daemon.process.pid)["CapEff"] == f"{1 << 12:016x}"
            guest = site.visitors.fresh(4)
            packet, secret = site.packet()
            (reply,) = site.exchange(guest, packet, port=443)
            assert isinstance(open_reply(secret, reply), Confirmation)
            daemon.reload(config())
            message = daemon.message("signed knocks to 53/udp are not confirmed: Permission denied; restart doorward")
            assert message["code"] == "reply-port-not-open"
            assert "RESTART NEEDED: 53/udp is not open for confirmations" in daemon.run("status").stdout
            for port, count in (443, 1), (53, 0):
                packet, _ = site.packet()
                assert len(site.exchange(guest, packet, port=port)) == count
        finally:
            daemon.end()
            daemon.close()


def test_a_port_of_a_service_is_rejected(direct_lab: Lab, tmp_path: Path) -> None:
    """By `check` and `run`, and not because of the daemon's own sockets; without `confirm` it is a warning."""
    site = Site(direct_lab, tmp_path, config(ports=PORTS[:1]))
    with site.running() as daemon:
        assert "signed-port-bound" not in daemon.run("check", "-c", daemon.config, "--json").stdout
        with bound_service(direct_lab, "127.0.0.53", 53):
            daemon.config.write_text(config())
            done = daemon.run("check", "-c", daemon.config, check=False)
            assert done.returncode == 2
            assert "a service is bound to 53/udp" in done.stderr
            daemon.process.send_signal(signal.SIGHUP)
            daemon.message("a service is bound to 53/udp")
            daemon.message("the configuration was not reloaded")
            daemon.config.write_text(config(confirm="false"))
            done = daemon.run("check", "-c", daemon.config)
            assert "warning: a service is bound to 53/udp" in done.stderr


def test_a_port_that_was_taken_while_no_daemon_ran_does_not_keep_it_from_starting(
    direct_lab: Lab, tmp_path: Path
) -> None:
    """Any local user can take one above 1023: doors still open, by the last good configuration."""
    site = Site(direct_lab, tmp_path, config(ports=PORTS[:1]))
    with site.running() as daemon:
        until(daemon.config.with_name("doorward.toml.last").exists)
        daemon.end()
        with bound_service(direct_lab, "127.0.0.53", PORT):
            daemon.start()
            daemon.message("is in force instead, the last good configuration")
            daemon.message("accepting signed knocks")
            guest = site.visitors.fresh(4)
            site.send(guest, site.packet()[0])
            daemon.event("opened", address=str(guest))
            assert daemon.event("unconfirmed", to=str(guest))["code"] == "port-not-open"


@contextmanager
def bound_service(lab: Lab, address: str, port: int) -> Iterator[None]:
    """Run a program that has bound a UDP port, until the end of the block."""
    code = f"import socket; s = socket.socket(2, 2); s.bind(({address!r}, {port})); print(1, flush=True); input()"
    child = lab.server.popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield
    finally:
        child.kill()
        child.communicate()


class TestClient:
    """`doorward knock` and `proxy` with a gate that confirms."""

    @pytest.fixture
    def env(self, site: Site, tmp_path: Path) -> dict[str, str]:
        identity = ssh_keygen.key("ed25519")
        site.files.authorize(site.laptop.line, ssh_keygen.public_line(identity))
        site.daemon.message("accepting signed knocks")
        file = tmp_path / "home" / "doorward" / "hosts.toml"
        file.parent.mkdir(parents=True)
        file.write_text(
            f'[home]\naddress = "{site.lab.server.ipv4}"\nserver_key = "{site.files.server.public}"\n'
            f'identity = "{identity}"\nconfirm = true\n[home.doors]\nssh = []\n'
        )
        file.chmod(0o600)
        return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "home"), "SSH_AUTH_SOCK": ""}

    def test_it_prints_what_is_open(self, site: Site, env: dict[str, str]) -> None:
        done = site.lab.client.run([*DOORWARD, "knock", "home", "ssh", "--for", "30s"], env=env)
        assert re.fullmatch(rf"open for {site.lab.client.ipv4} for (30|2\d) s \(\d+\.\d ms\)\n", done.stdout)
        done = site.lab.client.run([*DOORWARD, "knock", "home", "ssh", "--close"], env=env)
        assert re.fullmatch(rf"closed what this key opened for {site.lab.client.ipv4} \(\d+\.\d ms\)\n", done.stdout)
        assert site.daemon.openings() == []
        done = site.lab.client.run([*DOORWARD, "knock", "home", "ssh", "--close"], env=env, check=False)
        assert done.returncode == 1
        assert "a close that ends nothing is silent" in done.stderr

    def test_without_a_confirmation_it_says_what_to_check(self, site: Site, env: dict[str, str]) -> None:
        begun_s = time.monotonic()
        done = site.lab.client.run([*DOORWARD, "knock", "home", "shh"], env=env, check=False)
        assert 1.0 <= time.monotonic() - begun_s < 1 + PATIENCE_S
        assert done.returncode == 1
        assert "no confirmation within 1 s; check, the likeliest first:" in done.stderr
        assert f"the packet went from {site.lab.client.ipv4} to {site.lab.server.ipv4} 62201/udp" in done.stderr
        assert "the gate has the door 'shh' and has no name; known here: ssh" in done.stderr

    def test_the_proxy_connects_as_before(self, site: Site, env: dict[str, str]) -> None:
        words = " ".join(map(str, [*DOORWARD, "proxy", "home", "22", "ssh", "--timeout", "15s"]))
        assert site.lab.client.run(["sh", "-c", f"echo hello | {words}"], env=env).stdout
        site.daemon.event("confirmed")
        assert "; confirmed to the client" in site.daemon.run("explain", site.lab.client.ipv4).stdout

    def test_a_reply_that_is_lost_costs_nothing_else(self, site: Site, env: dict[str, str]) -> None:
        """`knock` says that none came, and the door is open; `proxy` connects."""
        client = site.lab.client
        rules = "table ip lossy { chain in { type filter hook input priority 0; udp sport 62201 drop; }; }"
        client.run(["nft", "-f", "-"], stdin=rules)
        done = client.run([*DOORWARD, "knock", "home", "ssh"], env=env, check=False)
        assert done.returncode == 1
        assert "no confirmation within 1 s" in done.stderr
        site.daemon.event("confirmed")
        words = " ".join(map(str, [*DOORWARD, "proxy", "home", "22", "ssh", "--timeout", "15s"]))
        assert client.run(["sh", "-c", f"echo hello | {words}"], env=env).stdout
        client.run(["nft", "delete", "table", "ip", "lossy"])
