"""OpenSSH's own ssh through doorward's proxy to OpenSSH's own sshd, behind a guarded port: in at the first try."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab.namespace import NamespaceHost
from doorward.lab.topology import Lab
from doorward.signed.server_key import Suite
from tests.support import ssh_keygen
from tests.support.authenticator import Authenticator
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, running_daemon
from tests.support.routed import BEHIND, ROUTER, both_families, gets_in
from tests.support.signed import SUITES_HERE, Signed
from tests.support.ssh_agent import agent_that, real_agent, token_agent
from tests.support.sshd import SSH, running_sshd

pytestmark = pytest.mark.netns("nft", "ssh", "ssh-agent", "ssh-keygen", "/usr/sbin/sshd")

CONFIG = """
[gate]
mode = "{mode}"
[signed]
[doors.ssh]
opens = ["22/tcp"]
for = "30s"
"""
ROUTED = CONFIG.replace(
    "22/tcp",
    '2222/tcp -> 198.51.100.2:22", "2222/tcp -> [2001:db8:2::2]:22", "198.51.100.2:22/tcp", "[2001:db8:2::2]:22/tcp',
)


class Site:
    """A server with sshd behind a guarded port, and a client whose user has keys."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self.env = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"), "SSH_AUTH_SOCK": ""}
        self.files = Signed(folder / "configuration")

    def key(self, kind: str) -> Path:
        """Create a key of this kind for the user, which both doorward and sshd let in."""
        private = ssh_keygen.key(kind)
        self.files.authorize(ssh_keygen.public_line(private))
        return private

    def ssh(self, version: int, *options: object, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command over ssh, as the user's configuration has it, in a shell of its own."""
        command = self.command(version, "echo $((6 * 7))", *options, key=key)
        return self.lab.client.run(command, env=self.env, check=False)

    def command(
        self, version: int, run: str, *options: object, key: Path | None = None, host: NamespaceHost | None = None
    ) -> list[object]:
        """Write the user's configuration, and return the command that runs another on the server, or on this host."""
        host = host or self.lab.server
        server = host.ipv4 if version == 4 else host.ipv6
        words = " ".join([*DOORWARD, "proxy", "%h", "%p", *map(str, options)])
        config = self.home / "ssh_config"
        config.write_text(
            f"Host *\n  User root\n  ProxyCommand {words}\n  StrictHostKeyChecking no\n  LogLevel ERROR\n"
            f"  UserKnownHostsFile /dev/null\n  IdentitiesOnly {'yes' if key else 'no'}\n"
            + (f"  IdentityFile {key}\n" if key else "")
            + ("  ProxyUseFdpass yes\n" if "--fdpass" in options else "")
        )
        return [SSH, "-F", config, server, run]

    def gets_in(self, version: int, *options: object, key: Path | None = None) -> None:
        done = self.ssh(version, "--server-key", self.files.server.public, *options, key=key)
        assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr
        assert done.stderr == ""


@pytest.fixture
def site(direct_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    site = Site(direct_lab, tmp_path)
    keys = [ssh_keygen.public_line(ssh_keygen.key(kind)) for kind in KINDS]
    with running_sshd(direct_lab.server, tmp_path / "sshd", keys):
        yield site


KINDS = ("ed25519", "ecdsa256", "rsa2048")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["file", "agent"])
def test_ssh_gets_in_at_the_first_try(site: Site, kind: str, where: str) -> None:
    private = site.key(kind)
    with running_daemon(site.lab.server, site.folder, CONFIG.format(mode="stealth")) as daemon:
        daemon.message("accepting signed knocks")
        for version in (4, 6):
            if where == "file":
                site.gets_in(version, "--identity", private, key=private)
            else:
                with real_agent(site.folder) as agent:
                    agent.add(private)
                    site.env["SSH_AUTH_SOCK"] = str(agent.path)
                    site.gets_in(version)
            opened = daemon.event("opened", door="ssh")
            assert opened["by"] == f"key {kind} number 0"
        assert daemon.counters()["signed"] == 2  # one packet each


@both_families
def test_ssh_gets_in_behind_a_router(lab: Lab, tmp_path: Path, version: int) -> None:
    """By a port that the opening forwards, and at the host's own address; each knock lets one connection in."""
    site = Site(lab, tmp_path)
    private = site.key("ed25519")
    options = ["--server-key", site.files.server.public, "--identity", private, "--once"]
    keys = [ssh_keygen.public_line(private)]
    daemon_of_router = running_daemon(lab.router, tmp_path, ROUTED.format(mode="stealth"))
    with running_sshd(lab.server, tmp_path / "sshd", keys), daemon_of_router as daemon:
        daemon.message("accepting signed knocks")
        command = site.command(version, "echo in", *options, "--door", "ssh", key=private, host=lab.router)
        done = lab.client.run([*command[:-2], "-p", 2222, *command[-2:]], env=site.env, check=False)
        assert (done.stdout, done.stderr) == ("in\n", "")
        assert daemon.event("closed", door="ssh")["by"].startswith("use from port ")
        assert not gets_in(lab.client, ROUTER[version], 2222)
        assert not gets_in(lab.client, BEHIND[version])
        lab.client.run([*DOORWARD, "knock", ROUTER[version], "ssh", *options], env=site.env)
        daemon.event("opened", door="ssh")
        direct = [*command[:-2], "-o", "ProxyCommand=none", BEHIND[version], "echo in"]
        assert lab.client.run(direct, env=site.env).stdout == "in\n"
        daemon.event("closed", door="ssh")
        assert not gets_in(lab.client, BEHIND[version])


@pytest.mark.parametrize("suite", SUITES_HERE, ids=lambda suite: suite.name)
def test_both_suites(site: Site, suite: Suite) -> None:
    site.files.new_key(suite)
    private = site.key("ed25519")
    with running_daemon(site.lab.server, site.folder, CONFIG.format(mode="guard")) as daemon:
        daemon.message("accepting signed knocks")
        site.gets_in(4, "--identity", private, key=private)


def test_what_the_commands_print_is_what_the_next_takes(site: Site) -> None:
    """`key server` on the server, `add` on the client, the lines that `add` prints in ssh_config, and in."""
    private = site.key("ed25519")
    site.files.key_file.unlink()
    daemon = RunningDaemon(site.lab.server, site.folder, CONFIG.format(mode="stealth"))
    public = daemon.run("key", "server").stdout.strip()
    assert daemon.run("key", "server").stdout.strip() == public
    try:
        daemon.start()
        daemon.message("accepting signed knocks")
        client = site.lab.client
        words = ["add", "home", "--address", site.lab.server.ipv4, "--server-key", public, "--door", "ssh"]
        printed = client.run([*DOORWARD, *words, "--identity", private], env=site.env).stdout
        lines = [line for line in printed.splitlines() if line.strip().startswith(("Host ", "Proxy"))]
        assert len(lines) == 3
        config = site.home / "ssh_config"
        settings = "\n".join(lines).replace("ProxyCommand doorward", f"ProxyCommand {' '.join(DOORWARD)}")
        config.write_text(
            f"{settings}\n  User root\n  IdentityFile {private}\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )
        done = client.run([SSH, "-F", config, "home", "echo in"], env=site.env, check=False)
        assert (done.stdout, done.stderr) == ("in\n", "")
    finally:
        daemon.close()


@pytest.mark.parametrize("kind", ["ed25519-sk", "ecdsa-sk"])
def test_a_security_key_opens_when_it_is_touched(site: Site, kind: str) -> None:
    token = Authenticator(kind)
    site.files.authorize(token.line)
    server, client = site.lab.server, site.lab.client
    knock = [*DOORWARD, "knock", server.ipv4, "ssh", "--server-key", site.files.server.public]
    with running_daemon(server, site.folder, CONFIG.format(mode="stealth")) as daemon:
        daemon.message("accepting signed knocks")
        with agent_that(site.folder, token_agent(token)) as agent:
            client.run([*knock, "--wait", "22"], env={**site.env, "SSH_AUTH_SOCK": str(agent)})
        assert daemon.event("opened", door="ssh")["by"] == "key in software"


def test_a_key_that_is_not_authorized_stays_outside_and_the_server_says_why(site: Site) -> None:
    site.key("ed25519")
    private = ssh_keygen.key("ecdsa256")
    with running_daemon(site.lab.server, site.folder, CONFIG.format(mode="stealth")) as daemon:
        daemon.message("accepting signed knocks")
        key = site.files.server.public
        done = site.ssh(4, "--server-key", key, "--identity", private, "--timeout", "1s", key=private)
        assert done.returncode == 255
        assert "knocked" in done.stderr
        assert "does not list the key SHA256:" in daemon.event("refused")["reason"]
        assert daemon.openings() == []


@pytest.mark.parametrize(("option", "between"), [("--fdpass", []), ("--timeout=30s", ["python"])])
def test_a_session_with_fdpass_has_no_python_process(site: Site, option: str, between: list[str]) -> None:
    private = site.key("ed25519")
    options = ["--server-key", site.files.server.public, "--identity", private, option]
    with running_daemon(site.lab.server, site.folder, CONFIG.format(mode="stealth")) as daemon:
        daemon.message("accepting signed knocks")
        command = site.command(4, "echo in; cat", *options, key=private)
        pipe = subprocess.PIPE
        with site.lab.client.popen(command, env=site.env, stdin=pipe, stdout=pipe, stderr=pipe) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == "in\n"
            children = Path(f"/proc/{session.pid}/task/{session.pid}/children").read_text().split()
            names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children]
            assert [name[: len("python")] for name in names] == between
            out, err = session.communicate("and out", PATIENCE_S)
        assert (session.returncode, out, err) == (0, "and out", "")


def test_a_hundred_megabytes_pass(site: Site) -> None:
    private = site.key("ed25519")
    with running_daemon(site.lab.server, site.folder, CONFIG.format(mode="stealth")) as daemon:
        daemon.message("accepting signed knocks")
        site.gets_in(4, "--identity", private, key=private)
        config = site.home / "ssh_config"
        size = 100 << 20
        command = [SSH, "-F", config, site.lab.server.ipv4, f"head -c {size} /dev/zero; cat >/dev/null"]
        done = site.lab.client.popen(
            command, env=site.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, _ = done.communicate(timeout=4 * PATIENCE_S)
        assert len(out) == size
