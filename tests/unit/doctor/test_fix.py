"""The rules that ufw and firewalld keep for doorward: the commands, running them, and taking them back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward.cli import doctor, off
from doorward.config.schema import Mark
from doorward.doctor import fix
from doorward.doctor.host import BaseChain, Block
from doorward.doctor.problem import Level, Problem
from doorward.doctor.remedies import DEFAULT_MARK, Scope, build_remedy, firewalld_removals
from doorward.doctor.replica import UncheckedError
from doorward.doctor.rules import ForeignRuleset
from doorward.errors import DoorwardError, HostError, NegativeResult, UsageError
from doorward.model import Port, PortRange, Protocol
from tests.support.doctor_facts import FILTER, SSH
from tests.support.errors import raises

FIREWALLD = ForeignRuleset("nft", "inet", "firewalld", "")
MOSH = PortRange(Protocol.UDP, 60000, 60010)
REJECTED = ", chain filter_IN_public: reject with icmpx admin-prohibited"
UNMARKED = "-m conntrack ! --ctstate RELATED,ESTABLISHED -m mark ! --mark 0x1000/0x1000 -m comment --comment doorward"
LISTED = f"""\
ipv4 filter INPUT 0 -p icmp -m comment --comment doorwards -j DROP
ipv4 filter INPUT 0 '!' -i lo -p tcp --dport 22 {UNMARKED.replace("!", "'!'")}:public -j DROP
ipv6 filter INPUT 0 '!' -i lo -p tcp --dport 22 {UNMARKED.replace("!", "'!'")}:public -j DROP
ipv4 filter INPUT 0 -i eth0 -p udp --dport 60000:60010 {UNMARKED.replace("!", "'!'")} -j DROP
ipv4 filter INPUT 0 -m mark --mark 0x1000/0x1000 -m comment --comment doorward -j ACCEPT
"""
UFW = "*filter\n# End required lines\n-A ufw-before-input -i lo -j ACCEPT\nCOMMIT\n"


def blocked(rule: str, table: ForeignRuleset = FIREWALLD, hook: str = "input") -> Block:
    return Block(table, BaseChain("chain", hook, 0), f"{table.name}{rule}")


def firewalld(ports: Sequence[Port | PortRange], *interfaces: str, versions: Sequence[int] = (4, 6)) -> list[str]:
    """Return the commands, with each pair of those for the next start and for now as one."""
    scope = Scope(ports, {"new"}, interfaces, versions)
    commands = build_remedy(blocked(REJECTED), DEFAULT_MARK, scope).commands
    now = [command for command in commands if "--permanent" not in command]
    pairs = [command for command in commands if command.startswith("firewall-cmd")]
    assert [command.replace(" --permanent", "") for command in pairs[::2]] == pairs[1::2]
    return now


def test_firewalld_opens_a_port_only_behind_a_rule_that_is_loaded() -> None:
    rule = f"! -i lo -p tcp --dport 22 {UNMARKED}:public -j DROP"
    assert firewalld([SSH]) == [
        f"firewall-cmd --direct --add-rule ipv4 filter INPUT 0 {rule}",
        f"firewall-cmd --direct --add-rule ipv6 filter INPUT 0 {rule}",
        f"iptables -C INPUT {rule}",
        f"ip6tables -C INPUT {rule}",
        "firewall-cmd --zone=public --add-port=22/tcp",
    ]


def test_firewalld_on_some_interfaces_with_a_range_and_without_ipv6() -> None:
    commands = firewalld([SSH, MOSH], "eth0", "wl*", versions=(4,))
    rules = [command.partition("INPUT 0 ")[2] for command in commands if " ipv4 " in command]
    assert [rule.partition(" -m ")[0] for rule in rules] == [
        f"-i {interface} -p {port}"
        for port in ("tcp --dport 22", "udp --dport 60000:60010")
        for interface in ("eth0", "wl+")
    ]
    assert [command for command in commands if " -C " in command] == [f"iptables -C INPUT {rule}" for rule in rules]
    assert len([command for command in commands if " ipv6 " in command]) == len(rules)  # IPv6 may come later
    assert commands[-2:] == [f"firewall-cmd --zone=public --add-port={port}" for port in ("22/tcp", "60000-60010/udp")]


@pytest.mark.parametrize(
    ("rule", "hook", "zone"),
    [
        (", chain filter_IN_my-zone: drop", "input", "--zone=my-zone "),
        (", chain filter_INPUT: reject with icmpx admin-prohibited", "input", ""),  # firewalld before 1.0
        (", chain filter_IN_public_deny: tcp dport 22 reject", "input", None),
        (", chain filter_IN_public_pre: tcp dport 22 reject", "input", None),
        (", chain filter_IN_policy_site: drop", "input", None),
        (", chain filter_FORWARD: reject", "forward", None),
        (", chain filter_IN_public: drop", "prerouting", None),
    ],
)
def test_the_zone_is_that_which_drops(rule: str, hook: str, zone: str | None) -> None:
    commands = build_remedy(blocked(rule, hook=hook), DEFAULT_MARK, Scope([SSH], {"new"})).commands
    assert commands[-1:] == (() if zone is None else (f"firewall-cmd {zone}--add-port=22/tcp",))


def test_a_rule_of_its_own_is_taken_back_first() -> None:
    rule = (
        f': -A INPUT ! -i lo -p tcp -m tcp --dport 22 {UNMARKED.replace("doorward", chr(34))}doorward:public" -j DROP'
    )
    assert build_remedy(blocked(rule, FILTER), DEFAULT_MARK, Scope([SSH], {"new"})).commands == (
        "doorward doctor --undo",
    )


def test_firewalld_with_iptables_accepts_one_mark() -> None:
    rules = (
        "-A INPUT_direct -j LOG\n-A INPUT_direct -m mark --mark 0x2000/0x2000 -m comment --comment doorward -j ACCEPT"
    )
    table = ForeignRuleset("iptables-nft", "ip", "filter", rules)
    block = Block(table, BaseChain("INPUT", "input", 0), "-A IN_public -j REJECT")
    commands = build_remedy(block, DEFAULT_MARK, Scope([SSH], {"new"})).commands
    assert [command.replace("--permanent ", "") for command in commands[::2]] == [
        f"firewall-cmd --direct --{verb}-rule ipv4 filter INPUT 0 -m mark --mark {mark} -m comment --comment doorward"
        " -j ACCEPT"
        for verb, mark in (("remove", "0x2000/0x2000"), ("add", "0x1000/0x1000"))
    ]


def test_what_firewalld_lists_is_taken_back_the_ports_first() -> None:
    commands = [*firewalld_removals(LISTED)]
    assert [command for command in commands if "--permanent" not in command] == [
        "firewall-cmd --zone=public --remove-port=22/tcp",
        "firewall-cmd --remove-port=60000-60010/udp",
        *(f"firewall-cmd --direct --remove-rule {line}" for line in LISTED.splitlines()[1:]),
    ]
    assert [command.replace(" --permanent", "") for command in commands[1::2]] == commands[::2]
    assert len(commands) == 2 * 6


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put programs into PATH that write their arguments into a file, and fail if these are in the file `failing`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    log, failing = folder / "log", folder / "failing"
    failing.write_text("nothing")
    for name in ("firewall-cmd", "iptables", "iptables-restore", "ip6tables"):
        (folder / name).write_text(
            f'#!/bin/sh\necho "{name} $*" | tee -a {log} | grep -qvxf {failing} || {{ echo "failed" >&2; exit 1; }}\n'
            f"case $* in *get-all-rules|-S) cat {folder}/listed;; esac\n"
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_a_file_that_ufw_could_not_load_is_left_as_it_was(tmp_path: Path, programs: Path) -> None:
    rules = tmp_path / "before.rules"
    rules.write_text(UFW)
    rules.chmod(0o640)
    rule = "ufw-before-input -m comment --comment doorward -j ACCEPT"
    test, insert = f"iptables-restore --noflush --test {rules}", f"iptables -I {rule}"
    commands = [f"sed -i -e '/^# End required lines/a -A {rule}' {rules}", test, insert]
    fix.perform(commands)
    assert rules.read_text() == UFW.replace("lines\n", f"lines\n-A {rule}\n")
    for failing in test, insert:
        rules.write_text(UFW)
        (programs / "failing").write_text(failing)
        with raises(HostError, "program-failed"):
            fix.perform(commands)
        assert (rules.read_text(), rules.stat().st_mode & 0o777) == (UFW, 0o640)
    fix.perform([f"iptables -D {rule}"])
    (programs / "failing").write_text("iptables -L")
    with raises(HostError, "program-failed"):
        fix.perform([f"iptables -D {rule}", "iptables -L"])
    log = (programs / "log").read_text().splitlines()
    assert [line for line in log if not line.startswith("iptables-restore")] == [
        *(insert, insert),
        *(f"iptables -D {rule}", f"iptables -D {rule}", "iptables -L", insert),
    ]
    assert {*tmp_path.iterdir()} == {rules, programs}


def test_ufw_accepts_one_mark_however_often_it_is_fixed(tmp_path: Path, programs: Path) -> None:
    rules = tmp_path / "before.rules"
    rules.write_text(UFW)
    text = ":ufw-before-input - [0:0]\n-A ufw-before-input -i lo -j ACCEPT\n"
    for value in (0x1000, 0x2000, 0x2000):
        table = ForeignRuleset("iptables-nft", "ip", "filter", text)
        commands = build_remedy(blocked("", table), Mark(value, value), Scope([SSH], {"new"})).commands
        fix.perform([command.replace("/etc/ufw/before.rules", str(rules)) for command in commands])
        text = rules.read_text()
    line = "ufw-before-input -m mark --mark 0x2000/0x2000 -m comment --comment doorward -j ACCEPT"
    assert rules.read_text() == UFW.replace("lines\n", f"lines\n-A {line}\n")
    changes = [command for command in (programs / "log").read_text().splitlines() if "-restore" not in command]
    first = f"iptables -I {line.replace('2000', '1000')}"
    assert changes == [
        first,
        first.replace("-I", "-D"),
        f"iptables -I {line}",
        f"iptables -D {line}",
        f"iptables -I {line}",
    ]


def test_a_port_is_not_opened_where_the_rule_before_it_is_missing(programs: Path) -> None:
    (programs / "failing").write_text("iptables -C INPUT -j DROP")
    rule, check, port = (
        "--direct --add-rule ipv4 filter INPUT 0 -j DROP",
        "iptables -C INPUT -j DROP",
        "--add-port=1/tcp",
    )
    with raises(HostError, "program-failed"):
        fix.perform([f"firewall-cmd {rule}", f"firewall-cmd --permanent {rule}", check, f"firewall-cmd {port}"])
    assert (programs / "log").read_text().splitlines() == [
        f"firewall-cmd {rule}",
        f"firewall-cmd --permanent {rule}",
        check,
        f"firewall-cmd --permanent {rule.replace('add', 'remove')}",
        f"firewall-cmd {rule.replace('add', 'remove')}",
    ]


def test_a_rule_stays_where_its_port_cannot_be_closed_again(programs: Path) -> None:
    (programs / "failing").write_text("iptables -C\nfirewall-cmd --remove-port=1/tcp")
    with raises(HostError, "not-reverted"):
        fix.perform(["firewall-cmd --direct --add-rule x", "firewall-cmd --add-port=1/tcp", "iptables -C"])
    assert (programs / "log").read_text().splitlines()[2:] == ["iptables -C", "firewall-cmd --remove-port=1/tcp"]


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nprintf '\\377' >&2; exit 1\n"])
def test_whatever_a_program_does_its_failure_is_reverted(programs: Path, program: str) -> None:
    (programs / "ip6tables").write_text(program)
    with raises(HostError, "program-failed"):
        fix.perform(["firewall-cmd --add-port=1/tcp", "ip6tables -C"])
    assert (programs / "log").read_text().splitlines()[-1] == "firewall-cmd --remove-port=1/tcp"


def test_what_firewalld_had_before_stays_when_a_program_fails(programs: Path) -> None:
    (programs / "firewall-cmd").write_text(
        f'#!/bin/sh\necho "$*" >> {programs}/log\necho Warning: ALREADY_ENABLED: >&2\n'
    )
    (programs / "failing").write_text("iptables -C INPUT")
    with raises(HostError, "program-failed"):
        fix.perform(["firewall-cmd --add-port=1/tcp", "iptables -C INPUT"])
    assert (programs / "log").read_text().splitlines() == ["--add-port=1/tcp", "iptables -C INPUT"]


def test_missing_programs_lines_and_links_change_nothing(tmp_path: Path, programs: Path) -> None:
    rules, link = tmp_path / "before.rules", tmp_path / "link"
    rules.write_text("*filter\nCOMMIT\n")
    link.symlink_to(rules)
    edit = "sed -i -e '/^# End required lines/a --comment doorward ' "
    tried: list[tuple[type[DoorwardError], str, str]] = [
        (HostError, "no-place-for-rule", f"{edit}{rules}"),
        (HostError, "unreadable-file", f"{edit}{link}"),
        (UncheckedError, "missing-program", "ip6tables-none -C INPUT"),
    ]
    for kind, code, command in tried:
        with raises(kind, code):
            fix.perform([command])
    assert rules.read_text() == "*filter\nCOMMIT\n"


def test_removal_touches_only_what_has_rules_of_doorward(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("before.rules", "before6.rules", "direct.xml")]
    for file in files:
        file.write_text(UFW)
    monkeypatch.setattr(fix, "UFW_FILES", dict(zip(("iptables", "ip6tables"), map(str, files), strict=False)))
    monkeypatch.setattr(fix, "_DIRECT_RULES", files[2])
    assert fix.removal_commands() == []
    assert not (programs / "log").exists()
    for file in files:
        file.write_text(f"{UFW}-A x -m comment --comment doorward -j ACCEPT\n")
    rule = "ufw-before-input -m comment --comment doorward -j ACCEPT"
    in_comment = f'-A ufw-before-input -m comment --comment "\n-A {rule.replace(" -m", " -M /x -m", 1)}\n" -j ACCEPT\n'
    (programs / "listed").write_text(f"{LISTED}-P INPUT DROP\n-A {rule}\n-A INPUT {rule}\n{in_comment}")
    commands = fix.removal_commands()
    assert [command for command in commands if "firewall" not in command] == [
        command
        for program, file in (("iptables", "before.rules"), ("ip6tables", "before6.rules"))
        for command in (f"{program} -D {rule}", f"sed -i -e '/ --comment doorward /d' /etc/ufw/{file}")
    ]
    fix.perform([command.replace("/etc/ufw", str(tmp_path)) for command in commands])
    assert [file.read_text() for file in files[:2]] == [UFW, UFW]


def test_off_reports_the_ports_that_firewalld_keeps_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "direct.xml"
    monkeypatch.setattr(fix, "_DIRECT_RULES", rules)
    off._report_firewalld()
    rules.write_bytes(b"\xff")
    off._report_firewalld()
    assert capsys.readouterr().out == ""
    rules.write_text("<rule>-m comment --comment doorward:public -j DROP</rule>")
    off._report_firewalld()
    assert "`doorward doctor --undo`" in capsys.readouterr().out


def problem(*commands: str) -> Problem:
    return Problem("firewall-blocks", Level.WARNING, "there", "drops", "have it accept the mark", commands)


def test_each_command_is_run_once_and_other_firewalls_are_left_to_the_operator() -> None:
    found = [problem("sed 4", "iptables"), problem("iptables-nft -t filter -I INPUT"), problem("sed 4", "ip6tables")]
    assert fix.lasting_commands(found) == ["sed 4", "iptables", "ip6tables"]


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which commands are added in place of being run; ufw blocks until there are any."""
    done: list[str] = []
    monkeypatch.setattr(fix, "perform", done.extend)
    monkeypatch.setattr(fix, "removal_commands", lambda: ["sed 4"])
    monkeypatch.setattr(doctor, "_check", lambda *_: [] if done else [problem("sed 4")])
    return done


def run(path: Path, option: str, *, mark: str = "accept_mark = 4096") -> int:
    path.write_text(f'[gate]\n{mark}\n[doors.a]\nopens = ["22/tcp"]\n')
    path.chmod(0o600)
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args([option, "-c", str(path)]))


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def typed(_: str) -> str:
        if not text:
            raise EOFError
        return text

    monkeypatch.setattr(doctor, "is_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", typed)


@pytest.mark.parametrize("option", ["--fix", "--undo"])
def test_only_a_typed_yes_changes_anything(
    option: str,
    performed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with raises(NegativeResult, "not-confirmed"):
        run(tmp_path / "f", option)  # no terminal
    for text in ("y", "", "YES"):
        answer(monkeypatch, text)
        with raises(NegativeResult, "not-confirmed"):
            run(tmp_path / "f", option)
    assert performed == []
    assert capsys.readouterr().out.count("\n  # sed 4\n") == 4
    answer(monkeypatch, "yes")
    assert run(tmp_path / "f", option) == 0
    assert performed == ["sed 4"]
    assert ("may now drop" in capsys.readouterr().out) == (option == "--undo")


def test_fix_needs_the_mark_and_a_result(
    performed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "yes")
    with raises(UsageError, "no-accept-mark"):
        run(tmp_path / "f", "--fix", mark="")
    assert performed == []
    monkeypatch.setattr(doctor, "_check", lambda *_: [problem("sed 4")])
    with raises(NegativeResult, "still-blocked"):
        run(tmp_path / "f", "--fix")
    monkeypatch.setattr(doctor, "_check", lambda *_: [problem("iptables -I INPUT")])
    assert run(tmp_path / "f", "--fix") == 0
    assert "no changes to" in capsys.readouterr().out
    assert performed == ["sed 4"]
    monkeypatch.setattr(doctor, "os", SimpleNamespace(geteuid=lambda: 1000))
    for option in ("--fix", "--undo"):
        with raises(UsageError, "needs-root"):
            run(tmp_path / "f", option)
