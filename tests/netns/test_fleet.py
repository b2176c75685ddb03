"""A fleet of two gates and one etcd: knock at one, be let in at both; close at one, be closed at both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.fleet import etcd_codec
from tests.support.daemon import LATE_S, SLOWNESS, until
from tests.support.fleet import Fleet, running_fleet
from tests.support.service_user import USER, for_the_user, open_folder, service_user, status_of, wrapped

pytestmark = pytest.mark.netns("nft")


OWN = """
[doors.own]
opens = ["5432/tcp"]
[doors.once]
opens = ["23/tcp"]
for = "10m"
shared = true
once = true
"""
DAY_S = 86_400
YEAR_MS = 365 * DAY_S * 1000


def two_gates(folder: Path) -> Fleet:
    return Fleet(folder, gates=2, nodes=1, fleet='for_max = "60d"', more=OWN)


@pytest.fixture(scope="module")
def standing_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(two_gates(tmp_path_factory.mktemp("fleet"))) as fleet:
        for gate in fleet.gates:
            gate.host.start_greeter(23)
        yield fleet


@pytest.fixture
def fleet(standing_fleet: Fleet) -> Fleet:
    standing_fleet.renew()
    return standing_fleet


def test_knock_at_one_gate_opens_both(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    there = fleet.visitor(second, guest.source)
    assert not there.gets_in()
    fleet.knock(guest)
    second.event("opened", address=str(guest), by="knock at edge-1")
    assert there.gets_in()
    assert guest.gets_in()
    assert 590 < second.elements()[there.element()] <= 600
    assert second.elements()[there.element()] <= first.elements()[guest.element()] + 0.1


def test_close_at_one_gate_closes_both(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    there = fleet.visitor(second, guest.source)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    second.run("close", "ssh", guest)
    first.event("closed", address=str(guest), by="fleet")
    assert not guest.gets_in()
    assert not there.gets_in()
    fleet.knock(guest)  # and again
    second.event("opened", address=str(guest))
    first.run("close", "ssh", guest)
    second.event("closed", address=str(guest), by="fleet")
    assert fleet.etcd().prefix("/doorward/example/openings/").entries == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_connection_at_one_gate_closes_the_door_at_all(fleet: Fleet, is_killed: bool) -> None:
    """Also where the gate was killed before it could report the connection."""
    first, second = fleet.gates
    guest = fleet.visitor(first)
    there = fleet.visitor(second, guest.source)
    first.run("open", "once", guest)
    second.event("opened", door="once", address=str(guest))
    if is_killed:
        first.end(signal.SIGKILL)
    with guest.connect(23) as connection:
        if is_killed:
            first.start()
        by = "use" if is_killed else f"use from port {connection.getsockname()[1]}"
        first.event("closed", door="once", address=str(guest), by=by)
        second.event("closed", door="once", address=str(guest), by="fleet")
        assert not guest.gets_in(23)
        assert not there.gets_in(23)
    until(lambda: fleet.etcd().prefix("/doorward/example/openings/").entries == [])
    assert [gate.openings() for gate in fleet.gates] == [[], []]


def test_opening_by_hand_is_extended_at_another_gate(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    first.run("open", "ssh", guest, "--for", "30d")  # longer than the daemon can wait at once
    second.event("opened", address=str(guest), by="hand at edge-1")
    fleet.knock(fleet.visitor(second, guest.source))  # for ten minutes: shortens nothing
    second.event("prolonged", address=str(guest), by="knock")
    second.run("open", "ssh", guest, "--for", "60d")
    first.event("prolonged", address=str(guest), by="hand at edge-2")
    for gate in fleet.gates:
        assert 0 <= 60 * DAY_S - gate.elements()[guest.element()] < 10


def test_etcd_writer_can_only_open_shared_doors_for_their_time(tmp_path: Path) -> None:
    with running_fleet(two_gates(tmp_path)) as fleet:
        writer_only_opens_shared_doors(fleet)


def writer_only_opens_shared_doors(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest, insider = fleet.visitor(first), fleet.visitor(first)
    first.run("open", "own", insider)  # not shared: no other gate and no writer hears of it
    long: dict[str, object] = {"for_ms": YEAR_MS, "until_ms": 1 << 53}
    fleet.etcd().call("kv/put", {"key": etcd_codec.b64(b"/doorward/example/openings/ssh/\xff"), "value": ""})
    fleet.forge(
        ("ssh", "0.0.0.0/0", long),
        ("ssh", "198.51.100.0/24", {}),  # this gate has no [signed]
        ("ssh", "224.0.0.1", {}),
        ("own", str(guest), {}),
        ("own", str(insider), {}),
        ("ssh", str(fleet.visitor(first)), {"by": "magic"}),
        ("ssh", str(guest), long | {"by": "hand", "gate": "edge-1"}),
    )
    for gate in fleet.gates:
        gate.event("opened", door="ssh", address=str(guest), by="hand at edge-1")
        assert gate.ask("status")["fleet"]["rejected"] == {"network": 2, "address": 1, "door": 2, "way": 1}
        gate.message("is rejected: this gate does not open networks")
    assert "6 of its openings rejected (1 address, 2 door, 2 network, 1 way)" in first.run("status").stdout
    assert second.elements().keys() == {guest.element()}
    assert 60 * DAY_S - 100 < second.elements()[guest.element()] <= 60 * DAY_S
    assert first.elements().keys() == {guest.element(), insider.element("5432/tcp")}
    assert guest.gets_in()
    fleet.etcd().delete(f"/doorward/example/openings/own/{insider}")
    fleet.etcd().delete(f"/doorward/example/openings/ssh/{guest}")
    first.event("closed", door="ssh", address=str(guest), by="fleet")  # a writer may close what is shared
    assert first.elements().keys() == {insider.element("5432/tcp")}
    assert [row["door"] for row in first.log() if row["event"] == "opened"] == ["own", "ssh"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restarted_gate_catches_up(fleet: Fleet, number: signal.Signals) -> None:
    first, second = fleet.gates
    stays, goes, comes = (fleet.visitor(first) for _ in range(3))
    for guest in (stays, goes):
        fleet.knock(guest)
        second.event("opened", address=str(guest))
    second.end(number)
    first.run("close", "ssh", goes)
    fleet.knock(comes)
    first.event("opened", address=str(comes))
    second.start()
    second.event("closed", address=str(goes), by="fleet")
    second.event("opened", address=str(comes), by="knock at edge-1")
    fleet.await_everywhere({str(stays), str(comes)})
    first.end(number)  # the gate that opened them: it opens nothing again
    second.run("close", "ssh", stays)
    first.start()
    first.event("closed", address=str(stays), by="fleet")
    fleet.await_everywhere({str(comes)})


def test_partitioned_gate_continues_alone_and_catches_up(fleet: Fleet) -> None:
    first, second = fleet.gates
    known, alone, elsewhere = (fleet.visitor(first) for _ in range(3))
    fleet.knock(known)
    second.event("opened", address=str(known))
    fleet.switch.cut("gate1")
    first.message("this gate continues alone")
    first.run("open", "ssh", alone)
    first.run("close", "ssh", known)
    second.run("open", "ssh", elsewhere)
    fleet.switch.join("gate1")
    first.message("connected to the fleet")
    assert fleet.await_everywhere({str(alone), str(elsewhere)}) < 5 * SLOWNESS + LATE_S


@pytest.mark.parametrize("restarts", [False, True], ids=["by its watch", "by a restart"])
def test_close_and_shorter_opening_without_etcd_reach_the_other_gate(fleet: Fleet, restarts: bool) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    fleet.switch.cut("gate1")
    first.message("this gate continues alone")
    first.run("close", "ssh", guest)
    first.run("open", "ssh", guest, "--for", "1m")
    if restarts:
        second.end()
    fleet.switch.join("gate1")
    first.message("connected to the fleet")
    if restarts:
        until(lambda: first.ask("status")["fleet"]["owed"] == 0)
        second.start()
    second.event("closed", address=str(guest), by="fleet")
    second.event("opened", address=str(guest), by="hand at edge-1")
    assert second.elements()[guest.element()] <= 60


def test_killed_fleet_process_is_restarted(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest, late = fleet.visitor(first), fleet.visitor(first)
    os.kill(fleet_process(first.process.pid), signal.SIGKILL)
    first.message("the fleet process failed")
    fleet.knock(guest)
    second.event("opened", address=str(guest), by="knock at edge-1")
    os.kill(fleet_process(second.process.pid), signal.SIGKILL)
    second.message("the fleet process failed")
    second.run("close", "ssh", guest)  # sent to the next one
    first.event("closed", address=str(guest), by="fleet")
    fleet.knock(late)
    second.event("opened", address=str(late))


def test_gates_survive_an_etcd_restart_and_compaction(fleet: Fleet) -> None:
    first, second = fleet.gates
    (node,) = fleet.nodes
    before, during, after = (fleet.visitor(first) for _ in range(3))
    fleet.knock(before)
    second.event("opened", address=str(before))
    node.end()
    first.message("this gate continues alone")
    fleet.knock(during)
    first.event("opened", address=str(during))
    node.start()
    second.event("opened", address=str(during), by="knock at edge-1")
    fleet.switch.cut("gate2")
    second.message("this gate continues alone")
    first.run("close", "ssh", before)
    fleet.knock(after)
    etcd = fleet.etcd()
    until(lambda: len(etcd.prefix("/doorward/example/openings/").entries) == 2)
    revision = etcd.prefix("/doorward/example/openings/").revision
    etcd.call("kv/compaction", {"revision": str(revision), "physical": True})
    fleet.switch.join("gate2")
    assert fleet.await_everywhere({str(during), str(after)}) < 10


def test_no_opening_outlives_its_time(tmp_path: Path) -> None:
    with running_fleet(Fleet(tmp_path, gates=2, nodes=1, for_="2s")) as fleet:
        first, second = fleet.gates
        guest = fleet.visitor(first)
        fleet.knock(guest)
        second.event("opened", address=str(guest))
        assert second.elements()[guest.element()] <= 2
        for gate in fleet.gates:
            gate.event("closed", address=str(guest), by="time")
            gate.await_end(guest.element())


def test_fleet_process_has_no_privileges(fleet: Fleet) -> None:
    status = Path(f"/proc/{fleet_process(fleet.gates[0].process.pid)}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert [int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0] * 4
    assert fields["NoNewPrivs"] == "1"


def test_fleet_process_runs_as_the_service_user() -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())

        def prepare(fleet: Fleet) -> None:
            (gate,) = fleet.gates
            stack.enter_context(service_user(gate.host))
            for_the_user(gate)
            gate.wrapper = wrapped(folder / "hold")

        with running_fleet(Fleet(folder, gates=1, nodes=1), prepare) as fleet:
            (gate,) = fleet.gates
            guest = fleet.visitor(gate)
            fleet.knock(guest)
            gate.event("opened", address=str(guest))
            etcd = fleet.etcd()
            until(lambda: etcd.prefix("/doorward/example/openings/").entries)
            assert status_of(fleet_process(gate.process.pid))["Uid"].split() == [str(USER)] * 4
            assert (gate.state / "fleet.sqlite").stat().st_uid == USER


def fleet_process(daemon: int) -> int:
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    (found,) = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "doorward-fleet\n"]
    return found
