"""Any text gives stanzas or located faults, and agrees with Debian's fwknopd except for intended faults."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import ConfigError
from doorward.importer import fwknop_conf
from doorward.importer.dialect import detect_dialect
from doorward.importer.fwknop_conf import parse
from doorward.lab.topology import Lab

FRAGMENTS = [
    *(";", ":", ",", "/", "#", " ", "\t", "\n", "\r", "\0", "é"),
    *(f"{word} " for word in fwknop_conf.WORDS),
    *("SOURCE ANY\n", "OPEN_PORTS tcp/22\n", "tcp/22", "udp/", "0", "70000", "-5", "abc", "Y\n", "N", "192.0.2.7"),
    *("192.0.2.0/24", "12/31/2030\n", "NONE\n", "$IP", "192.0.2.7 22\n"),
]
texts = st.text() | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map("".join)


@given(texts)
def test_any_text_gives_stanzas_or_faults_with_a_place(text: str) -> None:
    try:
        stanzas = parse(text, "f").stanzas
    except ConfigError as error:
        for fault in error.faults:
            assert 1 <= fault.line <= text.count("\n") + 1
            assert fault.what
            assert fault.instead
            assert "\n" not in str(fault)
    else:
        assert stanzas
        assert detect_dialect(text) is not None


# Faults on purpose in files that fwknopd accepts: it does not read these lines as they look.
INTENDED = re.compile(
    "|".join(
        [
            "invalid port .*, which fwknopd misreads$",  # tcp/22-25, tcp/22 tcp/80, tcp/abc
            "port 0 does not exist",
            "invalid IPv4 address ",  # 10.0.0.0/24 192.0.2.1, 192.0.2 and 010.0.0.1, which inet_aton takes
            "invalid time ",  # abc, 1.5, 5 minutes
            "is neither Y nor N",
            "invalid date ",  # 13/40/2030 is a day of the next year
            "the line begins with an unknown keyword$",  # fwknopd ignores the line
            "is above the first SOURCE",
            "the line is longer than",
            "invalid address and port ",
        ]
    )
)

PIECES = {
    "OPEN_PORTS": ["tcp/22", "tcp/22, udp/53", "TCP/22;", "tcp/22 # ssh", "tcp/22 tcp/80", "tcp/22-25", "tcp/0", "tcp/",
                   "tcp/22,", "22/tcp", "icmp/0", "tcp/70000", "tcp /22", "tcp/ 22", "tcp/abc", ""],
    "RESTRICT_PORTS": ["tcp/25", "udp/1,tcp/2"],
    "DESTINATION": ["192.0.2.1", "ANY", "nowhere"],
    "FW_ACCESS_TIMEOUT": ["60", "0", "60s", "1.5", "abc", "-5", "99999999999", "60 # a minute"],
    "MAX_FW_TIMEOUT": ["60", "2592001", "x"],
    "REQUIRE_SOURCE_ADDRESS": ["Y", "N;", "yes", "true", "1", "Yup"], "REQUIRE_SOURCE": ["n"],
    "REQUIRE_USERNAME": ["alice", "a b"], "ENABLE_CMD_EXEC": ["Y"],
    "ACCESS_EXPIRE": ["12/31/2030", "1/2/30", "13/40/2030", "2030-12-31"],
    "ACCESS_EXPIRE_EPOCH": ["1900000000", "0", "abc"],
    "FORCE_NAT": ["192.0.2.3 22", "192.0.2.3", "192.0.2.3 70000"],
    "CMD_CYCLE_OPEN": ["/bin/true $IP\nCMD_CYCLE_CLOSE NONE", "/bin/true",
                       "/bin/true\nCMD_CYCLE_CLOSE /bin/true\nCMD_CYCLE_TIMER 5", "/bin/a\nCMD_CYCLE_CLOSE /bin/b"],
    "GPG_REMOTE_ID": ["AB12,CD34"], "HMAC_KEY": ["other"], "HMAC_DIGEST_TYPE": ["sha512"],
    "open_ports": ["tcp/22"], "OPEN_PORT": ["tcp/22"], "#": ["note"], "  #": ["note"], ";": ["note"],
}  # fmt: skip
SOURCES = ["ANY", "any;", "192.0.2.7", "192.0.2.0/24, 198.51.100.7", "192.0.2.9/255.255.255.0",
           "192.0.2.0/24 192.0.2.7", "192.0.2", "010.0.0.1", "2001:db8::7", "192.0.2.7/33", "192.0.2.7 # home",
           "example.org", "ANY,192.0.2.7"]  # fmt: skip
HEADS = ["OPEN_PORTS tcp/22\n", "#" * 1022 + "\n", "#" + "x" * 1022 + "HMAC_KEY y\n", "\n\r\n"]
CASES = 200
CONFIGURATION = """
PCAP_INTF lo;
ENABLE_IPT_FORWARDING Y;
FWKNOP_RUN_DIR {folder};
FWKNOP_PID_FILE {folder}/pid;
DIGEST_FILE {folder}/digests;
"""


TIMES = re.compile(r"^ *FW_ACCESS_TIMEOUT: *([0-9]+)\n *MAX_FW_TIMEOUT: *([0-9]+)$", re.MULTILINE)


def generated(seed: int) -> str:
    """Return a small file, mostly valid, so that not every one is rejected for its first line."""
    chance = random.Random(seed)
    lines = [chance.choice(HEADS)] if chance.random() < 0.15 else []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        source = chance.choice(SOURCES[: 4 if chance.random() < 0.7 else None])
        lines.append(f"SOURCE{chance.choice(['', ':'])} {source}\nKEY secret\n")
        for _ in range(chance.choice([0, 1, 1, 2])):
            word = chance.choice(list(PIECES))
            lines.append(f"{word}\t{chance.choice(PIECES[word][: 2 if chance.random() < 0.5 else None])}\n")
    return "".join(lines)


def taken_by_fwknopd(lab: Lab, folder: Path, text: str) -> list[tuple[int, int]] | None:
    """Return both times of each stanza as printed by Debian's fwknopd, or None if it rejects the file."""
    access, configuration = folder / "access.conf", folder / "fwknopd.conf"
    for path, content in ((access, text), (configuration, CONFIGURATION.format(folder=folder))):
        path.touch(0o600)
        path.write_text(content, newline="")
    words = ["fwknopd", "--foreground", "--exit-parse-config", "--dump-config", "-c", configuration, "-a", access]
    process = lab.server.popen(words, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=30)
    times = TIMES.findall(said)
    return [(int(usual), int(longest)) for usual, longest in times] if process.returncode == 0 else None


def differences(text: str, times: list[tuple[int, int]]) -> list[str]:
    """Return the unintended faults, or the times of stanzas that differ."""
    try:
        stanzas = parse(text, "f").stanzas
    except ConfigError as error:
        return [str(fault) for fault in error.faults if not INTENDED.search(fault.what)]
    own = [(stanza.for_s or fwknop_conf.DEFAULT_FOR_S, stanza.max_s or fwknop_conf.DEFAULT_MAX_S) for stanza in stanzas]
    return [] if own == times else [f"{own}, not {times}"]


@pytest.mark.netns("fwknopd")
def test_agrees_with_debians_fwknopd(module_lab: Lab, tmp_path: Path) -> None:
    taken, disagreements = 0, []
    for seed in range(CASES):
        text = generated(seed)
        times = taken_by_fwknopd(module_lab, tmp_path, text)
        if times is not None:
            taken += 1
            disagreements += [(text, difference) for difference in differences(text, times)]
    assert disagreements == []
    assert CASES // 4 < taken < CASES * 9 // 10  # otherwise the comparison would prove nothing
