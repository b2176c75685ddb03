"""What the daemon exchanges with its fleet process, and what a compromised one cannot do to it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.config.schema import EtcdOutagePolicy, Fleet, Fwknop, Signed
from doorward.core.openings import Announce
from doorward.core.signed_rules import CloseDates
from doorward.daemon.fleet_process import FleetProcess
from doorward.daemon.fleet_sync import FleetSync
from doorward.daemon.ruleset_loader import LoadResult
from doorward.fleet import protocol
from doorward.fleet.etcd_records import OpeningKey
from doorward.fleet.protocol import Claimed, Close, Closed, LogMessage, Opened, OpeningsSnapshot
from doorward.kernel.socket_writer import SocketWriter
from doorward.model import Source
from doorward.signed.authorize import ValidKnock
from tests.support.signed_daemon import SignedDaemon

HOME, CAFE = ip_address("192.0.2.7"), ip_address("198.51.100.9")
ADA, BOB, CAT = b"ada's hash..", b"bob's hash..", b"cat's hash.."
HOUR_MS = 3_600_000


class Gate(SignedDaemon):
    """A gate whose door ssh is shared, with the messages to and from its fleet process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        self.service = self.daemon.openings
        self.service.doors = {**self.service.doors, "ssh": self.daemon.doors["ssh"]._replace(shared=True)}
        self.fleet = self.sync = FleetSync(self.service, self.daemon.bans)
        self.service.listeners.append(self.sync)
        self.sync._settings = Fleet("shop", ("http://127.0.0.1:1",)), "edge-1", 60_000, folder
        self.sent: list[protocol.Message] = []
        self.start_process()

    def note_answers(self, knocks: list[ValidKnock]) -> None:
        super().note_answers([knock for knock in knocks if knock.reply is not None])

    def start_process(self) -> None:
        self.received: list[protocol.Message] = []
        process = SimpleNamespace(read=lambda: self.received.pop(0), fileno=lambda: 0, close=lambda: None)
        self.sync._child = cast(FleetProcess, process)
        writer = SimpleNamespace(write=self.note_sent, waiting=b"", close=lambda: None)
        self.sync._writer = cast(SocketWriter, writer)

    def restart_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start another process, and note what it is sent."""
        self.sent.clear()
        process, writer, loop = cast(Any, self.sync._child), self.sync._writer, self.service.loop
        process.socket = None
        monkeypatch.setattr("doorward.daemon.fleet_sync.FleetProcess", lambda *_: process)
        monkeypatch.setattr("doorward.daemon.fleet_sync.SocketWriter", lambda *_: writer)
        monkeypatch.setattr(loop, "on_readable", lambda *_: None)
        monkeypatch.setattr(loop, "unregister", lambda *_: None)
        self.sync._start()

    def note_sent(self, raw: bytes) -> None:
        message = protocol.parse(raw)
        if not isinstance(message, protocol.Recorded):
            self.sent.append(message)

    def hear(self, message: protocol.Message) -> None:
        """Receive a message from the process."""
        self.received.append(protocol.parse(protocol.pack(message)))
        self.sync._on_message()

    def knock(self, dated: int, key: bytes = ADA, source: Source = HOME, *, for_s: int | None = 600) -> ValidKnock:
        name, for_ms = key[:3].decode(), None if for_s is None else for_s * 1000
        reply: Any = "wanted"
        return ValidKnock(
            "ssh", source, for_ms, name, key, os.urandom(16), self.now_ms + dated, is_shared=True, reply=reply
        )

    def take(self, *knocks: ValidKnock, outcome: protocol.ClaimOutcome | None = "new") -> None:
        """Take knocks, which the fleet answers; `outcome` None: it does not."""
        self.signed._on_knocks(list(knocks))
        for message in [message for message in self.sent if isinstance(message, protocol.Claim)]:
            self.sent.remove(message)
            outcomes = None if outcome is None else [outcome] * len(message.knocks)
            self.hear(Claimed(message.number, outcomes, "" if outcome else "no answer"))

    def learn(self, dated: int, key: bytes | None = ADA, source: Source = HOME, for_ms: int = HOUR_MS) -> None:
        """Learn of an opening at another gate."""
        dated_ms = self.now_ms + dated if key else 0
        by, until_ms = "key ada at edge-2" if key else "hand at edge-2", round(self.service.loop.now_s() * 1000)
        self.hear(Opened([protocol.Item(self.share(key, source), until_ms + for_ms, by, for_ms, dated_ms)]))

    def share(self, key: bytes | None, source: Source = HOME) -> OpeningKey:
        return OpeningKey("ssh", source, key.hex() if key else "")

    def close(self, dated: int, key: bytes = ADA) -> Close:
        return Close(self.share(key), self.now_ms + dated, is_signed=True)

    def holders(self) -> list[str]:
        """Return who holds the door open to HOME."""
        opening = self.service.table.get("ssh", HOME)
        return [] if opening is None else sorted(share.name or share.by for share in opening.shares) or [opening.by]

    def logged(self) -> list[str]:
        return [line.get("code") or line["event"] for line in map(json.loads, self.written.getvalue().splitlines())]

    def end(self) -> None:
        self.sync._child = None
        super().end()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(tmp_path, monkeypatch)
    yield gate
    gate.end()


def test_a_fleet_process_does_not_flood_the_log(gate: Gate) -> None:
    for _ in range(1000):
        gate.hear(LogMessage("etcd-unavailable", "error", "etcd does not answer"))
    assert 50 <= len(gate.written.getvalue().splitlines()) < 100


def test_a_close_of_a_shared_door_is_claimed_in_the_fleet(gate: Gate) -> None:
    gate.take(gate.knock(1), gate.knock(1, BOB, for_s=30))
    close = gate.knock(2, for_s=None)
    gate.signed._on_knocks([close])
    assert gate.holders() == ["key ada", "key bob"]
    claim = gate.sent[-1]
    assert isinstance(claim, protocol.Claim)
    assert claim.knocks == [protocol.KnockClaim(close.id.hex(), gate.share(ADA), close.time_ms, is_close=True)]
    gate.hear(Claimed(claim.number, ["new"], ""))
    assert gate.holders() == ["key bob"]
    assert gate.answered == ["ada", "bob", "ada"]
    assert Closed not in map(type, gate.sent)  # the claim is the announcement


def test_a_close_for_one_gate_alone_of_a_shared_door_is_claimed_in_the_fleet(gate: Gate) -> None:
    gate.take(gate.knock(1)._replace(is_shared=False))
    gate.signed._on_knocks([gate.knock(2, for_s=None)._replace(is_shared=False)])
    assert [type(message) for message in gate.sent] == [Opened, protocol.Claim]


def test_a_knock_that_the_fleet_knows_as_closed_is_rejected(gate: Gate) -> None:
    gate.take(gate.knock(1), outcome="closed")
    gate.take(gate.knock(1), outcome="used")
    assert (gate.holders(), gate.signed.counts) == ([], {"closed": 1, "used": 1})


def test_a_close_at_another_gate_ends_only_what_its_signer_opened_before(gate: Gate) -> None:
    gate.take(gate.knock(1), gate.knock(1, BOB))
    gate.learn(1)
    gate.learn(0, None)
    assert gate.holders() == ["hand at edge-2", "key ada", "key ada at edge-2", "key bob"]
    gate.hear(Closed([gate.close(0), gate.close(5, b"eve's hash..")]))
    assert len(gate.holders()) == 4
    gate.take(gate.knock(3))
    gate.hear(Closed([gate.close(2)]))
    assert gate.holders() == ["hand at edge-2", "key ada", "key bob"]
    gate.hear(Closed([gate.close(3)]))
    assert gate.holders() == ["hand at edge-2", "key bob"]
    gate.hear(Closed([Close(gate.share(None))]))  # by hand, of what no signed knock opened
    assert gate.holders() == ["key bob"]
    assert [type(message) for message in gate.sent] == [Opened, Opened]  # nothing of all that is announced back


def test_an_open_that_comes_after_a_later_close_at_another_gate_is_rejected(gate: Gate) -> None:
    gate.hear(Closed([gate.close(5)]))
    gate.take(gate.knock(5))
    gate.take(gate.knock(4)._replace(is_shared=False))  # for this gate alone
    gate.learn(5)
    assert (gate.holders(), gate.signed.counts) == ([], {"closed": 2})
    gate.take(gate.knock(6))
    gate.learn(6, source=CAFE)
    assert gate.holders() == ["key ada"]


def test_closes_from_the_fleet_do_not_reach_doors_that_are_not_shared(gate: Gate) -> None:
    many = [Close(OpeningKey("ssh", HOME, f"{number:024x}"), gate.now_ms + 50_000, True) for number in range(600)]
    for some in protocol.batches(many):
        gate.hear(Closed(some))
    gate.take(gate.knock(1))  # more signers than are remembered: for shared doors the oldest close counts for all
    gate.take(gate.knock(1)._replace(is_shared=False, door="web"))
    assert gate.daemon.shows() == [("web", "192.0.2.7")]
    assert gate.daemon.ledger.seen.closes.last(ADA.hex(), "ssh", HOME) == -1


def test_a_forged_close_in_the_far_future_locks_nobody_out(gate: Gate) -> None:
    gate.take(gate.knock(1))
    gate.hear(Closed([gate.close(150_000)]))
    assert gate.holders() == []
    gate.take(gate.knock(2))
    assert gate.holders() == ["key ada"]


def test_an_opening_dated_so_late_that_no_close_would_end_it_is_not_opened(gate: Gate) -> None:
    gate.learn(150_000)
    assert gate.holders() == []


@pytest.mark.parametrize("policy", ["closed", "local"])
def test_without_an_answer_a_close_counts_here_and_is_announced_later(gate: Gate, policy: str) -> None:
    gate.take(gate.knock(1), gate.knock(1, BOB))
    gate.sync._settings = Fleet("shop", (), policy=EtcdOutagePolicy(policy)), "edge-1", 60_000, Path()
    gate.sent.clear()
    gate.answered.clear()
    gate.take(gate.knock(3, CAT, CAFE), gate.knock(2, for_s=None), outcome=None)
    assert gate.holders() == ["key bob"]
    assert gate.answered == ([] if policy == "closed" else ["cat"])  # not the close: other gates have it open
    assert [message for message in gate.sent if isinstance(message, Closed)] == [Closed([gate.close(2)])]
    assert "fleet-close-local" in gate.logged()
    gate.learn(1)  # what etcd still has
    assert gate.holders() == ["key bob"]


def test_a_close_without_a_process_is_in_the_next_snapshot(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.take(gate.knock(1))
    gate.sync._child = None
    gate.take(gate.knock(2, for_s=None))
    assert gate.holders() == []
    gate.start_process()
    gate.restart_process(monkeypatch)
    assert gate.sent == [OpeningsSnapshot([], [gate.close(2)], is_last=True)]


def test_closes_that_a_process_did_not_read_are_in_the_next_snapshot(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may end at its start, as long as a file of [fleet] is missing; the fleet would open again what was closed."""
    gate.sync._child = None
    gate.daemon.ask("open", "ssh", "192.0.2.7")
    gate.daemon.ask("close", "ssh", "192.0.2.7")
    gate.start_process()
    closed = [Close(gate.share(None))]
    for _ in range(2):
        gate.restart_process(monkeypatch)
        assert gate.sent == [OpeningsSnapshot([], closed, is_last=True)]
    gate.sent.clear()
    gate.daemon.ask("open", "ssh", str(CAFE))
    gate.daemon.ask("close", "ssh", str(CAFE))
    closed.append(Close(gate.share(None, CAFE)))
    assert gate.sent[1:] == [Closed(closed[1:])]
    gate.restart_process(monkeypatch)
    assert gate.sent == [OpeningsSnapshot([], closed, is_last=True)]
    gate.sent.clear()
    gate.hear(protocol.State(True, 0, 2, 1))
    assert gate.sent == []
    gate.restart_process(monkeypatch)
    assert gate.sent == [OpeningsSnapshot([], [], is_last=True)]


def test_closes_that_wait_for_a_process_are_bounded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.daemon.fleet_sync._MOST_CLOSES", 2)
    gate.sync._child = None
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    for address in addresses:
        gate.daemon.ask("open", "ssh", address)
        gate.daemon.ask("close", "ssh", address)
    gate.start_process()
    gate.restart_process(monkeypatch)
    closed = [Close(gate.share(None, ip_address(address))) for address in addresses[1:]]
    assert gate.sent == [OpeningsSnapshot([], closed, is_last=True)]


def test_a_close_that_the_last_process_did_not_announce_is_in_the_next_snapshot(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.hear(protocol.State(True, 0, 0, 1))
    gate.take(gate.knock(3, BOB, for_s=None), gate.knock(2, for_s=None), outcome=None)
    gate.take(gate.knock(4, BOB), gate.knock(5, CAT, for_s=None)._replace(is_shared=False, door="web"))
    gate.daemon.ask("close", "ssh", "192.0.2.7")
    forged = [("x", "ssh", str(HOME), 9), (ADA.hex(), "ssh", "\udcff", 9), (ADA.hex(), "", "", 9)]
    gate.daemon.ledger.seen.closes = CloseDates([*gate.daemon.ledger.seen.closes.rows(), *forged])
    gate.restart_process(monkeypatch)
    assert gate.sent == [OpeningsSnapshot([], [gate.close(2), gate.close(3, BOB)], is_last=True)]


def test_close_by_hand_announces_each_share(gate: Gate) -> None:
    gate.daemon.ask("open", "ssh", "192.0.2.7")
    gate.take(gate.knock(1), gate.knock(2, BOB))
    gate.learn(3, BOB)
    gate.sent.clear()
    gate.daemon.ask("close", "ssh", "192.0.2.7")
    ada, bob = Close(gate.share(ADA), gate.now_ms + 1), Close(gate.share(BOB), gate.now_ms + 3)
    assert gate.sent == [Closed([ada, bob, Close(gate.share(None))])]


def test_what_was_opened_again_is_announced_after_its_close(gate: Gate) -> None:
    gate.daemon.ask("open", "ssh", "192.0.2.7")
    opening = gate.service.table.get("ssh", HOME)
    assert opening is not None
    opened = [effect for effect in gate.sent if isinstance(effect, Opened)]
    gate.sent.clear()
    begin, end = Announce(opening.key, "opened", opening, "hand"), Announce(opening.key, "closed", opening, "hand")
    gate.sync.announce([end, begin])
    assert gate.sent == [Closed([Close(gate.share(None))]), *opened]
    gate.sent.clear()
    gate.sync.announce([begin, end])
    assert gate.sent == [Closed([Close(gate.share(None))])]


def test_shares_of_the_fleet_use_up_no_quota_of_a_key(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.daemon.signed_knocks.MAX_OPENINGS_PER_KEY", 2)
    for number in range(4):
        gate.learn(1, source=ip_address(f"192.0.2.{10 + number}"))
    gate.take(gate.knock(2), gate.knock(2, source=CAFE))
    assert len(gate.daemon.shows()) == 6
    assert gate.service.table.count(ADA.hex()) == 2


def test_used_packets_are_known_for_the_longest_window(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fwknop's clients they are accepted for longer than signed knocks."""
    windows = list[int]()
    monkeypatch.setattr(FleetSync, "_start", lambda self: windows.append(self._settings[2]))
    for fwknop in (None, Fwknop()):
        gate_table = SimpleNamespace(name="one")
        loaded = SimpleNamespace(fleet=Fleet("home", ()), gate=gate_table, signed=Signed(), fwknop=fwknop)
        gate.sync.configure(cast(LoadResult, loaded), Path())
    assert windows == [60_000, 120_000]
