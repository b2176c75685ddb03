# ruff: noqa: E501  (a table has one row a line)
from ipaddress import ip_address
from typing import Any

import pytest

from doorward.config.knockd import ANY_FLAGS, KnockdConfiguration, KnockdDoor, KnockdOptions, parse
from doorward.errors import ConfigError
from doorward.model import FlagFilter, Port, Protocol
from tests.support.manual import MANUAL_1, MANUAL_2, MANUAL_3, MANUAL_4

TCP, UDP = Protocol.TCP, Protocol.UDP
SYN = FlagFilter.parse(("syn",))


def tcp(*numbers: int) -> tuple[Port, ...]:
    return tuple(Port(TCP, number) for number in numbers)


def door(text: str) -> KnockdDoor:
    return parse(f"[a]\nSequence = 7\n{text}\n", "f").doors[0]


def faults(text: str) -> list[str]:
    """Return the line and the code of each fault."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [f"{fault.line} {fault.code}" for fault in caught.value.faults]


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return str(caught.value).splitlines()


DEBIAN = """[options]
	UseSyslog

[openSSH]
	sequence    = 7000,8000,9000
	seq_timeout = 5
	command     = /sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
	tcpflags    = syn

[closeSSH]
	sequence    = 9000,8000,7000
	seq_timeout = 5
	command     = /sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
	tcpflags    = syn

[openHTTPS]
	sequence    = 12345,54321,24680,13579
	seq_timeout = 5
	command     = /usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f %IP%
	tcpflags    = syn

"""
# The style of articles and tutorials on knockd: one door that closes itself, spaces between the ports.
TUTORIAL = """
[options]
        UseSyslog
        logfile = /var/log/knockd.log
        Interface = ens33

[SSH]
        sequence    = 571, 290, 911 
        seq_timeout = 15
        tcpflags    = syn
        start_command = /sbin/iptables -I INPUT 1 -s %IP% -p tcp --dport 22 -j ACCEPT
        cmd_timeout   = 10
        stop_command  = /sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
"""  # noqa: W291

IPTABLES = "/usr/sbin/iptables -{} INPUT -s %IP% -p tcp {} -j ACCEPT"
FIN = FlagFilter.parse(("fin", "!ack"))
SMTP: dict[str, Any] = {
    "one_time_file": "/etc/knockd/smtp_sequences",
    "within_ms": 15_000,
    "flags": FIN,
    "start_command": IPTABLES.format("A", "--dport 25"),
    "cmd_timeout_s": 5,
    "stop_command": IPTABLES.format("D", "--dport 25"),
}
LOG = KnockdOptions(log_file="/var/log/knockd.log")

FILES: list[tuple[str, KnockdConfiguration]] = [
    (
        MANUAL_1,
        KnockdConfiguration(
            LOG,
            (
                KnockdDoor("openSSH", 5, tcp(7000, 8000, 9000), None, 10_000, SYN, start_command="/sbin/iptables -A INPUT -s %IP% --dport 22 -j ACCEPT"),
                KnockdDoor("closeSSH", 11, tcp(9000, 8000, 7000), None, 10_000, SYN, start_command="/sbin/iptables -D INPUT -s %IP% --dport 22 -j ACCEPT"),
            ),
        ),
    ),
    (
        MANUAL_2,
        KnockdConfiguration(
            LOG,
            (
                KnockdDoor(
                    "opencloseSSH", 5, (Port(UDP, 2222), Port(TCP, 3333), Port(UDP, 4444)), None, 15_000, FlagFilter.parse(("syn", "ack")),
                    start_command=IPTABLES.format("A", "--syn"), cmd_timeout_s=5, stop_command=IPTABLES.format("D", "--syn"),
                ),
            ),
        ),
    ),
    (MANUAL_3, KnockdConfiguration(LOG, (KnockdDoor("opencloseSMTP", 5, **SMTP),))),
    (
        MANUAL_4,
        KnockdConfiguration(
            LOG,
            (
                KnockdDoor(
                    "opencloseSMTP", 5, **SMTP,
                    start_command_6=IPTABLES.format("A", "--dport 25").replace("iptables", "ip6tables"),
                    stop_command_6=IPTABLES.format("D", "--dport 25").replace("iptables", "ip6tables"),
                ),
            ),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FILES, ids=["manual 1", "manual 2", "manual 3", "manual 4"])
def test_parses_the_examples_of_the_manual(text: str, expected: KnockdConfiguration) -> None:
    assert parse(text, "f") == expected


def test_parses_debians_default_file() -> None:
    options, doors = parse(DEBIAN, "/etc/knockd.conf")
    assert options == KnockdOptions(use_syslog=True)
    assert [(door.name, door.line, door.within_ms, door.flags) for door in doors] == [
        ("openSSH", 4, 5000, SYN),
        ("closeSSH", 10, 5000, SYN),
        ("openHTTPS", 16, 5000, SYN),
    ]
    assert doors[2].knock == tcp(12345, 54321, 24680, 13579)


def test_parses_tutorial_style_files() -> None:
    options, (only,) = parse(TUTORIAL, "f")
    assert options == KnockdOptions(True, "/var/log/knockd.log", None, "ens33")
    assert only.knock == tcp(571, 290, 911)
    assert (only.cmd_timeout_s, only.within_ms) == (10, 15_000)


def test_defaults() -> None:
    assert parse("[a]\nsequence = 7", "f") == KnockdConfiguration(KnockdOptions(), (KnockdDoor("a", 1, tcp(7)),))
    only = door("")
    assert (only.within_ms, only.cmd_timeout_s, only.flags, only.start_command_6) == (25_000, 10, ANY_FLAGS, None)


SETTINGS: list[tuple[str, str, object]] = [
    ("SEQUENCE=7000,8000", "knock", tcp(7000, 8000)),
    ("\tsequence\t=\t7 , 8 : udp ,9 :TCP\r", "knock", (Port(TCP, 7), Port(UDP, 8), Port(TCP, 9))),
    ("sequence = 8\nsequence = 9", "knock", tcp(9)),  # the last one counts
    ("sequence = 7000,8000 # from the office", "knock", tcp(7000, 8000)),  # atoi stops there
    ("sequence = 7000/tcp, 007001", "knock", tcp(7000, 7001)),
    (f"sequence = {','.join(map(str, range(1, 33)))}", "knock", tcp(*range(1, 33))),
    ("seq_timeout = 5", "within_ms", 5000),
    ("Timeout = 6", "within_ms", 6000),
    ("seq_timeout = 15s", "within_ms", 15_000),
    ("seq_timeout = 15 seconds # slow", "within_ms", 15_000),
    ("cmd_timeout = 0", "cmd_timeout_s", 0),
    ("tcpflags = SYN,!ack,Urg", "flags", FlagFilter.parse(("syn", "!ack", "urg"))),
    ("tcpflags = syn\ntcpflags = !ack", "flags", FlagFilter.parse(("syn", "!ack"))),  # lines add up
    ("tcpflags = syn\ntcpflags = !syn", "flags", FlagFilter.parse(("!syn",))),
    ("tcpflags = syn,syn", "flags", SYN),
    ("target = 192.0.2.7", "target", ip_address("192.0.2.7")),
    ("target = 2001:DB8::7", "target", ip_address("2001:db8::7")),
    ("command = a=b = c # d", "start_command", "a=b = c # d"),
    ("start_command = one\ncommand = two", "start_command", "two"),
    ("command_6 = six", "start_command_6", "six"),
    ("start_command_6 =", "start_command_6", ""),
    ("stop_command_6 =", "stop_command_6", ""),
    ("one_time_sequences = /a b", "one_time_file", "/a b"),
    ("one_time_sequences = /s", "knock", ()),  # an earlier Sequence no longer counts
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "expected"), SETTINGS, ids=[text for text, _, _ in SETTINGS])
def test_parses_directives(text: str, field: str, expected: object) -> None:
    assert getattr(door(text), field) == expected


OPTIONS = [
    ("usesyslog", KnockdOptions(use_syslog=True)),
    ("LOGFILE = /a\nlogfile = /b", KnockdOptions(log_file="/b")),
    ("logfile =", KnockdOptions()),
    ("pidfile = /run/k.pid", KnockdOptions(pid_file="/run/k.pid")),
    ("interface = eth1\ninterface = eth2", KnockdOptions(interface="eth1")),  # the first one counts
    ("interface =\ninterface = any", KnockdOptions(interface="any")),
    ("interface = eth0:1", KnockdOptions(interface="eth0:1")),
]


@pytest.mark.parametrize(("text", "expected"), OPTIONS, ids=[text for text, _ in OPTIONS])
def test_parses_options(text: str, expected: KnockdOptions) -> None:
    assert parse(f"[options]\n{text}\n[a]\nsequence = 7\n", "f").options == expected


def test_parses_sections() -> None:
    text = "[ a b ]\nsequence=7\nUseSyslog\n[a]b]\nsequence=7\n[OPTIONS]\nsequence=7\n[a]b]\nsequence=7\n# [x]\n[options]\nlogfile=/l"
    configuration = parse(text, "f")
    assert [(door.name, door.line) for door in configuration.doors] == [
        (" a b ", 1),
        ("a]b", 4),
        ("OPTIONS", 6),
        ("a]b", 8),
    ]
    assert configuration.options == KnockdOptions(use_syslog=True, log_file="/l")  # UseSyslog counts anywhere


DOOR_FAULTS = [
    ("sequence =", "empty-sequence"),
    ("sequence = 0", "port-range"),
    ("sequence = 70000", "port-range"),
    ("sequence = abc", "invalid-port"),
    ("sequence = 7000/udp", "invalid-port"),
    ("sequence = 7000 8000", "invalid-port"),
    ("sequence = -5", "invalid-port"),
    ("sequence = 7000,", "missing-port"),
    ("sequence = 7:sctp", "invalid-port"),
    ("sequence = 7:tcp:udp", "invalid-port"),
    (f"sequence = {','.join(['7'] * 33)}", "sequence-too-long"),
    ("seq_timeout = 0", "time-range"),
    ("timeout = 2.5", "invalid-time"),
    ("cmd_timeout = -1", "invalid-time"),
    ("cmd_timeout = 99999999999", "time-range"),
    ("tcpflags = syn, ack", "unknown-flag"),
    ("tcpflags = ece", "unknown-flag"),
    ("tcpflags = syn,!syn", "duplicate-flag"),
    ("target = localhost", "invalid-address"),
    ("target = 192.0.2.0/24", "invalid-address"),
    ("one_time_sequences =", "no-file-named"),
    ("SeqTimeout = 5", "unknown-directive"),
    ("logfile = /l", "unknown-directive"),
    ("UseSyslog = yes", "unknown-directive"),
    ("comand", "invalid-directive"),
    ("\xa0", "invalid-directive"),
    ("a\0b = c", "nul-byte"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), DOOR_FAULTS, ids=[text[:30] for text, _ in DOOR_FAULTS])
def test_faults_in_a_door(text: str, code: str) -> None:
    assert faults(f"[a]\nsequence = 7\n{text}\n") == [f"3 {code}"]


REMEDIES = {
    "SeqTimeout = 5": "unknown directive 'SeqTimeout' in door 'a'; did you mean Seq_Timeout?",
    "logfile = /l": "unknown directive 'logfile' in door 'a'; write it below [options]",
    "UseSyslog = yes": "unknown directive 'UseSyslog' in door 'a'; write UseSyslog alone on its line",
    "comand": "invalid directive 'comand'; did you mean Command?",
    "\xa0": "invalid directive '\\xa0'; write NAME = VALUE",
    "[options]\nsequence = 7": "unknown directive 'sequence' in [options]; write it below a door's [NAME]",
    "[options]\nfoo = 1": "unknown directive 'foo' in [options]; remove it, or write one of LogFile, PidFile, ",
    "[Options]\nsequence = 7\nlogfile = /l": "in door 'Options'; write the section's name as [options], in small letters",
}


@pytest.mark.parametrize(("text", "message"), REMEDIES.items(), ids=REMEDIES)
def test_the_remedy_fits_the_directive(text: str, message: str) -> None:
    assert message in messages(f"[a]\nsequence = 7\n{text}\n")[0]


FILE_FAULTS = {
    "": ["1 no-door"],
    "[options]\nUseSyslog": ["1 no-door"],
    "\n[a]\ncommand = x": ["2 no-sequence"],
    "[a]\nsequence = x,0": [
        "2 invalid-port",
        "2 port-range",
    ],
    "sequence = 7\n[a] # x\n[b]\nsequence=1": [
        "1 outside-section",
        "2 outside-section",
    ],
    "[]\nsequence = 7": ["1 invalid-door-name"],
    "[Options]\nlogfile = /l\nsequence = 7": ["2 unknown-directive"],
    "[options]\nsequence = 7\ninterface = /dev/eth0\nfoo = 1\n[a]\nsequence = 7": [
        "2 unknown-directive",
        "3 invalid-interface",
        "4 unknown-directive",
    ],
    "[a]\none_time_sequences = /s\nsequence = 7": ["3 sequence-and-one-time"],
}


@pytest.mark.parametrize(("text", "expected"), FILE_FAULTS.items(), ids=FILE_FAULTS)
def test_reports_all_faults_of_a_file(text: str, expected: list[str]) -> None:
    assert faults(text) == expected
