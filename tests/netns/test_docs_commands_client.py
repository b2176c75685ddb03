"""The examples of the commands that a client has, typed at a machine before a server with sshd."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from doorward.cli.knockd_client import USAGE
from doorward.client.link_uri import KnockLink, format_link
from doorward.lab.topology import Lab
from scripts.pyz import write
from tests.support import ssh_keygen
from tests.support.consoles import Console
from tests.support.daemon import Event, RunningDaemon, standing_lab
from tests.support.docs_session import host_names
from tests.support.documents import Call
from tests.support.examples import CLIENT, NAMES, Seat, name_hosts, program
from tests.support.sshd import SSH, running_sshd
from tests.support.tcpdump import tcpdump, write_pcap

pytestmark = pytest.mark.netns("nft", "nmap", "ssh", "ssh-keygen", "/usr/sbin/sshd", "tcpdump")

CONFIG = """
[gate]
mode = "stealth"
public = ["80/tcp", "443/tcp"]
[signed]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
within = "5s"
opens = ["22/tcp"]
[doors.old]
knock = ["123/tcp", "456/udp", "789/tcp"]
opens = ["2222/tcp"]
"""
HOME = ("add", "home", "--address", "server.example", "--door", "ssh")


class Site:
    """A server with its daemon and sshd, and a client whose user has a key."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, key: str, folder: Path) -> None:
        self.lab, self.daemon, self.key = lab, daemon, key
        self.seat = seat = Seat(lab.client, folder)
        private = ssh_keygen.key("ed25519")
        (seat.at / ".ssh").mkdir(mode=0o700)
        (seat.at / ".ssh/id_ed25519").write_bytes(private.read_bytes())
        (seat.at / ".ssh/id_ed25519").chmod(0o600)
        settings = {"IdentityFile": private, "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        program(
            folder, "ssh", SSH, "-q", "-F", seat.at / ".ssh/config", *options
        )  # ssh itself asks passwd where HOME is

    def add_home(self, *words: str) -> None:
        """Let the client know the server."""
        command = [self.seat.folder / "bin/doorward", *HOME, "--server-key", self.key, *words]
        self.seat.host.run(command, env=self.seat.env)

    def opened(self, by: str, door: str = "ssh") -> None:
        """Wait until the client's knock has opened, and close that again."""
        event: Event = self.daemon.event("opened", door=door, address=CLIENT)
        assert event["by"].startswith(by)
        self.daemon.run("close", door, CLIENT)


@pytest.fixture(scope="module")
def standing_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with standing_lab() as lab, running_site(lab, tmp_path_factory.mktemp("site")) as site:
        yield site


@contextmanager
def running_site(lab: Lab, folder: Path) -> Iterator[Site]:
    public = ssh_keygen.public_line(ssh_keygen.key("ed25519"))
    keys = folder / "configuration/authorized_keys"
    keys.parent.mkdir()
    keys.write_text(f"{public}\n")
    name_hosts(lab)
    with ExitStack() as stack:
        stack.enter_context(host_names(lab.client, *[(name, lab.server.ipv4) for name in NAMES]))
        stack.enter_context(running_sshd(lab.server, folder / "sshd", [f'command="echo in" {public}']))
        daemon = RunningDaemon(lab.server, folder, CONFIG)
        stack.callback(daemon.close)
        key = daemon.run("key", "server").stdout.strip()
        daemon.start()
        daemon.message("accepting signed knocks")
        yield Site(lab, daemon, key, folder / "seat")


@pytest.fixture
def site(standing_site: Site, tmp_path: Path) -> Site:
    """Return the server as it was at its start, and a user without files."""
    standing_site.daemon.renew(CONFIG)
    return Site(standing_site.lab, standing_site.daemon, standing_site.key, tmp_path)


@pytest.mark.console("docs/reference/commands.md", "doorward knock")
def test_knock(site: Site, console: Console) -> None:
    sequence, until_closed = console
    site.seat.type(sequence)
    site.opened("knock")
    site.add_home()
    (site.seat.at / ".ssh/config").write_text("Host home\n  HostName server.example\n")
    assert site.seat.type(until_closed) == "in\n"
    opened = site.daemon.event("opened", door="ssh", address=CLIENT)
    site.daemon.event("closed", door="ssh", address=CLIENT, by=opened["by"])
    assert site.daemon.openings() == []


@pytest.mark.console("docs/once.md")
def test_once(site: Site, console: Console) -> None:
    knocks, connects = console
    site.add_home()
    (site.seat.at / ".ssh/config").touch()
    site.seat.type(knocks)
    site.daemon.event("opened", door="ssh", address=CLIENT)
    assert site.seat.type(connects) == "in\n"
    assert site.daemon.event("closed", door="ssh", address=CLIENT)["by"].startswith("use from port ")


@pytest.mark.console("docs/reference/commands.md", "doorward proxy")
def test_proxy(site: Site, console: Console) -> None:
    shows, goes = console
    site.add_home("--ssh")
    site.seat.type(shows)
    assert site.seat.type(goes) == "in\n"
    site.opened("key ")


@pytest.mark.console("docs/reference/commands.md", "doorward hold")
def test_hold(site: Site, console: Console) -> None:
    (call,) = console
    site.add_home()
    program(site.seat.folder, "rsync", "/bin/echo", "sent")
    assert site.seat.type(call) == "sent -a photos server.example:\n"
    opened = site.daemon.event("opened", door="ssh", address=CLIENT)
    assert opened["by"].startswith("key ")
    site.daemon.event("closed", door="ssh", address=CLIENT, by=opened["by"])


@pytest.mark.console("docs/reference/commands.md", "doorward hosts", "doorward remove")
def test_hosts_and_remove(site: Site, console: Console) -> None:
    hosts, remove = console
    site.add_home()
    site.seat.type(hosts)
    site.seat.type(remove)
    assert "home" not in (site.seat.at / ".config/doorward/hosts.toml").read_text()


@pytest.mark.console("docs/reference/commands.md", "doorward add")
def test_add(site: Site, console: Console) -> None:
    by_key, by_link, shows = console
    link = format_link(KnockLink("server.example", (), site.key, None, (("ssh", ()),)))
    site.seat.meant |= {"x25519:…": site.key, "doorward://server.example/?key=…&door=ssh": link}
    site.seat.type(by_key)
    site.seat.type(by_link)
    assert site.seat.type(Call("$", "ssh work", "")) == "in\n"
    site.opened("key ")
    assert site.seat.type(shows).startswith("doorward://server.example/?key=…&door=ssh\n█")  # the same link
    site.seat.type(Call("$", "doorward knock home", ""))
    site.opened("key ")


@pytest.mark.console("docs/install.md", "The client in one file")
def test_one_file(site: Site, console: Console) -> None:
    """This Python has its standard library alone."""
    knock, add, ssh = console
    write(site.seat.at / "doorward.pyz", 1_700_000_000)
    program(site.seat.folder, "python3", sys.executable, "-I", "-S")
    site.seat.type(knock)
    site.opened("knock")
    site.seat.type(add)
    assert site.seat.type(ssh) == "in\n"
    site.opened("knock")


@pytest.mark.console("docs/reference/commands.md", "doorward verify")
def test_verify(site: Site, console: Console) -> None:
    """Few ports are looked at, and the door closes soon, not to wait here as long as in the world."""
    (call,) = console
    site.daemon.reload(CONFIG.replace('"5s"\n', '"5s"\nfor = "2s"\n'))
    for port in (80, 443):
        site.lab.server.start_greeter(port)
    site.add_home()
    site.seat.type(call._replace(typed=call.typed.replace("--expect", "--ports 20-30,80,443 --expect")))
    assert "<svg" in (site.seat.at / "home.svg").read_text()


@pytest.mark.console("docs/reference/commands.md", "doorward explain")
def test_explain(lab: Lab, tmp_path: Path, console: Console) -> None:
    """The knock was captured here; that its last packet came late is written into the file."""
    (call,) = console
    with running_site(lab, tmp_path) as site:
        explains(site, call)


def explains(site: Site, call: Call) -> None:
    with tcpdump(site.lab.server, "-i", "any", f"src host {CLIENT} and (tcp or udp)") as capture:
        site.seat.type(Call("$", "doorward knock server.example 7000 8000/udp 9000", ""))
        frames = capture.await_frames(3)
    at_ns = (frames[0].at_ns + round(1e9 * after_s) for after_s in (0, 0.01, 6.2))
    seat = Seat(site.lab.server, site.daemon.folder / "operator", site.daemon.env)
    write_pcap(seat.at / "knock.pcap", (frame._replace(at_ns=late) for frame, late in zip(frames, at_ns, strict=True)))
    seat.type(call, status=1)


def test_the_knock_of_old(site: Site) -> None:
    """The usage text of `knock`, which stands on the page too, ends with an example."""
    found = re.search(r"^example:  (knock .*)$", USAGE, re.MULTILINE)
    assert found
    site.seat.type(Call("$", found[1], ""))
    site.opened("knock", "old")
