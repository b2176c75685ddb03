"""Packets in a copy of the host: what is not checked is never ok, and the copy leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from doorward.config.toml import parse
from doorward.doctor import bypasses, firewalls, trace
from doorward.doctor.host_state import collect_facts
from doorward.doctor.problem import Level, Problem
from doorward.doctor.replica import Replica, snapshot
from doorward.kernel.child_process import run_in_child
from doorward.kernel.routes import LOCAL, route_type
from doorward.lab.topology import Lab
from tests.support.daemon import DOORWARD, PATIENCE_S, standing_lab, until

pytestmark = pytest.mark.netns("nft", "iptables-nft")

CONFIG = parse('[doors.ssh]\nknock = ["7000/tcp", "9000/tcp", "8000/tcp"]\nopens = ["22/tcp", "53/udp"]\n', "f")
MARKED = parse('[gate]\naccept_mark = "0x1000/0x1000"\n[doors.ssh]\nopens = ["22/tcp"]\n', "f")
CHAIN = {"family": "inet", "table": "t", "name": "i", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
NEW_RULES = "*filter\n:INPUT {policy} [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with standing_lab() as lab:
        for port in (22, 24):
            lab.server.start_greeter(port)
        yield lab


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    yield shared
    shared.server.run(["nft", "flush", "ruleset"])


def load(lab: Lab, text: str) -> None:
    lab.server.run(["nft", "-f", "-"], stdin=text)


def restore(lab: Lab, *rules: str, policy: str = "ACCEPT") -> None:
    lab.server.run(["iptables-nft-restore"], stdin=NEW_RULES.format(policy=policy, rules="\n".join(rules)))


def findings(lab: Lab, configuration: Any = CONFIG) -> list[Problem]:
    facts = lab.server.call(collect_facts, configuration, Path("/"))
    assert facts.unread == ()
    found = firewalls.check("f", configuration, facts)
    return [one for one in found if one.where != "port 53/udp"]  # where nothing listens


def chain(*rules: str, hook: str = "input", policy: str = "accept", more: str = "") -> str:
    lines = "\n".join(rules)
    return (
        f"table inet t {{\n{more}\nchain i {{\ntype filter hook {hook} priority 0; policy {policy};\n{lines}\n}}\n}}\n"
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (chain("socket transparent 1 accept"), "inet t, chain i: socket transparent 1 accept"),
        (chain("meta skuid 0 accept", hook="output"), "inet t, chain i: meta skuid 0 accept"),
    ],
)
def test_untestable_nftables_rules_are_reported(lab: Lab, text: str, rule: str) -> None:
    load(lab, text)
    (found,) = findings(lab)
    assert (found.level, found.what) == (Level.WARNING, f"not checked: {rule}")


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -m socket -j ACCEPT",
        "-A OUTPUT -m owner --uid-owner 0 -j ACCEPT",
        "-A INPUT -p tcp -j NFQUEUE --queue-num 0",
    ],
)
def test_untestable_iptables_matches_are_reported(lab: Lab, rule: str) -> None:
    restore(lab, rule)
    (found,) = findings(lab)
    assert (found.level, found.what) == (Level.WARNING, f"not checked: iptables-nft -t filter: {rule}")


def test_iptables_match_unknown_to_nft_is_reported(lab: Lab) -> None:
    restore(lab, "-A INPUT -p tcp -m multiport --dports 22,23 -j DROP")
    load(lab, "add chain ip filter odd { type filter hook input priority 5; }\n")
    (found,) = findings(lab)
    assert (found.level, found.what) == (Level.WARNING, "not checked: iptables-nft -t filter, chain odd")
    load(lab, "flush ruleset\n")
    restore(lab, "-A INPUT -p tcp -m multiport --dports 22,23 -j DROP")
    load(lab, "add rule ip filter INPUT fib daddr . iif type local accept\n")
    assert [found.level for found in findings(lab)] == [Level.WARNING]


@pytest.mark.parametrize(
    "change",
    [
        {"rule": [{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": 'x"accept#'}}, {"drop": None}]},
        {"comment": 'a" accept comment "b'},
        {"comment": 'a" # handle 2\n\t\taccept comment "b'},
        {"chain": "i { }; drop"},
        {"table": "t u"},
        {"set": 's { }\n\tinclude "/etc/shadow"'},
    ],
    ids=lambda change: next(iter(change)),
)
def test_names_that_look_like_rules_are_not_misread(lab: Lab, change: dict[str, Any]) -> None:
    """They come by nft's JSON; printed as text they are other rules, which must not be believed."""
    table, name = change.get("table", "t"), change.get("chain", "i")
    rule = {"family": "inet", "table": table, "chain": name, "expr": change.get("rule", [{"drop": None}])}
    if "comment" in change:
        rule["comment"] = change["comment"]
    parts = [{"table": {"family": "inet", "name": table}}, {"chain": {**CHAIN, "table": table, "name": name}}]
    if "set" in change:
        parts.append({"set": {"family": "inet", "table": table, "name": change["set"][:31], "type": "ipv4_addr"}})
    document = {"nftables": [{"add": part} for part in (*parts, {"rule": rule})]}
    lab.server.run(["nft", "-j", "-f", "-"], stdin=json.dumps(document))
    found = findings(lab)
    assert [one.level for one in found] == [Level.WARNING]
    assert found[0].what.startswith("not checked: ")


def test_rule_for_one_network_does_not_count_for_all_clients(lab: Lab) -> None:
    load(lab, chain("ip saddr 81.2.69.0/24 drop", "ip6 saddr 2a02:cf40::/32 drop"))
    assert [found.level for found in findings(lab)] == [Level.OK]


def test_rate_limits_are_tested_with_one_packet(lab: Lab) -> None:
    limited = "tcp dport 22 limit rate 1/hour burst 1 packets accept"
    load(lab, chain(limited, "ct state established accept", "udp dport 53 accept", policy="drop"))
    assert [found.level for found in findings(lab)] == [Level.OK]


def test_rule_is_identified_after_its_limit_was_reset(lab: Lab) -> None:
    recent = "-A INPUT -p tcp -m tcp --dport 22 -m recent --set --name SSH --mask 255.255.255.255 --rsource"
    drop = "-A INPUT -p udp -m udp --dport 53 -j DROP"
    restore(lab, recent, "-A INPUT -p tcp -m tcp --dport 23 -j DROP", drop)
    assert [found.where for found in findings(lab)] == [f"iptables-nft -t filter: {drop}"]


def test_all_dropping_firewalls_are_reported_at_once(lab: Lab) -> None:
    load(lab, chain("tcp dport 22 drop") + chain("tcp dport 22 reject").replace("inet t", "inet u"))
    rules = {found.where for found in findings(lab)}
    assert rules == {"inet t, chain i: tcp dport 22 drop", "inet u, chain i: tcp dport 22 reject"}


def test_dropped_reply_is_reported(lab: Lab) -> None:
    load(lab, chain("tcp sport 22 drop", hook="output"))
    (found,) = findings(lab)
    assert (found.level, found.where) == (Level.ERROR, "inet t, chain i: tcp sport 22 drop")
    assert found.what.endswith("after the first packet")
    load(lab, "flush ruleset\n" + chain("ct state established accept", hook="output", policy="drop"))
    assert [found.level for found in findings(lab)] == [Level.OK]


def test_overwritten_mark_is_reported(lab: Lab) -> None:
    accepts = ("meta mark & 0x1000 == 0x1000 accept", "ct state established accept")
    load(lab, chain(*accepts, policy="drop"))
    assert [found.level for found in findings(lab, MARKED)] == [Level.OK]
    load(lab, chain("meta mark set 0", hook="prerouting").replace("inet t", "inet u"))
    assert [found.where for found in findings(lab, MARKED)] == ["inet t, chain i: its policy drops"]


@pytest.fixture
def bridged(lab: Lab) -> Iterator[Lab]:
    """A server that forwards, with a network of containers and another way in; nothing answers there but the copy."""
    names = {"docker0": "172.17.0.1/16", "wg0": "10.0.0.1/24"}
    lines = [
        line
        for name, address in names.items()
        for line in (
            f"link add {name} type veth peer name {name}-far",
            f"address add {address} dev {name}",
            f"link set {name} up",
            f"link set {name}-far up",
        )
    ]
    lab.server.ip(batch=lines)
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    lab.server.call(forwarding.write_text, "1")
    yield lab
    lab.server.call(forwarding.write_text, "0")
    lab.server.ip(batch=[f"link delete {name}" for name in names])


@pytest.mark.parametrize(
    ("settings", "forward", "ways"),
    [
        ("", "-A FORWARD -o docker0 -j ACCEPT", ["eth0", "wg0"]),
        ('interfaces = ["eth0"]', "-A FORWARD -o docker0 -j ACCEPT", ["eth0"]),
        ("", "-A FORWARD -i wg0 -j ACCEPT", ["wg0"]),
        ("", "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT", []),
        ('accept_mark = "0x1000/0x1000"', "-A FORWARD -m mark --mark 0x1000/0x1000 -j ACCEPT", []),
        ("", "-A FORWARD -d 172.17.0.3/32 -j ACCEPT", []),
    ],
)
def test_paths_to_a_container_that_bypass_the_gate(bridged: Lab, settings: str, forward: str, ways: list[str]) -> None:
    publish = "*nat\n-A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
    bridged.server.run(["iptables-nft-restore"], stdin=f"{publish}*filter\n:FORWARD DROP [0:0]\n{forward}\nCOMMIT\n")
    configuration = parse(f'[gate]\n{settings}\n[doors.ssh]\nopens = ["22/tcp"]\n', "f")
    facts = bridged.server.call(collect_facts, configuration, Path("/"))
    commands = [command for found in bypasses.check("f", configuration, facts) for command in found.commands]
    assert commands == [f"iptables-nft -t raw -I PREROUTING -i {way} -d 172.17.0.0/16 -j DROP" for way in ways]


LEADS = parse(
    '[gate]\naccept_mark = "0x1000/0x1000"\n[doors.in]\nopens = ["172.17.0.2:80/tcp", "2222/tcp -> 172.17.0.2:81"]\n',
    "f",
)


@pytest.mark.parametrize(
    ("accepted", "dropped", "remedy"),
    [
        ("-j ACCEPT", [], ""),
        ("-m mark --mark 0x1000/0x1000 -j ACCEPT", [], ""),
        ("-m conntrack --ctstate DNAT -j ACCEPT", ["172.17.0.2:80/tcp"], "-t filter -I FORWARD -m mark --mark 0x1000"),
        ("-d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT", ["2222/tcp"], "-t filter -I FORWARD -m mark"),
        ("-d 172.17.0.3/32 -j ACCEPT", ["2222/tcp", "172.17.0.2:80/tcp"], "-t filter -I FORWARD -m mark"),
    ],
)
def test_forwarded_packets_are_tested(bridged: Lab, accepted: str, dropped: list[str], remedy: str) -> None:
    """Also where the host does not forward them yet."""
    bridged.server.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "0")
    rules = f"-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD {accepted}"
    bridged.server.run(["iptables-nft-restore"], stdin=f"*filter\n:FORWARD DROP [0:0]\n{rules}\nCOMMIT\n")
    (found,) = findings(bridged, LEADS)
    named = [port for port in ("2222/tcp", "172.17.0.2:80/tcp") if f"{port}, which door 'in' opens" in found.what]
    assert named == dropped
    assert found.level is (Level.ERROR if dropped else Level.OK)
    assert [remedy in command for command in found.commands] == [True] * bool(dropped)


def test_forwarded_packet_that_is_dropped_before_the_gate_marks_it(bridged: Lab) -> None:
    for family, hook, priority in (("ip", "prerouting", -120), ("inet", "forward", -200)):
        rule = f"table {family} t {{ chain c {{ type filter hook {hook} priority {priority}; tcp dport 80 drop; }}; }}"
        load(bridged, f"flush ruleset; {rule}")
        (found,) = findings(bridged, LEADS)
        assert found.commands == (f"nft insert rule {family} t c tcp dport 80 accept",)


def test_ipv6_addresses_are_local_in_the_copy_at_once(lab: Lab) -> None:
    """By the copied routes alone: the kernel adds those of the addresses only a moment later."""
    peer = ["2001:db8:5::1", "peer", "2001:db8:5::2", "dev", lab.server.interface]
    lab.server.ip("address", "add", *peer, "nodad")
    own = (lab.server.ipv6, ip_address(peer[0]))
    until(lambda: lab.server.call(lambda: {route_type(address, 0) for address in own}) == {LOCAL})
    seen = lab.server.call(snapshot)
    lab.server.ip("address", "delete", *peer)

    def routes() -> list[int]:
        Replica(seen._replace(addresses=(), routes=tuple(route for route in seen.routes if route[7] == LOCAL)))
        return [route_type(address, 0) for address in own]

    assert run_in_child(routes) == [LOCAL, LOCAL]


def test_packet_dropped_by_rp_filter_is_reported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", f"{lab.client.ipv4} 50000 {lab.server.ipv4} 22")
    load(lab, chain("tcp dport 23 drop"))
    assert [found.level for found in findings(lab)] == [Level.OK]
    strict = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    lab.server.ip("route", "add", str(lab.client.ipv4), "dev", "lo")
    lab.server.call(strict.write_text, "1")
    try:
        lost = [found.what.partition(f"a packet from {lab.client.ipv4} to ")[2][:6] for found in findings(lab)]
        assert lost == ["22/tcp", "53/udp"]
    finally:
        lab.server.call(strict.write_text, "0")
        lab.server.ip("route", "delete", str(lab.client.ipv4), "dev", "lo")


def test_nothing_is_ok_without_cap_sys_admin(lab: Lab, tmp_path: Path) -> None:
    load(lab, chain("tcp dport 22 drop"))
    path = tmp_path / "doorward.toml"
    path.write_text('[doors.ssh]\nopens = ["22/tcp"]\n')
    rights = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--ambient-caps", "-all"]
    done = lab.server.run([*rights, *DOORWARD, "doctor", "-c", path], check=False)
    assert "    not checked: needs CAP_SYS_ADMIN\n" in done.stdout
    assert "ok: other firewalls" not in done.stdout


def named_namespaces() -> list[str]:
    return [path.name for path in Path("/run/netns").iterdir() if not path.name.startswith("doorward-")]  # other labs'


def stuck_program(folder: Path) -> Path:
    """Return an iptables-nft-restore that writes its PID and never ends; no other program runs in the copy."""
    ready = folder / "ready"
    os.mkfifo(ready)
    program = folder / "iptables-nft-restore"
    program.write_text(f"#!/bin/sh\necho $$ >{ready}\nexec sleep 1000\n")
    program.chmod(0o755)
    return ready


def ends(pid: int) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_kill_leaves_no_namespace(lab: Lab, tmp_path: Path) -> None:
    restore(lab, "-A INPUT -p tcp -m tcp --dport 22 -j DROP")
    ready, path = stuck_program(tmp_path), tmp_path / "doorward.toml"
    path.write_text('[doors.ssh]\nopens = ["22/tcp"]\n')
    before = lab.server.ip("-br", "link"), named_namespaces()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    doctor = lab.server.popen([*DOORWARD, "doctor", "-c", path], env=environment, stdout=subprocess.DEVNULL)
    restoring = int(ready.read_text())
    copying = int(Path(f"/proc/{restoring}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{copying}/ns/net").stat().st_ino != Path(f"/proc/{doctor.pid}/ns/net").stat().st_ino
    doctor.kill()
    assert doctor.wait() == -signal.SIGKILL
    assert ends(copying)
    assert ends(restoring)
    assert (lab.server.ip("-br", "link"), named_namespaces()) == before


def test_timeout_is_reported_as_unchecked(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restore(lab, "-A INPUT -p tcp -m tcp --dport 22 -j DROP")
    ready = stuck_program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(trace, "TIMEOUT_S", 0.7)
    reading = os.open(ready, os.O_RDWR)
    (found,) = findings(lab)
    assert found.what == "not checked: took more than 1 s"
    assert ends(int(os.read(reading, 20)))
    os.close(reading)


def test_large_rulesets_finish_in_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    elements = ", ".join(f"10.{number >> 8}.{number & 255}.1" for number in range(10_000))
    rules = [f"ip saddr 10.0.{number >> 8}.{number & 255} tcp dport 22 accept" for number in range(5_000)]
    load(lab, chain("ip saddr @s drop", *rules, "tcp dport 22 drop",
                    more=f"set s {{\ntype ipv4_addr\nelements = {{ {elements} }}\n}}"))  # fmt: skip
    assert [found.where for found in findings(lab)] == ["inet t, chain i: tcp dport 22 drop"]
    monkeypatch.setattr(trace, "TIMEOUT_S", 0.05)
    before_s = time.monotonic()
    (found,) = findings(lab)
    assert found.what.startswith("not checked: took more than")
    assert time.monotonic() - before_s < trace.TIMEOUT_S + PATIENCE_S


def test_no_module_is_loaded_and_no_interface_is_created(lab: Lab) -> None:
    def modules() -> str:
        path = Path("/proc/modules")
        return path.read_text() if path.exists() else ""

    load(lab, chain("tcp dport 22 drop"))
    before = modules(), socket.if_nameindex(), lab.server.ip("-br", "link")
    assert len(findings(lab)) == 1
    assert (modules(), socket.if_nameindex(), lab.server.ip("-br", "link")) == before
