"""Signed knocks in a fleet: accepted once fleet-wide at shared doors, and once per gate at others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, Visitor
from tests.support.fleet import Fleet, running_fleet
from tests.support.signed import Signed, Signer, send

pytestmark = pytest.mark.netns("nft")

DOORS = """
[doors.own]
opens = ["5432/tcp"]
[signed]
"""


class Site:
    """A fleet of two gates with the same server key, and an authorized client."""

    def __init__(self, folder: Path, fleet: str = "") -> None:
        self.laptop = Signer("laptop")
        self.fleet = Fleet(folder, gates=2, nodes=1, fleet=fleet, more=DOORS)

    def prepare(self, fleet: Fleet) -> None:
        """Copy the files of the first gate to all others."""
        first, *others = (gate.config.parent for gate in fleet.gates)
        self.files = Signed(first, self.laptop)
        for folder in others:
            shutil.copy2(self.files.key_file, folder)
            shutil.copy2(self.files.keys_file, folder)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the fleet until the end of the block."""
        with running_fleet(self.fleet, self.prepare):
            for gate in self.fleet.gates:
                gate.message("accepting signed knocks")
            yield

    def packet(self, door: str = "ssh", gate: str = "example") -> bytes:
        return self.laptop.packet(self.files.server, door, gate=gate)

    def send(self, guest: Visitor, packet: bytes, gate: RunningDaemon) -> None:
        send(self.fleet.client, guest.source, gate.host.ipv4, packet)

    def refusal(self, guest: Visitor, gate: RunningDaemon) -> str:
        reason: str = gate.event("refused", address=str(guest))["reason"]
        return reason


@pytest.fixture(scope="module")
def standing_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("fleet"))
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: Site) -> Site:
    standing_site.fleet.renew()
    return standing_site


def test_signed_knock_is_accepted_once_per_fleet(site: Site) -> None:
    first, second = site.fleet.gates
    guest, thief = site.fleet.visitor(first), site.fleet.visitor(second)
    packet = site.packet()
    site.send(guest, packet, first)
    first.event("opened", address=str(guest), by="key laptop")
    second.event("opened", address=str(guest), by="key laptop at edge-1")
    site.send(thief, packet, second)
    assert "it was used at this or another gate of the fleet" in site.refusal(thief, second)
    site.send(thief, packet, first)
    assert "copy of an earlier packet" in site.refusal(thief, first)
    site.fleet.await_everywhere({str(guest)})
    (entry,) = site.fleet.etcd().prefix("/doorward/example/seen/").entries
    assert 140 < site.fleet.etcd().left_s(entry.lease) < 300


def test_rejected_network_does_not_affect_other_openings(site: Site) -> None:
    first, _ = site.fleet.gates
    guest = site.fleet.visitor(first)
    places = ["10.7.0.0/16", "10.7.7.0/24", "10.8.0.0/15", str(guest), "2001:db8:7::/48"]  # the second is in the first
    site.fleet.forge(*(("ssh", place, {}) for place in places))
    for gate in site.fleet.gates:
        gate.event("opened", address="2001:db8:7::/48")
        assert {opening["address"] for opening in gate.openings()} == {"10.7.0.0/16", str(guest), "2001:db8:7::/48"}
        assert {str(element.address) for element in gate.elements()} == {"10.7.0.0/16", str(guest), "2001:db8:7::/48"}
        assert gate.ask("status")["fleet"]["rejected"] == {"kernel": 1, "prefix": 1}
    assert guest.gets_in()


def test_knock_for_one_gate_is_not_claimed(site: Site) -> None:
    first, second = site.fleet.gates
    guest, other = site.fleet.visitor(first), site.fleet.visitor(second)
    own = site.packet("own", "edge-1")
    site.send(other, own, second)
    assert "key laptop requested an unknown door, or a door of another gate" in site.refusal(other, second)
    site.send(other, site.packet("own", "example"), second)
    assert "is for the fleet 'example', with which this gate does not share the door" in site.refusal(other, second)
    site.fleet.nodes[0].end()
    site.send(guest, own, first)
    first.event("opened", door="own", address=str(guest), by="key laptop")
    site.send(guest, site.packet("ssh", "edge-1"), first)  # a shared door, and a knock for this gate alone
    first.event("opened", door="ssh", address=str(guest), by="key laptop")


def test_shared_door_stays_closed_without_etcd(site: Site) -> None:
    first, _ = site.fleet.gates
    guest = site.fleet.visitor(first)
    site.fleet.nodes[0].end()
    packet = site.packet()
    site.send(guest, packet, first)
    assert "the fleet cannot tell whether it was used" in site.refusal(guest, first)
    assert "those for shared doors are refused" in first.message("as [fleet] policy says")["message"]
    assert first.openings() == []
    assert first.ask("status")["fleet"]["without_answer"] == {"refused": 1}


def test_local_policy_accepts_without_etcd(tmp_path: Path) -> None:
    site = Site(tmp_path, 'policy = "local"')
    with site.running():
        first, second = site.fleet.gates
        guest = site.fleet.visitor(first)
        site.fleet.switch.cut("etcd1")  # silence, not a refusal
        packet = site.packet()
        site.send(guest, packet, first)
        first.event("opened", address=str(guest), by="key laptop")
        site.send(guest, packet, first)
        assert "copy of an earlier packet" in site.refusal(guest, first)
        assert "taken without asking other gates" in first.message("as [fleet] policy says")["message"]
        site.fleet.switch.join("etcd1")
        second.event("opened", address=str(guest), by="key laptop at edge-1")
