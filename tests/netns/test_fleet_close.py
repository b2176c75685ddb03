"""Closing a shared door by a signed knock: real daemons and a real etcd; what its signer opened ends at every gate."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.fleet import etcd_codec
from doorward.signed.message import CLOSE, CONFIRM, signer_hash
from tests.netns.test_fleet_signed import Site
from tests.support.daemon import RunningDaemon, Visitor, until
from tests.support.signed import Signer

pytestmark = pytest.mark.netns("nft")

LAPTOP, PHONE = "key laptop", "key phone"


class CloseSite(Site):
    """A fleet whose gates confirm, a second signer, and a visitor who is at home before both gates."""

    def __init__(self, folder: Path, fleet: str = "") -> None:
        super().__init__(folder, fleet)
        self.phone = Signer("phone")
        self.fleet.more += "confirm = true\n"

    def prepare(self, fleet: Any) -> None:
        super().prepare(fleet)
        for gate in fleet.gates:
            (gate.config.parent / "authorized_keys").write_text(f"{self.laptop.line}\n{self.phone.line}\n")

    def knock(self, guest: Visitor, gate: RunningDaemon, signer: Signer | None = None, **fields: int) -> None:
        """Send a fresh packet; `flags` and `ahead_ms` as in a request."""
        self.send(guest, self.fresh(signer, **fields), gate)

    def fresh(self, signer: Signer | None = None, **fields: int) -> bytes:
        named: dict[str, Any] = {"gate": "example", **fields}
        return (signer or self.laptop).packet(self.files.server, **named)

    def key(self, directory: str, guest: Visitor, signer: Signer | None = None) -> str:
        name = signer_hash((signer or self.laptop).key.blob).hex()
        return f"/doorward/example/{directory}/ssh/{guest}/key/{name}"

    def keys(self, directory: str) -> list[str]:
        return [entry.key for entry in self.fleet.etcd().prefix(f"/doorward/example/{directory}/").entries]


@pytest.fixture(scope="module")
def standing_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloseSite]:
    site = CloseSite(tmp_path_factory.mktemp("fleet"))
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: CloseSite) -> CloseSite:
    standing_site.fleet.renew()
    return standing_site


def refused(reason: str, *gates: RunningDaemon) -> int:
    """Return how many packets these gates have refused for a reason since they started."""
    return sum(gate.ask("status")["signed"]["refused"].get(reason, 0) for gate in gates)


def opened_everywhere(site: CloseSite, guest: Visitor, signer: Signer | None = None) -> None:
    first, second = site.fleet.gates
    wanted = {"address": str(guest), "by": f"key {(signer or site.laptop).name} at edge-1"}
    before = len(second.events())
    site.knock(guest, first, signer)
    until(lambda: any(wanted.items() <= event.items() for event in second.events()[before:]))


def test_a_close_at_another_gate_ends_what_its_signer_opened_everywhere(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    there = site.fleet.visitor(second, guest.source)
    opened_everywhere(site, guest)
    site.knock(there, second, flags=CLOSE | CONFIRM)
    assert second.event("closed", address=str(guest))["by"] == LAPTOP
    second.event("confirmed", address=str(guest))
    assert first.event("closed", address=str(guest))["by"] == "fleet"
    until(lambda: site.keys("openings") == [])
    assert not guest.gets_in()
    assert not there.gets_in()
    (close,) = site.fleet.etcd().prefix("/doorward/example/closes/").entries
    assert close.key.startswith(site.key("closes", guest))
    assert 140 < site.fleet.etcd().left_s(close.lease) < 300
    opened_everywhere(site, guest)  # a later knock opens again
    assert there.gets_in()


def test_another_signer_and_an_operator_keep_the_door_open(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    opened_everywhere(site, guest)
    opened_everywhere(site, guest, site.phone)
    second.run("open", "ssh", guest)
    first.event("prolonged", address=str(guest), by="hand at edge-2")
    site.knock(guest, second, flags=CLOSE)
    for gate, by in (second, LAPTOP), (first, "fleet"):
        released = gate.event("released", address=str(guest), by=by)
        assert LAPTOP not in released["still"]
    until(lambda: site.key("openings", guest) not in site.keys("openings"))
    assert len(site.keys("openings")) == 2
    site.knock(guest, first, site.phone, flags=CLOSE)
    second.event("released", address=str(guest), still="hand")
    assert guest.gets_in()
    first.run("close", "ssh", guest, "--fleet")
    site.fleet.await_everywhere(set())
    assert site.keys("openings") == []


def test_close_by_an_operator_ends_all_shares_everywhere(site: CloseSite) -> None:
    first, second = site.fleet.gates
    for gate, option in (second, ()), (first, ("--fleet",)):
        guest = site.fleet.visitor(first)
        opened_everywhere(site, guest)
        opened_everywhere(site, guest, site.phone)
        second.run("open", "ssh", guest)
        first.event("prolonged", address=str(guest), by="hand at edge-2")
        gate.run("close", "ssh", guest, *option)
        site.fleet.await_everywhere(set())
        until(lambda: site.keys("openings") == [])


def test_an_older_open_that_arrives_at_another_gate_opens_nothing(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    closed, used = refused("closed", first), refused("used", second)
    held_back, for_one_gate = site.fresh(), site.laptop.packet(site.files.server, gate="edge-1")
    site.knock(guest, second, flags=CLOSE)
    second.event("not_open", address=str(guest))
    site.send(guest, held_back, first)
    assert "its signer closed the door at that time or later" in site.refusal(guest, first)
    site.send(guest, for_one_gate, first)
    until(lambda: refused("closed", first) == closed + 2)
    site.send(guest, held_back, second)
    until(lambda: refused("used", second) == used + 1)
    site.fleet.await_everywhere(set())
    assert site.keys("openings") == []


def test_an_older_close_ends_nothing_at_another_gate(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    held_back = site.fresh(flags=CLOSE, ahead_ms=-10)  # of equal dates the close counts
    opened_everywhere(site, guest)
    site.send(guest, held_back, second)
    second.event("not_open", address=str(guest))
    until(lambda: len(site.keys("closes")) == 1)
    site.fleet.await_everywhere({str(guest)})
    site.knock(guest, second)  # the close that is in etcd is older than this, too
    second.event("prolonged", address=str(guest), by=LAPTOP)


def test_copies_of_a_close_at_both_gates_count_once(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    used = refused("used", *site.fleet.gates)
    opened_everywhere(site, guest)
    close = site.fresh(flags=CLOSE | CONFIRM)
    for gate in (first, second, first, second):
        site.send(guest, close, gate)
    site.fleet.await_everywhere(set())
    until(lambda: refused("used", *site.fleet.gates) == used + 1)
    confirmed = [event for gate in site.fleet.gates for event in gate.events() if event["event"] == "confirmed"]
    assert len(confirmed) == 1


def test_forged_closes_lock_nobody_out(site: CloseSite) -> None:
    first = site.fleet.gates[0]
    guest, other = site.fleet.visitor(first), site.fleet.visitor(first)
    opened_everywhere(site, other, site.phone)
    etcd = site.fleet.etcd()
    for key in (
        site.key("closes", guest) + "/9007199254740992",  # in 285,000 years
        site.key("closes", guest) + "/0000000000000000",
        site.key("closes", guest) + "/soon",
        f"/doorward/example/closes/ssh/{other}/{10**15:016}",  # of no signer
        f"/doorward/example/closes/own/{guest}/key/{'0' * 24}/{1:016}",
    ):
        etcd.put(key, b"edge-1")
    etcd.call("kv/put", {"key": etcd_codec.b64(b"/doorward/example/closes/ssh/\xff"), "value": ""})
    opened_everywhere(site, guest)
    first.end(signal.SIGKILL)
    first.start()
    site.fleet.await_everywhere({str(guest), str(other)})


def test_a_close_that_was_claimed_by_a_gate_that_died_is_finished_by_the_others(site: CloseSite) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    opened_everywhere(site, guest)
    first.end(signal.SIGKILL)
    site.fleet.etcd().put(f"{site.key('closes', guest)}/{site.laptop.request().time_ms:016}", b"edge-1 another-process")
    second.event("closed", address=str(guest), by="fleet")
    until(lambda: site.keys("openings") == [])
    first.start()
    first.event("closed", address=str(guest), by="fleet")
    site.fleet.await_everywhere(set())


@pytest.mark.parametrize("is_recent", [True, False])
def test_a_gate_that_was_down_catches_up_with_a_close(site: CloseSite, is_recent: bool) -> None:
    first, second = site.fleet.gates
    guest = site.fleet.visitor(first)
    opened_everywhere(site, guest)
    second.end(signal.SIGKILL)
    site.knock(guest, first, flags=CLOSE)
    first.event("closed", address=str(guest), by=LAPTOP)
    until(lambda: site.keys("openings") == [])
    if not is_recent:  # the lease of the close is over
        site.fleet.etcd().delete("/doorward/example/closes/", "/doorward/example/closes0")
    second.start()
    second.event("closed", address=str(guest), by="fleet")


@pytest.mark.parametrize("policy", ["closed", "local"])
def test_without_etcd_a_close_counts_at_its_gate_and_then_at_the_others(tmp_path: Path, policy: str) -> None:
    site = CloseSite(tmp_path, f'policy = "{policy}"')
    with site.running():
        first, second = site.fleet.gates
        guest = site.fleet.visitor(first)
        opened_everywhere(site, guest)
        site.fleet.switch.cut("etcd1")
        close = site.fresh(flags=CLOSE | CONFIRM)
        site.send(guest, close, second)
        second.event("closed", address=str(guest), by=LAPTOP)
        assert "at this gate only" in second.message("closes ssh")["message"]
        assert guest.gets_in()  # the first gate has yet to learn of it
        second.end(signal.SIGKILL)
        second.start()
        assert second.openings() == []
        site.send(guest, close, second)  # nothing is used twice, and nothing of it is confirmed
        until(lambda: refused("used", second) == 1)
        site.fleet.switch.join("etcd1")
        first.event("closed", address=str(guest), by="fleet")
        site.fleet.await_everywhere(set())
        until(lambda: site.keys("openings") == [])
        assert not any(event["event"] == "confirmed" for event in second.events())
