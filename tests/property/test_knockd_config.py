"""Any text gives a configuration or located faults, and agrees with Debian's knockd except for intended faults."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config.knockd import parse
from doorward.errors import ConfigError
from doorward.knockd.one_time import ENCODING, ERRORS, mark_used, sequences
from doorward.lab.topology import Lab
from tests.support.programs import KNOCKD

FRAGMENTS = [
    *"[]=#,:!% \t\n\r\f\0é",
    *("[options]\n", "[a]\n", "[b]\n", "[]\n", "[OPTIONS]\n", "UseSyslog\n", "logfile = /l\n", "interface = eth0\n"),
    *(
        "sequence",
        "one_time_sequences = /s\n",
        "seq_timeout = ",
        "cmd_timeout=",
        "tcpflags = ",
        "target =",
        "command =",
    ),
    *("sequence = 7000,8000:udp\n", "7000", "0", "70000", "-5", "abc", "udp", "syn", "!ack", "192.0.2.7", "%IP%\n"),
]
texts = st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map("".join)


@given(texts)
def test_any_text_gives_a_configuration_or_faults_with_a_place(text: str) -> None:
    try:
        doors = parse(text, "f").doors
    except ConfigError as error:
        for fault in error.faults:
            assert 1 <= fault.line <= text.count("\n") + 1
            assert fault.what
            assert fault.instead
            assert "\n" not in str(fault)
    else:
        assert doors
        assert all(bool(door.knock) != (door.one_time_file is not None) for door in doors)


@given(
    st.binary(max_size=40) | st.lists(st.sampled_from([b" 7,8", b"#9", b"9:udp", b"\n", b"x", b"\xff"])).map(b"".join)
)
def test_marking_uses_up_sequences_in_order(raw: bytes) -> None:
    unused = sequences(raw.decode(ENCODING, ERRORS), "f").unused
    for place in range(len(unused)):
        assert raw.count(b"\n", 0, unused[place].offset) + 1 == unused[place].line
        raw = mark_used(raw, unused[place].offset)
        assert sequences(raw.decode(ENCODING, ERRORS), "f").unused == unused[place + 1 :]


# Faults on purpose in files that knockd accepts: these lines cannot open what they were meant to.
INTENDED = re.compile(
    "|".join(
        [
            "port 0 does not exist",  # `0`, and what atoi takes for 0
            "invalid port .*, which knockd misreads",  # abc, -5, 7000/udp, 7000 8000
            "a port is missing next to a comma",
            "the sequence is empty",
            "invalid port '7:tcp:udp'",  # knockd reads 7:tcp
            "invalid time ",  # 2.5, 5 minutes, abc
            "seconds is out of range",  # a sequence in 0 seconds never completes
            "duplicate flag '[a-z]*'",  # syn,!syn
            "invalid address 'localhost'",  # compared with the packet's address as text
            "no door is defined",
        ]
    )
)

PIECES = {
    "sequence": ["7000", "7000,8000:udp", " 7 , 8:UDP , 9 : tcp", "0", "7,,8", "", "70000", "abc", "7:sctp",
                 "7:tcp:udp", "7000/udp", "7000/tcp", "7000 8000", "-5", "7 # here", "7,8 # a,b", "7 # a:b",
                 ",".join(["7"] * 33)],
    "seq_timeout": ["5", "0", "15s", "2.5", "5 # slow", "5 minutes", "abc"],
    "Timeout": ["9"],
    "SeqTimeout": ["9"],
    "cmd_timeout": ["0", "10", "x"],
    "TCPFlags": ["syn", "SYN,!ack", "syn, ack", "syn,", "", "ece", "syn,!syn", "fin # x", "! syn"],
    "target": ["192.0.2.7", "2001:db8::7", "localhost", "192.0.2.0/24", "no such", ""],
    "command": ["echo %IP%", "", "a = b # c"],
    "command_6": ["x"], "start_command": ["x"], "START_COMMAND_6": [""], "stop_command": ["y"], "Stop_Command_6": [""],
    "stop_comand": ["x"], "UseSyslog": ["1"], "pidfile": ["/p"],
}  # fmt: skip
BARE = ["UseSyslog", "usesyslog", "junk", "# note", "; note", "", " \t", "=x", "[unclosed", "[a] # x", "[]"]
HEADS = [
    "[options]\npidfile = /nowhere/p\n",
    "[options]\nlogfile =\n",
    "[options]\nsequence = 7\n",
    "[Options]\nlogfile = /l\n",
    "x = 1\n",
]
CASES = 70


def generated(seed: int) -> str:
    """Return a small file, mostly valid, so that not every one is rejected for its first line."""
    chance = random.Random(seed)
    lines = [chance.choice(HEADS)] if chance.random() < 0.2 else []
    for name in ["a", "b", "a", " c d "][: chance.choice([0, 1, 1, 1, 1, 2, 3])]:
        lines.append(f"[{name}]\n")
        if chance.random() < 0.9:
            lines.append(f"sequence = {chance.choice(PIECES['sequence'][: 3 if chance.random() < 0.6 else None])}\n")
        for _ in range(chance.choice([0, 1, 1, 2])):
            key = chance.choice(list(PIECES))
            lines.append(f"\t{key} = {chance.choice(PIECES[key])}\r\n")
        if chance.random() < 0.15:
            lines.append(chance.choice(BARE) + "\n")
    return "".join(lines)


def knockd_starts(lab: Lab, path: Path) -> bool:
    """Return whether Debian's knockd starts with the file, and stop it."""
    process = lab.server.popen([KNOCKD, "-v", "-c", path], stderr=-3)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    starts = any(line.startswith("listening on") for line in lines)
    process.kill()
    process.wait(10)
    return starts


def should_start(text: str) -> bool:
    """Return whether knockd should start according to this parser, ignoring the intended faults."""
    try:
        parse(text, "f")
    except ConfigError as error:
        return all(INTENDED.search(fault.what) for fault in error.faults)
    return True


@pytest.mark.netns("knockd")
def test_agrees_with_debians_knockd(module_lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "knockd.conf"
    disagreements = []
    started = 0
    for seed in range(CASES):
        text = generated(seed)
        path.write_text(text, newline="")
        starts = knockd_starts(module_lab, path)
        started += starts
        if starts != should_start(text):
            disagreements.append((text, starts))
    assert disagreements == []
    assert CASES // 4 < started < CASES * 3 // 4  # otherwise the comparison would prove nothing
