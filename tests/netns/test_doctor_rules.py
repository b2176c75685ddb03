"""Doctor's verdict on a rule matches the kernel's: real rules, a real connection, IPv4."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.config.toml import parse
from doorward.doctor import firewalls
from doorward.doctor.host_state import collect_facts
from doorward.doctor.problem import Level
from doorward.lab.topology import Lab
from tests.support.daemon import SILENCE_S, standing_lab

pytestmark = pytest.mark.netns("nft", "iptables-nft")

CONFIG = parse('[doors.ssh]\nknock = ["7000/tcp", "9000/tcp", "8000/tcp"]\nopens = ["22/tcp"]\n', "f")
PASSES, DROPS = True, False
# The rules of an input chain, by the policy `drop` where they begin with a !.
INPUT = [
    ("! tcp dport 22 accept", PASSES),
    ("! tcp dport 23 accept", DROPS),
    ("! tcp dport { 22, 80 } accept", PASSES),
    ("! tcp dport @ports accept", PASSES),
    ("! tcp dport != @ports accept", DROPS),
    ("! ct state vmap { new : accept, invalid : drop }", PASSES),
    ("! limit rate 100/second accept", PASSES),
    ("! meta l4proto { icmp, udp } accept", DROPS),
    ("! jump allowing", PASSES),
    ("! goto nowhere", DROPS),
    ("! tcp dport vmap { 20-22 : jump allowing, 80 : drop }", PASSES),
    ("! meta nfproto ipv4 accept", PASSES),
    ("! meta nfproto ipv6 accept", DROPS),
    ("! ip protocol tcp accept", PASSES),
    ("! ct direction original accept", PASSES),
    ("tcp dport 22 drop", DROPS),
    ("tcp dport 20-25 drop", DROPS),
    ("tcp dport != { 22, 80 } drop", PASSES),
    ("tcp dport > 1023 drop", PASSES),
    ("tcp dport < 1024 drop", DROPS),
    ("th dport 22 drop", DROPS),
    ("udp dport 22 drop", PASSES),
    ("icmp type echo-request drop", PASSES),
    ("tcp flags syn drop", DROPS),
    ("tcp flags & (fin | syn | rst | ack) == syn drop", DROPS),
    ("tcp flags & (fin | syn | rst | ack) != syn ct state new drop", PASSES),
    ("tcp flags & (syn | ack) == (syn | ack) drop", PASSES),
    ("ct state new reject with tcp reset", DROPS),
    ("ct state { established, related } accept ct state new drop", DROPS),
    ("ct state invalid drop", PASSES),
    ("iifname \"eth0\" drop", DROPS),
    ("iifname \"eth*\" drop", DROPS),
    ("iifname != \"eth0\" drop", PASSES),
    ("iif lo drop", PASSES),
    ("ip saddr 192.0.2.0/24 drop", DROPS),
    ("ip saddr 192.0.2.2 drop", DROPS),
    ("ip saddr != 192.0.2.0/24 drop", PASSES),
    ("ip saddr { 10.0.0.0/8, 192.0.2.1-192.0.2.9 } drop", DROPS),
    ("ip saddr . tcp dport { 192.0.2.2 . 22 } drop", DROPS),
    ("ip saddr . tcp dport { 192.0.2.2 . 23 } drop", PASSES),
    ("ip daddr 198.51.100.2 drop", DROPS),
    ("ip daddr 198.51.100.3 drop", PASSES),
    ("ip6 saddr ::/0 drop", PASSES),
    ("fib daddr type local drop", DROPS),
    ("fib daddr type { broadcast, multicast } drop", PASSES),
    ("fib saddr . iif oif missing drop", PASSES),
    ("meta pkttype broadcast drop", PASSES),
    ("limit rate over 1000/second drop", PASSES),
    ("meta mark set 0x10 meta mark and 0x30 == 0x10 drop", DROPS),
    ("meta mark set meta mark or 0x3 meta mark and 0x4 == 0x4 drop", PASSES),
    ("ct mark 0x0 drop", DROPS),
    ("tcp dport 22 return tcp dport 22 drop", PASSES),
    ("jump returning drop", DROPS),
    ("goto returning tcp dport 22 drop", PASSES),
]  # fmt: skip
SCRIPT = """
flush ruleset
table inet t {{
    set ports {{ type inet_service; elements = {{ 22, 80 }} }}
    chain allowing {{ tcp dport 22 accept; }}
    chain returning {{ tcp dport 22 return; drop; }}
    chain nowhere {{ }}
    chain input {{
        type filter hook input priority 0; policy {policy};
        {rules};
    }}
}}
"""
WHOLE = {
    "before the gate": (
        "table inet t { chain c { type filter hook prerouting priority raw; tcp dport 22 drop; } }",
        DROPS,
    ),
    "at ingress": (
        'table netdev t { chain c { type filter hook ingress device "eth0" priority 0; tcp dport 22 drop; } }',
        DROPS,
    ),
    "redirected": (
        "table ip t { chain n { type nat hook prerouting priority dstnat; tcp dport 22 redirect to :2222; }"
        " chain i { type filter hook input priority 0; policy drop; tcp dport 2222 accept;"
        " ct state established accept; } }",
        PASSES,
    ),
    "accepted by one, dropped by the next": (
        "table ip t { chain a { type filter hook input priority 0; accept; }"
        " chain b { type filter hook input priority 5; tcp dport 22 drop; } }",
        DROPS,
    ),
    "marked on the way": (
        "table ip t { chain a { type filter hook prerouting priority -140; meta mark set 7; }"
        " chain b { type filter hook input priority 5; policy drop; meta mark 7 accept;"
        " ct state established accept; } }",
        PASSES,
    ),
}
IPTABLES = [
    ("-p tcp -m tcp --dport 22 -j DROP", DROPS),
    ("-p tcp -m tcp --dport 20:25 -j REJECT --reject-with tcp-reset", DROPS),
    ("-p tcp -m tcp ! --dport 22 -j DROP", PASSES),
    ("-p tcp -m multiport --dports 80,20:22 -j DROP", DROPS),
    ("-p udp -m udp --dport 22 -j DROP", PASSES),
    ("-m conntrack --ctstate NEW -j DROP", DROPS),
    ("-m conntrack ! --ctstate NEW,INVALID -j ACCEPT", PASSES),
    ("-m state --state INVALID -j DROP", PASSES),
    ("-s 192.0.2.0/24 -j DROP", DROPS),
    ("! -s 192.0.2.0/24 -j DROP", PASSES),
    ("-d 198.51.100.2/32 -j DROP", DROPS),
    ("-i eth+ -j DROP", DROPS),
    ("! -i eth0 -j DROP", PASSES),
    ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", DROPS),
    ("-p tcp -m tcp ! --syn -m conntrack --ctstate NEW -j DROP", PASSES),
    ("-m addrtype --dst-type LOCAL -j DROP", DROPS),
    ("-m addrtype --dst-type BROADCAST,MULTICAST -j DROP", PASSES),
    ("-m limit --limit 100/sec -m comment --comment \"no -j ACCEPT\" -j DROP", DROPS),
    ("-p icmp -m icmp --icmp-type 8 -j DROP", PASSES),
    ("-m mark --mark 0x1/0x1 -j DROP", PASSES),
    ("-m pkttype --pkt-type broadcast -j DROP", PASSES),
    ("-m connmark --mark 0x1 -j LOG", PASSES),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with standing_lab() as lab:
        lab.server.start_greeter(22)
        lab.server.start_greeter(2222)
        yield lab


def agree(lab: Lab, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection does what is expected, and so does the doctor, for whom the client is the operator."""
    monkeypatch.setenv("SSH_CONNECTION", f"{lab.client.ipv4} 50000 {lab.server.ipv4} 22")
    try:
        lab.client.call(socket.create_connection, (str(lab.server.ipv4), 22), SILENCE_S).close()
        passes = True
    except OSError:
        passes = False
    assert passes == expected
    facts = lab.server.call(collect_facts, CONFIG, Path("/"))
    found = [one for one in firewalls.check("f", CONFIG, facts) if "drop" in one.what and "ssh" in one.what]
    foreseen = [one for one in found if one.level is Level.ERROR]
    assert bool(foreseen) != expected, found
    assert not [one for one in found if "may" in one.what]


@pytest.mark.parametrize(("rules", "expected"), INPUT, ids=[rules for rules, _ in INPUT])
def test_rules_of_nftables(shared: Lab, rules: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    after = "; ct state established accept" if rules.startswith("!") else ""
    # A line may have two rules, the first of which ends in a verdict.
    written = rules.removeprefix("!")
    for verdict in ("accept", "return", "jump returning", "goto returning", "meta mark set 0x10", "or 0x3"):
        written = written.replace(f"{verdict} ", f"{verdict}; ")
    policy = "drop" if rules.startswith("!") else "accept"
    shared.server.run(["nft", "-f", "-"], stdin=SCRIPT.format(policy=policy, rules=written + after))
    agree(shared, expected, monkeypatch)


@pytest.mark.parametrize("name", WHOLE)
def test_rulesets_of_nftables(shared: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ruleset, expected = WHOLE[name]
    shared.server.run(["nft", "-f", "-"], stdin="flush ruleset\n" + ruleset.replace("} ", "}\n") + "\n")
    agree(shared, expected, monkeypatch)


@pytest.mark.parametrize(("rule", "expected"), IPTABLES, ids=[rule for rule, _ in IPTABLES])
def test_rules_of_iptables(shared: Lab, rule: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.server.run(["nft", "flush", "ruleset"])
    shared.server.run(["iptables-nft-restore"], stdin=f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n")
    agree(shared, expected, monkeypatch)
