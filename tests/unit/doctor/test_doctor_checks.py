"""The checks of doctor: facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from doorward.cli import doctor
from doorward.config.toml import parse
from doorward.doctor import bypasses, firewalls, lockout, running
from doorward.doctor.host import (
    BaseChain,
    Block,
    Boot,
    Facts,
    LocalAddress,
    MarkRule,
    Network,
    OwnDrop,
    PacketPath,
    Route,
    Trace,
    Unchecked,
)
from doorward.doctor.problem import Level, Problem
from doorward.doctor.remedies import own_drops
from doorward.doctor.rules import Helper
from doorward.model import Port
from tests.support.doctor_facts import FILTER, NETWORK, SESSION, SSH, STATUS, TO_SSH, WELL

KNOCKED = '[doors.a]\nknock = ["7000/tcp", "9000/tcp", "8000/tcp"]\nopens = ["22/tcp"]\n'
BY_HAND = '[doors.a]\nopens = ["22/tcp"]\n'
ELSEWHERE = '[doors.a]\nopens = ["80/tcp"]\n'
Check = Any


def findings(check: Check, text: str, facts: Facts) -> list[Problem]:
    return list(check("/f", parse(text, "/f"), facts))


def gate(settings: str, doors: str = KNOCKED) -> str:
    return f"[gate]\n{settings}\n{doors}"


def test_signed_door_and_its_keys() -> None:
    text = BY_HAND + "\n[signed]\n"
    (found,) = findings(lockout.check, text, replace(WELL, signed_doors=frozenset({"a"})))
    assert (found.level, found.code) == (Level.OK, "ssh-hidden")
    (found,) = findings(lockout.check, text, WELL)
    assert (found.level, found.code) == (Level.ERROR, "no-signed-knock-accepted")
    facts = replace(WELL, signed_error="server.key: it is missing; make it")
    (found,) = findings(lockout.check, text, facts)
    assert found.code == "no-signed-knock-accepted"
    assert "server.key: it is missing; make it" in found.what
    assert [f.level for f in findings(running.check, text, facts) if f.where == "signed knocks"] == [Level.ERROR]


@pytest.mark.parametrize(
    ("text", "level", "code"),
    [
        (KNOCKED, Level.OK, "ssh-hidden"),
        (BY_HAND, Level.ERROR, "opens-by-hand-only"),
        (ELSEWHERE, Level.OK, "ssh-stays-open"),
        (gate('mode = "stealth"', ELSEWHERE), Level.ERROR, "ssh-locked-out"),
        (gate('mode = "stealth"\npublic = ["22/tcp"]', ELSEWHERE), Level.OK, "ssh-stays-open"),
        (gate('mode = "observe"', BY_HAND), Level.OK, "ssh-stays-open"),
        (gate('mode = "stealth"\ninterfaces = ["wlan*"]', ELSEWHERE), Level.OK, "session-not-watched"),
        (gate('mode = "stealth"\ninterfaces = ["eth*"]', ELSEWHERE), Level.ERROR, "ssh-locked-out"),
    ],
)
def test_lockout_of_the_sessions_port(text: str, level: Level, code: str) -> None:
    (found,) = findings(lockout.check, text, WELL)
    assert (found.level, found.code) == (level, code)


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
        ({"daemon": None, "is_table_loaded": False}, Level.OK),  # nothing is hidden yet
    ],
)
def test_signed_only_door_needs_the_daemon(change: dict[str, Any], level: Level) -> None:
    (found,) = findings(lockout.check, SIGNED, replace(IS_SIGNED, **change))
    assert found.level is level
    levels = [each.level for each in findings(running.check, SIGNED, replace(IS_SIGNED, **change))]
    is_gone = "daemon" in change and change["daemon"] is None and "is_table_loaded" not in change
    assert (Level.ERROR in levels) is is_gone


def test_signed_only_door_needs_the_daemon_at_boot() -> None:
    boot = replace(IS_SIGNED, boot=Boot(True, frozenset({running.GATE})))
    assert Level.ERROR in [found.level for found in findings(running.check, SIGNED, boot)]
    observed = [found.level for found in findings(running.check, gate('mode = "observe"', SIGNED), boot)]
    assert Level.ERROR not in observed


def test_doorward_off_and_the_last_good_configuration_are_errors() -> None:
    off = findings(running.check, KNOCKED, replace(WELL, daemon=None, is_table_loaded=False, off_since="2026-05-01"))
    assert [found.commands for found in off if found.level is Level.ERROR] == [("doorward on",)]
    assert not [found for found in off if found.where in ("daemon", "boot")]
    wrong = replace(WELL, daemon={**STATUS, "last_good": "/f:3: wrong; repair it\n/f:4: too"})
    (found,) = (one for one in findings(running.check, KNOCKED, wrong) if one.level is Level.ERROR)
    assert "/f:3: wrong" in found.what


def test_console_checks_the_ssh_port_if_it_listens() -> None:
    console = replace(WELL, session=None)
    (found,) = findings(lockout.check, BY_HAND, console)
    assert found.level is Level.WARNING
    assert findings(lockout.check, BY_HAND, replace(console, listening=frozenset())) == []


ATTACHED = {"wanted": "on", "interfaces": ["eth0"], "trouble": ""}


@pytest.mark.parametrize(
    ("shield", "level", "code"),
    [
        (ATTACHED, Level.OK, "shield-attached"),
        ({"wanted": "auto", "interfaces": [], "trouble": "no libbpf"}, Level.WARNING, "no-shield"),
        ({"wanted": "on", "interfaces": [], "trouble": "no libbpf"}, Level.ERROR, "no-shield"),
        ({"wanted": "on", "interfaces": [], "trouble": ""}, Level.ERROR, "no-shield"),
    ],
)
def test_shield_that_is_wanted_is_attached(shield: dict[str, object], level: Level, code: str) -> None:
    found = findings(running.check, KNOCKED, replace(WELL, daemon={**STATUS, "shield": shield}))
    assert [(one.level, one.code) for one in found if one.where == "shield"] == [(level, code)]


def test_interface_without_xdp_is_reported() -> None:
    """What is wanted, and done at tcx: the shield is attached all the same."""
    shield = {**ATTACHED, "wanted": "xdp", "at_xdp": [], "no_xdp": "eth0 has VLANs"}
    found = findings(running.check, KNOCKED, replace(WELL, daemon={**STATUS, "shield": shield}))
    found = [one for one in found if one.where == "shield"]
    assert [(one.level, one.code) for one in found] == [(Level.WARNING, "no-xdp"), (Level.OK, "shield-attached")]
    assert "eth0 has VLANs" in found[0].what


FLOODED = {**STATUS, "shield": None, "counters": {"ratelimit_full": 0, "short_window": 1_200, "throttled": 5}}


@pytest.mark.parametrize(
    ("settings", "changes", "is_advised"),
    [
        ('mode = "stealth"', {}, True),
        ('mode = "stealth"', {"can_shield": False}, False),
        ('mode = "stealth"', {"daemon": {**FLOODED, "counters": {"short_window": 0, "throttled": 9_000_000}}}, False),
        ('mode = "stealth"', {"daemon": STATUS}, False),  # of a version without a shield
        ('mode = "stealth"', {"daemon": {**FLOODED, "shield": ATTACHED}}, False),
        ('mode = "stealth"', {"off_since": "2026-11-30 12:00:00"}, False),
        ('mode = "guard"', {}, True),
        ('mode = "observe"', {}, False),
    ],
)
def test_shield_is_advised_after_floods(settings: str, changes: dict[str, Any], is_advised: bool) -> None:
    facts = replace(WELL, can_shield=True, daemon=FLOODED)
    found = findings(running.check, gate(settings), replace(facts, **changes))
    advised = [one for one in found if one.code == "shield-advised"]
    assert [one.level for one in advised] == [Level.WARNING] * is_advised
    assert all("1,200 knock packets" in one.what and 'shield = "auto"' in one.remedy for one in advised)


def test_shield_is_not_advised_where_doors_do_not_fit_it() -> None:
    doors = KNOCKED.replace("opens", 'within = "5s"\nopens') + KNOCKED.replace("doors.a", "doors.b").replace(
        "7000", "7001"
    )
    facts = replace(WELL, can_shield=True, daemon=FLOODED)
    assert not [
        one for one in findings(running.check, gate('mode = "stealth"', doors), facts) if one.code == "shield-advised"
    ]


@pytest.mark.parametrize(
    ("check", "count"), [(lockout.check, 1), (firewalls.check, 0), (bypasses.check, 0), (running.check, 3)]
)
def test_healthy_host_has_only_ok_findings(check: Check, count: int) -> None:
    assert [found.level for found in findings(check, KNOCKED, WELL)] == [Level.OK] * count


def test_a_table_that_this_user_may_not_list_is_not_called_missing() -> None:
    assert all(
        found.level is Level.OK for found in findings(running.check, KNOCKED, replace(WELL, is_table_loaded=None))
    )


@pytest.mark.parametrize(
    ("change", "level", "code"),
    [
        ({"daemon": None}, Level.WARNING, "no-daemon"),
        ({"daemon": None, "is_table_loaded": False}, Level.WARNING, "no-daemon"),
        ({"is_table_loaded": False}, Level.ERROR, "table-missing"),
        ({"daemon": {**STATUS, "config": "/g"}}, Level.WARNING, "other-file-in-force"),
        ({"is_as_loaded": False}, Level.WARNING, "file-changed"),
        ({"rejection": "no nf_tables"}, Level.ERROR, "ruleset-rejected"),
        ({"boot": Boot(True, frozenset())}, Level.WARNING, "no-unit-enabled"),
        ({"boot": Boot(True, frozenset({running.DAEMON}))}, Level.WARNING, "gate-unit-disabled"),
        ({"boot": Boot(True, frozenset({running.GATE}))}, Level.WARNING, "daemon-unit-disabled"),
        ({"boot": Boot(False, frozenset())}, Level.WARNING, "no-systemd"),
        ({"conntrack": (950, 1000)}, Level.WARNING, "conntrack-nearly-full"),
        ({"unread": ("iptables-legacy-save is missing",)}, Level.WARNING, "host-unchecked"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_running_state_findings(change: dict[str, Any], level: Level, code: str) -> None:
    (found,) = (one for one in findings(running.check, KNOCKED, replace(WELL, **change)) if one.level is not Level.OK)
    assert (found.level, found.code) == (level, code)


@pytest.mark.parametrize(("units", "command"), [({running.DAEMON}, "systemctl start "), ((), "doorward run")])
def test_stopped_daemon_remedy_fits_the_host(units: set[str], command: str) -> None:
    facts = replace(WELL, daemon=None, boot=Boot(True, frozenset(units)))
    (found,) = (one for one in findings(running.check, KNOCKED, facts) if one.where == "daemon")
    assert found.commands[0].startswith(command)


def test_missing_boot_unit_behind_accept_mark_is_an_error() -> None:
    boot = replace(WELL, boot=Boot(True, frozenset()))
    levels = {found.where: found.level for found in findings(running.check, gate("accept_mark = 4096"), boot)}
    assert levels["boot"] is Level.ERROR


def test_small_memory_is_reported() -> None:
    found = findings(running.check, KNOCKED, replace(WELL, memory_bytes=256 << 20))
    assert "memory-use" in [each.code for each in found]


def test_unused_port_is_reported() -> None:
    (found,) = findings(firewalls.check, KNOCKED, replace(WELL, listening=frozenset()))
    assert (found.code, found.where) == ("no-listener", "port 22/tcp")


def dropped(
    *, by: str = "-A INPUT -j DROP", operator: bool = True, unchecked: tuple[Unchecked, ...] = (), state: str = "new",
    hook: str = "input", priority: int = 0, knock: bool = False,
) -> Facts:  # fmt: skip
    """Return facts with a rule that drops other clients' packets, and possibly the operator's."""
    block = Block(FILTER, BaseChain(hook.upper(), hook, priority), f"{FILTER.name}: {by}")
    port = Port.parse("7000/tcp") if knock else SSH
    own = TO_SSH._replace(sources=(SESSION.source,), is_operator=True, port=port, is_knock=knock)
    ways = (
        PacketPath(TO_SSH._replace(port=port, is_knock=knock), state, (block,), port),
        PacketPath(own, state, (block,) if operator else (), port),
    )
    return replace(WELL, trace=Trace((FILTER.name,), ways, unchecked))


def test_dropping_rule_is_reported_with_its_remedy() -> None:
    (found,) = findings(firewalls.check, gate('accept_mark = "0x1000/0x1000"'), dropped())
    assert (found.level, found.where) == (Level.ERROR, "iptables-nft -t filter: -A INPUT -j DROP")
    assert found.commands == ("iptables-nft -t filter -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT",)
    (found,) = findings(firewalls.check, KNOCKED, dropped(state="established"))
    assert found.commands == ("iptables-nft -t filter -I INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",)


def test_unchecked_rule_makes_others_uncertain() -> None:
    unchecked = (Unchecked("ip t, chain c: socket transparent 1 accept"),)
    levels = [one.level for one in findings(firewalls.check, KNOCKED, dropped(unchecked=unchecked))]
    assert levels == [Level.WARNING, Level.WARNING]
    facts = replace(WELL, trace=Trace(("ip t",), WELL.trace.paths, unchecked))
    (found,) = findings(firewalls.check, KNOCKED, facts)
    assert (found.level, found.code) == (Level.WARNING, "firewall-unchecked")


def test_unchecked_outgoing_rule_leaves_others_certain() -> None:
    unchecked = (Unchecked("-A OUTPUT -m owner", is_outward=True),)
    levels = [one.level for one in findings(firewalls.check, KNOCKED, dropped(unchecked=unchecked))]
    assert levels == [Level.ERROR, Level.WARNING]


def test_rule_that_admits_only_the_operator_is_a_warning() -> None:
    facts = dropped(operator=False)
    (found,) = findings(firewalls.check, KNOCKED, facts)
    assert (found.level, "but not from where you are" in found.what) == (Level.WARNING, True)
    (found,) = findings(firewalls.check, KNOCKED, replace(facts, session=None))
    assert found.level is Level.ERROR


def test_knocks_are_checked_only_before_the_gate() -> None:
    assert [one.level for one in findings(firewalls.check, KNOCKED, dropped(knock=True))] == [Level.OK]
    (found,) = findings(firewalls.check, KNOCKED, dropped(knock=True, hook="prerouting", priority=-300))
    assert found.commands == ("iptables-nft -t filter -I PREROUTING -p tcp --dport 7000 -j ACCEPT",)


def test_forwarded_port_needs_no_local_listener() -> None:
    ways = (PacketPath(TO_SSH, "new", (), Port.parse("80/tcp"), ip_address("172.17.0.2")),)
    facts = replace(WELL, listening=frozenset(), trace=Trace(("ip nat",), ways))
    assert {one.level for one in findings(firewalls.check, KNOCKED, facts)} == {Level.OK}


def test_rule_that_drops_for_a_host_behind_is_an_error() -> None:
    """The port of that host hides nothing about this host's own."""
    text = gate("accept_mark = 4096", '[doors.a]\nopens = ["22/tcp", "192.0.2.7:22/tcp"]\n')
    table = replace(FILTER, text=":ufw-before-input - [0:0]\n:ufw-before-forward - [0:0]\n")
    block = Block(table, BaseChain("FORWARD", "forward", 0), "the policy")
    probe = TO_SSH._replace(destination=ip_address("192.0.2.7"), is_behind=True)
    path = PacketPath(probe, "new", (block,), SSH, probe.destination)
    facts = replace(WELL, listening=frozenset(), trace=Trace((table.name,), (*WELL.trace.paths, path)))
    found, unused = findings(firewalls.check, text, facts)
    assert (found.level, found.what) == (Level.ERROR, "drops 192.0.2.7:22/tcp, which door 'a' opens")
    assert "-A ufw-before-forward -m mark --mark 0x1000/" in found.commands[0]
    assert unused.code == "no-listener"


def test_a_rule_of_fix_that_closes_a_port_to_everyone_is_reported() -> None:
    """firewalld keeps it when the door is removed, or doorward switched off."""
    ranged = KNOCKED.replace("22/tcp", '22/tcp", "60000-60010/udp')
    lines = [
        f"-A INPUT ! -i lo {matches} -m mark ! --mark 0x1000/0x1000 -m comment --comment {comment} -j DROP\n"
        for matches, comment in (
            ("-p tcp -m tcp --dport 22", '"doorward:public"'),
            ("-p udp -m udp --dport 60000:60010", "doorward"),
            ("-p tcp -m tcp --dport 80", "doorwards"),
        )
    ]
    own = own_drops(replace(FILTER, text=":INPUT ACCEPT [0:0]\n" + "".join(lines)))
    facts = replace(WELL, trace=WELL.trace._replace(own_drops=tuple(own)))
    for text, off_since, left in (
        (ranged, "", []),
        (ranged, "1 May", ["22/tcp", "60000-60010/udp"]),
        (KNOCKED, "", ["60000-60010/udp"]),
        (ELSEWHERE, "", ["22/tcp", "60000-60010/udp"]),
    ):
        found = findings(firewalls.check, text, replace(facts, off_since=off_since))
        reported = [each for each in found if each.code == "rule-left-behind"]
        assert [each.what.split()[1] for each in reported] == left
        assert {each.commands for each in reported} <= {("doorward doctor --undo",)}


@pytest.mark.parametrize(
    ("tables", "has_rules", "drops", "is_reported"),
    [
        (["inet firewalld"], True, (), True),
        (["inet firewalld"], True, (OwnDrop("the rule", "22/tcp"),), False),
        (["inet firewalld"], False, (), False),
        (["ip filter"], True, (), False),  # firewalld does not run
    ],
)
def test_ports_without_the_rules_before_them_are_reported(
    tables: list[str], has_rules: bool, drops: tuple[OwnDrop, ...], is_reported: bool
) -> None:
    trace = WELL.trace._replace(tables=tuple(tables), own_drops=drops)
    found = findings(firewalls.check, KNOCKED, replace(WELL, trace=trace, firewalld_has_rules=has_rules))
    assert [each.level for each in found if each.code == "rule-not-loaded"] == [Level.ERROR] * is_reported


def test_conflicting_routing_rule_is_reported() -> None:
    facts = replace(WELL, network=NETWORK._replace(mark_rules=(MarkRule(0x1000, 0xF000), MarkRule(0xCA6C, 0xFFFFFFFF))))
    (found,) = findings(firewalls.check, gate('accept_mark = "0x1000/0x1000"'), facts)
    assert (found.level, found.where) == (Level.WARNING, "ip rule, fwmark 0x1000/0xf000")


def container(*ways: str, blocks: tuple[Block, ...] = ()) -> Facts:
    """Return a host that forwards the door's port to a container, which answers packets from these interfaces."""
    there = ip_address("172.17.0.2")
    bridge = (LocalAddress("docker0", ip_interface("172.17.0.1/16")), LocalAddress("wg0", ip_interface("10.0.0.1/24")))
    routes = (*NETWORK.routes, Route(ip_network("172.17.0.0/16"), "docker0"))
    http = Port.parse("80/tcp")
    direct = TO_SSH._replace(port=http, destination=there, published=SSH)
    found = (
        PacketPath(TO_SSH, "new", (), http, there),
        *(PacketPath(direct._replace(interface=way), "new", blocks, http, there) for way in ways),
    )
    network = Network((*NETWORK.locals, *bridge), routes)
    return replace(WELL, network=network, trace=Trace((FILTER.name,), found))


@pytest.mark.parametrize("ways", [[], ["eth0"], ["eth0", "wg0"]])
def test_reachable_container_address_is_reported(ways: list[str]) -> None:
    found = findings(bypasses.check, KNOCKED, container(*ways))
    commands = [f"iptables-nft -t raw -I PREROUTING -i {way} -d 172.17.0.0/16 -j DROP" for way in ways]
    assert [(each.level, each.where, [*each.commands]) for each in found] == (
        [(Level.WARNING, "port 22/tcp", commands)] if ways else []
    )
    assert {each.level for each in findings(firewalls.check, KNOCKED, container(*ways))} == {Level.OK}


def test_unreachable_container_is_not_reported() -> None:
    drop = Block(FILTER, BaseChain("FORWARD", "forward", 0), "-A FORWARD -j DROP")
    assert findings(bypasses.check, KNOCKED, container("eth0", blocks=(drop,))) == []
    assert {each.level for each in findings(firewalls.check, KNOCKED, container("eth0", blocks=(drop,)))} == {Level.OK}
    assert findings(bypasses.check, gate('mode = "observe"'), container("eth0")) == []


@pytest.mark.parametrize(("mode", "is_named"), [("guard", True), ("stealth", True), ("observe", False)])
def test_conntrack_helpers_are_reported_unless_observing(mode: str, is_named: bool) -> None:
    trace = Trace((FILTER.name,), WELL.trace.paths, helpers=(Helper("the rule", "ftp", "the command"),))
    found = findings(bypasses.check, gate(f'mode = "{mode}"'), replace(WELL, trace=trace, assigns_helpers=True))
    assert [(each.level, each.commands) for each in found] == [
        (Level.WARNING, ("the command",)),
        (Level.WARNING, ("sysctl -w net.netfilter.nf_conntrack_helper=0",)),
    ] * is_named


@pytest.mark.parametrize(
    ("levels", "last"),
    [
        ([], "0 errors, 0 warnings, 0 ok"),
        ([Level.OK, Level.WARNING, Level.ERROR, Level.WARNING, Level.OK], "1 error, 2 warnings, 2 ok"),
    ],
)
def test_the_last_line_counts(levels: list[Level], last: str, capsys: pytest.CaptureFixture[str]) -> None:
    doctor._show([Problem("code", level, "here", "what") for level in levels], as_json=False, color="never")
    assert capsys.readouterr().out.splitlines()[-1] == last
