"""Doors on hosts with another firewall: doctor reports the blocking rule, and its remedy lets the door open.

nftables, iptables, ufw and firewalld run as they are; Docker's rules are recorded (tests/recorded).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from doorward.doctor.problem import Level
from doorward.lab.namespace import NamespaceHost, end_processes, ip
from doorward.lab.topology import Lab
from tests.conftest import unavailable
from tests.support.daemon import (
    DOORWARD,
    PATIENCE_S,
    SILENCE_S,
    RunningDaemon,
    Visitor,
    Visitors,
    running_daemon,
    until,
)
from tests.support.terminal import Terminal

pytestmark = pytest.mark.netns("nft", "nmap", "knock")

RECORDED = Path(__file__).parent.parent / "recorded"
SEQUENCE = ("7001", "7002:udp", "7003")
CONFIG = """
[gate]
mode = "{mode}"
{mark}
[doors.main]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["{port}/tcp"]
"""
MARK = 'accept_mark = "0x1000/0x1000"'
DROP_BY_DEFAULT = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport 443 accept
    }
}
"""
IPTABLES = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p {icmp} -j ACCEPT
-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -j REJECT
COMMIT
"""


FORWARD_DROPS = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
    }
}
"""
PUBLISHED = """
table ip publishing {
    chain translate {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 8080 dnat to 172.17.0.2:80
    }
}
"""
HELPER = """
table inet helpers {
    ct helper standard {
        type "ftp" protocol tcp
    }
    chain assign {
        type filter hook prerouting priority filter; policy accept;
        tcp dport 21 ct helper set "standard"
    }
}
"""
BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>{address}</listen>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@dataclass
class Site:
    """A server with one door and another firewall; `mounts` are the shell's, which put its folder in its place."""

    lab: Lab
    daemon: RunningDaemon
    port: int = 22
    shell: Callable[[str], object] = lambda command: None
    mounts: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.visitors = Visitors(self.lab)
        self.server = self.lab.server

    def findings(self) -> list[dict[str, Any]]:
        """Run doctor as an operator who is logged in from the client."""
        session = f"{self.lab.client.ipv4} 50000 {self.server.ipv4} 22"
        command = [*DOORWARD, "doctor", "--json", "-c", self.daemon.config]
        done = self.server.run(command, env={**self.daemon.env, "SSH_CONNECTION": session}, check=False)
        assert done.stderr == ""
        found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        assert done.returncode == any(finding["level"] == Level.ERROR for finding in found)
        return found

    def in_the_way(self) -> list[dict[str, Any]]:
        """Return the rules that drop or may drop what the door opens."""
        return [finding for finding in self.findings() if "drop" in finding["what"] and "which door" in finding["what"]]

    def gets_in(self, version: int = 4) -> bool:
        visitor = self.visitors.fresh(version)
        visitor.knock(*SEQUENCE)
        self.daemon.event("opened", door="main", address=str(visitor))
        return self._talks(visitor)

    def _talks(self, visitor: Visitor) -> bool:
        """Connect, and have what follows the first packet pass too."""
        try:
            connection = visitor.connect(self.port)
        except OSError:  # dropped, or rejected in one of several ways
            return False
        with connection:
            connection.settimeout(PATIENCE_S)
            lines = connection.makefile("rw")
            lines.readline()
            lines.write("hello\n")
            lines.flush()
            return lines.readline() == "hello\n"

    def is_silent(self, version: int) -> bool:
        """Return whether a SYN to the door's port gets no answer of any kind."""
        stranger = self.lab.stranger
        source, server = (stranger.ipv4, self.server.ipv4) if version == 4 else (stranger.ipv6, self.server.ipv6)
        try:
            Visitor(stranger, source, server).connect(self.port, SILENCE_S).close()
        except TimeoutError:
            return True
        except OSError:  # rejected: that is an answer
            return False
        return False

    def confirm(self, option: str, status: int = 0) -> str:
        """Run doctor on a terminal, and type yes where it asks; returns what it shows."""
        command = " ".join(map(str, (*DOORWARD, "doctor", option, "-c", self.daemon.config)))
        variables = [f"{name}={value}" for name, value in {**self.daemon.env, **self.env}.items()]
        script = f"{self.mounts} && {command}; echo status $?."
        with Terminal(self.server, ["env", *variables, "sh", "-c", script]) as terminal:
            shown = terminal.until(r"type yes[^:]*: \Z|status \d+\.", PATIENCE_S)
            if "type yes" in shown:
                terminal.send("yes\n")
                shown += terminal.until(r"status \d+\.", PATIENCE_S)
        assert f"status {status}." in shown, shown
        return shown

    def apply(self, finding: dict[str, Any]) -> None:
        for command in finding["commands"]:
            self.shell(command)


@contextmanager
def site(lab: Lab, folder: Path, *, port: int = 22, mode: str = "stealth") -> Iterator[Site]:
    with running_daemon(lab.server, folder, CONFIG.format(mode=mode, mark="", port=port)) as daemon:
        yield Site(lab, daemon, port, lambda command: lab.server.run(["sh", "-c", command]))


def proves(there: Site, rules: list[str], versions: tuple[int, ...] = (4, 6), mode: str = "stealth") -> None:
    """Without the remedy the door stays shut and the rule is named; with it the knock opens, and only the knock."""
    assert not any(there.gets_in(version) for version in versions)
    found = there.in_the_way()
    assert [finding["where"] for finding in found] == rules
    assert all(finding["remedy"].startswith('write accept_mark = "0x1000/0x1000" in [gate] of') for finding in found)
    there.daemon.reload(CONFIG.format(mode=mode, mark=MARK, port=there.port))
    if there.mounts:
        there.confirm("--fix")
    else:
        for finding in there.in_the_way():
            there.apply(finding)
    assert there.in_the_way() == []
    for version in versions:
        assert there.gets_in(version)
        assert there.is_silent(version)


@pytest.mark.parametrize("mode", ["guard", "stealth", "observe"])
def test_nftables_with_drop_policy(lab: Lab, tmp_path: Path, mode: str) -> None:
    lab.server.start_greeter(22)
    lab.server.run(["nft", "-f", "-"], stdin=DROP_BY_DEFAULT)
    with site(lab, tmp_path, mode=mode) as there:
        proves(there, ["inet filter, chain input: its policy drops"], (4, 6) if mode == "stealth" else (4,), mode)
        if mode == "stealth":
            scan = lab.stranger.run(
                ["nmap", "-Pn", "-n", "-sS", "-T5", "--max-retries", "0", "-p", "20-60", "-oG", "-", lab.server.ipv4]
            ).stdout
            assert "Ignored State: filtered (41)" in scan


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.netns("iptables-nft", "iptables-legacy")
def test_iptables(lab: Lab, tmp_path: Path, backend: str) -> None:
    lab.server.start_greeter(22)
    for program, icmp in (("iptables", "icmp"), ("ip6tables", "ipv6-icmp")):
        restore = [f"{program}-{backend}-restore"]
        loaded = lab.server.run(restore, stdin=IPTABLES.format(icmp=icmp), check=False)
        if loaded.returncode:
            unavailable(f"this kernel takes no rules of {program}-{backend}: {loaded.stderr.strip()}")
    with site(lab, tmp_path) as there:
        proves(
            there,
            [
                f"iptables-{backend} -t filter: -A INPUT -j REJECT --reject-with icmp-port-unreachable",
                f"ip6tables-{backend} -t filter: -A INPUT -j REJECT --reject-with icmp6-port-unreachable",
            ],
        )


@pytest.mark.netns("ufw")
def test_ufw(lab: Lab, tmp_path: Path) -> None:
    """The real ufw, with a copy of its folder in place of the host's: each `ip netns exec` has mounts of its own."""
    copy = tmp_path / "ufw"
    shutil.copytree("/etc/ufw", copy)
    defaults = shutil.copy("/etc/default/ufw", tmp_path / "defaults")
    mounts = f"mount --bind {copy} /etc/ufw && mount --bind {defaults} /etc/default/ufw"
    lab.server.run(["sh", "-c", f"{mounts} && ufw --force enable"])
    rules = [copy / "before.rules", copy / "before6.rules"]
    before = [(path.read_bytes(), path.stat().st_mode) for path in rules]
    lab.server.start_greeter(22)
    with site(lab, tmp_path / "site") as there:
        there.mounts = mounts
        proves(
            there,
            [
                "iptables-nft -t filter, chain INPUT: its policy drops",
                "ip6tables-nft -t filter, chain INPUT: its policy drops",
            ],
        )
        assert all("--mark 0x1000/0x1000 -m comment --comment doorward -j ACCEPT" in path.read_text() for path in rules)
        lab.server.run(["sh", "-c", f"{mounts} && ufw reload"])
        assert there.gets_in()
        there.confirm("--undo")
        assert [(path.read_bytes(), path.stat().st_mode) for path in rules] == before
        assert "0x1000/0x1000" not in lab.server.run(["iptables-save"]).stdout


def start_firewalld(lab: Lab, folder: Path) -> tuple[str, dict[str, str]]:
    """Start the real firewalld with a bus and a folder of its own; return the shell's mounts and its environment."""
    copy, bus = folder / "firewalld", f"unix:path={folder}/bus"
    shutil.copytree("/etc/firewalld", copy)
    (folder / "bus.conf").write_text(BUS.format(address=bus).lstrip())
    mounts, env = f"mount --bind {copy} /etc/firewalld", {"DBUS_SYSTEM_BUS_ADDRESS": bus}
    lab.server.popen(["dbus-daemon", "--nofork", "--config-file", folder / "bus.conf"])
    until(lambda: (folder / "bus").exists())
    lab.server.popen(["sh", "-c", f"{mounts} && exec firewalld --nofork --nopid"], env=env)
    until(lambda: lab.server.run(["firewall-cmd", "--state"], env=env, check=False).returncode == 0)
    return mounts, env


@pytest.mark.netns("firewalld", "dbus-daemon", "iptables-nft")
def test_firewalld(lab: Lab, tmp_path: Path) -> None:
    """Its port is opened for marked packets alone: for strangers it is shut even where no gate is loaded."""
    lab.server.start_greeter(2222)
    mounts, env = start_firewalld(lab, tmp_path)
    with site(lab, tmp_path / "site", port=2222) as there:
        there.mounts, there.env = mounts, env
        proves(there, ["inet firewalld, chain filter_IN_public: reject with icmpx admin-prohibited"])
        kept = [tmp_path / "firewalld" / name for name in ("zones/public.xml", "direct.xml")]
        assert [path.read_text().count("2222") for path in kept] == [1, 2]
        assert there.daemon.end() == 0
        lab.server.run(["nft", "delete table inet doorward"])
        assert "tcp dport 2222" in there.daemon.ruleset()
        assert all(there.is_silent(version) for version in (4, 6))
        there.confirm("--undo")
        assert [path.read_text().count("2222") for path in kept] == [0, 0]
        assert "2222" not in there.daemon.ruleset()


@contextmanager
def container(lab: Lab) -> Iterator[NamespaceHost]:
    """A namespace behind the server's `docker0`, with a service on port 80."""
    inside = NamespaceHost(f"{lab.name}-container", "eth0", IPv4Address("172.17.0.2"), IPv6Address("::"), "")
    ip("netns", "add", inside.namespace)
    try:
        lab.server.ip(
            batch=[
                f"link add docker0 type veth peer name eth0 netns {inside.namespace}",
                "address add 172.17.0.1/16 dev docker0",
                "link set docker0 up",
            ]
        )
        inside.ip(
            batch=[
                "link set lo up",
                "link set eth0 up",
                "address add 172.17.0.2/16 dev eth0",
                "route add default via 172.17.0.1",
            ]
        )
        lab.server.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
        inside.start_greeter(80)
        yield inside
    finally:
        end_processes([inside])
        ip("netns", "delete", inside.namespace)


@pytest.mark.netns("iptables-nft")
def test_docker(lab: Lab, tmp_path: Path) -> None:
    with container(lab), site(lab, tmp_path, port=8080) as there:
        lab.server.run(["iptables-nft-restore"], stdin=(RECORDED / "docker.rules").read_text())
        proves(there, ["iptables-nft -t filter: -A DOCKER-USER -i eth0 -j DROP"], versions=(4,))
        listed = lab.server.run(["iptables-nft", "-S", "DOCKER-USER"]).stdout.splitlines()
        assert listed[1:3] == [
            "-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
            "-A DOCKER-USER -m mark --mark 0x1000/0x1000 -j RETURN",
        ]


def test_host_behind(lab: Lab, tmp_path: Path) -> None:
    """It is reached by what the door opened for the router, a neighbor of this host, once the forward chain lets it."""

    def answers() -> bool:
        connecting = lab.router.call(socket.socket)
        with connecting:
            connecting.settimeout(SILENCE_S)
            connecting.bind((str(lab.router.ipv4), 0))
            return connecting.connect_ex(("172.17.0.2", 80)) == 0

    lab.router.ip("route", "add", "172.17.0.0/16", "via", str(lab.server.ipv4))
    lab.server.run(["nft", "-f", "-"], stdin=FORWARD_DROPS)
    with container(lab), site(lab, tmp_path) as there:
        config = CONFIG.replace("{port}/tcp", "172.17.0.2:80/tcp").format(mode="guard", mark=MARK)
        there.daemon.reload(config)
        there.daemon.run("open", "main", lab.router.ipv4)
        assert not answers()
        (found,) = there.in_the_way()
        assert found["where"] == "inet filter, chain forward: its policy drops"
        assert "172.17.0.2:80/tcp, which door 'main' opens" in found["what"]
        there.apply(found)
        assert there.in_the_way() == []
        assert answers()


@pytest.mark.netns("iptables-nft")
@pytest.mark.parametrize("has_iptables", [True, False], ids=["iptables", "nft"])
def test_container_reachable_at_its_own_address(lab: Lab, tmp_path: Path, has_iptables: bool) -> None:
    """The gate hides the published port; from the same wire the container's address is a way around it."""
    neighbor, rules = (
        lab.router,
        (RECORDED / "docker.rules").read_text().replace("-A DOCKER-USER -i eth0 -j DROP\n", ""),
    )

    def answers_directly() -> bool:
        try:
            neighbor.call(socket.create_connection, ("172.17.0.2", 80), SILENCE_S).close()
        except TimeoutError:
            return False
        return True

    with container(lab), site(lab, tmp_path, port=8080) as there:
        neighbor.ip("route", "add", "172.17.0.0/16", "via", str(lab.server.ipv4))
        if has_iptables:
            lab.server.run(["iptables-nft-restore"], stdin=rules)
        else:
            lab.server.run(["nft", "-f", "-"], stdin=PUBLISHED)
        assert there.is_silent(4)
        assert answers_directly()
        (found,) = [finding for finding in there.findings() if finding["where"] == "port 8080/tcp"]
        assert found["level"] == Level.WARNING
        assert "172.17.0.2, 80/tcp" in found["what"]
        assert all(("iptables" in command) == has_iptables for command in found["commands"])
        there.apply(found)
        assert not answers_directly()
        assert there.is_silent(4)
        assert there.gets_in()
        assert [finding for finding in there.findings() if finding["where"] == "port 8080/tcp"] == []


def test_conntrack_helpers_are_reported(lab: Lab, tmp_path: Path) -> None:
    lab.server.run(["nft", "-f", "-"], stdin=HELPER)
    rule = ["-p", "udp", "--dport", "69", "-j", "CT", "--helper", "tftp"]
    if lab.server.run(["iptables-nft", "-t", "raw", "-A", "PREROUTING", *rule], check=False).returncode:
        unavailable("this kernel has no conntrack helpers")
    with site(lab, tmp_path) as there:
        found = helpers_in(there)
        assert [finding["where"].partition(":")[0] for finding in found] == [
            "inet helpers, chain assign",
            "iptables-nft -t raw",
        ]
        for finding in found:
            assert finding["level"] == Level.WARNING
            there.apply(finding)
        assert helpers_in(there) == []


def helpers_in(there: Site) -> list[dict[str, Any]]:
    return [finding for finding in there.findings() if "conntrack helper" in finding["what"]]


def test_no_blocking_rule_is_reported_without_one(lab: Lab, tmp_path: Path) -> None:
    lab.server.start_greeter(22)
    lab.server.run(["nft", "-f", "-"], stdin=DROP_BY_DEFAULT.replace("443", "{ 22, 443 }"))
    with site(lab, tmp_path) as there:
        assert there.gets_in(4)
        assert there.in_the_way() == []


OTHER_BITS = """
table ip t {
    chain earlier {
        type filter hook prerouting priority -160; policy accept;
        meta mark set 0x1008
    }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established accept
        tcp dport 22 meta mark 0x1008 accept
        tcp dport 23 meta mark and 0x1000 == 0x1000 accept
        tcp dport 24 meta mark 0x8 accept
    }
}
"""


def test_other_mark_bits_are_preserved_and_ours_are_cleared(lab: Lab, tmp_path: Path) -> None:
    for port in (22, 23, 24):
        lab.server.start_greeter(port)
    lab.server.run(["nft", "-f", "-"], stdin=OTHER_BITS)
    with running_daemon(lab.server, tmp_path, CONFIG.format(mode="guard", mark=MARK, port=22)) as daemon:
        there = Site(lab, daemon)
        assert there.gets_in()
        visitor = there.visitors.fresh(4)
        assert {port: visitor.gets_in(port) for port in (22, 23, 24)} == {22: False, 23: False, 24: True}
        lab.server.ip("rule", "add", "fwmark", "0x1000/0xf000", "lookup", "main")
        assert "ip rule, fwmark 0x1000/0xf000" in [finding["where"] for finding in there.findings()]


def test_doctor_text_output(lab: Lab, tmp_path: Path) -> None:
    lab.server.run(["nft", "-f", "-"], stdin=DROP_BY_DEFAULT)
    with site(lab, tmp_path) as there:
        done = there.daemon.run("doctor", check=False)
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert lines[0] == "error: inet filter, chain input: its policy drops"
        assert lines[1] == "    drops 22/tcp, which door 'main' opens"
        assert lines[3] == "      # nft insert rule inet filter input meta mark and 0x1000 == 0x1000 accept"
        assert "    door 'main' opens 22/tcp, but nothing listens there" in lines
        assert f"ok: daemon, process {there.daemon.process.pid}: running: 1 door, mode stealth" in lines


def test_doctor_reports_changed_file_and_stopped_daemon(lab: Lab, tmp_path: Path) -> None:
    with site(lab, tmp_path) as there:
        there.daemon.config.write_text(CONFIG.format(mode="guard", mark="", port=22))
        assert any("was changed after it was loaded" in finding["what"] for finding in there.findings())
        other = tmp_path / "other.toml"
        other.write_text(there.daemon.config.read_text())
        done = there.daemon.run("doctor", "-c", other, check=False)
        assert f"it is running with {there.daemon.config}, not with {other}" in done.stdout
        assert there.daemon.end() == 0
        lab.server.run(["nft", "delete table inet doorward"])
        assert any("the daemon is not running and no gate is loaded" in finding["what"] for finding in there.findings())
