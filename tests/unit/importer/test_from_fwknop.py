# ruff: noqa: E501  (a table has one row a line)
"""Each stanza becomes a door, and a line for its users."""

from __future__ import annotations

import tomllib
from datetime import datetime
from typing import Any

import pytest

from doorward.config import toml
from doorward.importer.from_fwknop import convert
from doorward.importer.fwknop_conf import parse
from doorward.signed import key_options

NAMES = {22: "ssh", 443: "https", 53: "domain", 80: "8080"}
LINE = "in authorized_keys, a line for each of its users: "


def converted(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the new file's tables and notes, after checking that the file is valid and contains every note."""
    found = convert(parse(text, "f"), "f", lambda *_: None, lambda port: NAMES.get(port.number))
    toml.parse(found.toml, "f")
    assert len([line for line in found.toml.splitlines() if line.startswith("#")]) == len(found.notes) + 1
    return tomllib.loads(found.toml), [str(note) for note in found.notes]


def door(text: str) -> tuple[dict[str, Any], str, list[str]]:
    """Return the door of a file's only stanza, its users' authorized_keys line, and its other notes."""
    tables, notes = converted(f"SOURCE ANY\nHMAC_KEY a\n{text}\n")
    ((name, table),) = tables["doors"].items()
    about = [note.replace(f"door {name!r}: ", "") for note in notes if f"door {name!r}: " in note]
    (line,) = (note.partition(LINE)[2] for note in about if LINE in note)
    assert key_options.parse(line, datetime.timestamp).faults == ()
    return table, line, [note for note in about if LINE not in note]


SSH = {"opens": ["22/tcp"], "for": "30s"}


def test_converts_a_whole_file() -> None:
    text = "SOURCE 192.0.2.7\nOPEN_PORTS tcp/22\nKEY very-secret\nHMAC_KEY too\n"
    expected = """\
# Made from "a.conf" by `doorward import`.
# Check: the keys in access.conf are not used and not copied: `doorward key server` creates the server key, and the users' public SSH keys go into authorized_keys next to this file, one per line, as shown at each door
# Check: fwknopd.conf is not read: signed knocks go to 62201/udp; if PCAP_INTF names one interface, write it as `interfaces` below [gate]
# stricter: a packet could open for any address that it named (fwknop -a); now only for its own source, unless the user's line also has addresses="…"
# Check: doorward itself hides and opens 22/tcp. Start it first, then let your own firewall accept these ports for everyone: a packet must pass both

[signed]

[doors.ssh]
# Check: the stanza of line 1; in authorized_keys, a line for each of its users: doors="ssh",from="192.0.2.7",for-max="5m" KIND KEY NAME
opens = ["22/tcp"]
for = "30s"
"""
    assert convert(parse(text, "a.conf"), "a.conf", lambda *_: None, lambda _: "ssh").toml == expected


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
        ("OPEN_PORTS tcp/22,tcp/80\nFORCE_NAT 10.0.0.1 2222\nFORCE_MASQUERADE Y", {"opens": ["22/tcp -> 10.0.0.1:2222", "80/tcp -> 10.0.0.1:2222"], "masquerade": True, "for": "30s"}),
        ("OPEN_PORTS tcp/22\nFORCE_NAT 127.0.0.1 22", {"on_open": ["true"], "for": "30s"}),
    ],
)  # fmt: skip
def test_converts_doors(text: str, table: dict[str, Any]) -> None:
    assert door(text)[0] == table


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("OPEN_PORTS tcp/22,tcp/443", "check: a packet chose among its ports; the door opens all of them. Write several doors if that is too much"),
        ("RESTRICT_PORTS tcp/22", "check: no OPEN_PORTS: a packet chose any port but 22/tcp. A door names what it opens, and this one opens nothing yet: write the ports that were asked for, like opens = [\"22/tcp\"], instead of on_open"),
        ("OPEN_PORTS tcp/22\nRESTRICT_PORTS tcp/22", "check: RESTRICT_PORTS removes all ports of OPEN_PORTS, so it opens nothing"),
        ("OPEN_PORTS tcp/22\nOPEN_PORTS tcp/22", "check: OPEN_PORTS occurred twice in one stanza: the last one counted"),
        ("OPEN_PORTS tcp/22\nREQUIRE_SOURCE_ADDRESS Y", "REQUIRE_SOURCE_ADDRESS is now a client setting: without NAT in between, `from = \"auto\"` in its hosts.toml puts the address into every packet"),
        ("OPEN_PORTS tcp/22\nENABLE_CMD_EXEC Y", "check: ENABLE_CMD_EXEC: a packet carried the command to run; a signed knock names a door only. Write a door with `on_open` for each command that is needed"),
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


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        (["tcp/22", "tcp/22"], ["ssh", "ssh-2"]),
        (["tcp/22,tcp/443"], ["ssh-https"]),
        (["tcp/8443", "tcp/80"], ["tcp-8443", "tcp-80"]),  # a name cannot be all digits
        (["tcp/1,tcp/2,tcp/3,tcp/4"], ["tcp-1-tcp-2-and-2-more"]),
        (["udp/53"] * 3, ["domain", "domain-2", "domain-3"]),
    ],
)  # fmt: skip
def test_doors_are_named_after_their_ports(ports: list[str], names: list[str]) -> None:
    tables, _ = converted("".join(f"SOURCE ANY\nOPEN_PORTS {each}\n" for each in ports))
    assert list(tables["doors"]) == names


def test_notes_duplicate_doors() -> None:
    _, notes = converted("SOURCE ANY\nOPEN_PORTS tcp/22\nSOURCE ANY\nOPEN_PORTS tcp/22\n")
    assert "door 'ssh-2': does what ssh does: take it out, and write doors=\"ssh\" in the line, if you like" in notes


def test_signed_port_is_not_an_opened_port() -> None:
    tables, _ = converted("SOURCE ANY\nOPEN_PORTS udp/62201,udp/62200\n")
    assert tables["signed"] == {"port": "62199/udp"}


def test_notes_each_include() -> None:
    _, notes = converted("SOURCE ANY\nOPEN_PORTS tcp/22\n%include /a\x1b[2Jb\n")
    assert notes[0] == "check: line 3 includes '/a\\x1b[2Jb': import it too, and merge the results"


def test_keys_are_not_copied() -> None:
    text = "SOURCE ANY\nKEY sesame\nKEY_BASE64 sesame\nHMAC_KEY sesame\nHMAC_KEY_BASE64 sesame\nGPG_DECRYPT_PW sesame\n"
    found = convert(parse(text, "f"), "f", lambda *_: None, lambda _: None)
    assert "sesame" not in found.toml + "".join(map(str, found.notes))
