"""A door held open while the client's address, the daemon, the ruleset and the time change."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from select import select
from statistics import median

import pytest

from doorward.client.hold import SLEPT_S
from doorward.kernel.route_monitor import RouteMonitor
from doorward.lab.topology import Lab
from doorward.model import Address
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, LATE_S, SLOWNESS, Visitor, echoes
from tests.support.docs_session import host_names
from tests.support.signed import Signer, send
from tests.support.signed_site import SignedSite

pytestmark = pytest.mark.netns("nft")

CONFIG = """
[gate]
mode = "stealth"
[signed]
confirm = true
[doors.db]
opens = ["5432/tcp"]
for = "1m"
"""
AT_ONCE_S = 0.2 * SLOWNESS  # after a change of route or address; on a busy machine not each time
LISTENING_S = 2.0


class Site(SignedSite):
    """A server, and a client whose key opens its door."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder, CONFIG)
        self.identity = ssh_keygen.key("ed25519")
        self.files.authorize(ssh_keygen.public_line(self.identity))

    @contextmanager
    def holding(
        self, *words: object, host: object = None, command: Sequence[object] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Hold the door until the end of the block."""
        options = ["--server-key", self.files.server.public, "--identity", self.identity, *words]
        call = [*DOORWARD, "hold", host or self.lab.server.ipv4, "db", *options, *(["--", *command] if command else [])]
        process = self.lab.client.popen(call, env={"SSH_AUTH_SOCK": ""}, stderr=subprocess.PIPE)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def opened(self, address: Address, event: str = "opened") -> float:
        """Wait until the gate has opened the door to an address; return the time then."""
        self.daemon.event(event, door="db", address=str(address), by="key ed25519 number 0")
        return time.monotonic()

    def gets_in(self, source: Address) -> bool:
        def connect() -> bool:
            family = socket.AF_INET if source.version == 4 else socket.AF_INET6
            server = self.lab.server.ipv4 if source.version == 4 else self.lab.server.ipv6
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(LISTENING_S)
                sock.bind((str(source), 0))
                return sock.connect_ex((str(server), 5432)) == 0

        return self.lab.client.call(connect)

    def move(self, old: Address, new: Address) -> float:
        """Give the client another address instead of one that it has; return the time then."""
        device, bits, suffix = self.lab.client.interface, *((24, "") if new.version == 4 else (64, " nodad"))
        lines = [f"address del {old}/{bits} dev {device}", f"address add {new}/{bits} dev {device}{suffix}"]
        self.lab.client.ip(batch=lines)
        return time.monotonic()


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    direct_lab.server.start_greeter(5432)
    site = Site(direct_lab, tmp_path)
    with site.running():
        yield site


@pytest.mark.parametrize("version", [4, 6])
def test_another_address_is_let_in_at_once(site: Site, version: int) -> None:
    client, server = site.lab.client, site.lab.server
    old = first = client.ipv4 if version == 4 else client.ipv6
    with site.holding("--for", "1h", host=server.ipv4 if version == 4 else server.ipv6):
        site.opened(old)
        assert site.gets_in(old)
        took_s = []
        for number in range(70, 75):
            new = first + number
            moved_s = site.move(old, new)
            took_s.append(site.opened(new) - moved_s)
            assert site.gets_in(new)
            old = new
    assert median(took_s) < AT_ONCE_S
    assert max(took_s) < LATE_S


def test_a_change_that_does_not_concern_the_gate_is_no_reason_to_knock(site: Site) -> None:
    with site.holding("--for", "1h") as process, closing(site.lab.client.call(RouteMonitor)) as monitor:
        for _ in range(3):  # the first packet and its repetitions
            received = site.daemon.counters()["signed"]
            time.sleep(3)
        site.lab.client.ip("route", "add", "203.0.113.0/24", "via", str(site.lab.server.ipv4))
        time.sleep(0.5)
        assert select([monitor], [], [], 0)[0]
        assert site.daemon.counters()["signed"] == received == 3
        assert process.poll() is None


@pytest.mark.parametrize("is_rebooted", [False, True])
def test_a_daemon_that_was_away_opens_again(site: Site, is_rebooted: bool) -> None:
    with site.holding("--for", "3s"):
        site.opened(site.lab.client.ipv4)
        site.daemon.end(signal.SIGKILL if is_rebooted else signal.SIGTERM)
        if is_rebooted:
            site.lab.server.run(["nft", "flush", "ruleset"])
            for file in site.daemon.state.iterdir():
                file.unlink()
        time.sleep(3.5)  # the opening has ended
        site.daemon.start()
        site.opened(site.lab.client.ipv4)
        assert site.gets_in(site.lab.client.ipv4)


def test_after_sleep_it_knocks_at_once(site: Site) -> None:
    with site.holding("--for", "3s") as process:
        site.opened(site.lab.client.ipv4)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holding door 'db'")
        process.send_signal(signal.SIGSTOP)
        time.sleep(SLEPT_S + 1.5)
        assert not site.gets_in(site.lab.client.ipv4)
        began_s = time.monotonic()
        process.send_signal(signal.SIGCONT)
        assert site.opened(site.lab.client.ipv4) - began_s < LATE_S
        assert site.gets_in(site.lab.client.ipv4)


def test_from_ipv4_to_ipv6(site: Site) -> None:
    """Without a network for a time, too: nothing is sent, and the new address is let in at once."""
    client, server = site.lab.client, site.lab.server
    client.ip("address", "del", f"{client.ipv6}/64", "dev", client.interface)
    names: list[tuple[str, Address]] = [("home.example", server.ipv4), ("home.example", server.ipv6)]
    with host_names(client, *names), site.holding("--for", "3s", host="home.example") as process:
        site.opened(client.ipv4)
        client.ip("address", "del", f"{client.ipv4}/24", "dev", client.interface)
        time.sleep(3.5)
        client.ip("address", "add", f"{client.ipv6}/64", "dev", client.interface, "nodad")
        began_s = time.monotonic()
        assert site.opened(client.ipv6) - began_s < LATE_S
        assert site.gets_in(client.ipv6)
        assert process.poll() is None


def test_a_command_connects_and_is_not_interrupted(site: Site) -> None:
    """It outlives the time that each knock asks for, and renewals fill no log."""
    server = site.lab.server.ipv4
    script = f"""
import socket, time
for _ in range(6):
    with socket.create_connection(("{server}", 5432), 0.9) as service:
        assert service.recv(99)
    time.sleep(1)
raise SystemExit(5)"""
    with site.holding("--for", "3s", command=[sys.executable, "-c", script]) as process:
        assert process.wait(30) == 5
    site.opened(site.lab.client.ipv4, "prolonged")
    events = [event["event"] for event in site.daemon.events()]
    assert (events.count("opened"), events.count("prolonged")) == (1, 1)


def test_a_gate_that_opens_for_less_is_renewed_sooner(site: Site) -> None:
    """It confirms for how long; else the door would be closed between the knocks after 1, 5 and 25 seconds."""
    site.files.authorize(f'for-max="3s" {ssh_keygen.public_line(site.identity)}')
    site.daemon.message("accepting signed knocks")
    with site.holding("--confirm") as process:
        site.opened(site.lab.client.ipv4)
        for _ in range(20):
            assert site.gets_in(site.lab.client.ipv4)
            time.sleep(0.5)
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert 9 <= site.daemon.counters()["signed"] <= 9 + 10 * SLOWNESS


@pytest.mark.parametrize("end", ["command", "signal"])
def test_at_the_end_the_door_is_closed(site: Site, end: str) -> None:
    """And the connection continues; the log has the renewals as a number, the access log one line."""
    address = site.lab.client.ipv4
    with site.holding("--for", "3s", command=["sleep", "4"] if end == "command" else []) as process:
        site.opened(address)
        connection = Visitor(site.lab.client, address, site.lab.server.ipv4).connect(5432)
        time.sleep(3.5)
        if end == "signal":
            process.terminate()
        assert process.wait(20) == 0
    closed = site.daemon.event("closed", address=str(address))
    assert closed["by"] == "key ed25519 number 0"
    assert closed["prolonged"] >= 3  # after 1, 2 and 3 s
    assert not site.gets_in(address)
    assert echoes(connection)
    connection.close()
    (line,) = site.daemon.run("log").stdout.splitlines()
    assert re.search("by key ed25519 number 0; closed after [45]s, by key ed25519 number 0$", line)


def test_at_the_end_the_door_stays_open_for_another_key(site: Site) -> None:
    address, colleague = site.lab.client.ipv4, Signer("colleague")
    site.files.authorize(ssh_keygen.public_line(site.identity), colleague.line)
    site.daemon.message("accepting signed knocks")
    send(site.lab.client, address, site.lab.server.ipv4, colleague.packet(site.files.server, "db"))
    site.daemon.event("opened", address=str(address), by="key colleague")
    with site.holding() as process:
        site.opened(address, "prolonged")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holding door 'db'")  # from now on it takes signals
        process.terminate()
        assert process.wait(20) == 0
    assert site.daemon.event("released", address=str(address))["still"] == "key colleague"
    assert site.gets_in(address)
