"""Facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from doorward.config.toml import parse
from doorward.doctor import bypasses, firewalls, iptables_rules, lockout, nft_rules, running
from doorward.doctor.finding import Finding, Level
from doorward.doctor.host import Boot, Facts, Local, MarkRule, Network, Route
from doorward.model import Port
from doorward.session import SshConnection

SSH = Port.parse("22/tcp")
SESSION = SshConnection(ip_address("192.0.2.7"), 50000, ip_address("198.51.100.2"), 22)
NETWORK = Network(
    (Local("lo", ip_interface("127.0.0.1/8")), Local("eth0", ip_interface("198.51.100.2/24"))),
    (Route(ip_network("0.0.0.0/0"), "eth0"),),
)
STATUS = {"pid": 7, "summary": "1 door, mode guard", "config": "/f", "trial": None}
WELL = Facts(
    session=SESSION,
    network=NETWORK,
    listening=frozenset({SSH}),
    filters=(),
    boot=Boot(True, frozenset({running.DAEMON, running.GATE})),
    daemon=STATUS,
    table_stands=True,
    is_as_loaded=True,
    refusal="",
    memory_bytes=64 << 30,
    conntrack=(10, 1000),
)
KNOCKED = '[doors.a]\nknock = ["7000/tcp", "9000/tcp", "8000/tcp"]\nopens = ["22/tcp"]\n'
BY_HAND = '[doors.a]\nopens = ["22/tcp"]\n'
ELSEWHERE = '[doors.a]\nopens = ["80/tcp"]\n'
Judge = Any


def findings(judge: Judge, text: str, facts: Facts) -> list[Finding]:
    return list(judge("/f", parse(text, "/f"), facts))


def gate(settings: str, doors: str = KNOCKED) -> str:
    return f"[gate]\n{settings}\n{doors}"


def test_a_door_that_opens_by_signed_knocks() -> None:
    text = BY_HAND + "\n[signed]\n"
    (found,) = findings(lockout.judge, text, replace(WELL, signed_doors=frozenset({"a"})))
    assert (found.level, "door 'a' opens it by a signed knock" in found.what) == (Level.OK, True)
    (found,) = findings(lockout.judge, text, WELL)
    assert found.level is Level.ERROR
    assert found.what.endswith("takes no signed knock: no key of its authorized_keys may open it")
    facts = replace(WELL, signed_trouble="server.key: it is missing; make it")
    (found,) = findings(lockout.judge, text, facts)
    assert found.what.endswith("takes no signed knock: server.key: it is missing; make it")
    assert [f.level for f in findings(running.judge, text, facts) if f.where == "signed knocks"] == [Level.ERROR]


@pytest.mark.parametrize(
    ("text", "level", "part"),
    [
        (KNOCKED, Level.OK, "is hidden; door 'a' opens it by a knock"),
        (BY_HAND, Level.ERROR, "is hidden, and its door 'a' opens by hand only"),
        (ELSEWHERE, Level.OK, "stays open to everybody"),
        (gate('mode = "stealth"', ELSEWHERE), Level.ERROR, "would be hidden, and no door opens it"),
        (gate('mode = "stealth"\npublic = ["22/tcp"]', ELSEWHERE), Level.OK, "stays open to everybody"),
        (gate('mode = "observe"', BY_HAND), Level.OK, "mode observe drops nothing"),
        (gate('mode = "stealth"\ninterfaces = ["wlan*"]', ELSEWHERE), Level.OK, "which the gate does not watch"),
        (gate('mode = "stealth"\ninterfaces = ["eth*"]', ELSEWHERE), Level.ERROR, "would be hidden"),
    ],
)
def test_the_port_of_the_session(text: str, level: Level, part: str) -> None:
    (found,) = findings(lockout.judge, text, WELL)
    assert (found.level, part in found.what) == (level, True), found


SIGNED = BY_HAND + "\n[signed]\n"
IS_SIGNED = replace(WELL, signed_doors=frozenset({"a"}))
TAKES_NONE = {**STATUS, "signed": {"takes": False, "refused": {}}}


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"daemon": None}, Level.ERROR),
        ({"daemon": None, "session": None}, Level.ERROR),
        ({"daemon": TAKES_NONE}, Level.ERROR),
        ({"daemon": None, "table_stands": False}, Level.OK),  # nothing is hidden yet
    ],
)
def test_a_door_that_opens_by_signed_knocks_only_needs_the_daemon(change: dict[str, Any], level: Level) -> None:
    (found,) = findings(lockout.judge, SIGNED, replace(IS_SIGNED, **change))
    assert found.level is level
    levels = [each.level for each in findings(running.judge, SIGNED, replace(IS_SIGNED, **change))]
    is_gone = "daemon" in change and change["daemon"] is None and "table_stands" not in change
    assert (Level.ERROR in levels) is is_gone


def test_a_boot_without_the_daemon_locks_out_of_a_door_that_opens_by_signed_knocks_only() -> None:
    boot = replace(IS_SIGNED, boot=Boot(True, frozenset({running.GATE})))
    assert Level.ERROR in [found.level for found in findings(running.judge, SIGNED, boot)]
    observed = [found.level for found in findings(running.judge, gate('mode = "observe"', SIGNED), boot)]
    assert Level.ERROR not in observed


def test_doorward_off_and_the_last_good_configuration_are_errors() -> None:
    off = findings(running.judge, KNOCKED, replace(WELL, daemon=None, table_stands=False, off_since="2026-05-01"))
    assert [found.commands for found in off if found.level is Level.ERROR] == [("doorward on",)]
    assert not [found for found in off if found.where in ("daemon", "boot")]
    wrong = replace(WELL, daemon={**STATUS, "last_good": "/f:3: wrong; repair it\n/f:4: too"})
    (found,) = (one for one in findings(running.judge, KNOCKED, wrong) if one.level is Level.ERROR)
    assert "/f:3: wrong" in found.what


def test_on_a_console_the_port_of_ssh_is_looked_at_where_it_listens() -> None:
    console = replace(WELL, session=None)
    (found,) = findings(lockout.judge, BY_HAND, console)
    assert found.level is Level.WARNING
    assert findings(lockout.judge, BY_HAND, replace(console, listening=frozenset())) == []


def test_where_all_is_well_nothing_but_ok_is_said() -> None:
    for judge in (lockout.judge, firewalls.judge, bypasses.judge, running.judge):
        assert {found.level for found in findings(judge, KNOCKED, WELL)} <= {Level.OK}


@pytest.mark.parametrize(
    ("change", "level", "part"),
    [
        ({"daemon": None}, Level.WARNING, "no daemon runs; sequences still open doors"),
        ({"daemon": None, "table_stands": False}, Level.WARNING, "nothing is hidden"),
        ({"table_stands": False}, Level.ERROR, "the table inet doorward is gone"),
        ({"daemon": {**STATUS, "config": "/g"}}, Level.WARNING, "it runs with /g, not with /f"),
        ({"is_as_loaded": False}, Level.WARNING, "it was changed since it was loaded"),
        ({"refusal": "no nf_tables"}, Level.ERROR, "no nf_tables"),
        ({"boot": Boot(True, frozenset())}, Level.WARNING, "no enabled unit loads the gate at boot"),
        ({"boot": Boot(True, frozenset({running.DAEMON}))}, Level.WARNING, "for a moment nothing is hidden"),
        ({"boot": Boot(True, frozenset({running.GATE}))}, Level.WARNING, "no daemon starts"),
        ({"boot": Boot(False, frozenset())}, Level.WARNING, "systemd does not run here"),
        ({"conntrack": (950, 1000)}, Level.WARNING, "conntrack holds 950 of 1,000"),
        ({"unread": ("iptables-legacy-save is missing",)}, Level.WARNING, "iptables-legacy-save is missing"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_runs(change: dict[str, Any], level: Level, part: str) -> None:
    (found,) = (one for one in findings(running.judge, KNOCKED, replace(WELL, **change)) if one.level is not Level.OK)
    assert (found.level, part in found.what) == (level, True), found


@pytest.mark.parametrize(("units", "command"), [({running.DAEMON}, "systemctl start "), ((), "doorward run")])
def test_a_daemon_that_does_not_run_is_started_as_this_host_starts_it(units: set[str], command: str) -> None:
    facts = replace(WELL, daemon=None, boot=Boot(True, frozenset(units)))
    (found,) = (one for one in findings(running.judge, KNOCKED, facts) if one.where == "daemon")
    assert found.commands[0].startswith(command)


def test_a_gate_that_nobody_loads_at_boot_locks_out_behind_a_firewall_that_accepts_by_mark() -> None:
    boot = replace(WELL, boot=Boot(True, frozenset()))
    levels = {found.where: found.level for found in findings(running.judge, gate("accept_mark = 4096"), boot)}
    assert levels["boot"] is Level.ERROR


def test_little_memory_is_told() -> None:
    said = [found.what for found in findings(running.judge, KNOCKED, replace(WELL, memory_bytes=256 << 20))]
    assert any("with 256 MiB the gate remembers" in what for what in said)


def test_a_port_on_which_nothing_listens() -> None:
    (found,) = findings(firewalls.judge, KNOCKED, replace(WELL, listening=frozenset()))
    assert found.what == "door 'a' opens 22/tcp, but nothing listens there"


def saved(*rules: str, policy: str = "ACCEPT", table: str = "filter", chain: str = "INPUT") -> Facts:
    lines = [f"*{table}", f":{chain} {policy} [0:0]", *(f"-A {chain} {rule}" for rule in rules), "COMMIT"]
    return replace(WELL, filters=tuple(iptables_rules.parse("\n".join(lines), "iptables-nft")))


@pytest.mark.parametrize(
    "rule",
    [
        "-m recent --update --seconds 60 --hitcount 4 --name SSH --rsource -j DROP",
        "-m hashlimit --hashlimit-above 1/sec --hashlimit-name a -j DROP",
        "-m made-up --with 'some thing' -j DROP",
        "-p tcp -m tcp --dport ssh -j DROP",
        "-p tcp --sport 1024:65535 -j DROP",
        "-j NFQUEUE --queue-num 0",
        "-j 'unbalanced",
    ],
)
def test_what_is_not_understood_may_drop(rule: str) -> None:
    found = findings(firewalls.judge, KNOCKED, saved(rule))
    if "unbalanced" in rule:  # without a verdict that can be read there is none
        assert [one.level for one in found] == [Level.OK]
    else:
        (one,) = found
        assert (one.level, "may drop" in one.what) == (Level.WARNING, True), found


def test_what_is_not_understood_may_accept() -> None:
    (found,) = findings(firewalls.judge, KNOCKED, saved("-m made-up -j ACCEPT", policy="DROP"))
    assert (found.level, found.where) == (Level.WARNING, "iptables-nft -t filter, chain INPUT: its policy drops")


def test_a_rule_that_lets_the_operator_in_but_no_stranger_is_a_warning() -> None:
    facts = saved("-s 192.0.2.0/24 -j ACCEPT", policy="DROP")
    (found,) = findings(firewalls.judge, KNOCKED, facts)
    assert (found.level, "but not from where you are" in found.what) == (Level.WARNING, True)
    (found,) = findings(firewalls.judge, KNOCKED, replace(facts, session=None))
    assert found.level is Level.ERROR


def test_a_list_of_addresses_is_not_for_strangers() -> None:
    facts = replace(saved("-m set --match-set banned src -j DROP"), session=None)
    assert [found.level for found in findings(firewalls.judge, KNOCKED, facts)] == [Level.OK]


def test_a_mark_that_another_rule_overwrites_opens_nothing() -> None:
    rules = ["-j MARK --set-xmark 0x0/0xffffffff"]
    lines = ["*mangle", ":INPUT ACCEPT [0:0]", *(f"-A INPUT {rule}" for rule in rules), "COMMIT"]
    lines += ["*filter", ":INPUT DROP [0:0]", "-A INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT"]
    lines += ["-A INPUT -m state --state ESTABLISHED -j ACCEPT", "COMMIT"]
    marking = gate('accept_mark = "0x1000/0x1000"')
    facts = replace(WELL, filters=tuple(iptables_rules.parse("\n".join(lines), "iptables-nft")))
    (found,) = findings(firewalls.judge, marking, facts)
    assert found.level is Level.ERROR
    kept = replace(WELL, filters=facts.filters[1:])
    assert [found.level for found in findings(firewalls.judge, marking, kept)] == [Level.OK]


def test_a_routing_rule_that_looks_at_the_same_bits() -> None:
    facts = replace(WELL, network=NETWORK._replace(mark_rules=(MarkRule(0x1000, 0xF000), MarkRule(0xCA6C, 0xFFFFFFFF))))
    (found,) = findings(firewalls.judge, gate('accept_mark = "0x1000/0x1000"'), facts)
    assert (found.level, found.where) == (Level.WARNING, "ip rule, fwmark 0x1000/0xf000")


def test_chains_that_call_each_other_too_often_are_not_followed() -> None:
    rules = [f":c{n} - [0:0]" for n in range(15)]
    rules += [f"-A c{n} -j c{n + 1}" for n in range(14) for _ in range(10)] + ["-A INPUT -j c0"]
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT"])
    facts = replace(WELL, filters=tuple(iptables_rules.parse(text, "iptables-nft")))
    (found,) = findings(firewalls.judge, KNOCKED, facts)
    assert "too many rules to follow" in found.what


@pytest.mark.parametrize(
    "statement",
    [
        {"match": {"op": "=="}},
        {"vmap": {"key": 1, "data": 2}},
        "odd",
        {"mangle": {}},
        {"jump": None},
        {"match": {"op": "==", "left": {"payload": {"base": "nh", "offset": 0, "len": 8}}, "right": 69}},
        {"unheard": 1},
        {},
    ],
)
def test_statements_of_another_nft_are_doubts(statement: Any) -> None:
    rule = {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": [statement, {"drop": None}]}
    chain = {"family": "ip", "table": "t", "name": "c", "handle": 1, "hook": "input", "prio": 0, "policy": "accept"}
    document = {"nftables": [{"table": {"family": "ip", "name": "t"}}, {"chain": chain}, {"rule": rule}]}
    (found,) = findings(firewalls.judge, KNOCKED, replace(WELL, filters=tuple(nft_rules.parse(document, {}))))
    assert (found.level, found.where) == (Level.WARNING, "ip t, chain c: handle 2")


def ruleset(*lines: str) -> Facts:
    """Facts of a host with a container behind docker0, and what iptables-nft-save prints."""
    bridge = (Local("docker0", ip_interface("172.17.0.1/16")), Local("wg0", ip_interface("10.0.0.1/24")))
    routes = (*NETWORK.routes, Route(ip_network("172.17.0.0/16"), "docker0"))
    tables = iptables_rules.parse("\n".join([*lines, "COMMIT"]), "iptables-nft")
    return replace(WELL, network=Network((*NETWORK.locals, *bridge), routes), filters=tuple(tables))


PUBLISHED = (
    "*nat",
    ":PREROUTING ACCEPT [0:0]",
    "-A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 172.17.0.2:80",
)
FORWARD = ("COMMIT", "*filter", ":FORWARD DROP [0:0]")


@pytest.mark.parametrize(
    ("settings", "forward", "ways"),
    [
        ("", "-A FORWARD -o docker0 -j ACCEPT", ["eth0", "wg0"]),
        ('interfaces = ["eth0"]', "-A FORWARD -o docker0 -j ACCEPT", ["eth0"]),
        ("", "-A FORWARD -i wg0 -j ACCEPT", ["wg0"]),
        ("", "-A FORWARD -m made-up -j ACCEPT", ["eth0", "wg0"]),  # nobody knows
        ("", "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT", []),
        ('accept_mark = "0x1000/0x1000"', "-A FORWARD -m mark --mark 0x1000/0x1000 -j ACCEPT", []),
        ("", "-A FORWARD -d 172.17.0.3/32 -j ACCEPT", []),
        ('mode = "observe"', "-A FORWARD -o docker0 -j ACCEPT", []),
    ],
)
def test_the_address_of_a_container_behind_a_hidden_port(settings: str, forward: str, ways: list[str]) -> None:
    found = findings(bypasses.judge, gate(settings), ruleset(*PUBLISHED, *FORWARD, forward))
    commands = [f"iptables-nft -t raw -I PREROUTING -i {way} -d 172.17.0.0/16 -j DROP" for way in ways]
    assert [(each.level, each.where, [*each.commands]) for each in found] == (
        [(Level.WARNING, "port 22/tcp", commands)] if ways else []
    )


def test_a_port_that_arrives_at_this_host_has_no_container() -> None:
    facts = ruleset(*PUBLISHED[:2], "-A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222")
    assert findings(bypasses.judge, KNOCKED, facts) == []


@pytest.mark.parametrize(("mode", "is_named"), [("guard", True), ("stealth", True), ("observe", False)])
def test_conntrack_helpers_are_named_where_something_is_hidden(mode: str, is_named: bool) -> None:
    rule = "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp"
    facts = ruleset("*raw", ":PREROUTING ACCEPT [0:0]", rule, "-A PREROUTING -m helper --helper ftp -j ACCEPT")
    found = findings(bypasses.judge, gate(f'mode = "{mode}"'), replace(facts, assigns_helpers=True))
    assert [(each.level, each.commands) for each in found] == [
        (Level.WARNING, ("iptables-nft -t raw -D PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp",)),
        (Level.WARNING, ("sysctl -w net.netfilter.nf_conntrack_helper=0",)),
    ] * is_named
