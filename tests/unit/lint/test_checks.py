import pytest

from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.lint.checks import combinations, warnings

STRONG = "['7013/tcp', '9241/udp', '8116/tcp', '6907/udp']"


def found(gate: str, *knocks: str, more: str = "", opens: str = "['8022/tcp']") -> list[str]:
    doors = "".join(
        f"[doors.d{number}]\nopens = {opens}\n{more}\nknock = {knock}\n" for number, knock in enumerate(knocks)
    )
    text = f"[gate]\n{gate}\n{doors}"
    return [str(finding) for finding in warnings(parse(text, "f"), find_lines(text)) if "capacity" not in finding.what]


def test_strong_configuration_gets_only_the_capacity_note() -> None:
    text = f"[gate]\nmode = 'stealth'\ncapacity = 30000\n[doors.a]\nknock = {STRONG}\nopens = ['8022/tcp']\n"
    assert [str(finding) for finding in warnings(parse(text, "f"), find_lines(text))] == [
        "3: note: capacity 30,000: forged first knocks fill it from 2,000 packets/s; then a knock must be done "
        "within 2s, and from 15,000/s no new one begins; to withstand more, raise capacity (and the kernel's "
        "memory for it)"
    ]


@pytest.mark.parametrize(
    ("gate", "messages"),
    [
        ("mode = 'stealth'", []),
        (
            "mode = 'guard'",
            [
                "2: note: mode guard hides only the doors' ports: a scan still sees that the host is there; "
                'to hide everything, write mode = "stealth" and list in `public` what everyone may reach'
            ],
        ),
        (
            "mode = 'observe'",
            [
                "2: warning: mode observe drops nothing: every door is open to everyone; "
                'write mode = "guard", or write mode = "stealth" and list in `public` what everyone may reach'
            ],
        ),
        (
            "wrong_port = 'known'\nmode = 'stealth'",
            [
                '2: warning: wrong_port "known" ignores other ports: a sweep over all ports opens doors with ports '
                "in its order, and one in random order opens door 'd0' with a chance of 1 in 24; "
                'write wrong_port = "any"'
            ],
        ),
        (
            "mode = 'stealth'\npublic = ['8022/tcp']",
            [
                "5: warning: 8022/tcp is public, and door 'd0' opens it: only clients that knock get in; "
                "remove it from `public` or from `opens`"
            ],
        ),
    ],
)
def test_gate_settings(gate: str, messages: list[str]) -> None:
    assert found(gate, STRONG) == messages


UP = "its ports ascend, so a plain sweep opens it; mix their order"
DOWN = "its ports descend, so a plain sweep opens it; mix their order"
NO_GAP = "its ports ascend without a gap, so a plain sweep opens it; mix their order"
DOWN_NO_GAP = "its ports descend without a gap, so a plain sweep opens it; mix their order"


@pytest.mark.parametrize(
    ("knock", "known", "any_"),
    [
        ("['7000/tcp', '8000/tcp', '9000/tcp']", UP, None),
        ("['9000/udp', '8000/udp', '7000/udp']", DOWN, None),
        ("['7000/tcp', '8000/udp', '9000/tcp']", None, None),
        ("['7000/tcp', '9000/tcp', '8000/tcp']", None, None),
        ("['7000/tcp', '7001/tcp', '7002/tcp']", UP, NO_GAP),
        ("['7002/udp', '7001/udp', '7000/udp']", DOWN, DOWN_NO_GAP),
        (
            "['8021/tcp', '8023/tcp', '8024/tcp']",
            UP,
            NO_GAP,
        ),  # 8022/tcp is opened, 79 to 81 are public: they do not count
        ("['77/tcp', '78/tcp', '82/tcp']", UP, NO_GAP),
        ("['77/udp', '78/udp', '82/udp']", UP, None),
    ],
)
def test_sequences_that_a_sweep_opens(knock: str, known: str | None, any_: str | None) -> None:
    for wrong_port, expected in (("known", known), ("any", any_)):
        gate = f"mode = 'stealth'\npublic = ['79-81/tcp']\nwrong_port = '{wrong_port}'"
        swept = [message for message in found(gate, knock) if "plain sweep" in message]
        assert swept == ([f"8: warning: door 'd0': {expected}"] if expected else [])


@pytest.mark.parametrize(
    "knock", ["['7013/tcp', '8116/tcp', '9241/tcp', '9500/tcp']", "['9500/udp', '9241/udp', '8116/udp', '7013/udp']"]
)
def test_ordered_ports_with_gaps_get_a_note(knock: str) -> None:
    way = "ascend" if "tcp" in knock else "descend"
    assert found("mode = 'stealth'", knock) == [
        f"6: note: door 'd0': its ports {way}: only the wrong ports between them keep a sweep out; mix their order"
    ]


@pytest.mark.parametrize(
    ("knock", "message"),
    [
        (
            "['7013/tcp']",
            "door 'd0' has 1 knock, and every scan of all ports completes it; write 3 knocks or more",
        ),
        (
            "['7013/tcp', '119/udp']",
            "door 'd0' has 2 knocks: guessing ports from one address opens it within a year with a chance of 1 in 28; "
            "write 3 knocks or more",
        ),
        (
            "['7013/tcp', '6907/tcp']",
            "door 'd0' has 2 knocks: guessing ports from one address opens it within a year with a chance of 1 in 7; "
            "write 3 knocks or more",
        ),
        (
            "['9000/tcp', '7000/udp', '8000/tcp']",
            "door 'd0': its 3 ports are among the 345 that are tried first (round, or well known): guessing among "
            "those from one address opens it within 24 days on average; use random ports",
        ),
        (
            "['3306/tcp', '22222/tcp', '8880/tcp', '443/tcp']",
            "door 'd0': its 4 ports are among the 194 that are tried first (round, or well known): guessing among "
            "those from one address opens it within a year with a chance of 1 in 3; use random ports",
        ),
        (
            "['7013/tcp', '119/udp', '119/udp', '6907/tcp']",
            "door 'd0' knocks at 119/udp twice in a row: a retransmitted packet counts as the second; "
            "put another port between the two",
        ),
    ],
)
def test_weak_sequences(knock: str, message: str) -> None:
    messages = [each for each in found("mode = 'stealth'", knock) if ": note: " not in each]
    assert messages == [f"6: warning: {message}"]


def test_guessing_from_many_addresses_gets_a_note() -> None:
    three = "['7013/tcp', '9241/udp', '8116/tcp']"
    assert found("mode = 'stealth'", three) == [
        "6: note: 65,536 addresses at once (a botnet, or an IPv6 /48) that guess ports open door 'd0' within a year "
        "with a chance of 1 in 55; one address alone within a year with a chance of 1 in 3,600,000; against that, "
        "write more than 3 knocks"
    ]
    assert found("mode = 'stealth'", STRONG) == []


def test_many_doors_are_guessed_sooner() -> None:
    many = [f"['{7001 + 2 * number}/tcp', '9241/udp', '8117/tcp']" for number in range(4000)]
    (message,) = found("mode = 'stealth'", *many)
    assert message == (
        "6: warning: 4,000 doors: guessing ports from one address opens one of them within a year with a chance "
        "of 1 in 890; write more than 3 knocks in each"
    )


@pytest.mark.parametrize(
    ("opens", "message"),
    [
        ("['53/tcp', '53/udp']", None),
        (
            "['80/tcp', '443/tcp']",
            "4: note: doors 'd0', 'd1' open more than one service at once (80/tcp, 443/tcp); write a door for each, "
            "unless they belong together",
        ),
        (
            "['22/tcp']",
            "4: note: doors 'd0', 'd1' open SSH (22/tcp) to a sequence, which anyone who sees its packets can replay; "
            "a signed knock cannot be replayed: write [signed] instead of `knock`; "
            "`doorward key server` makes its key",
        ),
        ("['22/udp']", None),
    ],
)
def test_opened_services(opens: str, message: str | None) -> None:
    other = "['6907/udp', '7013/tcp', '9241/udp', '8116/tcp']"
    assert found("mode = 'stealth'", STRONG, other, opens=opens) == ([message] if message else [])


def test_doors_share_one_note() -> None:
    knocks = [f"['{7001 + 2 * number}/tcp', '9241/udp', '8117/tcp', '6907/udp']" for number in range(5)]
    (message,) = found("mode = 'stealth'", *knocks, opens="['3389/tcp']")
    assert message.startswith("4: note: doors 'd0', 'd1', 'd2' and 2 more open remote desktop (3389/tcp) to a sequence")


def test_signed_knocks_without_gate_name_get_a_note() -> None:
    text = "[gate]\nmode = 'stealth'\n[signed]\n[doors.a]\nopens = ['22/tcp']"
    (note,) = [str(finding) for finding in warnings(parse(text, "doorward.toml"), find_lines(text))]
    assert note.startswith("3: note: the gate has no name")
    assert "`name`" in note


FLEET = "name = 'a'\nmode = 'stealth'\n[fleet]\nname = 'f'\nendpoints = ['http://127.0.0.1:2379']\n"


@pytest.mark.parametrize(("more", "warned"), [("", True), ("shared = true", False)])
def test_fleet_gate_without_shared_doors(more: str, warned: bool) -> None:
    assert [line[:30] for line in found(FLEET, STRONG, more=more)] == (
        ["4: warning: no door is shared "] if warned else []
    )


def test_door_with_sequence_and_signed_knock() -> None:
    other = "['6907/udp', '7013/tcp', '9241/udp', '8116/tcp']"
    (note,) = found("mode = 'stealth'\nname = 'home'\n[signed]", STRONG, other, opens="['22/tcp']")
    assert note.startswith("8: note: doors 'd0', 'd1' open to a sequence as well as to a signed knock: ")


def test_door_that_no_client_can_open() -> None:
    text = "[gate]\nmode = 'stealth'\n[doors.a]\nopens = ['22/tcp']"
    (note,) = [str(finding) for finding in warnings(parse(text, "doorward.toml"), find_lines(text))]
    assert note.startswith("4: note: door 'a' opens to no knock")
    assert "[signed]" in note


def test_door_with_signed_knock_only() -> None:
    text = "[gate]\nname = 'home'\nmode = 'stealth'\n[doors.a]\nopens = ['22/tcp']\n[signed]"
    assert warnings(parse(text, "doorward.toml"), find_lines(text)) == []


@pytest.mark.parametrize(("time", "warned"), [("24h", False), ("25h", True)])
def test_long_openings(time: str, warned: bool) -> None:
    assert found("mode = 'stealth'", STRONG, more=f"for = '{time}'") == (
        [
            "5: warning: door 'd0' stays open for 25h: anyone who has that address by then gets in too; write a `for` "
            "of at most a day; established connections stay open"
        ]
        if warned
        else []
    )


@pytest.mark.parametrize(("count", "warned"), [(16, False), (17, True)])
def test_too_many_combinations(count: int, warned: bool) -> None:
    text = "[gate]\nmode = 'stealth'\n" + "".join(
        f"[doors.d{number}]\nopens = ['8022/tcp']\nwithin = '{number + 1}s'\nknock = {STRONG}\n"
        for number in range(count)
    )
    configuration = parse(text, "f")
    assert len(combinations(configuration)) == count
    assert [(finding.line, finding.level) for finding in warnings(configuration, find_lines(text))[1:]] == (
        [(67, "warning")] if warned else []
    )
