import pytest

from doorward.config.lines import find_lines
from doorward.config.strength import combinations, warnings
from doorward.config.toml import parse

STRONG = "['7000/tcp', '9000/udp', '8000/tcp']"


def found(gate: str, *knocks: str, more: str = "") -> list[str]:
    doors = "".join(
        f"[doors.d{number}]\nopens = ['22/tcp']\n{more}\nknock = {knock}\n" for number, knock in enumerate(knocks)
    )
    text = f"[gate]\n{gate}\n{doors}"
    return [str(finding) for finding in warnings(parse(text, "f"), find_lines(text)) if "capacity" not in finding.what]


def test_a_strong_one_is_only_told_what_capacity_means() -> None:
    text = f"[gate]\nmode = 'stealth'\ncapacity = 30000\n[doors.a]\nknock = {STRONG}\nopens = ['22/tcp']\n"
    assert [str(finding) for finding in warnings(parse(text, "f"), find_lines(text))] == [
        "3: note: capacity 30,000: forged first knocks fill it from 2,000 packets a second; then a knock must be done "
        "within 2s, and from 15,000 a second no new one begins; to withstand more, raise capacity (and the kernel's "
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
                "2: warning: mode observe drops nothing: every door stands open to everyone; "
                'write mode = "guard", or write mode = "stealth" and list in `public` what everyone may reach'
            ],
        ),
        (
            "wrong_port = 'known'\nmode = 'stealth'",
            [
                '2: warning: wrong_port "known" forgives wrong ports: a sweep over all ports opens doors in its order; '
                'write wrong_port = "any"'
            ],
        ),
        (
            "mode = 'stealth'\npublic = ['22/tcp']",
            [
                "5: warning: 22/tcp is public, and door 'd0' opens it: only who knocks gets in; "
                "take it out of `public`, or out of `opens`"
            ],
        ),
    ],
)
def test_the_gate(gate: str, messages: list[str]) -> None:
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
        ("['21/tcp', '23/tcp', '24/tcp']", UP, NO_GAP),  # 22/tcp is opened, 79 to 81 are public: no symbols
        ("['77/tcp', '78/tcp', '82/tcp']", UP, NO_GAP),
        ("['77/udp', '78/udp', '82/udp']", UP, None),
    ],
)
def test_what_a_sweep_opens(knock: str, known: str | None, any_: str | None) -> None:
    for wrong_port, expected in (("known", known), ("any", any_)):
        gate = f"mode = 'stealth'\npublic = ['79-81/tcp']\nwrong_port = '{wrong_port}'"
        swept = [message for message in found(gate, knock) if "plain sweep" in message]
        assert swept == ([f"8: warning: door 'd0': {expected}"] if expected else [])


@pytest.mark.parametrize(
    ("knock", "message"),
    [
        (
            "['7000/tcp']",
            "door 'd0' has 1 knock, and every scan of all ports gives it: about 1 blind guess in 65,535 opens it; "
            "write 3 knocks or more",
        ),
        (
            "['7000/tcp', '9/udp']",
            "door 'd0' has 2 knocks: about 1 blind guess in 4,294,836,225 opens it; write 3 knocks or more",
        ),
        (
            "['7000/tcp', '9/udp', '9/udp']",
            "door 'd0' knocks at 9/udp twice in a row: a retransmitted packet counts as the second; "
            "put another port between the two",
        ),
    ],
)
def test_a_weak_sequence(knock: str, message: str) -> None:
    assert found("mode = 'stealth'", knock) == [f"6: warning: {message}"]


def test_a_door_without_a_knock_has_no_weak_one() -> None:
    text = "[gate]\nmode = 'stealth'\n[doors.a]\nopens = ['22/tcp']"
    assert warnings(parse(text, "f"), find_lines(text)) == []


@pytest.mark.parametrize(("count", "warned"), [(16, False), (17, True)])
def test_many_combinations(count: int, warned: bool) -> None:
    text = "[gate]\nmode = 'stealth'\n" + "".join(
        f"[doors.d{number}]\nopens = ['22/tcp']\nwithin = '{number + 1}s'\nknock = {STRONG}\n"
        for number in range(count)
    )
    configuration = parse(text, "f")
    assert len(combinations(configuration)) == count
    assert [(finding.line, finding.level) for finding in warnings(configuration, find_lines(text))[1:]] == (
        [(67, "warning")] if warned else []
    )
