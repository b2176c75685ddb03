# ruff: noqa: E501  (a table has one row a line)
"""Each stanza becomes a door, and a line for its users."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, date, datetime
from typing import Any

import pytest

from doorward.config import toml
from doorward.importer.from_fwknop import convert
from doorward.importer.fwknop_conf import parse
from doorward.signed import key_options

NAMES = {22: "ssh", 443: "https", 53: "domain", 80: "8080"}
OWNER = re.compile(r"(door|stanza) '[^']*': ")
LINE = "in authorized_keys, a line for each of its users: "


def converted(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the new file's tables and notes, after checking that the file is valid and contains every note."""
    found = convert(parse(text, "f"), "f", lambda *_: None, lambda port: NAMES.get(port.number))
    toml.parse(found.toml, "f")
    assert len([line for line in found.toml.splitlines() if line.startswith("#")]) == len(found.notes) + 1
    return tomllib.loads(found.toml), [str(note) for note in found.notes]


def door(text: str) -> tuple[dict[str, Any], str, list[str]]:
    """Return the first door of a file's only stanza, its users' authorized_keys line, and its other notes."""
    tables, notes = converted(f"SOURCE ANY\nKEY b\nHMAC_KEY a\n{text}\n")
    table, *_ = tables["doors"].values()
    about = [OWNER.sub("", note) for note in notes if OWNER.search(note)]
    (line,) = (note.partition(LINE)[2] for note in about if LINE in note)
    assert key_options.parse(line, datetime.timestamp).faults == ()
    return table, line, [note for note in about if LINE not in note and "packets are not accepted" not in note]


def stanza(text: str) -> dict[str, Any]:
    """Return the table of a file's only stanza."""
    tables, _ = converted(f"SOURCE 192.0.2.0/24\n{text}\n")
    (table,) = tables["fwknop"]["stanzas"].values()
    return dict(table)


SSH = {"opens": ["22/tcp"], "for": "30s"}


def test_converts_a_whole_file() -> None:
    text = "SOURCE 192.0.2.7\nOPEN_PORTS tcp/22\nKEY very-secret\nHMAC_KEY too\n"
    expected = """\
# Made from "a.conf" by `doorward import`.
# Check: fwknop's clients go on as before, with the keys of access.conf; for signed knocks, `doorward key server` creates the server key, and the users' public SSH keys go into authorized_keys next to this file, one per line, as shown at each stanza
# Check: fwknopd.conf is not read: both go to 62201/udp; if fwknop's clients use another port, write it as `port` below [fwknop], and if PCAP_INTF names one interface, as `interfaces` below [gate]
# stricter: fwknop's packets may name any address (fwknop -a); a signed knock opens for its own source, unless the user's line also has addresses="…"
# Check: doorward itself hides and opens 22/tcp. Start it first, then let your own firewall accept these ports for everyone: a packet must pass both

[signed]

[doors.ssh]
opens = ["22/tcp"]
for = "30s"

[fwknop]

[fwknop.stanzas.ssh]
# Check: the stanza of line 1; in authorized_keys, a line for each of its users: doors="ssh",from="192.0.2.7",for-max="5m" KIND KEY NAME
doors = ["ssh"]
from = ["192.0.2.7"]
for = "30s"
for_max = "5m"
require_source_address = false
"""
    found = convert(parse(text, "a.conf"), "a.conf", lambda *_: None, lambda _: "ssh")
    assert found.toml == expected
    assert found.keys.decode().splitlines()[1:] == ["ssh dmVyeS1zZWNyZXQ= dG9v"]
    assert "dmVy" not in repr(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 'doors="ssh",for-max="5m" KIND KEY NAME'),
        ("FW_ACCESS_TIMEOUT 600", 'doors="ssh" KIND KEY NAME'),
        ("MAX_FW_TIMEOUT 3600", 'doors="ssh",for-max="1h" KIND KEY NAME'),
        ("ACCESS_EXPIRE 12/31/2030", 'doors="ssh",for-max="5m",expiry-time="20301231" KIND KEY NAME'),
        ("ACCESS_EXPIRE_EPOCH 1900000000", 'doors="ssh",for-max="5m",expiry-time="20300317174640Z" KIND KEY NAME'),
        ("REQUIRE_USERNAME alice", 'doors="ssh",for-max="5m" KIND KEY alice'),
        ('REQUIRE_USERNAME a" b', 'doors="ssh",for-max="5m" KIND KEY NAME'),
    ],
)  # fmt: skip
def test_authorized_keys_line(text: str, line: str) -> None:
    assert door(f"OPEN_PORTS tcp/22\n{text}")[1] == line


def test_sources_become_from_options() -> None:
    _, notes = converted("SOURCE 192.0.2.7, 203.0.113.9/24\nOPEN_PORTS tcp/22\n")
    assert 'doors="ssh",from="192.0.2.7,203.0.113.0/24",for-max="5m" KIND KEY NAME' in "\n".join(notes)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("OPEN_PORTS tcp/22", SSH),
        ("OPEN_PORTS tcp/22,udp/53\nRESTRICT_PORTS udp/53", SSH),
        ("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 600", {"opens": ["22/tcp"], "for": "5m"}),  # MAX_FW_TIMEOUT is 300
        ("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 60\nMAX_FW_TIMEOUT 45", {"opens": ["22/tcp"], "for": "45s"}),
        ("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 99999999\nMAX_FW_TIMEOUT 99999999", {"opens": ["22/tcp"], "for": "365d"}),
        ("", {"on_open": ["true"], "for": "30s"}),
        ("OPEN_PORTS tcp/22\nRESTRICT_PORTS tcp/22", {"on_open": ["true"], "for": "30s"}),
        ("CMD_CYCLE_OPEN /x  $IP $SRC:$PKT_SRC\nCMD_CYCLE_CLOSE NONE", {"on_open": ["/x", "%IP%", "%IP%:%IP%"], "for": "1s"}),
        ("OPEN_PORTS udp/53\nCMD_CYCLE_OPEN x $PROTO/$PORT\nCMD_CYCLE_CLOSE y $IP\nCMD_CYCLE_TIMER 9", {"on_open": ["x", "udp/53"], "on_close": ["y", "%IP%"], "for": "9s"}),
        ("CMD_CYCLE_OPEN /x $PORT\nCMD_CYCLE_CLOSE NONE", {"on_open": ["true"], "for": "1s"}),
        ("CMD_CYCLE_OPEN /x\nCMD_CYCLE_CLOSE bin/y\nCMD_CYCLE_TIMER 5", {"on_open": ["true"], "for": "5s"}),
        ("CMD_CYCLE_OPEN iptables -A INPUT -s $IP -p tcp --dport 22 -j ACCEPT\nCMD_CYCLE_CLOSE iptables -D INPUT -s $IP -p tcp --dport 22 -j ACCEPT\nCMD_CYCLE_TIMER 30", SSH),
        ("CMD_CYCLE_OPEN iptables -A INPUT -s $IP -p tcp --dport 22 -j ACCEPT\nCMD_CYCLE_CLOSE NONE", {"opens": ["22/tcp"], "for": "1h"}),
        ("OPEN_PORTS tcp/22,tcp/80\nFORCE_NAT 10.0.0.1 2222\nFORCE_MASQUERADE Y", {"opens": ["22/tcp -> 10.0.0.1:2222"], "masquerade": True, "for": "30s"}),
        ("OPEN_PORTS tcp/22\nFORCE_NAT 127.0.0.1 22", {"on_open": ["true"], "for": "30s"}),
    ],
)  # fmt: skip
def test_converts_doors(text: str, table: dict[str, Any]) -> None:
    assert door(text)[0] == table


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("RESTRICT_PORTS tcp/22", "check: no OPEN_PORTS: a packet chose any port but 22/tcp. A door names what it opens, and this one opens nothing yet: write the ports that were asked for, like opens = [\"22/tcp\"], instead of on_open"),
        ("OPEN_PORTS tcp/22\nRESTRICT_PORTS tcp/22", "check: RESTRICT_PORTS removes all ports of OPEN_PORTS, so it opens nothing"),
        ("OPEN_PORTS tcp/22\nOPEN_PORTS tcp/22", "check: OPEN_PORTS occurred twice in one stanza: the last one counted"),
        ("OPEN_PORTS tcp/22\nREQUIRE_SOURCE_ADDRESS Y", "with signed knocks REQUIRE_SOURCE_ADDRESS is a client setting: without NAT in between, `from = \"auto\"` in its hosts.toml puts the address into every packet"),
        ("OPEN_PORTS tcp/22\nENABLE_CMD_EXEC Y", "check: ENABLE_CMD_EXEC: a packet carried the command to run, and such packets are rejected. Write a door with `on_open` for each command that is needed"),
        ("OPEN_PORTS tcp/22\nDESTINATION 192.0.2.1", "check: laxer: DESTINATION has no counterpart; knocks to every address of this host count"),
        ("OPEN_PORTS tcp/22\nFORCE_NAT 10.0.0.1 22", "check: FORCE_NAT: the opening forwards its port, for this door's clients alone, as fwknopd did. This host must forward packets (net.ipv4.ip_forward), and other firewalls must let them through"),
        ("OPEN_PORTS tcp/22\nFORCE_MASQUERADE Y", "FORCE_MASQUERADE: without FORCE_NAT nothing is forwarded"),
        ("OPEN_PORTS tcp/22\nFORCE_SNAT 10.0.0.1", "check: FORCE_SNAT: write it permanently into your own firewall, or masquerade = true here"),
        ("OPEN_PORTS tcp/22\nFORWARD_ALL Y", "check: FORWARD_ALL, DISABLE_DNAT: a door opens only the ports that it names and never forwards everything"),
        ("OPEN_PORTS tcp/22\nGPG_REMOTE_ID A,B", "check: GPG_REMOTE_ID, GPG_FINGERPRINT_ID: 2 signers; each needs a line with an SSH key"),
        ("OPEN_PORTS tcp/22\nGPG_DECRYPT_PW x", "GnuPG keys: SSH keys replace them"),
        ("CMD_CYCLE_OPEN /x $TIMEOUT\nCMD_CYCLE_CLOSE NONE", "check: its commands cannot run as they are: $TIMEOUT is not known when a door opens. It runs nothing yet: write `on_open` and `on_close`"),
        ("CMD_CYCLE_OPEN /bin/sh -c /x,$IP\nCMD_CYCLE_CLOSE NONE", "check: its commands cannot run as they are: a shell would read the address as part of its text; pass it as \"$1\". It runs nothing yet: write `on_open` and `on_close`"),
    ],
)  # fmt: skip
def test_notes(text: str, note: str) -> None:
    assert door(text)[2] == [note]


def test_port_leads_to_one_place() -> None:
    """fwknopd forwarded each stanza's clients by themselves; here the second door opens nothing until it is changed."""
    stanza = "SOURCE ANY\nOPEN_PORTS tcp/22\n"
    tables, _ = converted(f"{stanza}FORCE_NAT 10.0.0.1 22\n{stanza}FORCE_NAT 10.0.0.2 22\n{stanza}")
    opens = [table.get("opens") for table in tables["doors"].values()]
    assert opens == [["22/tcp -> 10.0.0.1:22"], None, None]


def test_ports_of_commands_lead_to_one_place_too() -> None:
    commands = "SOURCE ANY\nCMD_CYCLE_OPEN iptables -A INPUT -s $IP -p tcp --dport 22 -j ACCEPT\nCMD_CYCLE_CLOSE NONE\n"
    forwarded = "SOURCE ANY\nOPEN_PORTS tcp/22\nFORCE_NAT 10.0.0.1 22\n"
    for text, first in ((commands + forwarded, "22/tcp"), (forwarded + commands, "22/tcp -> 10.0.0.1:22")):
        tables, _ = converted(text)
        assert [table.get("opens") for table in tables["doors"].values()] == [[first], None]


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        (["tcp/22", "tcp/22"], ["ssh"]),
        (["tcp/22,tcp/443"], ["ssh", "https"]),
        (["tcp/8443", "tcp/80"], ["tcp-8443", "tcp-80"]),  # a name cannot be all digits
        (["udp/53,tcp/53"], ["domain", "domain-2"]),
    ],
)  # fmt: skip
def test_doors_are_named_after_their_ports(ports: list[str], names: list[str]) -> None:
    tables, _ = converted("".join(f"SOURCE ANY\nOPEN_PORTS {each}\n" for each in ports))
    assert list(tables["doors"]) == names


def test_one_door_for_each_port_with_the_shortest_time() -> None:
    tables, notes = converted(
        "SOURCE ANY\nOPEN_PORTS tcp/22,tcp/443\nFW_ACCESS_TIMEOUT 60\nSOURCE ANY\nOPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 20\n"
    )
    assert tables["doors"] == {
        "ssh": {"opens": ["22/tcp"], "for": "20s"},
        "https": {"opens": ["443/tcp"], "for": "1m"},
    }
    assert [note.partition(LINE)[2] for note in notes if LINE in note] == [
        'doors="ssh,https",for-max="5m" KIND KEY NAME',
        'doors="ssh",for-max="5m" KIND KEY NAME',
    ]


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("OPEN_PORTS tcp/22,tcp/443", {"doors": ["ssh", "https"], "for": "30s", "for_max": "5m"}),
        ("OPEN_PORTS tcp/22\nREQUIRE_USERNAME alice\nFW_ACCESS_TIMEOUT 600", {"doors": ["ssh"], "for": "5m", "for_max": "5m", "username": "alice"}),
        ("OPEN_PORTS tcp/22\nACCESS_EXPIRE 12/31/2030", {"doors": ["ssh"], "for": "30s", "for_max": "5m", "expires": date(2030, 12, 31)}),
        ("OPEN_PORTS tcp/22\nACCESS_EXPIRE_EPOCH 1900000000", {"doors": ["ssh"], "for": "30s", "for_max": "5m", "expires": datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)}),
        ("OPEN_PORTS tcp/22\nHMAC_DIGEST_TYPE SHA3_512", {"doors": ["ssh"], "for": "30s", "for_max": "5m", "hmac": "sha3_512"}),
        ("OPEN_PORTS udp/53\nCMD_CYCLE_OPEN /x $IP\nCMD_CYCLE_CLOSE NONE", {"doors": ["domain"], "ports": ["53/udp"], "for": "1s", "for_max": "1s"}),
    ],
)  # fmt: skip
def test_stanzas(text: str, table: dict[str, Any]) -> None:
    found = stanza(f"KEY a\nHMAC_KEY b\n{text}")
    assert found == {"from": ["192.0.2.0/24"], "require_source_address": False, **table}
    assert "require_source_address" not in stanza(f"KEY a\nHMAC_KEY b\n{text}\nREQUIRE_SOURCE_ADDRESS Y")


@pytest.mark.parametrize(
    "text",
    [
        "KEY a\nOPEN_PORTS tcp/22",
        "HMAC_KEY a\nOPEN_PORTS tcp/22",
        "KEY a\nHMAC_KEY a\nOPEN_PORTS tcp/22",
        "KEY a\nHMAC_KEY b",
        "KEY a\nHMAC_KEY b\nOPEN_PORTS tcp/22\nRESTRICT_PORTS tcp/22",
        "KEY a\nHMAC_KEY b\nOPEN_PORTS tcp/22\nENCRYPTION_MODE CTR",
        "KEY a\nHMAC_KEY b\nOPEN_PORTS tcp/22\nHMAC_DIGEST_TYPE MD5",
        "KEY a\nHMAC_KEY b\nOPEN_PORTS tcp/22\nFORCE_NAT 127.0.0.1 22",
        f"KEY {33 * 'a'}\nHMAC_KEY b\nOPEN_PORTS tcp/22",
        f"KEY a\nHMAC_KEY {129 * 'b'}\nOPEN_PORTS tcp/22",
        "KEY_BASE64 !\nHMAC_KEY b\nOPEN_PORTS tcp/22",
        "KEY __CHANGEME__\nHMAC_KEY b\nOPEN_PORTS tcp/22",
        "KEY a\nHMAC_KEY __CHANGEME__\nOPEN_PORTS tcp/22",
        "GPG_DECRYPT_PW x\nOPEN_PORTS tcp/22",
    ],
)
def test_stanzas_whose_packets_are_not_accepted(text: str) -> None:
    tables, notes = converted(f"SOURCE ANY\n{text}\n")
    assert "fwknop" not in tables
    assert [note for note in notes if "packets are not accepted" in note and note.startswith("check: stanza")]


def test_signed_port_is_not_an_opened_port() -> None:
    tables, _ = converted("SOURCE ANY\nOPEN_PORTS udp/62201,udp/62200\n")
    assert tables["signed"] == {"port": "62199/udp"}


def test_notes_each_include() -> None:
    _, notes = converted("SOURCE ANY\nOPEN_PORTS tcp/22\n%include /a\x1b[2Jb\n")
    assert notes[0] == "check: line 3 includes '/a\\x1b[2Jb': import it too, and merge the results"


def test_keys_are_in_their_own_file_only() -> None:
    text = "SOURCE ANY\nKEY sesame\nKEY_BASE64 sesame\nHMAC_KEY sesame\nHMAC_KEY_BASE64 sesame\nGPG_DECRYPT_PW sesame\n"
    found = convert(parse(text, "f"), "f", lambda *_: None, lambda _: None)
    assert "sesame" not in found.toml + "".join(map(str, found.notes))
