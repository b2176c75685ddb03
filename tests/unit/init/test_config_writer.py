"""Parsing the operator's answers, and writing a configuration that parses back to the plan."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config.schema import Mark, Mode, Signed
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.doctor.host import Network
from doorward.errors import UsageError
from doorward.init.config_writer import (
    ConfigPlan,
    DoorSpec,
    config_text,
    gate_name,
    parse_door,
    parse_doors,
    parse_public,
    public_ports,
    with_sequences,
)
from doorward.init.survey import HostSurvey, Service
from doorward.lint.checks import warnings
from doorward.model import Port, Protocol
from tests.support.errors import raises

SSH, WEB, DNS = Port(Protocol.TCP, 22), Port(Protocol.TCP, 80), Port(Protocol.UDP, 53)
NOTHING = HostSurvey((), frozenset(), range(32_768, 61_000), None, Network((), ()))
SERVING = NOTHING._replace(services=(Service(SSH, "sshd"), Service(WEB, "nginx"), Service(DNS, "named")))

low_ports = st.builds(Port, st.sampled_from(Protocol), st.integers(1, 1023))
wanted = st.lists(
    st.builds(
        DoorSpec,
        st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
        st.lists(low_ports, min_size=1, max_size=1).map(tuple),
    ),
    min_size=1,
    max_size=5,
    unique_by=(lambda door: door.name, lambda door: door.opens),
).map(tuple)
plans = st.builds(
    ConfigPlan,
    st.sampled_from(Mode),
    wanted,
    public=st.lists(low_ports, max_size=30, unique=True).map(tuple),
    knocks=st.just({}),
    signed=st.booleans(),
    accept_mark=st.none() | st.just(Mark(0x1000, 0x1000)),
    name=st.none() | st.from_regex(r"[A-Za-z_-][A-Za-z0-9_-]{0,20}", fullmatch=True),
    address=st.none() | st.sampled_from(["192.0.2.7", "2001:db8::7", "server.example", "münchen.example"]),
)


@given(plans, st.booleans(), st.integers(), st.text(max_size=8))
def test_written_configuration_matches_the_plan(plan: ConfigPlan, has_sequences: bool, seed: int, program: str) -> None:
    opened = {port for door in plan.doors for port in door.opens}
    plan = plan._replace(public=tuple(port for port in plan.public if port not in opened))
    if has_sequences:
        plan = with_sequences(plan, NOTHING, random.Random(seed).randrange)
    text = config_text(plan, dict.fromkeys([*opened, *plan.public[::2]], program))
    found = parse(text, "f")
    assert found.gate.mode is plan.mode
    assert (found.gate.name, found.gate.address) == (plan.name, plan.address)
    assert found.gate.accept_mark == plan.accept_mark
    assert sorted(found.gate.public) == (sorted(plan.public) if plan.mode is Mode.STEALTH else [])
    assert [(door.name, door.opens) for door in found.doors] == list(plan.doors)
    assert {door.name: door.knock for door in found.doors if door.knock} == plan.knocks
    assert found.signed == (Signed() if plan.signed else None)
    findings = [finding for finding in warnings(found, find_lines(text)) if finding.level == "warning"]
    assert [finding.what for finding in findings] == (
        ["mode observe drops nothing: every door is open to everyone"] if plan.mode is Mode.OBSERVE else []
    )


def test_config_text() -> None:
    knocks = {"ssh": tuple(map(Port.parse, ("9241/udp", "7013/tcp")))}
    public = (WEB, Port(Protocol.TCP, 443), *(Port(Protocol.TCP, number) for number in range(8000, 8004)), DNS)
    plan = ConfigPlan(
        Mode.STEALTH, (DoorSpec("ssh", (SSH,)), DoorSpec("db", (Port(Protocol.TCP, 5432),))), public, knocks
    )
    assert config_text(plan, {SSH: "sshd", WEB: "nginx", public[1]: "nginx", DNS: "na\x1bme\nd"}).split("\n\n")[1:] == [
        '[gate]\nmode = "stealth"\npublic = [\n    "80/tcp",    # nginx\n    "443/tcp",    # nginx\n'
        '    "8000-8003/tcp",\n    "53/udp",    # na?me?d\n]',
        '[doors.ssh]\nknock = ["9241/udp", "7013/tcp"]\nopens = ["22/tcp"]    # sshd\nfor = "30s"',
        '[doors.db]\nopens = ["5432/tcp"]\nfor = "30s"',
        '[signed]\nkey = "server.key"\nauthorized_keys = "authorized_keys"    # keys that may knock\n',
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("box", "vm"), "box"), (("box.example", "vm"), "vm"), (("7", "a b", "x" * 65), None), ((), None)],
)
def test_the_gate_has_the_first_name_that_fits(names: tuple[str, ...], expected: str | None) -> None:
    assert gate_name(*names) == expected


@pytest.mark.parametrize(
    ("text", "door"),
    [
        ("ssh=22", DoorSpec("ssh", (SSH,))),
        ("ssh=22/tcp", DoorSpec("ssh", (SSH,))),
        ("dns=53/udp,53/tcp", DoorSpec("dns", (DNS, Port(Protocol.TCP, 53)))),
        ("web=80, 443", DoorSpec("web", (WEB, Port(Protocol.TCP, 443)))),
    ],
)
def test_doors(text: str, door: DoorSpec) -> None:
    assert parse_door(text) == door
    assert parse_door(str(door)) == door


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ssh"], "invalid door 'ssh'; expected NAME=PORTS, e.g. ssh=22/tcp or web=80/tcp,443/tcp"),
        (["ssh="], "invalid door 'ssh=': "),
        (["22=22"], "invalid door '22=22': "),
        (["a b=22"], "invalid door 'a b=22': "),
        (["ssh=70000"], "invalid door 'ssh=70000': "),
        (["ssh=22,22/tcp"], "invalid door 'ssh=22,22/tcp': "),
        (["a=22", "a=23"], "duplicate name a; each door needs its own"),
        (["a=22", "b=23,22"], "duplicate port 22/tcp; each door needs its own"),
        (["a=62201/udp"], "door 'a': 62201/udp is reserved for signed knocks; leave it out"),
    ],
)
def test_invalid_doors(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_doors(texts)
    assert str(caught.value).startswith(message)


def test_public_ports() -> None:
    assert parse_public("80, 443/tcp 53/udp,8000-8001/tcp") == tuple(
        map(Port.parse, ("80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp"))
    )
    assert parse_public("") == ()
    with raises(UsageError, "invalid-port"):
        parse_public("80,http")


def test_services_stay_public_unless_a_door_hides_them() -> None:
    assert public_ports(SERVING, [DoorSpec("ssh", (SSH,))]) == (WEB, DNS)


def test_sequences_avoid_used_ports_and_each_other() -> None:
    taken = frozenset(Port(Protocol.TCP, number) for number in range(2000, 30_000))
    plan = ConfigPlan(Mode.GUARD, (DoorSpec("a", (SSH,)), DoorSpec("b", (WEB,))))
    found = with_sequences(plan, NOTHING._replace(taken=taken), random.Random(3).randrange)
    numbers = [port.number for knock in found.knocks.values() for port in knock]
    assert len(set(numbers)) == 8
    assert not {Port(Protocol.TCP, number) for number in numbers} & taken
