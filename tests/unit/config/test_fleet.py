"""The table [fleet] and shared doors."""

# ruff: noqa: E501  (a table has one row a line)
import pytest

from doorward.config.schema import EtcdOutagePolicy, Fleet
from doorward.config.toml import parse
from doorward.errors import ConfigError
from tests.support.errors import raises

WHOLE = """
[gate]
name = "edge-1"
[signed]
[fleet]
name = "example"
endpoints = ["https://192.0.2.11:2379", "https://etcd-2.example:2379/", "https://[2001:db8::1]:2379"]
ca = "fleet-ca.pem"
certificate = "gate.pem"
key = "gate.key"
user = "edge-1"
password = "fleet.password"
policy = "local"
timeout = "250ms"
[doors.ssh]
opens = ["22/tcp"]
shared = true
"""


def test_reads_every_setting() -> None:
    found = parse(WHOLE, "f")
    assert found.fleet == Fleet(
        "example",
        ("https://192.0.2.11:2379", "https://etcd-2.example:2379", "https://[2001:db8::1]:2379"),
        "fleet-ca.pem",
        "gate.pem",
        "gate.key",
        "edge-1",
        "fleet.password",
        EtcdOutagePolicy.LOCAL,
        250,
    )
    assert found.doors[0].shared


def test_for_max_extends_shared_openings() -> None:
    fleet = parse(WHOLE.replace("policy", 'for_max = "8h"\npolicy'), "f").fleet
    assert fleet is not None
    assert fleet.for_max_ms == 8 * 3_600_000


def test_shared_door_needs_no_signed_knocks() -> None:
    assert parse(WHOLE.replace("[signed]", ""), "f").doors[0].shared


def test_fleet_gate_needs_a_local_door() -> None:
    with raises(ConfigError, "no-door"):
        parse('[gate]\nname = "a"\n[fleet]\nname = "f"\nendpoints = ["http://127.0.0.1:2379"]\n', "f")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "edge-1"', "", "f:5: this gate has no name in the fleet; write name = \"edge-1\" in [gate]"),
        ('name = "edge-1"', 'name = "example"', "f:6: the fleet has the gate's own name; give them different names"),
        ('name = "example"', "", 'f:5: [fleet] has no name; write name = "example" there'),
        ("https://192", "http://192", "f:7: endpoints: 'http://192.0.2.11:2379' is not encrypted: anyone on the network path can open doors; write https://, or plain = true on a dedicated network"),
        ("https://192.0.2.11:2379", "192.0.2.11", "f:7: endpoints: invalid endpoint '192.0.2.11'; write it like \"https://192.0.2.11:2379\""),
        ('key = "gate.key"', "", "f:9: [fleet] has a certificate and no key; write key too, or leave both out"),
        ('user = "edge-1"', "", "f:12: [fleet] has a password and no user; write user too, or leave both out"),
        ('"local"', '"open"', "f:13: policy: 'open' is unknown; write \"closed\" or \"local\""),
        ('"250ms"', '"5ms"', "f:14: timeout: '5ms' is too short for an answer; write at least \"50ms\""),
        ('"250ms"', '"250ms"\ndoors = true', "f:15: unknown setting 'doors' in [fleet]; remove it, or write one of name, endpoints, ca, certificate, key, user, password, policy, timeout, plain, for_max"),
        ('"250ms"', '"250ms"\nfor_max = "366d"', "f:15: for_max: '366d' is too long; write at most \"365d\""),
    ],
)  # fmt: skip
def test_faults(old: str, new: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(WHOLE.replace(old, new, 1), "f")
    assert str(caught.value) == fault


def test_plain_allows_unencrypted_endpoints() -> None:
    text = WHOLE.replace("https://192", "http://192").replace("[fleet]", "[fleet]\nplain = true")
    assert parse(text, "f").fleet is not None


def test_shared_door_without_a_fleet() -> None:
    with raises(ConfigError, "no-fleet-table"):
        parse('[signed]\n[doors.ssh]\nopens = ["22/tcp"]\nshared = true', "f")
