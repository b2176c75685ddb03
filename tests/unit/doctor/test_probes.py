"""The probes for doors, and missing kernel modules."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from doorward.config.toml import parse
from doorward.doctor import replica
from doorward.doctor.host import LocalAddress, Network, Route
from doorward.doctor.probes import plan_probes
from doorward.kernel.sock_diag import Connection
from tests.support.errors import raises

LOCALS = (
    LocalAddress("lo", ip_interface("127.0.0.1/8")),
    LocalAddress("eth0", ip_interface("198.51.100.2/24")),
    LocalAddress("eth1", ip_interface("10.0.0.2/30")),
    LocalAddress("eth1", ip_interface("2001:db8::2/64")),
)
ROUTED = Network(LOCALS, (Route(ip_network("0.0.0.0/0"), "eth0"),))
SESSION = Connection(ip_address("10.0.0.1"), 50000, ip_address("10.0.0.2"), 22)
DOORS = parse('[doors.a]\nknock = ["7000/tcp", "9000/udp", "8000/tcp"]\nopens = ["22/tcp", "22/udp"]\n', "f")


def test_clients_use_the_default_route_and_the_operator_the_sessions() -> None:
    probes = [probe for probe in plan_probes(DOORS, ROUTED, None) if probe.destination.version == 4]
    assert {(probe.interface, str(probe.destination), len(probe.sources)) for probe in probes} == {
        ("eth0", "198.51.100.2", 3)
    }
    assert [str(probe.port) for probe in probes if probe.is_knock] == ["7000/tcp", "9000/udp", "8000/tcp"]
    own = [probe for probe in plan_probes(DOORS, ROUTED, SESSION) if probe.is_operator]
    assert {(probe.interface, probe.sources) for probe in own} == {("eth1", (SESSION.source,))}


def test_neighbors_send_without_a_default_route() -> None:
    (six,) = {probe.sources for probe in plan_probes(DOORS, ROUTED, None) if probe.destination.version == 6}
    assert [str(source) for source in six] == ["2001:db8::1", "2001:db8::3", "2001:db8::4"]


def test_shared_port_is_probed_once() -> None:
    both = parse('[doors.a]\nopens = ["22/tcp"]\n[doors.b]\nopens = ["22/tcp", "23/tcp"]\n', "f")
    assert [str(probe.port) for probe in plan_probes(both, Network(LOCALS[:2], ()), None)] == ["22/tcp", "23/tcp"]


def test_hosts_behind_are_probed_from_outside_in_their_family() -> None:
    behind = parse('[doors.a]\nopens = ["192.0.2.7:22/tcp", "[2001:db8:2::7]:25/tcp"]\n', "f")
    assert [
        (probe.interface, str(probe.opened), len(probe.sources), probe.is_behind)
        for probe in plan_probes(behind, ROUTED, SESSION)
    ] == [("eth0", "192.0.2.7:22/tcp", 3, True), ("eth1", "[2001:db8:2::7]:25/tcp", 3, True)]


def test_host_without_addresses_gets_no_probes() -> None:
    assert list(plan_probes(DOORS, Network(LOCALS[:1], ()), None)) == []


@pytest.mark.parametrize(
    ("loaded", "built_in", "found"),
    [
        (None, None, True),  # this kernel cannot load any
        ("veth 40960 0 - Live 0x0\n", None, True),
        ("veth_other 40960 0 - Live 0x0\n", "kernel/drivers/net/dummy.ko\n", False),
        ("", "kernel/drivers/net/veth.ko\n", True),
        ("", None, False),
    ],
)
def test_missing_module_is_not_loaded(
    loaded: str | None, built_in: str | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path) -> str:
        text = loaded if path == Path("/proc/modules") else built_in
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert replica.has_module("veth") == found
    if not found:
        with raises(replica.UncheckedError, "module-missing"):
            replica.Replica(replica.HostNetwork((), (), (), (), {}))
