# ruff: noqa: E501  (a table has one row a line)
import time

import pytest

from doorward.config.schema import Configuration, Gate, Mark, Mode, WrongPort
from doorward.config.toml import parse
from doorward.errors import ConfigError
from doorward.model import DEFAULT_FLAGS, Door, FlagFilter, Port, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP

WHOLE = """
[gate]
mode = "stealth"
interfaces = ["eth0", "ppp*"]
public = ["80/tcp", "8000-8002/tcp", "8001:tcp", "53/udp"]
wrong_port = "known"
ping = false
capacity = 4096
name = "gate-1"
address = "server.example"
control_group = "adm"
accept_mark = "0x1000/0x3000"
on_refuse = ["/usr/bin/logger", "%IP%"]

[doors.ssh]
knock = ["7000/tcp", "8100:udp", "7000/tcp", "7000/tcp"]
within = "5s"
flags = ["syn", "!ack", "!RST"]
opens = ["22/tcp", "60000/udp"]
for = "2m"

[doors.by-hand]
opens = ["443/tcp"]
"""


def faults(text: str) -> list[str]:
    """Return the line and the code of each fault."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [f"{fault.line} {fault.code}" for fault in caught.value.faults]


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return str(caught.value).splitlines()


def test_once_is_for_tcp_ports() -> None:
    (door,) = parse('[doors.a]\nopens = ["22/tcp", "23/tcp"]\nonce = true', "f").doors
    assert door.once
    assert faults('[doors.a]\nopens = ["22/tcp",\n"53/udp"]\nonce = true') == ["3 once-not-tcp"]
    assert faults('[doors.a]\non_open = ["/bin/true"]\nonce = true') == ["3 once-without-port"]
    assert faults('[doors.a]\nopens = ["22/tcp"]\nonce = "yes"') == ["3 not-a-boolean"]
    for opens in ("60000-60010/{}", "10.7.0.2:22/{}", "2222/{} -> 10.7.0.2:22"):
        text = f'[doors.a]\nopens = ["22/tcp",\n"{opens}"]\nonce = true'
        assert parse(text.format("tcp"), "f").doors[0].once
        assert faults(text.format("udp")) == ["3 once-not-tcp"]


def test_packets_of_fwknop_request_single_ports() -> None:
    text = '[doors.a]\nopens = ["{}"]\n[signed]\n[fwknop]\n[fwknop.stanzas.alice]\ndoors = ["a"]\n'
    for opens in ("60000-60010/tcp", "10.7.0.2:22/tcp"):
        assert faults(text.format(opens)) == ["6 not-requested"]
    assert parse(text.format("22/tcp -> 10.7.0.2:22"), "f").doors[0].redirects


def test_reads_every_setting() -> None:
    public = (Port(TCP, 80), Port(TCP, 8000), Port(TCP, 8001), Port(TCP, 8002), Port(UDP, 53))
    assert parse(WHOLE, "f") == Configuration(
        Gate(
            Mode.STEALTH,
            ("eth0", "ppp*"),
            public,
            WrongPort.KNOWN,
            False,
            4096,
            "gate-1",
            "adm",
            Mark(0x1000, 0x3000),
            ("/usr/bin/logger", "%IP%"),
            "server.example",
        ),
        (
            Door(
                "ssh",
                (Port(TCP, 7000), Port(UDP, 8100), Port(TCP, 7000), Port(TCP, 7000)),
                (Port(TCP, 22), Port(UDP, 60000)),
                within_ms=5_000,
                for_ms=120_000,
                flags=FlagFilter.parse(("syn", "!ack", "!rst")),
            ),
            Door("by-hand", (), (Port(TCP, 443),)),
        ),
    )


def test_defaults() -> None:
    configuration = parse('[doors.a]\nopens = ["22/tcp"]', "f")
    assert configuration.gate == Gate()
    assert configuration.doors == (Door("a", (), (Port(TCP, 22),), 15_000, 30_000, DEFAULT_FLAGS),)


GATE_FAULTS = [
    ('mode = "gaurd"', "unknown-value"),
    ("mode = 1", "unknown-value"),
    ("wrong_port = true", "unknown-value"),
    ('ping = "yes"', "not-a-boolean"),
    ("ping = 1", "not-a-boolean"),
    ("capacity = 1023", "invalid-capacity"),
    ("capacity = true", "invalid-capacity"),
    ('capacity = "1000"', "invalid-capacity"),
    ("capacity = 2048.0", "invalid-capacity"),
    ('name = "12"', "numeric-name"),
    ('name = "a b"', "invalid-name"),
    ("control_group = 3", "not-a-string"),
    ('control_group = ""', "invalid-group"),
    ('address = "[2001:db8::7]"', "invalid-host"),
    ('address = "a b"', "invalid-host"),
    ('interfaces = "eth0"', "not-a-list"),
    ("interfaces = []", "empty-list"),
    ('interfaces = ["lo"]', "loopback-watched"),
    ('interfaces = ["*"]', "empty-wildcard"),
    ('interfaces = ["a", "a"]', "duplicate-entry"),
    ('public = [80]', "no-protocol"),
    ('public = ["9-8/tcp"]', "reversed-range"),
    ('public = ["0-8/tcp"]', "port-range"),
    ('interface = ["eth0"]', "unknown-key"),
    ('within = "15s"', "unknown-key"),
    ('on_refuse = "logger"', "not-a-list"),
    ('on_refuse = ["bin/logger"]', "invalid-program-path"),
    ("on_refuse = []", "empty-command"),
    ('accept_mark = "red"', "invalid-mark"),
    ("accept_mark = 0x1_0000_0000", "invalid-mark"),
    ("accept_mark = true", "invalid-mark"),
    ("accept_mark = 0", "mark-outside-mask"),
    (
        'accept_mark = "0x3/0x1"',
        "mark-outside-mask",
    ),
    ("colour = 1", "unknown-key"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "code"), GATE_FAULTS, ids=[setting for setting, _ in GATE_FAULTS])
def test_faults_in_gate(setting: str, code: str) -> None:
    assert faults(f'[doors.a]\nopens = ["22/tcp"]\n[gate]\n{setting}\n') == [f"4 {code}"]


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a/b", "a:b", "a'", '\\"', "a\\u0007", "a\\u0085", "a*b", "a**", "a" * 16, "é" * 8, ".", ".."],
)
def test_invalid_interface_names(name: str) -> None:
    assert faults(f'[gate]\ninterfaces = ["{name}"]')[0] == "2 invalid-interface"


DOOR_FAULTS = [
    ('knock = "7000/tcp"', "not-a-list"),
    ("knock = []", "empty-sequence"),
    ("knock = [7000]", "no-protocol"),
    ('knock = ["7000"]', "no-protocol"),
    ("knock = [70000]", "invalid-port"),
    ("knock = [true]", "invalid-port"),
    (f"knock = [0x{'f' * 5000}]", "invalid-port"),
    ('knock = ["0/tcp"]', "port-range"),
    ('knock = ["7000/sctp"]', "invalid-port"),
    (f"knock = {['1/tcp'] * 33}", "sequence-too-long"),
    ("within = 15", "no-unit"),
    ("within = true", "not-a-string"),
    ('within = "61m"', "duration-too-long"),
    ('within = "0s"', "zero-duration"),
    ('for = "366d"', "duration-too-long"),
    ('flags = "syn"', "not-a-list"),
    ('flags = ["syn", "!syn"]', "duplicate-flag"),
    ('flags = ["sin"]', "unknown-flag"),
    ('sequence = "7000"', "unknown-key"),
    ('on_open = ["bin/logger"]', "invalid-program-path"),
    ('on_open = "logger"', "not-a-list"),
    ('mode = "guard"', "unknown-key"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "code"), DOOR_FAULTS, ids=[setting[:40] for setting, _ in DOOR_FAULTS])
def test_faults_in_a_door(setting: str, code: str) -> None:
    assert faults(f'[doors.a]\nopens = ["22/tcp"]\n{setting}\n') == [f"3 {code}"]


@pytest.mark.parametrize(
    ("opens", "expected"),
    [
        (
            "opens = []",
            "2 empty-list",
        ),
        ('opens = ["22/tcp", "22/TCP"]', "2 duplicate-entry"),
        (f"opens = {[f'{port}/tcp' for port in range(1, 34)]}", "2 too-many-ports"),
        (
            'opens = ["22/tcp"]\nknock = ["600-610/udp"]',
            "3 range-not-allowed",
        ),
        ("", "1 opens-missing"),
    ],
)
def test_faults_in_opens(opens: str, expected: str) -> None:
    assert faults(f"[doors.a]\n{opens}\n") == [expected]


WHOLE_FILE_FAULTS = {
    "": ["1 no-door"],
    "\n[doors]\n": ["2 no-door"],
    "doors = 3": ["1 doors-not-tables"],
    "[doors]\nssh = 3": ["2 not-a-table"],
    "[doors]\nknock = 3": ["2 setting-outside-door"],
    "gate = 3\ndoors.a.opens = ['22/tcp']": ["1 not-a-table"],
    "[door.a]\nopens = ['22/tcp']": ["1 unknown-key"],
    "mode = 'guard'": ["1 unknown-key"],
    "[doors.22]\nopens = ['22/tcp']": ["1 numeric-name"],
    "[doors.'a b']\nopens = ['22/tcp']": ["1 invalid-name"],
    '[doors."a\\n"]\nopens = ["22/tcp"]\nx = 1': [
        "1 invalid-name",
        "3 unknown-key",
    ],
    "[doors.a]\nknock = [1, '2/tcp',\n3]": [
        "1 opens-missing",
        "2 no-protocol",
        "3 no-protocol",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WHOLE_FILE_FAULTS.items(), ids=WHOLE_FILE_FAULTS)
def test_reports_all_faults_of_a_file(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


SYNTAX_FAULTS = {
    "[gate]\nmode = guard": 'f:2: Invalid value (column 8); write text in double quotes, like mode = "stealth"',
    "a = 1\na = 2": "f:2: Cannot overwrite a value (end of the file); duplicate setting: remove one of the two",
    "[a.b]\n[a.b]": "f:2: Cannot declare [a.b] twice (column 5); duplicate table: put its settings into one of the two, or rename one",
    'a = "x\nb = 1': "f:1: Illegal character '\\n' (column 7); close the quotes on the same line",
    'a = """x\n\n': "f:1: Unterminated string (end of the file); close the quotes",
    f"a = {'[' * 5000}": "f:1: lists or tables nest too deep; write plain lists",
    f"a = {'9' * 5000}": "f:1: a number has thousands of digits; write a shorter number",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SYNTAX_FAULTS.items(), ids=[text[:20] for text in SYNTAX_FAULTS])
def test_reports_the_first_syntax_error(text: str, message: str) -> None:
    assert messages(text) == [message]


REMEDIES = {
    '[gate]\ninterface = ["eth0"]': "f:2: unknown setting 'interface' in [gate]; did you mean 'interfaces'?",
    '[gate]\nwithin = "15s"': "f:2: unknown setting 'within' in [gate]; write it in a table [doors.NAME]",
    '[doors.a]\nsequence = "7000"': "f:2: unknown setting 'sequence' in [doors.a]; write 'knock' instead",
    '[doors.a]\nmode = "guard"': "f:2: unknown setting 'mode' in [doors.a]; write it in [gate]",
    "[door.a]": "f:1: unknown table 'door'; write 'doors' instead",
    "[gate]\nname = 'a b'": "f:2: name: invalid name 'a b'; write 1 to 64 letters, digits, - and _",
}


@pytest.mark.parametrize(("text", "message"), REMEDIES.items(), ids=REMEDIES)
def test_the_remedy_fits_the_setting(text: str, message: str) -> None:
    assert message in messages(text)


def test_an_unknown_setting_gets_a_list_of_the_known() -> None:
    (message,) = messages("[gate]\ncolour = 1\n[doors.a]\nopens = ['22/tcp']")
    assert "; remove it, or write one of mode, interfaces, public, wrong_port, " in message


def door(name: str, knock: str, opens: str = "['22/tcp']", more: str = "") -> str:
    return f"[doors.{name}]\nknock = {knock}\nopens = {opens}\n{more}\n"


RULES = {
    "one sequence twice": (
        door("a", "['1/tcp', '2/udp']") + door("b", "['1/tcp', '2/udp']"),
        ["6 same-sequence"],
    ),
    "a knock at what another door opens": (
        door("a", "['9/tcp',\n'80/tcp']") + door("b", "['7/tcp']", "['80/tcp']"),
        ["3 unusable-knock-port"],
    ),
    "a knock at what the door itself opens, named once": (
        door("a", "['22/tcp', '9/tcp', '22/tcp']"),
        ["2 unusable-knock-port"],
    ),
    "a knock at a public port": (
        door("a", "['85/tcp']") + "[gate]\npublic = ['80-90/tcp']",
        ["2 unusable-knock-port"],
    ),
    "a knock at a port for signed knocks": (
        door("a", "['85/udp']") + "[signed]\nport = ['443/udp',\n'85/udp']",
        ["2 unusable-knock-port"],
    ),
    "ports for signed knocks that are used otherwise": (
        door("a", "['1/tcp']", "['53/udp']") + "[gate]\npublic = ['443/udp']\n[signed]\nport = ['1/udp',\n'443/udp',\n'53/udp']",
        ["9 signed-port-in-use", "10 signed-port-in-use"],
    ),
    "browsers at none but ports that they refuse": (
        door("a", "['1/tcp']") + "[signed]\nport = ['53/udp', '5060/udp', '1023/udp']\nbrowser = true",
        ["7 browser-refused-port"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES)
def test_conflicting_settings(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp']", more="within = '9s'"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp']", more="flags = []"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp', '1/tcp']"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/udp']"),
        door("a", "['22/udp', '80/udp']") + "[gate]\npublic = ['80/tcp']",
        "[doors.a]\nopens = ['22/tcp']\n[doors.b]\nopens = ['22/tcp']",
        "[doors.a]\nopens = ['22/tcp']\n[signed]\nport = ['53/udp', '443/udp']\nbrowser = true",
        "[doors.a]\nopens = ['22/tcp']\n[signed]\nport = '53/udp'\nbrowser = false",
    ],
)
def test_compatible_settings(text: str) -> None:
    parse(text, "f")


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        ("", ("62201/udp",)),
        ("port = '443/udp'", ("443/udp",)),
        ("port = ['443:udp']", ("443/udp",)),
        ("port = ['62201/udp', '443/udp', '53/udp']", ("62201/udp", "443/udp", "53/udp")),
    ],
)
def test_ports_for_signed_knocks(written: str, ports: tuple[str, ...]) -> None:
    configuration = parse(f"[doors.a]\nopens = ['22/tcp']\n[signed]\n{written}", "f")
    assert tuple(map(str, configuration.signed_ports)) == ports
    assert parse("[doors.a]\nopens = ['22/tcp']", "f").signed_ports == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'22/tcp'", ["4 not-udp-port"]),
        ("443", ["4 no-protocol"]),
        ("[]", ["4 port-count"]),
        ("['1/udp', '2/udp', '1:udp']", ["4 duplicate-port"]),
        (str([f"{n}/udp" for n in range(1, 10)]), ["4 port-count"]),
        ("['1/udp',\n'x',\n53]", ["5 invalid-port", "6 no-protocol"]),
        ("{}", ["4 invalid-port"]),
    ],
)  # fmt: skip
def test_faults_in_the_ports_for_signed_knocks(written: str, expected: list[str]) -> None:
    assert faults(f"[doors.a]\nopens = ['22/tcp']\n[signed]\nport = {written}") == expected


def test_parses_twenty_thousand_doors_in_time() -> None:
    text = "".join(door(f"d{number}", f"['{number + 1000}/tcp', '{number + 1001}/udp']") for number in range(20_000))
    before_s = time.process_time()
    assert len(parse(text, "f").doors) == 20_000
    assert time.process_time() - before_s < 15  # 1.7 s on the machine that it was written on


@pytest.mark.parametrize(
    "text", ["[options]\n\tUseSyslog\n", "[openSSH]\n sequence = 7000,8000\n", "sequence=7000:udp\n"]
)
def test_a_file_of_knockd_names_import(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "knockd.conf")
    assert [(fault.code, fault.line) for fault in caught.value.faults] == [("knockd-file", 1)]
