"""Effects are performed in one order; what the kernel refuses is rolled back, and not logged, announced or run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from doorward.core.diff import SetChanges
from doorward.core.openings import Announce, Effect, Reject, on_close, on_open
from doorward.daemon.hook_runner import HookRun
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.repairs import close_reassigned, fill
from doorward.errors import HostError
from doorward.model import Element, HostPort, Opening, PortRange, Protocol, Redirect, Source
from doorward.nftables import fake
from doorward.nftables.nft_error import NftError
from tests.support.errors import raises
from tests.support.in_process_daemon import DOORS, InProcessDaemon
from tests.support.openings import door, element, ports

ONE, OTHER, THIRD = map(ip_address, ("192.0.2.7", "192.0.2.8", "192.0.2.9"))


class Fleet:
    """A listener that notes what is announced."""

    def __init__(self) -> None:
        self.announced: list[str] = []

    def announce(self, changes: Sequence[Announce | Reject]) -> None:
        self.announced += [f"{each.event} {each.opening.address}" for each in changes if isinstance(each, Announce)]


class Watched(InProcessDaemon):
    """Everything that is logged, announced or run, in one list and in its order."""

    def __init__(self, folder: Path) -> None:
        self.stream = io.StringIO()
        super().__init__(Ledger(folder / "ledger.sqlite3"), Log("json", self.stream))
        self.fleet = Fleet()
        self.openings.listeners.append(self.fleet)
        self.ran: list[HookRun] = []
        self.hooks.has_command = lambda run: True  # type: ignore[method-assign]
        self.hooks.run = self.ran.append  # type: ignore[method-assign,assignment]

    def logged(self) -> list[str]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [f"{line['event']} {line['address']}" for line in lines if line["event"] != "message"]

    def hooks_run(self) -> list[str]:
        return [f"{run.event} {run.address}" for run in self.ran]

    def ends(self) -> dict[str, object]:
        """Return how the last opening of each address ended, in the ledger."""
        return {str(address): ended for _, address, ended in self.recorded()}

    def open(self, *new: Opening) -> list[Effect]:
        """Return the effects of requests to open doors."""
        return [
            effect for each in new for effect in on_open(self.table, self.doors[each.door], each, self.loop.now_s())
        ]

    def new(self, address: Source, for_s: float = 60.0, door: str = "ssh") -> Opening:
        now_s = self.loop.now_s()
        return Opening(door, address, self.doors[door].opens, now_s, now_s + for_s, "key laptop")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Watched]:
    daemon = Watched(tmp_path)
    yield daemon
    daemon.close()


def test_an_opening_that_cannot_be_applied_leaves_nothing_behind(daemon: Watched) -> None:
    daemon.firewall.stuck = True
    (refusal,) = daemon.openings.perform(daemon.open(daemon.new(ONE)))
    assert (refusal.change.key, str(refusal.error)) == (("ssh", ONE), "nftables rejected the change: stuck")
    assert (daemon.shows(), daemon.has(), daemon.ends()) == ([], {}, {"192.0.2.7": "refused"})
    daemon.firewall.stuck = False
    daemon.ask("open", "ssh", OTHER.compressed)  # an unrelated call
    assert daemon.logged() == daemon.fleet.announced == ["opened 192.0.2.8"]
    assert daemon.hooks_run() == ["open 192.0.2.8"]


def test_a_longer_end_that_cannot_be_applied_leaves_the_one_before(daemon: Watched) -> None:
    daemon.openings.perform(daemon.open(daemon.new(ONE, 60.0)))
    (before,) = daemon.ledger.active()
    daemon.firewall.stuck = True
    daemon.openings.perform(daemon.open(daemon.new(ONE, 3600.0), daemon.new(ONE, 7200.0)))
    (after,) = daemon.ledger.active()
    assert after.until_s == pytest.approx(before.until_s, abs=0.01)
    assert daemon.logged() == ["opened 192.0.2.7"]
    assert daemon.table.count("key laptop") == 1


@pytest.mark.parametrize("has_command", [True, False])
def test_a_close_that_cannot_be_applied_leaves_the_opening(daemon: Watched, *, has_command: bool) -> None:
    daemon.hooks.has_command = lambda run: has_command  # type: ignore[method-assign]
    daemon.openings.perform(daemon.open(daemon.new(ONE)))
    (before,) = daemon.ledger.active()
    daemon.firewall.stuck = True
    (refusal,) = daemon.openings.perform(on_close(daemon.table, ("ssh", ONE), "fleet", daemon.loop.now_s()))
    assert refusal.change.key == ("ssh", ONE)
    (after,) = daemon.ledger.active()
    assert after.until_s == pytest.approx(before.until_s, abs=0.01)
    assert daemon.shows() == [("ssh", "192.0.2.7")]
    assert daemon.logged() == daemon.fleet.announced == ["opened 192.0.2.7"]
    assert daemon.hooks_run() == ["open 192.0.2.7"] * has_command
    daemon.firewall.stuck = False
    daemon.openings.perform(on_close(daemon.table, ("ssh", ONE), "hand", daemon.loop.now_s()))
    assert daemon.recorded() == [("ssh", "192.0.2.7", None if has_command else "hand")]


def test_what_is_recorded_while_another_is_applied_is_done_apart(
    daemon: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = daemon.firewall.apply

    def repair_then_fail(changes: SetChanges) -> None:
        if daemon.table.get("ssh", OTHER) is not None:
            apply(changes)
            return
        daemon.openings.perform(daemon.open(daemon.new(OTHER)))  # as a repair does, when nftables is found changed
        raise HostError("nft-rejected", "nftables refused")

    monkeypatch.setattr(daemon.firewall, "apply", repair_then_fail)
    (refusal,) = daemon.openings.perform(daemon.open(daemon.new(ONE)))
    assert refusal.change.key == ("ssh", ONE)
    assert daemon.logged() == daemon.fleet.announced == ["opened 192.0.2.8"]
    assert daemon.ends() == {"192.0.2.7": "refused", "192.0.2.8": None}


def test_the_order_is_ledger_kernel_log_commands(daemon: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noting(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def noted(*words: object) -> object:
            order.append(name)
            return call(*words)

        return noted

    monkeypatch.setattr(daemon.ledger, "opened", noting("ledger", daemon.ledger.opened))
    monkeypatch.setattr(daemon.firewall, "apply", noting("kernel", daemon.firewall.apply))
    monkeypatch.setattr(daemon.log, "event", noting("log", daemon.log.event))
    monkeypatch.setattr(daemon.fleet, "announce", noting("fleet", daemon.fleet.announce))
    monkeypatch.setattr(daemon.ledger, "fsync", noting("sync", daemon.ledger.fsync))
    monkeypatch.setattr(daemon.hooks, "run", noting("command", daemon.hooks.run))
    daemon.ask("open", "ssh", ONE.compressed)
    assert order == ["ledger", "sync", "kernel", "log", "fleet", "sync", "command"]


class Choosy:
    """Refuses every change with a certain entry."""

    def __init__(self, daemon: Watched, *refused: Element) -> None:
        self._apply, self._refused = daemon.firewall.apply, set(refused)
        daemon.firewall.apply = self.apply  # type: ignore[method-assign]

    def apply(self, changes: SetChanges) -> None:
        if self._refused & changes.put.keys():
            raise NftError("Error: refused", 17)
        self._apply(changes)


def test_one_entry_that_is_refused_costs_only_its_own_opening(daemon: Watched) -> None:
    Choosy(daemon, element("192.0.2.8 443/tcp"))
    opened = [daemon.new(address, door="web") for address in (ONE, OTHER, THIRD)]
    refusals = daemon.openings.perform(daemon.open(*opened))
    assert [refusal.change.key for refusal in refusals] == [("web", OTHER)]
    assert {entry.address for entry in daemon.has()} == {ONE, THIRD}  # neither port of the other's door
    assert daemon.shows() == [("web", "192.0.2.7"), ("web", "192.0.2.9")]
    assert daemon.ends() == {"192.0.2.7": None, "192.0.2.8": "refused", "192.0.2.9": None}
    assert daemon.logged() == ["opened 192.0.2.7", "opened 192.0.2.9"]
    assert daemon.hooks_run() == ["open 192.0.2.7", "open 192.0.2.9"]


def test_the_same_opening_twice_is_taken_back_to_what_was_there_before(daemon: Watched) -> None:
    daemon.openings.perform(daemon.open(daemon.new(ONE, 60.0)))
    Choosy(daemon, element("192.0.2.7 22/tcp"))
    daemon.openings.perform(daemon.open(daemon.new(ONE, 600.0), daemon.new(ONE, 900.0)))
    assert daemon.shows() == [("ssh", "192.0.2.7")]
    assert daemon.ends() == {"192.0.2.7": None}


def test_the_book_counts_what_each_has_open(daemon: Watched) -> None:
    wide = ip_network("10.0.0.0/8")
    for place, name, counts in (
        (ONE, "ssh", (1, 0)),
        (wide, "web", (2, 2)),
        (wide, "web", (2, 2)),
        (wide, "ssh", (3, 3)),
    ):
        daemon.table.open(daemon.new(place, door=name))
        assert (daemon.table.count("key laptop"), daemon.table.wide_count("key laptop")) == counts
    assert [each.door for each in daemon.table.enclosing(ip_network("10.1.0.0/16"))] == ["web", "ssh"]
    assert list(daemon.table.enclosing(wide)) == list(daemon.table.enclosing(ip_address("10.1.1.1"))) == []
    daemon.table.replace("web", wide, None)
    assert daemon.table.wide_count("key laptop") == 1
    daemon.table.expire(daemon.loop.now_s() + 3600)
    assert (daemon.table.count("key laptop"), daemon.table.wide_count("key laptop")) == (0, 0)


def test_a_full_set_is_not_read_back(daemon: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "OPEN_SIZE", 1)
    daemon.ask("open", "ssh", ONE.compressed)
    monkeypatch.setattr(daemon.firewall, "elements", lambda: pytest.fail("the sets were read back"))
    with raises(NftError, "nft-rejected"):
        daemon.ask("open", "ssh", OTHER.compressed)
    assert daemon.ends()["192.0.2.8"] == "refused"
    daemon.ask("close", "ssh", ONE.compressed)  # at once
    daemon.ask("open", "ssh", OTHER.compressed)
    daemon.ask("ban", address=OTHER.compressed)
    assert daemon.shows() == []


def test_openings_that_cannot_be_restored_end_and_the_others_stay(daemon: Watched) -> None:
    for address in (ONE, OTHER, THIRD):
        daemon.ask("open", "web", address.compressed)
    daemon.firewall.apply(SetChanges({}, frozenset(daemon.firewall.elements())))
    Choosy(daemon, element("192.0.2.8 80/tcp"))
    daemon.gate.trouble = fill(daemon.openings, (), "nftables rejected the change: refused")
    assert {entry.address for entry in daemon.has()} == {ONE, THIRD}
    assert daemon.ends() == {"192.0.2.7": None, "192.0.2.8": None, "192.0.2.9": None}  # its command is still owed
    assert daemon.logged()[-1] == "closed 192.0.2.8"
    assert "web to 192.0.2.8" in daemon.ask("status")["gate_trouble"]
    daemon.gate.trouble = fill(daemon.openings, (), "")
    assert daemon.ask("status")["gate_trouble"] == ""


def test_openings_of_a_port_that_leads_further_by_another_door_end(daemon: Watched) -> None:
    """They were for that port alone: not for the range that begins there, nor for the host to which it is forwarded."""
    to_ssh, to_web = (Redirect(port, HostPort(*port, THIRD)) for port in ports("22/tcp 80/tcp"))
    plain, ranged, wide = door("ssh", "22/tcp"), door("ssh", ""), door("wide", "")
    spans = (PortRange(Protocol.TCP, 22, 30),)
    for doors, stays in (
        ([plain, wide], True),
        ([ranged._replace(ranges=spans), wide], True),  # of the same door
        ([door("ssh", "23/tcp"), wide], True),  # the port leads nowhere else
        ([door("ssh", "23/tcp"), wide._replace(ranges=spans)], False),
        ([wide._replace(ranges=spans)], False),
        ([plain._replace(redirects=(to_ssh,)), wide], True),
        ([door("ssh", "23/tcp"), door("wide", "22/tcp")._replace(redirects=(to_ssh,))], False),
        ([plain, door("wide", "80/tcp")._replace(redirects=(to_web,))], True),
    ):
        daemon.openings.doors = {each.name: each for each in DOORS}
        daemon.ask("open", "ssh", ONE.compressed)
        daemon.openings.doors = {each.name: each for each in doors}
        close_reassigned(daemon.openings)
        assert (daemon.shows() != [], daemon.has() != {}) == (stays, stays), doors
    daemon.openings.doors = {each.name: each for each in DOORS}
    daemon.ask("open", "ssh", ONE.compressed)
    daemon.ask("open", "admin", ONE.compressed)
    daemon.openings.doors = {"admin": DOORS[2], "wide": wide._replace(ranges=spans)}  # not as a file may have it
    close_reassigned(daemon.openings)
    assert daemon.shows() == [("admin", "192.0.2.7")]
    assert daemon.has().keys() == {element("192.0.2.7 22/tcp"), element("192.0.2.7 80/tcp")}


def test_an_opening_of_a_reassigned_port_that_cannot_be_closed_is_reported(daemon: Watched) -> None:
    daemon.ask("open", "ssh", ONE.compressed)
    daemon.openings.doors = {"wide": door("wide", "")._replace(ranges=(PortRange(Protocol.TCP, 22, 30),))}
    daemon.firewall.stuck = True
    close_reassigned(daemon.openings)
    assert '"code": "reassigned-not-closed"' in daemon.stream.getvalue()
