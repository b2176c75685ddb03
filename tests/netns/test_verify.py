"""`doorward verify` from outside: the real command from several addresses at once, against real daemons."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from doorward.cli.verify import find_routes
from doorward.client.sequence import resolve
from doorward.errors import HostError, UsageError
from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, SLOWNESS, RunningDaemon, running_daemon, standing_lab
from tests.support.processes import NOBODY
from tests.support.service_user import open_folder, wrapped
from tests.support.signed import Signed, Signer

pytestmark = pytest.mark.netns("nmap", "setpriv", "unshare")

DOORS = """
[gate]
mode = "{mode}"
public = ["80/tcp"]
[signed]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
for = "2s"
[doors.ike]
knock = ["7001/tcp", "8001/tcp", "9001/tcp"]
opens = ["500/udp"]
for = "2s"
[doors.long]
knock = ["7002/tcp", "8002/tcp", "9002/tcp"]
opens = ["2222/tcp"]
for = "10m"
"""
HOSTS = """
[home]
address = "{address}"
[home.doors]
ssh = ["7000/tcp", "8000/udp", "9000/tcp"]
[sealed]
address = "{address}"
server_key = "{server_key}"
identity = "{identity}"
for = "2s"
"""
SSH, IKE, LONG = ("7000", "8000/udp", "9000"), ("7001", "8001", "9001"), ("7002", "8002", "9002")
FEW = ("--ports", "22-24,80,7000,9000", "--expect", "80")
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


class Result(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    said: str
    complained: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.said)
        return value


class Site:
    """A server with its daemon; what one address asks is asked in order, what several ask at the same time."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, folder: Path) -> None:
        self.lab, self.daemon, self.folder = lab, daemon, folder
        self._asking: dict[str, ThreadPoolExecutor] = {}
        self._results: dict[str, Future[Result]] = {}

    def __getitem__(self, name: str) -> Result:
        return self._results[name].result(200 * SLOWNESS)

    def ask(self, name: str, host: NamespaceHost, version: int, *words: object, before: tuple[str, ...] = ()) -> None:
        """Begin a command on a host; `SERVER` among its arguments is replaced by the server's address."""
        source = str(host.ipv4 if version == 4 else host.ipv6)
        server = self.lab.server.ipv4 if version == 4 else self.lab.server.ipv6
        command = [*before, *DOORWARD, "verify", *(server if word == "SERVER" else word for word in words)]
        queue = self._asking.setdefault(source, ThreadPoolExecutor(1))
        self._results[name] = queue.submit(self._run, host, command)

    def _run(self, host: NamespaceHost, command: list[object]) -> Result:
        environment = {"XDG_CONFIG_HOME": str(self.folder / "xdg")}
        done = host.run(command, env=environment, check=False, timeout_s=150 * SLOWNESS)
        return Result(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        for queue in self._asking.values():
            queue.shutdown(cancel_futures=True)


@contextmanager
def site_of(folder: Path, mode: str) -> Iterator[Site]:
    """Return a server with services on its doors' ports, and what a client knows of it."""
    signer = Signer()
    identity = folder / "id_ed25519"
    identity.touch(0o600)
    identity.write_bytes(signer.secret.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    keys = Signed(folder / "configuration", signer)
    with ExitStack() as stack:
        lab = stack.enter_context(standing_lab())
        for port in (22, 80, 2222):
            lab.server.start_greeter(port)
        stack.enter_context(udp_service(lab.server, 500))
        daemon = stack.enter_context(running_daemon(lab.server, folder, DOORS.format(mode=mode)))
        hosts = folder / "xdg/doorward/hosts.toml"
        hosts.parent.mkdir(parents=True)
        known = {"address": lab.server.ipv4, "server_key": keys.server.public, "identity": identity}
        hosts.write_text(HOSTS.format(**known))
        hosts.chmod(0o600)
        site = Site(lab, daemon, folder)
        stack.callback(site.close)
        yield site


@contextmanager
def udp_service(host: NamespaceHost, port: int) -> Iterator[None]:
    """Answer every datagram on both families."""
    with host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as service:
        service.bind(("::", port))

        def serve() -> None:
            while sender := service.recvfrom(4096)[1]:  # none after the shutdown
                service.sendto(b"hello", sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with suppress(OSError):  # it is not connected, but it wakes
                service.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def stealth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stealth")
    with site_of(folder, "stealth") as site, open_folder() as hold:
        client, stranger = site.lab.client, site.lab.stranger
        pictures = ("--picture", folder / "all.svg")
        site.ask("all", client, 4, "home", "ssh", "--port", 22, "--expect", 80, "--rate", 60000, *pictures)
        site.ask("whatever", client, 6, "SERVER", *SSH, *FEW, "--json", "--picture", folder / "few.svg")
        site.ask("nothing", client, 6, "SERVER", *reversed(SSH), *FEW, "--port", 22)
        site.ask("udp", stranger, 4, "SERVER", *IKE, "--ports", "8001/udp,501/udp", "--port", "500/udp", "--json")
        site.ask("long", stranger, 4, "SERVER", *LONG, "--ports", 2222, "--for", "1s")
        site.ask("open", stranger, 4, "SERVER", *LONG, "--ports", 2222, "--port", 2222, "--for", "1s")
        nobody = (*wrapped(hold), *AS_NOBODY)
        site.ask("nobody", stranger, 6, "SERVER", *SSH, *FEW, "--port", 22, before=nobody)
        site.ask("hole", stranger, 6, "SERVER", "--ports", "79-81")
        site.ask("signed", stranger, 4, "sealed", "ssh", "--ports", "22-30,62201/udp", "--json")
        yield site


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("guard")
    with site_of(folder, "guard") as site:
        client, stranger = site.lab.client, site.lab.stranger
        site.ask("guard", client, 4, "SERVER", *SSH, "--ports", "1-1056", "--expect", 80, "--guard", "--port", 22)
        site.ask("seen", client, 6, "SERVER", "--ports", "20-30,8000/udp")
        site.lab.router.run(["nft", "-f", "-"], stdin=REJECTS)
        site.ask("rejected", stranger, 4, "SERVER", "--ports", "20-24", "--guard", "--json")
        yield site


REJECTS = """
table inet firewall {
    chain forward {
        type filter hook forward priority 0
        ip saddr 203.0.113.0/24 tcp dport 23 reject with icmpx admin-prohibited
    }
}
"""


def test_all_ports_are_silent_and_the_door_opens_and_closes(stealth: Site) -> None:
    address = str(stealth.lab.client.ipv4)
    result = stealth["all"]
    lines = result.said.splitlines()
    assert (result.status, result.complained) == (0, "")
    assert lines[0] == f"home (198.51.100.2), seen from {address}: 65,535 TCP and 1 UDP ports, SYN scan"
    assert lines[1].startswith("  before  1 open, 65,535 silent, in ")
    assert lines[2] == "  knock   22/tcp opens"
    assert lines[3].startswith("  after   22/tcp closed again, ")
    assert lines[-2:] == [
        ". silent 65,534  + open, as expected 1  K opened by knock 1  (64 per cell)",
        "OK",
    ]
    assert len(lines) == 4 + 16 + 1 + 2
    stealth.daemon.event("opened", door="ssh", address=address)
    assert (stealth.folder / "all.svg").read_text().startswith("<svg")


def test_opened_ports_are_found_without_being_named(stealth: Site) -> None:
    found = stealth["whatever"].json
    since_s, until_s = found.pop("closed_after_s")
    assert since_s < 2 * SLOWNESS + 1
    assert until_s > 1.9
    found.pop("took_s")
    assert found == {
        "version": 1,
        "host": "2001:db8:2::2",
        "address": "2001:db8:2::2",
        "from": str(stealth.lab.client.ipv6),
        "ok": True,
        "scan": "SYN scan",
        "ports": 6,
        "open": ["80/tcp"],
        "closed": [],
        "rejected": [],
        "silent": 5,
        "knocked": 1,
        "opened": ["22/tcp"],
        "findings": [],
    }
    assert stealth["whatever"].status == 0
    assert "2001:db8:2::2" in (stealth.folder / "few.svg").read_text()


def test_a_knock_that_does_not_open(stealth: Site) -> None:
    result = stealth["nothing"]
    assert result.status == 1
    assert "  knock   opens nothing (knocked 3 times)\n" in result.said
    assert "wrong: the knock (sent 3 times) did not open 22/tcp for this address\n" in result.said
    assert "  after" not in result.said


def test_a_door_that_opens_udp(stealth: Site) -> None:
    found = stealth["udp"].json
    assert (found["ok"], found["opened"], found["silent"]) == (True, ["500/udp"], 3)
    assert found["closed_after_s"]


def test_a_door_that_does_not_close_in_time(stealth: Site) -> None:
    result = stealth["long"]
    assert result.status == 1
    assert "  knock   2222/tcp opens\n" in result.said
    assert "wrong: 2222/tcp did not close within 1 s\n" in result.said


def test_a_door_that_is_open_before_the_knock_proves_nothing(stealth: Site) -> None:
    result = stealth["open"]
    assert result.status == 1
    assert "  before  2222/tcp is open already; waiting 1 s at most\n" in result.said
    assert "  knock   not sent: every port that it may open is open already\n" in result.said
    assert "is the door still open for this address from an earlier knock?" in result.said


def test_without_root_whole_connections_do(stealth: Site) -> None:
    result = stealth["nobody"]
    assert result.status == 0, result
    assert result.said.startswith("not root: connect scans instead of SYN scans; UDP needs root")
    assert ": 6 TCP ports, connect scan\n" in result.said
    assert "  knock   22/tcp opens\n" in result.said
    assert result.said.endswith("OK\n")


def test_a_port_that_can_be_seen_is_a_finding(stealth: Site) -> None:
    result = stealth["hole"]
    assert result.status == 1
    assert "TCP    79 .O.\n" in result.said
    assert "wrong: 80/tcp is open without a knock\n" in result.said


def test_a_signed_knock_opens_and_its_port_is_silent(stealth: Site) -> None:
    result = stealth["signed"]
    found = result.json
    assert result.status == 0
    assert (found["opened"], found["silent"], found["knocked"]) == (["22/tcp"], 10, 1)


def test_a_guard_is_as_it_should_be_where_it_is_meant(guard: Site) -> None:
    result = guard["guard"]
    assert result.status == 0, result
    assert "  before  1 open, 1,054 refuse, 1 silent, in " in result.said
    assert "c refuses 1,054  + open, as expected 1  K opened by knock 1" in result.said


def test_a_guard_can_be_seen(guard: Site) -> None:
    result = guard["seen"]
    assert result.status == 1
    assert (
        "wrong: 20-21/tcp, 23-30/tcp, 8000/udp refuse, which reveals that a host exists\n"
        '    use mode = "stealth" to hide it; if mode = "guard" is intended, add --guard; '
        "if it is meant to be public, add --expect 20-21,23-30,8000/udp\n"
    ) in result.said


def test_a_packet_filter_that_rejects_can_be_seen(guard: Site) -> None:
    result = guard["rejected"]
    (finding,) = result.json["findings"]
    assert result.status == 1
    assert result.json["rejected"] == ["23/tcp"]
    assert finding["what"].startswith("23/tcp is rejected by 203.0.113.1 (admin-prohibited), which")


def test_a_terminal_shows_how_far_it_is_and_a_coloured_grid(guard: Site) -> None:
    words = ("--ports", "1-600", "--rate", "200", "--expect", "80", "--guard")
    said = on_a_terminal(guard.lab.stranger, (*DOORWARD, "verify", guard.lab.server.ipv6, *words))
    assert re.search(r"\r\x1b\[Klooking at 600 TCP ports: [1-9][0-9] %\r\x1b\[K", said)
    assert re.search(r"\r\x1b\[K  before  1 open, 598 refuse, 1 silent, in ", said)
    assert len(re.findall("TCP     1 (?:\x1b\\[38;5;[0-9]+;48;5;[0-9]+m▀){64}\x1b\\[0m\r\n", said)) == 1
    assert said.endswith("\x1b[32mOK: nothing unexpected is visible; no knock was tried\x1b[0m\r\n")


def on_a_terminal(host: NamespaceHost, command: tuple[object, ...]) -> str:
    """Run a command with a terminal of its own, and give all that it wrote there."""
    ours, its = os.openpty()
    environment = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "NO_COLOR": ""}
    process = host.popen(command, env=environment, stdout=its, stderr=its)
    os.close(its)
    said = b""
    with suppress(OSError):  # what Linux says where the last writer has gone
        while piece := os.read(ours, 4096):
            said += piece
    os.close(ours)
    assert process.wait(60 * SLOWNESS) == 0
    return said.decode()


def test_an_address_of_each_family_is_verified(guard: Site) -> None:
    client, server = guard.lab.client, guard.lab.server
    both = [*resolve(str(server.ipv6)), *resolve(str(server.ipv4)), *resolve("198.51.100.99")]
    found = client.call(find_routes, both)
    assert [(str(target), source) for target, source in found] == [
        (str(server.ipv6), str(client.ipv6)),
        (str(server.ipv4), str(client.ipv4)),
    ]


def test_this_machine_is_not_outside(guard: Site) -> None:
    for address in (guard.lab.client.ipv4, guard.lab.client.ipv6):
        with pytest.raises(UsageError, match="is this host"):
            guard.lab.client.call(find_routes, resolve(str(address)))


def test_a_family_with_no_way_is_said_to_be_left_out(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.client.ip("-6", "route", "del", "default")
    both = [*resolve(str(lab.server.ipv6)), *resolve(str(lab.server.ipv4))]
    ((target, _),) = lab.client.call(find_routes, both)
    assert str(target) == str(lab.server.ipv4)
    assert f"not verified, no route from here: {lab.server.ipv6}" in capsys.readouterr().err
    with pytest.raises(HostError, match="no route"):
        lab.client.call(find_routes, both[:1])


def test_a_host_that_is_not_there(direct_lab: Lab) -> None:
    done = direct_lab.client.run([*DOORWARD, "verify", "198.51.100.77", "--ports", "22"], check=False)
    assert done.returncode == 2
    assert "doorward: 198.51.100.77: no such host on this network (nothing answers for it)" in done.stderr
