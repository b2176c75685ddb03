"""The fleet's doors beside a gate's own file: one configuration, and each fault in its own file."""

from __future__ import annotations

import pytest

from doorward.config.fleet_doors import Text, merged
from doorward.errors import ConfigError

OWN = Text(
    """[gate]
name = "a"
[fleet]
name = "f"
endpoints = ["http://127.0.0.1:2379"]
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
""",
    "own.toml",
)
DOORS = Text('[doors.web]\nknock = ["7003/tcp"]\nopens = ["80/tcp"]\n', "doors.toml")


def faults(own: str, doors: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        merged(Text(own, OWN.file), Text(doors, DOORS.file))
    return str(caught.value).splitlines()


def test_both_are_one_configuration() -> None:
    found = merged(OWN, DOORS)
    assert [door.name for door in found.doors] == ["web", "ssh"]
    assert found.gate.name == "a"
    assert merged(OWN, Text(DOORS.text.rstrip("\n"), "doors.toml")) == found


@pytest.mark.parametrize(
    ("own", "doors", "fault"),
    [
        (OWN.text.replace("22/tcp", "22/tpc"), DOORS.text, "own.toml:8: opens: '22/tpc' is no port"),
        (OWN.text, DOORS.text.replace("80/tcp", "80"), "doors.toml:3: opens: '80' has no protocol"),
        (OWN.text, DOORS.text.replace("7003", "22"), "doors.toml:2: door 'web' knocks at a port that is no knock"),
        (OWN.text, DOORS.text.replace("80/tcp", "7001/tcp"), "own.toml:7: door 'ssh' knocks at a port"),
        (OWN.text, DOORS.text.replace("web", "ssh"), "doors.toml:1: a gate has a door 'ssh' of its own"),
        (OWN.text, 'doors = 3\n', "doors.toml:1: there is no door"),
        (OWN.text, '[doors.a]\nopens = ["80/tcp"]\nx = """\n', "doors.toml:"),
        (OWN.text[:-3], DOORS.text, "own.toml:8: "),
        (OWN.text, '[doors.a]\nopens = ["80/tcp"]\non_close = ["/bin/true"]', "doors.toml:3: door 'a' runs a command"),
        (OWN.text, DOORS.text + "[fleet]\n", "doors.toml:4: 'fleet' is not a fleet's"),
    ],
)  # fmt: skip
def test_each_fault_is_shown_in_its_own_file(own: str, doors: str, fault: str) -> None:
    assert any(line.startswith(fault) for line in faults(own, doors)), faults(own, doors)
