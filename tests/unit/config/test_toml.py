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
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return str(caught.value).splitlines()


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
    ('mode = "gaurd"', "mode: 'gaurd' is unknown; write \"observe\" or \"guard\" or \"stealth\""),
    ("mode = 1", 'mode: 1 is unknown; write "observe" or "guard" or "stealth"'),
    ("wrong_port = true", 'wrong_port: true is unknown; write "any" or "known"'),
    ('ping = "yes"', "ping: 'yes' is neither true nor false; write true or false, without quotes"),
    ("ping = 1", "ping: 1 is neither true nor false; write true or false, without quotes"),
    ("capacity = 1023", "capacity: invalid capacity 1023; write a whole number from 1024 to 16777216, without quotes"),
    ("capacity = true", "capacity: invalid capacity true; write a whole number from 1024 to 16777216, without quotes"),
    ("capacity = 2048.0", "capacity: invalid capacity 2048.0; write a whole number from 1024 to 16777216, without quotes"),
    ('name = "12"', "name: '12' is all digits; put a letter into the name, like \"port-12\""),
    ('name = "a b"', "name: invalid name 'a b'; write 1 to 64 letters, digits, - and _"),
    ("control_group = 3", 'control_group: 3 is not a string; write text in double quotes, like "text"'),
    ('control_group = ""', "control_group: invalid group name ''; write the name of a Unix group, like \"adm\""),
    ('interfaces = "eth0"', "interfaces: 'eth0' is not a list; write interfaces = [\"eth0\"]"),
    ("interfaces = []", "interfaces: the list is empty; name one, or leave `interfaces` out to watch all but lo"),
    ('interfaces = ["lo"]', "interfaces: 'lo' is never watched; remove it from the list"),
    ('interfaces = ["*"]', "interfaces: '*' names nothing; leave `interfaces` out to watch every interface but lo"),
    ('interfaces = ["a", "a"]', "interfaces: duplicate entry 'a'; write it once"),
    ('public = [80]', 'public: 80 has no protocol; write "80/tcp" or "80/udp"'),
    ('public = ["9-8/tcp"]', "public: '9-8/tcp' runs backwards; write \"8-9/tcp\""),
    ('public = ["0-8/tcp"]', "public: port 0 does not exist; write a number from 1 to 65535"),
    ('interface = ["eth0"]', "unknown setting 'interface' in [gate]; did you mean 'interfaces'?"),
    ('within = "15s"', "unknown setting 'within' in [gate]; write it in a table [doors.NAME]"),
    ('on_refuse = "logger"', "on_refuse: 'logger' is not a list; write on_refuse = [\"/usr/bin/logger\", \"%IP%: %REASON%\"]"),
    ('on_refuse = ["bin/logger"]', "on_refuse: invalid program path 'bin/logger'; write a full path, like \"/usr/bin/logger\""),
    ("on_refuse = []", 'on_refuse: the command is empty; write a command and its arguments, like ["/usr/bin/logger", "%IP%"]'),
    ('accept_mark = "red"', "accept_mark: invalid mark 'red'; write value and mask, like \"0x1000/0x1000\""),
    ("accept_mark = 0x1_0000_0000", "accept_mark: invalid mark 4294967296; write value and mask, like \"0x1000/0x1000\""),
    ("accept_mark = true", 'accept_mark: invalid mark true; write value and mask, like "0x1000/0x1000"'),
    ("accept_mark = 0", 'accept_mark: 0: the value must be bits of its mask, not 0; write like "0x1000/0x1000"'),
    (
        'accept_mark = "0x3/0x1"',
        "accept_mark: '0x3/0x1': the value must be bits of its mask, not 0; write like \"0x1000/0x1000\"",
    ),
    ("colour = 1", "unknown setting 'colour' in [gate]; remove it, or write one of mode, interfaces, public, wrong_port, ping, capacity, name, control_group, accept_mark, on_refuse"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "message"), GATE_FAULTS, ids=[setting for setting, _ in GATE_FAULTS])
def test_faults_in_gate(setting: str, message: str) -> None:
    assert faults(f'[doors.a]\nopens = ["22/tcp"]\n[gate]\n{setting}\n') == [f"f:4: {message}"]


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a/b", "a:b", "a'", '\\"', "a\\u0007", "a\\u0085", "a*b", "a**", "a" * 16, "é" * 8, ".", ".."],
)
def test_invalid_interface_names(name: str) -> None:
    assert "; write a name as `ip link` shows it" in faults(f'[gate]\ninterfaces = ["{name}"]')[0]


DOOR_FAULTS = [
    ('knock = "7000/tcp"', "knock: '7000/tcp' is not a list; write knock = [\"7000/tcp\", \"8000/udp\", \"9000/tcp\"]"),
    ("knock = []", "knock: the sequence is empty; list its ports, or leave `knock` out to use `doorward open` only"),
    ("knock = [7000]", 'knock: 7000 has no protocol; write "7000/tcp" or "7000/udp"'),
    ('knock = ["7000"]', "knock: '7000' has no protocol; write \"7000/tcp\" or \"7000/udp\""),
    ("knock = [70000]", 'knock: invalid port 70000; write a text like "7000/tcp"'),
    ("knock = [true]", 'knock: invalid port true; write a text like "7000/tcp"'),
    (f"knock = [0x{'f' * 5000}]", 'knock: invalid port a huge number; write a text like "7000/tcp"'),
    ('knock = ["0/tcp"]', "knock: port 0 does not exist; write a number from 1 to 65535"),
    ('knock = ["7000/sctp"]', "knock: invalid port '7000/sctp'; write it as 7000/tcp or 7000/udp"),
    (f"knock = {['1/tcp'] * 33}", "knock: 33 knocks are too many; write at most 32"),
    ("within = 15", 'within: 15 has no unit; write "15s"'),
    ("within = true", 'within: true is not a string; write text in double quotes, like "text"'),
    ('within = "61m"', "within: '61m' is too long; write at most \"1h\""),
    ('within = "0s"', "within: the duration '0s' is zero; write a longer one, like \"15s\""),
    ('for = "366d"', "for: '366d' is too long; write at most \"365d\""),
    ('flags = "syn"', "flags: 'syn' is not a list; write flags = [\"syn\", \"!ack\"]"),
    ('flags = ["syn", "!syn"]', "flags: duplicate flag 'syn'; write it once"),
    ('flags = ["sin"]', "flags: unknown TCP flag 'sin'; write one of fin, syn, rst, psh, ack, urg, ece, cwr, or ! before it"),
    ('sequence = "7000"', "unknown setting 'sequence' in [doors.a]; write 'knock' instead"),
    ('on_open = ["bin/logger"]', "on_open: invalid program path 'bin/logger'; write a full path, like \"/usr/bin/logger\""),
    ('on_open = "logger"', "on_open: 'logger' is not a list; write on_open = [\"/usr/bin/logger\", \"open to %IP%\"]"),
    ('mode = "guard"', "unknown setting 'mode' in [doors.a]; write it in [gate]"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "message"), DOOR_FAULTS, ids=[setting[:40] for setting, _ in DOOR_FAULTS])
def test_faults_in_a_door(setting: str, message: str) -> None:
    assert faults(f'[doors.a]\nopens = ["22/tcp"]\n{setting}\n') == [f"f:3: {message}"]


@pytest.mark.parametrize(
    ("opens", "message"),
    [
        (
            "opens = []",
            'f:2: opens: the list is empty; name what the door opens, like opens = ["22/tcp"]',
        ),
        ('opens = ["22/tcp", "22/TCP"]', "f:2: opens: duplicate entry '22/tcp'; write it once"),
        (f"opens = {[f'{port}/tcp' for port in range(1, 34)]}", "f:2: opens: 33 ports are too many; write at most 32"),
        (
            'opens = ["600-610/udp"]',
            "f:2: opens: '600-610/udp' is a range, which only `public` accepts; list the ports one by one",
        ),
        ("", "f:1: door 'a': `opens` is missing; name what it opens, like opens = [\"22/tcp\"], or `on_open`"),
    ],
)
def test_faults_in_opens(opens: str, message: str) -> None:
    assert faults(f"[doors.a]\n{opens}\n") == [message]


WHOLE_FILE_FAULTS = {
    "": ["1: no door is defined; write a table [doors.NAME] for each door"],
    "\n[doors]\n": ["2: no door is defined; write a table [doors.NAME] for each door"],
    "doors = 3": ["1: doors is 3, not tables; write a table [doors.NAME] for each door"],
    "[doors]\nssh = 3": ["2: 'ssh' is 3, not a table; write a table [doors.ssh]"],
    "[doors]\nknock = 3": ["2: the setting 'knock' is directly in [doors]; write it below [doors.NAME]"],
    "gate = 3\ndoors.a.opens = ['22/tcp']": ["1: 'gate' is 3, not a table; write a table [gate]"],
    "[door.a]\nopens = ['22/tcp']": ["1: unknown table 'door'; write 'doors' instead"],
    "mode = 'guard'": ["1: unknown setting 'mode'; write it in [gate]"],
    "[doors.22]\nopens = ['22/tcp']": ["1: the door's name: '22' is all digits; put a letter into the name, like \"port-22\""],
    "[doors.'a b']\nopens = ['22/tcp']": ["1: the door's name: invalid name 'a b'; write 1 to 64 letters, digits, - and _"],
    '[doors."a\\n"]\nopens = ["22/tcp"]\nx = 1': [
        "1: the door's name: invalid name 'a\\n'; write 1 to 64 letters, digits, - and _",
        "3: unknown setting 'x' in [doors.'a\\n']; remove it, or write one of knock, within, flags, opens, for, target, on_open, on_close, shared",
    ],
    "[doors.a]\nknock = [1, '2/tcp',\n3]": [
        "1: door 'a': `opens` is missing; name what it opens, like opens = [\"22/tcp\"], or `on_open`",
        "2: knock: 1 has no protocol; write \"1/tcp\" or \"1/udp\"",
        "3: knock: 3 has no protocol; write \"3/tcp\" or \"3/udp\"",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "messages"), WHOLE_FILE_FAULTS.items(), ids=WHOLE_FILE_FAULTS)
def test_reports_all_faults_of_a_file(text: str, messages: list[str]) -> None:
    assert faults(text) == [f"f:{message}" for message in messages]


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
    assert faults(text) == [message]


def door(name: str, knock: str, opens: str = "['22/tcp']", more: str = "") -> str:
    return f"[doors.{name}]\nknock = {knock}\nopens = {opens}\n{more}\n"


RULES = {
    "one sequence twice": (
        door("a", "['1/tcp', '2/udp']") + door("b", "['1/tcp', '2/udp']"),
        ["6: door 'b' has the same sequence as door 'a' (line 2); change one of them, or let one door open the ports of both"],
    ),
    "a knock at what another door opens": (
        door("a", "['9/tcp',\n'80/tcp']") + door("b", "['7/tcp']", "['80/tcp']"),
        ["3: door 'a' has a knock port that never counts: door 'b' opens 80/tcp (line 8); knock at another port, or open another port"],
    ),
    "a knock at what the door itself opens, named once": (
        door("a", "['22/tcp', '9/tcp', '22/tcp']"),
        ["2: door 'a' has a knock port that never counts: the same door opens 22/tcp (line 3); knock at another port, or open another port"],
    ),
    "a knock at a public port": (
        door("a", "['85/tcp']") + "[gate]\npublic = ['80-90/tcp']",
        ["2: door 'a' has a knock port that never counts: 85/tcp is public (line 6); knock at another port, or remove it from \"public\""],
    ),
    "a knock at a port for signed knocks": (
        door("a", "['85/udp']") + "[signed]\nport = ['443/udp',\n'85/udp']",
        ["2: door 'a' has a knock port that never counts: 85/udp is a port for signed knocks (line 7); knock at another port, or use another one for them"],
    ),
    "ports for signed knocks that are used otherwise": (
        door("a", "['1/tcp']", "['53/udp']") + "[gate]\npublic = ['443/udp']\n[signed]\nport = ['1/udp',\n'443/udp',\n'53/udp']",
        [
            "9: port: 443/udp is public; use a port for signed knocks that nothing else uses",
            "10: port: 53/udp is what door 'a' opens; use a port for signed knocks that nothing else uses",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "messages"), RULES.values(), ids=RULES)
def test_conflicting_settings(text: str, messages: list[str]) -> None:
    assert faults(text) == [f"f:{message}" for message in messages]


@pytest.mark.parametrize(
    "text",
    [
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp']", more="within = '9s'"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp']", more="flags = []"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/tcp', '1/tcp']"),
        door("a", "['1/tcp', '2/tcp']") + door("b", "['1/tcp', '2/udp']"),
        door("a", "['22/udp', '80/udp']") + "[gate]\npublic = ['80/tcp']",
        "[doors.a]\nopens = ['22/tcp']\n[doors.b]\nopens = ['22/tcp']",
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
    ("written", "messages"),
    [
        ("'22/tcp'", ["4: port: 22/tcp is not a UDP port, which signed knocks need; write 22/udp"]),
        ("443", ["4: port: 443 has no protocol; write \"443/tcp\" or \"443/udp\""]),
        ("[]", ["4: port: 0 ports for signed knocks; write 1 to 8"]),
        ("['1/udp', '2/udp', '1:udp']", ["4: port: duplicate port 1/udp; write it once"]),
        (str([f"{n}/udp" for n in range(1, 10)]), ["4: port: 9 ports for signed knocks; write 1 to 8"]),
        ("['1/udp',\n'x',\n53]", [
            "5: port: invalid port 'x'; write it as 7000/tcp or 7000/udp",
            "6: port: 53 has no protocol; write \"53/tcp\" or \"53/udp\"",
        ]),
        ("{}", ["4: port: invalid port a table; write a text like \"7000/tcp\""]),
    ],
)  # fmt: skip
def test_faults_in_the_ports_for_signed_knocks(written: str, messages: list[str]) -> None:
    assert faults(f"[doors.a]\nopens = ['22/tcp']\n[signed]\nport = {written}") == [f"f:{each}" for each in messages]


def test_parses_twenty_thousand_doors_in_time() -> None:
    text = "".join(door(f"d{number}", f"['{number + 1000}/tcp', '{number + 1001}/udp']") for number in range(20_000))
    before_s = time.process_time()
    assert len(parse(text, "f").doors) == 20_000
    assert time.process_time() - before_s < 15  # 1.7 s on the machine that it was written on
