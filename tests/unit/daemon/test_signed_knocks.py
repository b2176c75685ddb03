"""Opens and closes from the verifier, and what a compromised one cannot do to the daemon."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.core.signed_rules import MAX_HOLDERS
from doorward.daemon import replay_cache, verifier_supervisor
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.signed_knocks import SignedKnocks
from doorward.daemon.verifier import REJECTIONS_AT_ONCE, Verifier
from doorward.daemon.verifier_report import Rejection, VerifierReady, VerifierReport
from doorward.model import Source
from doorward.signed.authorize import FWKNOP, KnockRejection, ValidKnock
from tests.support.in_process_daemon import InProcessDaemon
from tests.support.openings import element
from tests.support.signed_daemon import SignedDaemon

HOME, CAFE = ip_address("192.0.2.7"), ip_address("198.51.100.9")
ADA, BOB = b"ada's hash..", b"bob's hash.."
E22 = element("192.0.2.7 22/tcp")
REPORT = VerifierReport(
    [], [Rejection(ip_address("192.0.2.7"), KnockRejection("key", "unknown key"))] * 40, {"key": 40}
)


class Site(SignedDaemon):
    """A daemon whose verifier sends the knocks that a test wants."""

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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path, monkeypatch)
    yield site
    site.end()


def test_a_close_ends_its_signers_opening_and_later_opens_count(site: Site) -> None:
    assert site.take(site.open(1)) == ["opened", "answered ada"]
    assert site.take(site.close(2)) == ["closed", "answered ada"]
    assert (site.daemon.shows(), site.daemon.has()) == ([], {})
    assert site.take(site.open(2)) == ["refused"]
    assert site.signed.counts == {"closed": 1}
    assert site.take(site.open(3)) == ["opened", "answered ada"]
    assert site.daemon.openings_recorded() == [("ssh", "192.0.2.7", "key ada"), ("ssh", "192.0.2.7", None)]


def test_a_close_that_finds_nothing_is_logged_and_remembered(site: Site) -> None:
    assert site.take(site.close(5)) == ["not_open"]
    assert site.take(site.open(5)) == ["refused"]
    site.take(site.open(6))
    assert site.take(site.close(4)) == ["not_open"]
    assert site.daemon.shows() == [("ssh", "192.0.2.7")]


def test_a_close_touches_nothing_of_others(site: Site) -> None:
    site.take(site.open(1), site.open(1, "bob", for_s=30), site.open(1, source=CAFE), site.open(1, door="web"))
    site.daemon.ask("open", "ssh", "192.0.2.9")
    assert site.take(site.close(2)) == ["released", "answered ada"]
    assert [round(left_s) for entry, left_s in site.daemon.has().items() if entry == E22] == [30]
    assert len(site.daemon.shows()) == 4
    assert site.take(site.close(3, "bob")) == ["closed", "answered bob"]
    assert sorted(site.daemon.shows()) == [("ssh", "192.0.2.9"), ("ssh", "198.51.100.9"), ("web", "192.0.2.7")]


def test_two_keys_of_one_name_are_two_signers(site: Site) -> None:
    site.take(site.open(1))
    assert site.take(site.close(2)._replace(signer=BOB)) == ["not_open"]


def test_in_a_batch_the_order_of_arrival_counts(site: Site) -> None:
    assert site.take(site.close(2), site.open(1)) == ["refused", "not_open"]
    assert site.take(site.open(3), site.close(4), site.open(3), site.open(5))[-3:] == ["answered ada"] * 3
    assert site.daemon.shows() == [("ssh", "192.0.2.7")]
    assert site.daemon.has().keys() == {E22}


def test_a_close_that_the_kernel_refuses_is_not_answered(site: Site) -> None:
    site.take(site.open(1))
    site.daemon.firewall.stuck = True
    assert site.take(site.close(2)) == ["refused"]
    assert site.daemon.shows() == [("ssh", "192.0.2.7")]


def test_after_a_close_by_hand_an_older_knock_opens_nothing(site: Site) -> None:
    site.take(site.open(0))
    site.daemon.ask("close", "ssh", "192.0.2.7")
    assert site.take(site.open(1)) == ["refused"]
    assert site.take(site.open(2000)) == ["opened", "answered ada"]


def test_after_a_close_by_hand_an_older_packet_of_fwknop_opens_no_door_of_it(site: Site) -> None:
    packets = [site.open(dated)._replace(kind=FWKNOP, also=("web",)) for dated in (0, 1)]
    assert site.take(packets[0]) == ["opened", "opened", "answered ada", "answered ada"]
    site.daemon.ask("close", "web", "192.0.2.7")
    assert site.take(packets[1]) == ["refused", "prolonged", "answered ada"]
    assert site.daemon.shows() == [("ssh", "192.0.2.7")]


def test_packet_of_fwknop_opens_nothing_if_any_of_its_doors_cannot_open_so(site: Site) -> None:
    """A door for one connection does not open to a network, whether it is the packet's first or not."""
    doors = site.daemon.openings.doors
    site.daemon.openings.doors = {**doors, "web": doors["web"]._replace(once=True)}
    several = site.open(1, source=ip_network("192.0.2.0/24"))._replace(kind=FWKNOP, also=("web",))
    assert site.take(several, several._replace(door="web", also=("ssh",))) == ["refused", "refused"]
    assert site.daemon.shows() == []
    assert site.take(several._replace(also=())) == ["opened", "answered ada"]


def test_a_close_that_was_claimed_before_a_kill_is_finished(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.take(site.open(1), site.open(1, "bob", source=CAFE))
    monkeypatch.setattr(site.signed, "_apply", lambda _: None)  # the kill
    assert site.take(site.close(2), site.close(0, "bob", CAFE)) == []
    folder = site.daemon.ledger.path.parent
    with pytest.MonkeyPatch.context() as patch:
        again = Site(folder, patch)
        assert again.daemon.shows() == [("ssh", "198.51.100.9")]
        assert again.daemon.openings_recorded()[0] == ("ssh", "192.0.2.7", "key ada")
        again.end()


def test_a_knock_that_completed_before_a_close_reads_the_sets_back(site: Site) -> None:
    site.take(site.open(1))
    assert not site.daemon.openings.were_removed([E22])
    site.take(site.close(2))
    assert site.daemon.openings.were_removed([E22])


def test_a_gate_without_a_fleet_closes_a_shared_door_alone(site: Site) -> None:
    site.daemon.openings.doors = {"ssh": site.daemon.doors["ssh"]._replace(shared=True)}
    assert site.take(site.open(1)._replace(is_shared=True)) == ["refused"]  # verified before the gate left the fleet
    assert site.signed.counts == {"fleet": 1}
    site.take(site.open(1))
    assert site.take(site.close(2)._replace(is_shared=True)) == ["closed", "answered ada"]
    assert site.daemon.shows() == []


def test_holders_of_one_opening_are_bounded(site: Site) -> None:
    knocks = [site.open(1, f"key{number}") for number in range(MAX_HOLDERS + 1)]
    assert site.take(*knocks).count("refused") == 1
    assert site.signed.counts == {"quota": 1}
    assert site.take(site.open(2, "key0")) == ["prolonged", "answered key0"]


def test_a_knock_for_a_door_that_a_reload_removed_is_rejected(site: Site) -> None:
    assert site.take(site.open(1, door="gone"), site.close(2, door="gone"), site.open(1)) == [
        *("refused", "refused", "opened"),
        "answered ada",
    ]
    assert site.signed.counts == {"door": 2}


def test_a_key_that_knocks_without_end_does_not_use_up_the_replay_cache(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dated ahead, its knocks would soon be all that the replay cache has, and those of others too old for it."""
    monkeypatch.setattr(replay_cache, "KEPT_ROWS", 40)
    monkeypatch.setattr(replay_cache, "MAX_CLAIMS_PER_SIGNER", 10)
    monkeypatch.setattr(replay_cache, "_FORGET_EVERY", 1)
    site.signed._quotas = replay_cache.claim_quotas(60_000)
    for _ in range(5):
        site.take(*(site.open(59_000) for _ in range(10)))
    assert site.signed.counts == {"quota": 40}
    assert site.take(site.open(0, "bob", CAFE)) == ["opened", "answered bob"]


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


def test_rejections_do_not_delay_a_knock(site: Site) -> None:
    site.signed._on_reports([REPORT, VerifierReport([site.open(1)], [], {})])
    logged = [json.loads(line)["event"] for line in site.written.getvalue().splitlines()]
    assert logged == ["opened"] + ["refused"] * 40
    assert site.signed.counts == {"key": 40}


def test_what_a_verifier_took_before_it_was_replaced_still_opens(site: Site) -> None:
    ends = socket.socketpair()
    replaced, successor = (SimpleNamespace(fileno=end.fileno, close=end.close) for end in ends)
    for end in ends:
        site.daemon.loop.on_readable(end.fileno(), lambda: None)
    replaced.finish = lambda: iter([VerifierReport([site.open(1)], [], {})])
    successor.read = lambda: VerifierReady([], "")
    site.signed._verifiers._verifier, site.signed._verifiers._next = cast(Any, (replaced, successor))
    site.signed._verifiers._on_candidate_ready()
    assert [json.loads(line)["event"] for line in site.written.getvalue().splitlines()] == ["opened", "message"]
    assert site.signed._verifiers.is_ready


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
