"""Opens and closes from the verifier, and what a compromised one cannot do to the daemon."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.core.signed_rules import MAX_HOLDERS
from doorward.daemon import replay_cache, verifier_supervisor
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.replay_cache import PacketId
from doorward.daemon.signed_knocks import SignedKnocks
from doorward.daemon.verifier import REJECTIONS_AT_ONCE, Rejection, Verifier, VerifierReport
from doorward.model import Source
from doorward.signed.authorize import KnockRejection, ValidKnock
from tests.support.in_process_daemon import InProcessDaemon
from tests.support.openings import element

HOME, CAFE = ip_address("192.0.2.7"), ip_address("198.51.100.9")
ADA, BOB = b"ada's hash..", b"bob's hash.."
E22 = element("192.0.2.7 22/tcp")
REPORT = VerifierReport(
    [], [Rejection(ip_address("192.0.2.7"), KnockRejection("key", "unknown key"))] * 40, {"key": 40}
)


class Desk:
    """A daemon whose verifier sends the knocks that a test wants, dated in milliseconds after a moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
        self.written = io.StringIO()
        self.daemon = InProcessDaemon(Ledger(folder / "ledger.sqlite3"), Log("json", self.written))
        self.daemon.openings.perform(self.daemon.openings.restore())
        self.signed = SignedKnocks(self.daemon.openings, self.daemon.bans, lambda: None, 60_000)
        self.answered: list[str] = []
        monkeypatch.setattr(self.signed, "_applied", lambda knocks: self.answered.extend(k.key for k in knocks))
        self.now_ms = round(time.time() * 1000)

    def open(
        self, dated: int, key: str = "ada", source: Source = HOME, door: str = "ssh", for_s: int = 600
    ) -> ValidKnock:
        signer, number = self.signer(key), os.urandom(16)
        return ValidKnock(door, source, for_s * 1000, key, signer, number, self.now_ms + dated)

    def close(self, dated: int, key: str = "ada", source: Source = HOME, door: str = "ssh") -> ValidKnock:
        return ValidKnock(door, source, None, key, self.signer(key), os.urandom(16), self.now_ms + dated)

    def signer(self, key: str) -> bytes:
        return {"ada": ADA, "bob": BOB}.get(key, key.encode().ljust(12)[:12])

    def take(self, *knocks: ValidKnock) -> list[str]:
        """Take knocks that came together; return what was logged, and who was answered."""
        self.written.truncate(0)
        self.written.seek(0)
        self.answered.clear()
        reports: list[VerifierReport | None] = [VerifierReport(list(knocks), [], {}), None]
        verifier: Any = SimpleNamespace(read=lambda: reports.pop(0))
        self.signed._verifiers._verifier = cast(Verifier, verifier)
        self.signed._verifiers._on_report()
        self.signed._verifiers._verifier = None
        logged = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [*(line["event"] for line in logged), *(f"answered {key}" for key in self.answered)]

    def end(self) -> None:
        """End as a kill does: nothing is said to anybody."""
        self.signed.close()
        self.daemon.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(tmp_path, monkeypatch)
    yield desk
    desk.end()


def test_a_close_ends_its_signers_opening_and_later_opens_count(desk: Desk) -> None:
    assert desk.take(desk.open(1)) == ["opened", "answered ada"]
    assert desk.take(desk.close(2)) == ["closed", "answered ada"]
    assert (desk.daemon.shows(), desk.daemon.has()) == ([], {})
    assert desk.take(desk.open(2)) == ["refused"]
    assert desk.signed.counts == {"closed": 1}
    assert desk.take(desk.open(3)) == ["opened", "answered ada"]
    assert desk.daemon.openings_recorded() == [("ssh", "192.0.2.7", "key ada"), ("ssh", "192.0.2.7", None)]


def test_a_close_that_finds_nothing_is_logged_and_remembered(desk: Desk) -> None:
    assert desk.take(desk.close(5)) == ["not_open"]
    assert desk.take(desk.open(5)) == ["refused"]
    desk.take(desk.open(6))
    assert desk.take(desk.close(4)) == ["not_open"]
    assert desk.daemon.shows() == [("ssh", "192.0.2.7")]


def test_a_close_touches_nothing_of_others(desk: Desk) -> None:
    desk.take(desk.open(1), desk.open(1, "bob", for_s=30), desk.open(1, source=CAFE), desk.open(1, door="web"))
    desk.daemon.ask("open", "ssh", "192.0.2.9")
    assert desk.take(desk.close(2)) == ["released", "answered ada"]
    assert [round(left_s) for entry, left_s in desk.daemon.has().items() if entry == E22] == [30]
    assert len(desk.daemon.shows()) == 4
    assert desk.take(desk.close(3, "bob")) == ["closed", "answered bob"]
    assert sorted(desk.daemon.shows()) == [("ssh", "192.0.2.9"), ("ssh", "198.51.100.9"), ("web", "192.0.2.7")]


def test_two_keys_of_one_name_are_two_signers(desk: Desk) -> None:
    desk.take(desk.open(1))
    assert desk.take(desk.close(2)._replace(signer=BOB)) == ["not_open"]


def test_in_a_batch_the_order_of_arrival_counts(desk: Desk) -> None:
    assert desk.take(desk.close(2), desk.open(1)) == ["refused", "not_open"]
    assert desk.take(desk.open(3), desk.close(4), desk.open(3), desk.open(5))[-3:] == ["answered ada"] * 3
    assert desk.daemon.shows() == [("ssh", "192.0.2.7")]
    assert desk.daemon.has().keys() == {E22}


def test_a_close_that_the_kernel_refuses_is_not_answered(desk: Desk) -> None:
    desk.take(desk.open(1))
    desk.daemon.firewall.stuck = True
    assert desk.take(desk.close(2)) == ["refused"]
    assert desk.daemon.shows() == [("ssh", "192.0.2.7")]


def test_after_a_close_by_hand_an_older_knock_opens_nothing(desk: Desk) -> None:
    desk.take(desk.open(0))
    desk.daemon.ask("close", "ssh", "192.0.2.7")
    assert desk.take(desk.open(1)) == ["refused"]
    assert desk.take(desk.open(2000)) == ["opened", "answered ada"]


def test_a_close_that_was_claimed_before_a_kill_is_finished(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.take(desk.open(1), desk.open(1, "bob", source=CAFE))
    monkeypatch.setattr(desk.signed, "_apply", lambda _: None)  # the kill
    assert desk.take(desk.close(2), desk.close(0, "bob", CAFE)) == []
    folder = desk.daemon.ledger.path.parent
    with pytest.MonkeyPatch.context() as patch:
        again = Desk(folder, patch)
        assert again.daemon.shows() == [("ssh", "198.51.100.9")]
        assert again.daemon.openings_recorded()[0] == ("ssh", "192.0.2.7", "key ada")
        again.end()


def test_a_knock_that_completed_before_a_close_reads_the_sets_back(desk: Desk) -> None:
    desk.take(desk.open(1))
    assert not desk.daemon.openings.were_removed([E22])
    desk.take(desk.close(2))
    assert desk.daemon.openings.were_removed([E22])


def test_a_shared_door_is_closed_by_no_knock(desk: Desk) -> None:
    desk.daemon.openings.doors = {"ssh": desk.daemon.doors["ssh"]._replace(shared=True)}
    desk.take(desk.open(1))
    close = desk.close(2)
    assert desk.take(close) == ["refused"]
    assert desk.signed.counts == {"close-unsupported": 1}
    assert desk.daemon.ledger.seen.claim([PacketId(close.id, close.time_ms)]) == [""]  # it was not claimed
    assert desk.daemon.shows() == [("ssh", "192.0.2.7")]


def test_holders_of_one_opening_are_bounded(desk: Desk) -> None:
    knocks = [desk.open(1, f"key{number}") for number in range(MAX_HOLDERS + 1)]
    assert desk.take(*knocks).count("refused") == 1
    assert desk.signed.counts == {"quota": 1}
    assert desk.take(desk.open(2, "key0")) == ["prolonged", "answered key0"]


def test_a_knock_for_a_door_that_a_reload_removed_is_rejected(desk: Desk) -> None:
    assert desk.take(desk.open(1, door="gone"), desk.close(2, door="gone"), desk.open(1)) == [
        *("refused", "refused", "opened"),
        "answered ada",
    ]
    assert desk.signed.counts == {"door": 2}


def test_a_key_that_knocks_without_end_does_not_use_up_the_replay_cache(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dated ahead, its knocks would soon be all that the replay cache has, and those of others too old for it."""
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 40)
    monkeypatch.setattr(replay_cache, "MAX_CLAIMS_PER_SIGNER", 10)
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    desk.signed._quotas = replay_cache.claim_quotas(60_000)
    for _ in range(5):
        desk.take(*(desk.open(59_000) for _ in range(10)))
    assert desk.signed.counts == {"quota": 40}
    assert desk.take(desk.open(0, "bob", CAFE)) == ["opened", "answered bob"]


class Endless:
    """A verifier that always has another report."""

    reads = 0

    def read(self) -> VerifierReport:
        self.reads += 1
        assert self.reads < 1000
        return REPORT


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[InProcessDaemon]:
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    yield daemon
    daemon.close()


def test_rejections_do_not_delay_a_knock(desk: Desk) -> None:
    desk.signed._on_reports([REPORT, VerifierReport([desk.open(1)], [], {})])
    logged = [json.loads(line)["event"] for line in desk.written.getvalue().splitlines()]
    assert logged == ["opened"] + ["refused"] * 40
    assert desk.signed.counts == {"key": 40}


def test_a_verifier_that_sends_without_a_pause_holds_up_nobody(
    daemon: InProcessDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000)
    verifier: Any = Endless()
    signed._verifiers._verifier = cast(Verifier, verifier)
    signed._verifiers._on_report()
    assert signed.counts == {"key": 40 * verifier.reads}  # all are counted
    records = list(read_records(daemon.ledger.path, 0, 10_000))
    assert 2 * REJECTIONS_AT_ONCE <= len(records) < 4 * REJECTIONS_AT_ONCE  # some are recorded
    signed._verifiers._verifier = None
    signed.close()
