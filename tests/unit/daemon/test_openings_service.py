"""What is recorded and cannot be applied: it is taken back, and nothing is logged, announced or run for it, ever."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from doorward.core.diff import SetChanges
from doorward.daemon.hooks import HookRun
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.repairs import fill, settle_each
from doorward.errors import DoorwardError, HostError
from doorward.model import Element, Opening, Place
from doorward.nftables import fake
from doorward.nftables.nft_error import NftError
from tests.support.errors import raises
from tests.support.inside_daemon import InsideDaemon
from tests.support.openings import element

ONE, OTHER, THIRD = map(ip_address, ("192.0.2.7", "192.0.2.8", "192.0.2.9"))


class Announced:
    """A fleet that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._waiting: list[str] = []

    def opened(self, opening: Opening, _: str) -> None:
        self._waiting.append(f"opened {opening.address}")

    def ended(self, opening: Opening, _: str) -> None:
        self._waiting.append(f"closed {opening.address}")

    def knock_rejected(self, *_: object) -> None:
        pass

    def flush(self) -> None:
        self.heard += self._waiting
        self._waiting.clear()


class Watched(InsideDaemon):
    """Everything that is logged, announced or run, in one list and in its order."""

    def __init__(self, folder: Path) -> None:
        self.stream = io.StringIO()
        super().__init__(Ledger(folder / "ledger.sqlite3"), Log("json", self.stream))
        self.announced = Announced()
        self.openings.listeners.append(self.announced)
        self.ran: list[HookRun] = []
        self.hooks.has_command = lambda errand: True  # type: ignore[method-assign]
        self.hooks.run = self.ran.append  # type: ignore[method-assign,assignment]

    def logged(self) -> list[str]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [f"{line['event']} {line['address']}" for line in lines if line["event"] != "message"]

    def hooks_run(self) -> list[str]:
        return [f"{errand.what} {errand.address}" for errand in self.ran]

    def ends(self) -> dict[str, object]:
        """Return how the last opening of each address ended, in the ledger."""
        return {str(address): ended for _, address, ended in self.recorded()}

    def new(self, address: Place, for_s: float = 60.0, door: str = "ssh") -> Opening:
        now_s = self.loop.now_s()
        return Opening(door, address, self.doors[door].opens, now_s, now_s + for_s, "key laptop")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Watched]:
    daemon = Watched(tmp_path)
    yield daemon
    daemon.close()


def fail() -> None:
    raise HostError("nft-rejected", "nftables refused")


def test_an_opening_that_cannot_be_applied_leaves_nothing_behind(daemon: Watched) -> None:
    with pytest.raises(HostError), daemon.openings.recording(fail):
        daemon.openings.record_opening(daemon.new(ONE))
    assert (daemon.shows(), daemon.has(), daemon.ends()) == ([], {}, {"192.0.2.7": "refused"})
    daemon.ask("open", "ssh", OTHER.compressed)  # an unrelated call
    assert daemon.logged() == daemon.announced.heard == ["opened 192.0.2.8"]
    assert daemon.hooks_run() == ["open 192.0.2.8"]


def test_a_longer_end_that_cannot_be_applied_leaves_the_one_before(daemon: Watched) -> None:
    with daemon.openings.recording():
        daemon.openings.record_opening(daemon.new(ONE, 60.0))
    (before,) = daemon.ledger.active()
    with pytest.raises(HostError), daemon.openings.recording(fail):  # noqa: PT012
        daemon.openings.record_opening(daemon.new(ONE, 3600.0, "ssh"))
        daemon.openings.record_opening(daemon.new(ONE, 7200.0, "ssh"))
    (after,) = daemon.ledger.active()
    assert after.until_s == pytest.approx(before.until_s, abs=0.01)
    assert daemon.logged() == ["opened 192.0.2.7"]
    assert daemon.table.count("key laptop") == 1


def test_what_is_recorded_while_another_is_applied_is_done_apart(daemon: Watched) -> None:
    def repair_then_fail() -> None:
        with daemon.openings.recording():  # as a repair does, when nftables is found changed
            daemon.openings.record_opening(daemon.new(OTHER))
        fail()

    with pytest.raises(HostError), daemon.openings.recording(repair_then_fail):
        daemon.openings.record_opening(daemon.new(ONE))
    assert daemon.logged() == daemon.announced.heard == ["opened 192.0.2.8"]
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
    monkeypatch.setattr(daemon.log, "opening", noting("log", daemon.log.opening))
    monkeypatch.setattr(daemon.announced, "flush", noting("fleet", daemon.announced.flush))
    monkeypatch.setattr(daemon.hooks, "run", noting("command", daemon.hooks.run))
    daemon.ask("open", "ssh", ONE.compressed)
    assert order == ["ledger", "kernel", "log", "fleet", "command"]


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
    failed: list[Place] = []

    def refused(opening: Opening, _: DoorwardError) -> None:
        failed.append(opening.address)
        daemon.openings.pending.take_back((opening.door, opening.address))

    with daemon.openings.recording(
        lambda: settle_each(daemon.openings, opened, daemon.openings.pending.prolongs, refused)
    ):
        for new in opened:
            daemon.openings.record_opening(new)
    assert failed == [OTHER]
    assert {entry.address for entry in daemon.has()} == {ONE, THIRD}  # neither port of the other's door
    assert daemon.shows() == [("web", "192.0.2.7"), ("web", "192.0.2.9")]
    assert daemon.ends() == {"192.0.2.7": None, "192.0.2.8": "refused", "192.0.2.9": None}
    assert daemon.logged() == ["opened 192.0.2.7", "opened 192.0.2.9"]
    assert daemon.hooks_run() == ["open 192.0.2.7", "open 192.0.2.9"]


def test_the_same_opening_twice_is_taken_back_to_what_was_there_before(daemon: Watched) -> None:
    with daemon.openings.recording():
        daemon.openings.record_opening(daemon.new(ONE, 60.0))
    Choosy(daemon, element("192.0.2.7 22/tcp"))
    opened = [daemon.new(ONE, 600.0), daemon.new(ONE, 900.0)]

    def refused(opening: Opening, _: DoorwardError) -> None:
        daemon.openings.pending.take_back((opening.door, opening.address))

    with daemon.openings.recording(
        lambda: settle_each(daemon.openings, opened, daemon.openings.pending.prolongs, refused)
    ):
        for new in opened:
            daemon.openings.record_opening(new)
    assert daemon.shows() == [("ssh", "192.0.2.7")]
    assert daemon.ends() == {"192.0.2.7": None}


def test_the_book_counts_what_each_has_open(daemon: Watched) -> None:
    wide = ip_network("10.0.0.0/8")
    for place, door, counts in (
        (ONE, "ssh", (1, 0)),
        (wide, "web", (2, 2)),
        (wide, "web", (2, 2)),
        (wide, "ssh", (3, 3)),
    ):
        daemon.table.open(daemon.new(place, door=door))
        assert (daemon.table.count("key laptop"), daemon.table.wide_count("key laptop")) == counts
    assert [each.door for each in daemon.table.enclosing(ip_network("10.1.0.0/16"))] == ["web", "ssh"]
    assert list(daemon.table.enclosing(wide)) == list(daemon.table.enclosing(ip_address("10.1.1.1"))) == []
    daemon.table.restore("web", wide, None)
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
