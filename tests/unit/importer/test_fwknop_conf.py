# ruff: noqa: E501  (a table has one row a line)
"""access.conf as fwknopd reads it, and the faults that fwknopd silently accepts."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from doorward.errors import ConfigError
from doorward.importer import fwknop_conf
from doorward.importer.dialect import Dialect, detect_dialect
from doorward.importer.fwknop_conf import AccessConfiguration, Include, SourceAddress, Stanza, parse
from doorward.model import Port, SecretBytes

SSH, HTTPS, DNS = Port.parse("22/tcp"), Port.parse("443/tcp"), Port.parse("53/udp")
A, B = IPv4Network("192.0.2.7"), IPv4Network("203.0.113.0/24")


def stanza(line: str) -> Stanza:
    (found,) = parse(f"SOURCE ANY\nKEY secret\n{line}\n", "f").stanzas
    return found


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(fault).removeprefix("f:") for fault in caught.value.faults]


def test_parses_a_whole_file() -> None:
    text = "# comment\n  # comment\n; comment\n\nSOURCE: ANY ; all\r\n  OPEN_PORTS\ttcp/22;\nKEY a b\n%include /x\nFW_ACCESS_TIMEOUT 60\nSOURCE 192.0.2.7\n"
    first, second = Stanza(5, open_ports=(SSH,), for_s=60, key=SecretBytes(b"a b")), Stanza(10, sources=(A,))
    first = first._replace(named=frozenset({"SOURCE", "OPEN_PORTS", "KEY", "FW_ACCESS_TIMEOUT"}))
    assert parse(text, "f") == AccessConfiguration(
        (first, second._replace(named=frozenset({"SOURCE"}))), (Include(8, "/x"),)
    )


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("OPEN_PORTS tcp/22, UDP/53,tcp/ 443 # three", "open_ports", (SSH, DNS, HTTPS)),
        ("OPEN_PORTS tcp/22,tcp/22", "open_ports", (SSH,)),
        ("OPEN_PORTS tcp/22\nOPEN_PORTS tcp/443", "open_ports", (HTTPS,)),
        ("RESTRICT_PORTS udp/53", "restrict_ports", (DNS,)),
        ("DESTINATION 192.0.2.7,203.0.113.9/255.255.255.0", "destinations", (A, B)),
        ("DESTINATION any, 192.0.2.7", "destinations", ()),
        ("DESTINATION 192.0.2.7 # the web", "destinations", (A,)),
        ("FW_ACCESS_TIMEOUT 60s", "for_s", 60),
        ("FW_ACCESS_TIMEOUT 0", "for_s", None),
        ("MAX_FW_TIMEOUT 60 # a minute", "max_s", 60),
        ("REQUIRE_USERNAME alice", "username", "alice"),
        ("REQUIRE_SOURCE_ADDRESS Y;", "source_required", True),
        ("REQUIRE_SOURCE yes # always", "source_required", True),
        ("ENABLE_CMD_EXEC N", "runs_commands", False),
        ("FORCE_NAT 192.168.1.3 22", "translation", SourceAddress("192.168.1.3", 22)),
        ("ACCESS_EXPIRE 12/31/2030", "expires", "20301231"),
        ("ACCESS_EXPIRE 1/2/30", "expires", "20300102"),
        ("ACCESS_EXPIRE_EPOCH 1900000000", "expires", "20300317174640Z"),
        ("ACCESS_EXPIRE_EPOCH 0", "expires", None),
        ("GPG_REMOTE_ID AB12, CD34", "signers", ("AB12", "CD34")),
        ("GPG_DISABLE_SIG Y\nFORWARD_ALL N", "flags", frozenset({"GPG_DISABLE_SIG"})),
        ("KEY other", "repeated", ("KEY",)),
        ("CMD_CYCLE_OPEN /x $IP; rest\nCMD_CYCLE_CLOSE NONE", "cycle_open", "/x $IP"),
    ],
)  # fmt: skip
def test_parses_lines(line: str, field: str, value: object) -> None:
    assert getattr(stanza(line), field) == value


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("OPEN_PORTS tcp/22-25", "OPEN_PORTS: invalid port 'tcp/22-25', which fwknopd misreads; write ports like tcp/22 with commas between them, each by itself"),
        ("OPEN_PORTS tcp/22 tcp/80", "OPEN_PORTS: invalid port 'tcp/22 tcp/80', which fwknopd misreads; write ports like tcp/22 with commas between them, each by itself"),
        ("OPEN_PORTS tcp/0", "OPEN_PORTS: port 0 does not exist; write a number from 1 to 65535"),
        ("OPEN_PORTS tcp/abc", "OPEN_PORTS: invalid port 'tcp/abc', which fwknopd misreads; write ports like tcp/22 with commas between them, each by itself"),
        ("OPEN_PORTS " + ",".join(f"tcp/{n}" for n in range(1, 34)), "OPEN_PORTS: 33 ports are too many for one door; write two stanzas, each with at most 32 of them"),
        ("DESTINATION 10.0.0.0/24 192.0.2.7", "DESTINATION: invalid IPv4 address '10.0.0.0/24 192.0.2.7'; write addresses like 192.0.2.7 or 203.0.113.0/24 with commas between them, or ANY"),
        ("DESTINATION 10.0.0.1/255.0.255.0", "DESTINATION: invalid IPv4 address '10.0.0.1/255.0.255.0'; write addresses like 192.0.2.7 or 203.0.113.0/24 with commas between them, or ANY"),
        ("DESTINATION 010.0.0.1", "DESTINATION: invalid IPv4 address '010.0.0.1'; write addresses like 192.0.2.7 or 203.0.113.0/24 with commas between them, or ANY"),
        ("FW_ACCESS_TIMEOUT soon", "FW_ACCESS_TIMEOUT: invalid time 'soon'; write a whole number of seconds, like 30"),
        ("FW_ACCESS_TIMEOUT 1.5", "FW_ACCESS_TIMEOUT: invalid time '1.5'; write a whole number of seconds, like 30"),
        ("FW_ACCESS_TIMEOUT 99999999999", "FW_ACCESS_TIMEOUT: 99999999999 seconds is out of range; write at most 2147483647"),
        ("ENABLE_CMD_EXEC true", "ENABLE_CMD_EXEC: 'true' is neither Y nor N, and fwknopd reads it as no; write Y or N"),
        ("ENABLE_CMD_EXEC yep", "ENABLE_CMD_EXEC: 'yep' is neither Y nor N, and fwknopd reads it as yes; write Y or N"),
        ("ACCESS_EXPIRE 13/40/2030", "ACCESS_EXPIRE: invalid date '13/40/2030'; write it as MM/DD/YYYY, like 12/31/2030"),
        ("ACCESS_EXPIRE_EPOCH soon", "ACCESS_EXPIRE_EPOCH: invalid time 'soon'; write seconds since 1970, like 1900000000"),
        ("ACCESS_EXPIRE_EPOCH 999999999999", "ACCESS_EXPIRE_EPOCH: invalid time '999999999999'; write seconds since 1970, like 1900000000"),
        ("FORCE_NAT 10.0.0.1", "FORCE_NAT: invalid address and port '10.0.0.1'; write both, like 192.0.2.7 22"),
        ("OPEN_PORT tcp/22", "the line begins with an unknown keyword; did you mean OPEN_PORTS?"),
        ("open_ports tcp/22", "the line begins with an unknown keyword; did you mean OPEN_PORTS?"),
        ("KEY", "KEY has no value; write KEY, a blank and its value"),
        ("KEY \0", "a NUL byte is in the line; save the file as text"),
        ("#" * 1023, "the line is longer than 1022 bytes, and fwknopd reads the rest as another line; write shorter lines"),
    ],
)  # fmt: skip
def test_reports_lines_that_fwknopd_misreads(line: str, fault: str) -> None:
    assert faults(f"SOURCE ANY\n{line}\n") == [f"2: {fault}"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["1: there is no stanza; write SOURCE ANY and OPEN_PORTS tcp/22"]),
        ("#\n%include /x\n", ["1: there is no stanza; import the file that line 2 includes"]),
        ("KEY a\nSOURCE ANY\n", ["1: KEY is above the first SOURCE, and fwknopd ignores it; write it below"]),
        ("SOURCE ANY\nCMD_CYCLE_OPEN /x\n", ["1: the stanza has CMD_CYCLE_OPEN and no CMD_CYCLE_CLOSE; write CMD_CYCLE_CLOSE too"]),
        ("SOURCE ANY\nCMD_CYCLE_OPEN /x\nCMD_CYCLE_CLOSE /y\n", ["1: the stanza has no CMD_CYCLE_TIMER; write after how many seconds it closes"]),
    ],
)  # fmt: skip
def test_reports_incomplete_files(text: str, found: list[str]) -> None:
    assert faults(text) == found


SECRET = "c2VjcmV0LXNlY3JldA=="  # noqa: S105 (no secret of anybody)


@pytest.mark.parametrize("word", [*fwknop_conf.SECRETS, "KEYS", "KEY=", "HMACKEY", SECRET])
def test_no_message_shows_a_key(word: str) -> None:
    for text in (
        f"{word} {SECRET}\n",
        f"SOURCE ANY\n{word} {SECRET}\nFW_ACCESS_TIMEOUT x\n{SECRET}\n{word}\n  {SECRET} x\n",
    ):
        assert SECRET not in "\n".join(faults(text))
    assert SECRET not in repr(stanza(f"HMAC_KEY_BASE64 {SECRET}"))


def test_number_of_reported_faults_is_bounded() -> None:
    assert len(faults("x\n" * 100_000)) == fwknop_conf.MAX_FAULTS
    assert faults("SOURCE ANY\n" * (fwknop_conf.MAX_STANZAS + 1))[0].startswith(
        "10001: there are more than 10000 stanzas"
    )


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("# x\n\n[options]\nUseSyslog\n", Dialect.KNOCKD),
        ("[SOURCE]\nSequence = 7\n", Dialect.KNOCKD),
        ("# [x]\n; y\n\nSOURCE ANY\n", Dialect.FWKNOP),
        ("%include /etc/fwknop/more.conf\n", Dialect.FWKNOP),
        ("  OPEN_PORTS: tcp/22\n[x]\n", Dialect.FWKNOP),
        ("junk\nSOURCE\tANY;\n", Dialect.FWKNOP),
        ("", None),
        ("hello\nworld\n", None),
    ],
)  # fmt: skip
def test_detects_the_dialect(text: str, dialect: Dialect | None) -> None:
    assert detect_dialect(text) == dialect
