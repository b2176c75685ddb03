"""From `doorward init` to `ssh`, by typing only the commands that it prints."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from doorward.init.survey import Service, survey_host
from doorward.lab.topology import Lab
from doorward.model import Port
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, RunningDaemon
from tests.support.service_user import GROUP, service_user
from tests.support.sshd import SSH, running_sshd

pytestmark = pytest.mark.netns("nft", "ssh", "ssh-keygen", "/usr/sbin/sshd")

SSH_PORT = Port.parse("22/tcp")


class Site:
    """A server with sshd, on which doorward is not set up yet, and a client whose user has a key."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.home = lab, folder / "home"
        self.private = ssh_keygen.key("ed25519")
        self.keys = folder / "keys"
        self.keys.write_text(ssh_keygen.public_line(self.private) + "\n")
        self.home.mkdir(mode=0o700)
        self.env = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"), "SSH_AUTH_SOCK": ""}
        self.daemon = RunningDaemon(lab.server, folder / "server", "")
        self.daemon.config.unlink()

    def init(self, *words: object) -> str:
        """Set up the server without an SSH session; return the output."""
        words = ("init", "--yes", "--name", "box", "--authorized-keys", self.keys, *words)
        environment = {**self.daemon.env, "HOME": str(self.home), "SSH_CONNECTION": ""}
        return self.lab.server.run([*DOORWARD, *words], env=environment).stdout

    def on_the_client(self, line: str) -> str:
        """Type a line that init printed."""
        program, *words = shlex.split(line)
        assert program == "doorward"
        return self.lab.client.run([*DOORWARD, *words], env=self.env).stdout

    def ssh(self, command: str = "echo in") -> str:
        """Run a command over ssh, with the configuration that `doorward add` prints."""
        config = self.home / "ssh_config"
        proxy = " ".join([*DOORWARD, "proxy", "--fdpass", "%h", "%p"])
        config.write_text(
            f"Host box\n  ProxyCommand {proxy}\n  ProxyUseFdpass yes\n  User root\n  IdentityFile {self.private}\n"
            "  LogLevel ERROR\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        )
        done = self.lab.client.run([SSH, "-F", config, "box", command], env=self.env, check=False)
        return done.stdout + done.stderr


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    site = Site(direct_lab, tmp_path)
    with running_sshd(direct_lab.server, tmp_path / "sshd", [site.keys.read_text().strip()]):
        yield site
    site.daemon.close()


@contextmanager
def identified(site: Site) -> Iterator[None]:
    """Let the client's user have the key where ssh looks for it."""
    folder = site.home / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "id_ed25519").write_bytes(site.private.read_bytes())
    (folder / "id_ed25519").chmod(0o600)
    yield


def printed_line(printed: str, start: str) -> str:
    found = re.search(rf"^  (doorward {start}.*?)(  # .*)?$", printed, re.MULTILINE)
    assert found, printed
    return found[1].strip()


@pytest.mark.parametrize("mode", ["guard", "stealth"])
def test_printed_commands_give_access(site: Site, mode: str) -> None:
    printed = site.init("--mode", mode)
    assert re.search(r"^  22/tcp +sshd$", printed, re.MULTILINE), printed
    checked = site.daemon.run("check")
    assert ": warning: " not in checked.stderr
    assert "good: 1 door, mode" in checked.stdout  # only a key opens it
    assert site.daemon.run(*printed_line(printed, "doctor").split()[1:]).returncode == 0
    words = printed_line(printed, "run").split()[2:]
    assert words == ["--trial", "5m"]
    site.daemon.start(*words)
    site.daemon.message("accepting signed knocks")
    with identified(site):
        assert "added 'box'" in site.on_the_client(printed_line(printed, "add"))
        site.on_the_client(printed_line(printed, "knock"))  # --wait: it has answered
        assert site.daemon.event("opened", door="ssh")["by"] == "key ed25519 number 0"
        assert site.ssh() == "in\n"
        folders = " ".join(f"{name}={shlex.quote(path)}" for name, path in site.daemon.env.items())
        assert "confirmed" in site.ssh(f"{folders} {shlex.join(DOORWARD)} confirm")


def test_chosen_sequence_gives_access(site: Site) -> None:
    printed = site.init("--no-signed")
    site.daemon.start()
    site.on_the_client(printed_line(printed, "add"))
    site.on_the_client(printed_line(printed, "knock"))
    assert site.daemon.event("opened", door="ssh")["by"] == "knock"
    assert site.ssh() == "in\n"


def test_phone_app_sequence_gives_access(site: Site) -> None:
    """Each step as the app takes it: a connection that is given up at once, or a datagram."""
    site.init("--no-signed", "--mode", "stealth")
    site.daemon.start()
    shared = site.daemon.run("share", "ssh", "--format", "knockonports", "--host", site.lab.server.ipv4).stdout
    (sequence,) = json.loads(shared)["sequences"]
    steps = [f"{step['port']}/{step['type']}" for step in sequence["steps"]]
    words = ["knock", sequence["host"], *steps, "--delay", f"{sequence['delay']}ms", "--wait", "22"]
    site.lab.client.run([*DOORWARD, *words], env=site.env)
    assert site.daemon.event("opened", door="ssh")["by"] == "knock"


def test_service_user_can_read_written_files(site: Site) -> None:
    with service_user(site.lab.server):
        site.init()
    folder = site.daemon.config.parent
    assert {path.name for path in folder.iterdir()} == {"doorward.toml", "server.key", "authorized_keys"}
    for path in folder.iterdir():
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, GROUP)


def test_files_are_root_only_without_a_service_user(site: Site) -> None:
    site.init()
    assert {stat.S_IMODE(path.stat().st_mode) for path in site.daemon.config.parent.iterdir()} == {0o600}


def test_accept_mark_is_set_for_a_dropping_firewall(site: Site) -> None:
    rules = "table inet filter { chain input { type filter hook input priority 0; policy drop; iif lo accept; }; }"
    site.lab.server.run(["nft", "-f", "-"], stdin=rules)
    printed = site.init("--mode", "stealth")
    assert "another firewall (inet filter) would drop these connections: accepted packets get the\nmark 0x" in printed
    assert 'accept_mark = "0x1000/0x1000"' in site.daemon.config.read_text()
    doctor = site.daemon.run("doctor", check=False)
    (rule,) = re.findall(r"# (nft insert rule inet filter input meta mark .*)", doctor.stdout)
    site.lab.server.run(rule.split())
    site.lab.server.run(
        ["nft", "insert", "rule", "inet", "filter", "input", "ct", "state", "established,related", "accept"]
    )
    site.daemon.start()
    site.daemon.message("accepting signed knocks")
    with identified(site):
        site.on_the_client(printed_line(printed, "add"))
        site.on_the_client(printed_line(printed, "knock"))
        assert site.ssh() == "in\n"


def test_survey_of_a_host(direct_lab: Lab) -> None:
    server = direct_lab.server
    assert server.call(survey_host).services == ()
    server.start_greeter(22)
    found = server.call(survey_host)
    ((port, program),) = found.services
    assert (port, program[:6]) == (SSH_PORT, "python")
    assert found.ssh_ports() == (SSH_PORT,)
    assert isinstance(server.ipv4, IPv4Address)
    assert found.address() in (server.ipv4, server.ipv6)
    assert Service(SSH_PORT, program) in found.services
