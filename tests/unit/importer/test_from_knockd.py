# ruff: noqa: E501  (a table has one row a line)
import tomllib
from typing import Any

import pytest

from doorward.config.knockd import parse
from doorward.config.toml import parse as parse_toml
from doorward.importer.from_knockd import convert
from doorward.model import Port, Protocol

SERVICES = {("ssh", Protocol.TCP): 22, ("domain", Protocol.TCP): 53, ("domain", Protocol.UDP): 53}

IPTABLES = "/sbin/iptables -{} INPUT -s %IP% -p tcp --dport {} -j ACCEPT"
OPEN, CLOSE = IPTABLES.format("A", 22), IPTABLES.format("D", 22)
OPEN_6, CLOSE_6 = OPEN.replace("iptables", "ip6tables"), CLOSE.replace("iptables", "ip6tables")
HOUR = (
    "stayed open until something closed it; now for 1h after the last knock (established connections stay open). "
    "Write another `for`, up to 365d, if that is too short"
)


def converted(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the new file's tables, and the notes about single doors."""
    found = convert(parse(text, "f"), "f", lambda name, protocol: SERVICES.get((name, protocol)))
    comments = [line for line in found.toml.splitlines() if line.startswith("#")]
    assert len(comments) == len(found.notes) + 1  # every note is also in the file
    return tomllib.loads(found.toml), [str(note) for note in found.notes if note.place]


def door(text: str, sequence: str = "sequence = 7,8:udp\ntcpflags = syn") -> tuple[dict[str, Any], list[str]]:
    tables, notes = converted(f"[a]\n{sequence}\n{text}\n")
    return tables["doors"]["a"], [note.replace("door 'a': ", "") for note in notes]


KNOCK = {"knock": ["7/tcp", "8/udp"], "within": "25s", "flags": ["syn"]}


def test_converts_debians_file() -> None:
    text = f"""[options]
UseSyslog
[openSSH]
sequence    = 7000,8000,9000
seq_timeout = 5
command     = {OPEN}
tcpflags    = syn
[closeSSH]
sequence    = 9000,8000,7000
seq_timeout = 5
command     = {CLOSE}
tcpflags    = syn
[openHTTPS]
sequence    = 12345,54321
seq_timeout = 5
command     = /usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f %IP%
tcpflags    = syn
"""
    assert (
        convert(parse(text, "k.conf"), "k.conf", lambda *_: None).toml
        == f"""\
# Made from "k.conf" by `doorward import`.
# Check: doorward itself hides and opens 22/tcp. Start it first, then let your own firewall accept these ports for everyone: a packet must pass both
# Check: no Interface was set: all but lo are watched; did knockd run with -i?
# Check: `doorward log` shows the access log; filters that parse knockd's lines need doorward's `knockd`

[doors.openSSH]
# Check: {HOUR}
knock = ["7000/tcp", "8000/tcp", "9000/tcp"]
within = "5s"
flags = ["syn"]
opens = ["22/tcp"]
for = "1h"

[doors.closeSSH]
# closes openSSH early; you may remove it, since every opening ends by itself
knock = ["9000/tcp", "8000/tcp", "7000/tcp"]
within = "5s"
flags = ["syn"]
on_open = ["doorward", "close", "openSSH", "%IP%"]
for = "1s"

[doors.openHTTPS]
# Check: stays a command: unknown firewall command 'knock_add'
knock = ["12345/tcp", "54321/tcp"]
within = "5s"
flags = ["syn"]
on_open = ["/bin/sh", "-c", "/usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f \\"$1\\"", "doorward", "%IP%"]
for = "1s"
"""
    )


SHELL = ["/bin/sh", "-c"]


def shell(text: str) -> list[str]:
    """Return the command line that runs a script with an unquoted address."""
    return [*SHELL, text.replace("%IP%", '"$1"'), "doorward", "%IP%"]


DOORS: list[tuple[str, dict[str, Any], list[str]]] = [
    (f"command = {OPEN}", {"opens": ["22/tcp"], "for": "1h"}, [f"check: {HOUR}"]),
    (f"start_command = {OPEN}\ncmd_timeout = 90\nstop_command = {CLOSE}", {"opens": ["22/tcp"], "for": "90s"}, []),
    (f"start_command = {OPEN}\nstop_command = {CLOSE}", {"opens": ["22/tcp"], "for": "10s"}, []),
    (f"start_command = {OPEN}\ncmd_timeout = 0\nstop_command = {CLOSE}", {"opens": ["22/tcp"], "for": "1s"}, []),
    (
        f"start_command = {OPEN}\nstart_command_6 = {OPEN_6}\nstop_command = {CLOSE}\nstop_command_6 = {CLOSE_6}",
        {"opens": ["22/tcp"], "for": "10s"},
        [],
    ),
    (
        f"start_command = {OPEN}\nstart_command_6 =\nstop_command = {CLOSE}",
        {
            "on_open": shell(f"case %IP% in\n*:*)\n:\n;;\n*)\n{OPEN}\n;;\nesac"),
            "on_close": shell(CLOSE),
            "for": "10s",
        },
        ["check: stays a command: IPv6 has a different command, or none; if IPv6 may open the same ports, list them in `opens`"],
    ),
    (
        f"start_command = {OPEN}\nstop_command = logger closed %IP%",
        {"on_open": shell(OPEN), "on_close": shell("logger closed %IP%"), "for": "10s"},
        ["check: stays a command: Stop_Command does not simply undo Start_Command"],
    ),
    (
        'start_command = echo "%IP%" > /x\\y\nstart_command_6 = echo six\ncmd_timeout = 120\nstop_command = rm /x',
        {
            "on_open": [*SHELL, 'case "$1" in\n*:*)\necho six\n;;\n*)\necho "$1" > /x\\y\n;;\nesac', "doorward", "%IP%"],
            "on_close": [*SHELL, "rm /x"],
            "for": "2m",
        },
        ["check: stays a command: it uses the shell ('>')"],
    ),
    (f"command = {CLOSE}", {"on_open": shell(CLOSE), "for": "1s"}, ["check: stays a command: it closes ports that no door opens"]),
    ("", {"on_open": ["true"], "for": "1s"}, ["check: ran no command and still runs none; its knocks are only logged"]),
    ("command = true && reboot", {"on_open": [*SHELL, "true && reboot"], "for": "1s"}, ["check: stays a command: unknown firewall command 'true'"]),
    (
        f"start_command = cat <<%IP%\nstop_command = {CLOSE}",
        {"on_open": ["true"], "for": "10s"},
        [
            "check: stays a command: it uses the shell ('<<')",
            'check: its commands were dropped, since the address cannot be passed to them as "$1": it has a here-document. It runs nothing yet: write `on_open` and `on_close`',
        ],
    ),
    (
        "command = ufw allow from %IP% to any port domain",
        {"opens": ["53/tcp", "53/udp"], "for": "1h"},
        ["check: without proto, ufw opens tcp and udp; remove the one that is not needed", f"check: {HOUR}"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "settings", "notes"), DOORS, ids=[text[:60] for text, _, _ in DOORS])
def test_converts_doors(text: str, settings: dict[str, Any], notes: list[str]) -> None:
    assert door(text) == (KNOCK | settings, notes)


def test_converts_knocks() -> None:
    stop = f"start_command = {OPEN}\nstop_command = {CLOSE}"
    table, notes = door(stop, "sequence = 7")
    assert "flags" not in table
    assert notes == ["every TCP packet counted; now only one that starts a connection, so stray packets do no harm"]
    table, notes = door(stop, "sequence = 7\ntcpflags = syn,ack")
    assert table["flags"] == ["syn", "ack"]
    assert notes == ["check: the flags syn,ack differ from a plain SYN: `knock` cannot send them, hping3 can"]
    table, notes = door(stop, "sequence = 7:udp\nseq_timeout = 4000\ntarget = 192.0.2.7")
    assert (table["within"], table["target"]) == ("1h", "192.0.2.7")
    assert notes == ["check: its time for the sequence is cut to 1h"]
    table, notes = door(stop, "one_time_sequences = /etc/seq\ntcpflags = syn,!ack")
    assert table == {"within": "25s", "opens": ["22/tcp"], "for": "10s"}
    assert "its one-time sequences (/etc/seq) are not supported" in notes[0]


def test_one_closer_for_several_openers() -> None:
    tables, _ = converted(
        f"[a]\nsequence=1\ncommand={OPEN}\n[b]\nsequence=2\nstart_command={OPEN}\nstop_command={CLOSE}\n[c]\nsequence=3\ncommand={CLOSE}"
    )
    assert tables["doors"]["c"]["on_open"] == shell("doorward close a %IP%\ndoorward close b %IP%")


def test_merges_doors_with_the_same_sequence() -> None:
    tables, notes = converted(
        f"[a]\nsequence=1\ncommand={OPEN}\n[b]\nsequence=1\ncommand=logger %IP%\n[c]\nsequence=1\ntcpflags=fin\ncommand={IPTABLES.format('I', 80)}"
    )
    assert list(tables["doors"]) == ["a", "c"]
    assert tables["doors"]["a"]["opens"] == ["22/tcp"]
    assert tables["doors"]["a"]["on_open"] == shell("logger %IP%")
    assert "check: door 'a': also does what b did, since both had the same sequence" in notes


def test_door_names_are_valid_and_unique() -> None:
    tables, notes = converted(
        "".join(
            f"[{name}]\nsequence={n}\ncommand=x\n"
            for n, name in enumerate(["a b", "a-b", "22", "ä", "n" * 99, "ok", "ok"], 1)
        )
    )
    assert list(tables["doors"]) == ["a-b", "a-b-2", "door-22", "door", "n" * 50, "ok", "ok-2"]
    assert "check: door 'a-b': was called 'a b'; scripts and log filters may use that name" in notes


def test_notes_knocks_at_opened_ports() -> None:
    _, notes = converted(f"[a]\nsequence=22,7\ntcpflags=syn\nstart_command={OPEN}\nstop_command={CLOSE}")
    assert notes == ["check: door 'a': knocks at 22/tcp, which a opens: doorward rejects that; knock at another port"]


@pytest.mark.parametrize(
    ("option", "interfaces"),
    [("interface = eth1", ["eth1"]), ("interface = eth1:0", ["eth1"]), ("interface = any", None), ("UseSyslog", None)],
)
def test_interfaces(option: str, interfaces: list[str] | None) -> None:
    tables, _ = converted(f"[options]\n{option}\n[a]\nsequence = 7\n")
    assert tables.get("gate") == (interfaces and {"interfaces": interfaces})


def test_result_is_a_valid_configuration() -> None:
    text = f"[options]\ninterface = eth0\n[a]\nsequence = 7,8:udp\nstart_command = {OPEN}\nstop_command = {CLOSE}"
    configuration = parse_toml(convert(parse(text, "f"), "f", lambda *_: None).toml, "f")
    assert configuration.gate.interfaces == ("eth0",)
    assert configuration.doors[0].opens == (Port(Protocol.TCP, 22),)


def test_special_characters_are_escaped() -> None:
    table, _ = door('command = echo "\x7f\x01é\U0001f600" \\n ]')
    assert table["on_open"] == [*SHELL, 'echo "\x7f\x01é\U0001f600" \\n ]']
