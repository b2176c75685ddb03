"""Several ports for signed knocks: the client reaches the daemon through a network that blocks some of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support import ssh_keygen
from tests.support.daemon import DOORWARD, PATIENCE_S
from tests.support.signed import send
from tests.support.signed_site import SignedSite

pytestmark = pytest.mark.netns("nft")

PORTS = ("62201/udp", "443/udp", "53/udp")
CONFIG = f"""
[gate]
mode = "{{mode}}"
[signed]
port = {list(PORTS)}
[doors.ssh]
opens = ["22/tcp"]
for = "10m"
"""


class Site(SignedSite):
    """A server behind a router, and a client whose key opens its door."""

    def __init__(self, lab: Lab, folder: Path, mode: str = "stealth") -> None:
        super().__init__(lab, folder, CONFIG.format(mode=mode))
        self.identity = ssh_keygen.key("ed25519")
        self.files.authorize(self.laptop.line, ssh_keygen.public_line(self.identity))

    def block(self, ports: str, verdict: str, hook: str = "forward") -> None:
        """Let the router forward, or the client send, no datagram to these ports."""
        rule = f"udp dport {{ {ports} }} counter {verdict}"
        chain = f"chain {hook} {{\ntype filter hook {hook} priority filter; policy accept;\n{rule}\n}}"
        host = self.lab.client if hook == "output" else self.lab.router
        host.run(["nft", "-f", "-"], stdin=f"table inet net {{\n{chain}\n}}\n")

    def hosts_toml(self, home: Path, *, confirm: bool = False) -> dict[str, str]:
        """Write the client's hosts.toml; return the environment in which the client finds it."""
        file = home / "doorward" / "hosts.toml"
        file.parent.mkdir(parents=True)
        file.write_text(
            f'[home]\naddress = "{self.lab.server.ipv4}"\nserver_key = "{self.files.server.public}"\n'
            f'identity = "{self.identity}"\nsigned_port = {list(PORTS)}\n'
            f"confirm = {str(confirm).lower()}\n"
        )
        file.chmod(0o600)
        return {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "SSH_AUTH_SOCK": ""}


@pytest.mark.parametrize("verdict", ["drop", "reject"])
def test_the_second_port_opens_where_the_first_is_blocked(lab: Lab, tmp_path: Path, verdict: str) -> None:
    lab.server.start_greeter(22)
    site = Site(lab, tmp_path)
    env = site.hosts_toml(tmp_path / "home")
    site.block("62201", verdict)
    with site.running() as daemon:
        done = lab.client.run([*DOORWARD, "knock", "home", "ssh", "--wait", "22", "--timeout", "10s", "-v"], env=env)
        sent = [line.split(" ")[0] for line in done.stdout.splitlines() if " bytes for door " in line]
        assert sent == ["62201/udp", "443/udp"]
        assert done.stdout.endswith("22/tcp is open\n")
        daemon.event("opened", door="ssh", address=str(lab.client.ipv4))
        assert daemon.counters()["signed"] == 1


@pytest.mark.parametrize("words", ["", "--close"])
def test_without_a_confirmation_a_knock_goes_on_to_the_next_port(lab: Lab, tmp_path: Path, words: str) -> None:
    site = Site(lab, tmp_path)
    site.text = site.text.replace("[signed]\n", "[signed]\nconfirm = true\n")
    env = site.hosts_toml(tmp_path / "home", confirm=True)
    knock = [*DOORWARD, "knock", "home", "ssh", "-v"]
    with site.running() as daemon:
        if words:
            lab.client.run(knock, env=env)
            knock.append(words)
        signed = daemon.counters()["signed"]
        site.block("62201", "drop")
        done = lab.client.run(knock, env=env)
        assert [line.split(" ")[0] for line in done.stdout.splitlines() if " bytes for door " in line] == list(
            PORTS[:2]
        )
        assert done.stdout.endswith(" ms, 443/udp)\n")
        assert daemon.counters()["signed"] == signed + 1
        lab.router.run(["nft", "flush", "ruleset"])
        site.block("62201, 443, 53", "drop")
        begun_s = time.monotonic()
        done = lab.client.run(knock, env=env, check=False)
        assert len(PORTS) <= time.monotonic() - begun_s < len(PORTS) + PATIENCE_S
        assert (done.returncode, daemon.counters()["signed"]) == (1, signed + 1)
        assert "no confirmation within 1 s at any of 3 ports" in done.stderr


@pytest.mark.parametrize("words", ["knock home ssh", "hold home ssh -- sleep 1"])
def test_a_port_that_the_client_itself_blocks_is_passed_over(direct_lab: Lab, tmp_path: Path, words: str) -> None:
    site = Site(direct_lab, tmp_path)
    env = site.hosts_toml(tmp_path / "home")
    site.block("62201", "drop", hook="output")
    with site.running() as daemon:
        direct_lab.client.run([*DOORWARD, *words.split()], env=env)
        daemon.event("opened", door="ssh", address=str(direct_lab.client.ipv4))
    site.block("443, 53", "drop", hook="output")
    done = direct_lab.client.run([*DOORWARD, *words.split()], env=env, check=False)
    assert done.returncode == 2
    assert "dropped by this host's packet filter" in done.stderr


def test_the_proxy_tries_the_ports_in_turn(lab: Lab, tmp_path: Path) -> None:
    lab.server.start_greeter(22)
    site = Site(lab, tmp_path)
    env = site.hosts_toml(tmp_path / "home")
    site.block("62201, 443", "drop")
    with site.running() as daemon:
        proxy = [*DOORWARD, "proxy", "home", "22", "ssh", "--timeout", "15s"]
        assert lab.client.run(["sh", "-c", f"echo hello | {' '.join(map(str, proxy))}"], env=env).stdout
        daemon.event("opened", door="ssh", address=str(lab.client.ipv4))
        assert daemon.counters()["signed"] == 1


@pytest.mark.parametrize("mode", ["observe", "guard", "stealth"])
def test_each_port_opens_and_a_copy_at_another_is_refused(direct_lab: Lab, tmp_path: Path, mode: str) -> None:
    site = Site(direct_lab, tmp_path, mode)
    numbers = [int(port.split("/")[0]) for port in PORTS]
    with site.running() as daemon:
        for version in (4, 6):
            for number, other in zip(numbers, numbers[1:] + numbers[:1], strict=True):
                guest = site.visitors.fresh(version)
                packet = site.laptop.packet(site.files.server)
                send(direct_lab.client, guest.source, guest.server, packet, port=number)
                daemon.event("opened", address=str(guest))
                send(direct_lab.client, guest.source, guest.server, packet, port=other)
                assert "copy of an earlier packet" in daemon.event("refused", address=str(guest))["reason"]
        assert daemon.counters()["signed"] == 4 * len(PORTS)
