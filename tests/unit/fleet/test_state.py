"""The table of shared openings: events of one gate, and a model of three gates with events in any order."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from doorward.fleet import state
from doorward.fleet.etcd_records import OpeningKey
from doorward.fleet.state import (
    END_TOLERANCE_MS,
    CloseHere,
    Effect,
    OpenHere,
    OpeningState,
    PublishOpening,
    SeenOpening,
    SharedOpeningTable,
)

SSH = OpeningKey("ssh", ip_address("192.0.2.7"))
HOUR = 3_600_000


def found(revision: int, left_ms: int = HOUR, gate: str = "b", by: str = "knock") -> SeenOpening:
    return SeenOpening(SSH, revision, gate, by, left_ms, HOUR)


def test_local_opening_is_published_once() -> None:
    here = SharedOpeningTable("a")
    assert here.on_opened(SSH, HOUR, "knock", 0) == [PublishOpening(SSH)]
    here.on_written(SSH, 5, HOUR)
    assert not here.owes(SSH, 0)
    assert here.on_put(found(5, gate="a"), 0) == []  # the watch reports it, too
    assert here.on_opened(SSH, HOUR, "knock", 0) == []
    assert here.on_opened(SSH, 2 * HOUR, "knock", 0) == [PublishOpening(SSH)]


def test_close_at_another_gate_counts_before_the_answer_to_this_gates_write() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(SSH, HOUR, "knock", 0)
    assert here.on_put(found(5, gate="a"), 0) == []
    assert here.on_deleted(SSH, 6, 10) == [CloseHere(SSH)]
    here.on_written(SSH, 5, HOUR)
    assert here.get(SSH) is None


def test_opening_that_was_extended_since_this_gates_write_is_still_published() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(SSH, HOUR, "knock", 0)
    here.on_opened(SSH, 2 * HOUR, "knock", 0)
    assert here.on_put(found(5, gate="a"), 0) == []
    assert here.on_deleted(SSH, 6, 10) == []
    assert here.owes(SSH, 10)


def test_remote_opening_is_applied_and_not_published() -> None:
    here = SharedOpeningTable("a")
    assert here.on_put(found(5), 0) == [OpenHere(SSH, HOUR, "knock at b", HOUR)]
    assert here.on_put(found(5), 0) == here.on_put(found(4), 0) == []
    assert here.owed(0) == []
    assert here.on_put(found(6, HOUR // 2), 0) == []  # shortens nothing
    assert here.on_put(found(7, 2 * HOUR), 0) == [OpenHere(SSH, 2 * HOUR, "knock at b", HOUR)]


def test_opening_under_the_gates_own_name_is_applied_as_remote() -> None:
    here = SharedOpeningTable("a")
    assert here.on_put(found(5, gate="a"), 0) == [OpenHere(SSH, HOUR, "knock at a", HOUR)]


def test_key_deleted_before_its_end_closes_the_opening() -> None:
    here = SharedOpeningTable("a")
    here.on_put(found(5), 0)
    assert here.on_deleted(SSH, 4, 10) == []  # an older revision
    assert here.on_deleted(SSH, 6, 10) == [CloseHere(SSH)]
    assert here.on_deleted(SSH, 6, 10) == []
    here.on_put(found(7), 20)
    assert here.on_deleted(SSH, 8, 20 + HOUR) == []  # it had ended


def test_local_close_is_published_and_not_undone() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(SSH, HOUR, "knock", 0)
    assert here.on_closed(SSH, 10) == [PublishOpening(SSH)]
    assert here.on_put(found(5, gate="a"), 20) == []  # in flight when it was closed
    known = here.get(SSH)
    assert known is not None
    assert (known.revision, known.is_closing) == (5, True)
    assert here.on_put(found(6), 30) == [OpenHere(SSH, HOUR, "knock at b", HOUR)]  # opened by another gate after that


def test_local_opening_after_a_remote_close_is_published() -> None:
    here = SharedOpeningTable("a")
    here.on_put(found(5), 0)
    here.on_opened(SSH, 2 * HOUR, "knock", 0)
    assert here.on_deleted(SSH, 6, 10) == []
    known = here.get(SSH)
    assert known is not None
    assert (known.revision, here.owes(SSH, 10)) == (0, True)


def test_close_is_published_before_a_shorter_opening_that_follows_it() -> None:
    """Without the close, the other gates would keep the longer opening."""
    here, there = SharedOpeningTable("a"), SharedOpeningTable("b")
    here.on_put(found(5), 0)
    there.on_put(found(5), 0)
    here.on_closed(SSH, 10)
    here.on_opened(SSH, 1_000, "knock", 10)
    known = here.get(SSH)
    assert known is not None
    assert (known.is_closing, known.is_owed, known.is_open, known.until_ms) == (True, True, True, 1_000)
    here.on_erased(SSH)
    assert (known.is_closing, known.is_owed, known.revision) == (False, True, 0)
    assert there.on_deleted(SSH, 6, 20) == [CloseHere(SSH)]
    assert there.on_put(found(7, 980, "a")._replace(created=7), 20) == [OpenHere(SSH, 980, "knock at a", HOUR)]


def test_snapshot_shortens_what_was_closed_and_opened_again() -> None:
    here = SharedOpeningTable("a")
    here.on_put(found(5)._replace(created=5), 0)
    assert here.on_snapshot([found(6, 1_000)._replace(created=5)], 6, 0) == []  # never closed
    again = found(8, 1_000)._replace(created=8)
    assert here.on_snapshot([again], 8, 0) == [CloseHere(SSH), OpenHere(SSH, 1_000, "knock at b", HOUR)]


def test_opening_that_ended_long_ago_is_not_closed_when_its_key_is_created_again() -> None:
    """As an attacker who can write to etcd may do: the daemon rejects a close of a signer's share without a date."""
    here = SharedOpeningTable("a")
    assert here.on_put(signed(5, 100, -HOUR), HOUR) == []
    assert here.on_snapshot([signed(6, 100, -3 * HOUR)._replace(created=6)], 6, HOUR) == []


def test_close_outlives_the_shorter_opening_that_followed_it() -> None:
    here = SharedOpeningTable("a")
    here.on_put(found(5), 0)
    here.on_closed(SSH, 0)
    here.on_opened(SSH, 1_000, "knock", 0)
    here.prune(HOUR)
    assert here.owed(HOUR) == [PublishOpening(SSH)]  # the other gates may have it open until then
    here.prune(2 * HOUR)
    assert here.owed(2 * HOUR) == []


def test_opening_after_a_close_without_a_fleet_process_stays() -> None:
    here = SharedOpeningTable("a")
    here.restore([(SSH, 1_000, "knock", 1_000, 0)], [(SSH, 0, False)], {SSH: OpeningState(HOUR, "", 5)}, 0)
    known = here.get(SSH)
    assert known is not None
    assert (known.is_closing, known.is_open, known.until_ms, known.revision) == (True, True, 1_000, 5)


def test_snapshot_closes_what_was_closed_during_an_absence() -> None:
    here = SharedOpeningTable("a")
    other = OpeningKey("ssh", ip_address("192.0.2.8"))
    saved = {SSH: OpeningState(HOUR, "", 5)}
    here.restore([(SSH, HOUR, "knock", HOUR, 0), (other, HOUR, "knock", HOUR, 0)], [], saved, 0)
    assert here.on_snapshot([], 9, 0) == [CloseHere(SSH), PublishOpening(other)]


def test_close_without_a_fleet_process_is_published_later() -> None:
    here = SharedOpeningTable("a")
    here.restore([], [(SSH, 0, False)], {SSH: OpeningState(HOUR, "", 5)}, 0)
    assert here.on_snapshot([found(5)], 9, 0) == [PublishOpening(SSH)]
    known = here.get(SSH)
    assert known is not None
    assert (known.is_closing, known.revision) == (True, 5)


@pytest.mark.parametrize(("gate", "is_closing"), [("a", True), ("b", False)])
def test_close_of_an_unknown_key_deletes_what_this_gate_published(gate: str, is_closing: bool) -> None:
    here = SharedOpeningTable("a")
    here.on_closed(SSH, 0)
    here.on_conflict(SSH, found(5, gate=gate), 5, 10)
    known = here.get(SSH)
    assert known is not None
    assert (known.is_closing, known.revision, here.owes(SSH, 10)) == (is_closing, 5, is_closing)


def test_keys_of_etcd_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_KNOWN", 2)
    keys = [OpeningKey("no-such-door", ip_address(f"192.0.2.{number}")) for number in range(9)]
    here = SharedOpeningTable("a")
    applied = [here.on_put(found(5)._replace(key=key), 0) for key in keys]
    assert [len(effects) for effects in applied] == [1, 1, *[0] * 7]
    assert (len(here), here.ignored) == (2, 7)
    assert here.changed == set(keys[:2])  # nothing else is saved
    assert len(here.on_put(found(6, 2 * HOUR)._replace(key=keys[0]), 0)) == 1  # a known one is extended
    assert here.on_opened(SSH, HOUR, "knock", 0) == [PublishOpening(SSH)]  # as are this gate's own
    assert here.on_deleted(keys[0], 7, 0) == [CloseHere(keys[0])]
    assert here.on_deleted(keys[1], 7, 0) == [CloseHere(keys[1])]
    assert len(here.on_put(found(8)._replace(key=keys[8]), 0)) == 1  # there is room again


def test_saved_keys_without_an_opening_here_are_deleted() -> None:
    here = SharedOpeningTable("a")
    other = OpeningKey("no-such-door", ip_address("192.0.2.7"))
    saved = {key: OpeningState(HOUR, "", 5) for key in (SSH, other)}
    here.restore([(SSH, HOUR, "knock", HOUR, 0)], [], saved, 0)
    assert here.get(other) is None
    assert other in here.changed


def test_conflicting_revision_is_applied() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(SSH, HOUR, "knock", 0)
    assert here.on_conflict(SSH, found(7, 2 * HOUR), 7, 0) == [OpenHere(SSH, 2 * HOUR, "knock at b", HOUR)]
    assert not here.owes(SSH, 0)
    here.on_opened(SSH, 3 * HOUR, "knock", 0)
    assert here.on_conflict(SSH, None, 0, 0) == []  # closed elsewhere, before this
    known = here.get(SSH)
    assert known is not None
    assert (known.revision, here.owes(SSH, 0)) == (0, True)


ADA = SSH._replace(signer="ada".ljust(24, "0"))


def signed(revision: int, dated_ms: int, left_ms: int = HOUR, gate: str = "b") -> SeenOpening:
    return SeenOpening(ADA, revision, gate, "key ada", left_ms, HOUR, dated_ms=dated_ms)


def test_signed_close_ends_older_openings_and_deletes_their_key() -> None:
    here = SharedOpeningTable("a")
    here.on_put(signed(5, dated_ms=100), 0)
    assert here.on_signed_close(ADA, 200, 0) == [CloseHere(ADA, 200, is_signed=True), PublishOpening(ADA)]
    assert (len(here), here.owes(ADA, 0)) == (0, True)
    assert here.on_signed_close(ADA, 200, 0) == [CloseHere(ADA, 200, is_signed=True)]  # read again: nothing is owed
    here.on_erased(ADA)
    assert here.get(ADA) is None


def test_signed_close_leaves_a_later_opening() -> None:
    here = SharedOpeningTable("a")
    here.on_put(signed(5, dated_ms=300), 0)
    assert here.on_signed_close(ADA, 200, 0) == [CloseHere(ADA, 200, is_signed=True)]
    assert (len(here), here.owed(0)) == (1, [])


def test_opening_that_is_written_after_a_later_close_is_deleted() -> None:
    here = SharedOpeningTable("a")
    here.on_signed_close(ADA, 200, 0)
    assert here.on_put(signed(5, dated_ms=200), 0) == [PublishOpening(ADA)]
    known = here.get(ADA)
    assert known is not None
    assert (known.is_closing, known.is_open, known.revision) == (True, False, 5)
    assert here.on_conflict(ADA, signed(6, dated_ms=201), 6, 0) == [OpenHere(ADA, HOUR, "key ada at b", HOUR, 201)]


def test_opening_that_this_gate_made_before_a_close_is_not_published() -> None:
    here = SharedOpeningTable("a")
    here.on_signed_close(ADA, 200, 0)
    assert here.on_opened(ADA, HOUR, "key ada", 0, 200) == []
    assert here.on_opened(ADA, HOUR, "key ada", 0, 201) == [PublishOpening(ADA)]
    assert here.on_put(signed(5, dated_ms=150), 0) == [PublishOpening(ADA)]  # which the new one replaces
    known = here.get(ADA)
    assert known is not None
    assert (known.is_owed, known.is_closing, known.dated_ms) == (True, False, 201)


def test_opening_after_a_close_stays_when_its_key_is_overwritten_by_an_older_one() -> None:
    """Otherwise it would be open here, and a close by hand would not find it at the other gates."""
    here = SharedOpeningTable("a")
    here.on_signed_close(ADA, 200, 0)
    here.on_put(signed(5, dated_ms=300), 0)
    assert here.on_put(signed(6, dated_ms=150), 0) == [PublishOpening(ADA)]
    known = here.get(ADA)
    assert known is not None
    assert (known.is_owed, known.is_closing, known.revision, known.dated_ms) == (True, False, 6, 300)
    assert here.on_put(signed(7, dated_ms=150), HOUR) == [PublishOpening(ADA)]  # it has ended: nothing replaces this
    assert (known.is_owed, known.is_closing) == (False, True)


def test_opening_after_a_signed_close_is_restored_with_who_opened_it() -> None:
    here = SharedOpeningTable("a")
    saved = {ADA: OpeningState(HOUR, "", 5, dated_ms=300)}
    assert here.restore([(ADA, HOUR, "key ada", HOUR, 300)], [(ADA, 200, True)], saved, 0) == [
        CloseHere(ADA, 200, is_signed=True)
    ]
    known = here.get(ADA)
    assert known is not None
    assert (known.by, known.is_settled, known.is_open) == ("key ada", True, True)


def test_close_by_hand_of_what_an_older_knock_opened_after_another_close_is_published() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(ADA, HOUR, "key ada", 0, 200)
    here.on_closed(ADA, 0, 200)
    here.on_opened(ADA, HOUR, "key ada", 0, 150)
    assert here.on_closed(ADA, 0, 150) == [PublishOpening(ADA)]
    known = here.get(ADA)
    assert known is not None
    assert not known.is_open


def test_what_another_gate_holds_does_not_take_the_date_of_what_ended_here() -> None:
    here = SharedOpeningTable("a")
    here.on_opened(ADA, 1_000, "key ada", 0, 200)
    here.on_put(signed(5, dated_ms=100), 2_000)
    known = here.get(ADA)
    assert known is not None
    assert known.dated_ms == 100
    assert here.on_closed(ADA, 2_000, 100) == [PublishOpening(ADA)]


def test_newer_knock_is_published_though_the_end_is_the_same() -> None:
    """Else a close dated between the two would end the opening at the other gates."""
    here, there = SharedOpeningTable("a"), SharedOpeningTable("b")
    here.on_opened(ADA, HOUR, "key ada", 0, 100)
    here.on_written(ADA, 5, HOUR, 100)
    assert here.on_opened(ADA, HOUR, "key ada", 0, 300) == [PublishOpening(ADA)]
    here.on_written(ADA, 6, HOUR, 100)  # the answer to an earlier write
    assert here.owes(ADA, 0)
    there.on_put(signed(5, dated_ms=100), 0)
    assert there.on_put(signed(7, dated_ms=300, gate="a"), 0) == [OpenHere(ADA, HOUR, "key ada at a", HOUR, 300)]
    assert there.on_signed_close(ADA, 200, 0) == [CloseHere(ADA, 200, is_signed=True)]


def test_close_by_hand_leaves_what_another_gate_opened_since() -> None:
    here = SharedOpeningTable("a")
    here.on_put(signed(5, dated_ms=300), 0)
    assert here.on_closed(ADA, 0, 200) == []
    assert here.on_closed(ADA, 0, 300) == [PublishOpening(ADA)]


def test_deleted_key_closes_no_later_opening() -> None:
    here = SharedOpeningTable("a")
    here.on_put(signed(5, dated_ms=100), 0)
    assert here.on_deleted(ADA, 6, 0) == [CloseHere(ADA, 100)]


class Site:
    """One gate of the model: its table, its open doors (ends and dates), the closes it knows, what it has seen."""

    def __init__(self, name: str) -> None:
        self.name, self.known = name, SharedOpeningTable(name)
        self.open: dict[OpeningKey, tuple[int, int]] = {}
        self.closed: dict[OpeningKey, int] = {}
        self.claimed: list[tuple[OpeningKey, int, int]] = []  # opens that etcd accepted, with their times and dates
        self.seen = 0

    def apply(self, effects: list[Effect], now: int) -> None:
        for effect in effects:
            if isinstance(effect, OpenHere):
                self.hold(effect.key, now + effect.left_ms, effect.dated_ms)
            elif isinstance(effect, CloseHere):
                self.end(effect.key, effect.dated_ms, effect.is_signed)

    def hold(self, key: OpeningKey, until: int, dated: int) -> bool:
        """Open a door, unless its signer has closed it."""
        if dated and dated <= self.closed.get(key, 0):
            return False
        old_until, old_dated = self.open.get(key, (0, 0))
        self.open[key] = max(old_until, until), max(old_dated, dated)
        return True

    def end(self, key: OpeningKey, dated: int, is_signed: bool) -> None:
        if is_signed:
            self.closed[key] = max(dated, self.closed.get(key, 0))
        if key in self.open and self.open[key][1] <= dated:
            del self.open[key]


class Written(NamedTuple):
    """What is in etcd: an opening's end and date, who wrote it, and the revision that created it."""

    revision: int
    until: int
    gate: str
    created: int
    dated: int


class Change(NamedTuple):
    """A revision of etcd: a key was written, deleted (None), or (`closed` not 0) closed by its signer."""

    key: OpeningKey
    written: Written | None = None
    closed: int = 0
    gate: str = ""


KEYS = st.sampled_from([SSH, OpeningKey("ssh", ip_address("192.0.2.8")), ADA, ADA])
GATES = st.sampled_from(range(3))
# Dates go on by ten, so that a message that was held back has one between.
HELD_BACK = st.sampled_from([0, 15, 25])


class Fleet(RuleBasedStateMachine):
    """Three gates and an etcd; after all events are delivered, all gates have the same openings."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = [Site(name) for name in "abc"]
        self.history: list[Change | None] = [None]  # by revision
        self.store: dict[OpeningKey, Written] = {}
        self.now = self.date = 0

    @rule(gate=GATES, key=KEYS, for_ms=st.integers(1_000, 100_000), held_back=HELD_BACK, is_slow=st.booleans())
    def open(self, gate: int, key: OpeningKey, for_ms: int, held_back: int, is_slow: bool) -> None:
        site, dated = self.sites[gate], 0
        if key.signer:
            dated = self.next_date(held_back)
            if any(change and change.closed >= dated for change in self.history):
                return  # etcd rejects the claim
        site.claimed.append((key, for_ms, dated))
        if not (key.signer and is_slow):
            self.perform(gate)

    @rule(gate=GATES)
    def perform(self, gate: int) -> None:
        """Perform opens after etcd's answers."""
        site = self.sites[gate]
        for key, for_ms, dated in site.claimed:
            if site.hold(key, self.now + for_ms, dated):
                site.known.on_opened(key, site.open[key][0], "knock", self.now, site.open[key][1])
        site.claimed = []

    @rule(gate=GATES, key=KEYS)
    def close(self, gate: int, key: OpeningKey) -> None:
        site = self.sites[gate]
        if key in site.open:
            site.known.on_closed(key, self.now, site.open.pop(key)[1])

    @rule(gate=GATES, held_back=HELD_BACK, is_claimed=st.booleans())
    def close_by_knock(self, gate: int, held_back: int, is_claimed: bool) -> None:
        site, dated = self.sites[gate], self.next_date(held_back)
        site.end(ADA, dated, is_signed=True)
        if is_claimed:
            self.history.append(Change(ADA, closed=dated, gate=site.name))
            site.known.on_signed_close(ADA, dated, self.now)  # with the answer to the claim
        else:
            site.apply(site.known.on_close(ADA, dated, True, self.now), self.now)

    def next_date(self, held_back: int) -> int:
        self.date += 10
        return max(1, self.date - held_back)

    @rule(gate=GATES, is_answered=st.booleans())
    def write(self, gate: int, is_answered: bool) -> None:
        site = self.sites[gate]
        while site.known.owed_closes:
            key, dated = site.known.owed_closes.popitem()
            self.history.append(Change(key, closed=dated, gate=site.name))
        for effect in site.known.owed(self.now):
            known, have = site.known.get(effect.key), self.store.get(effect.key)
            assert known is not None
            if (have.revision if have else 0) != known.revision:
                seen = self.seen(effect.key, have) if have else None
                revision = have.revision if have else 0
                site.apply(site.known.on_conflict(effect.key, seen, revision, self.now), self.now)
            elif known.is_closing:
                if self.store.pop(effect.key, None):
                    self.history.append(Change(effect.key, gate=site.name))
                if is_answered:
                    site.known.on_erased(effect.key)
            else:
                revision = len(self.history)
                created = have.created if have else revision
                written = Written(revision, known.until_ms, site.name, created, known.dated_ms)
                self.history.append(Change(effect.key, written))
                self.store[effect.key] = written
                if is_answered:
                    site.known.on_written(effect.key, revision, known.until_ms, known.dated_ms)

    def seen(self, key: OpeningKey, written: Written) -> SeenOpening:
        revision, until, name, created, dated = written
        return SeenOpening(key, revision, name, "knock", until - self.now, HOUR, created, dated)

    @rule(gate=GATES, count=st.integers(1, 5))
    def deliver(self, gate: int, count: int) -> None:
        site = self.sites[gate]
        for revision in range(site.seen + 1, min(site.seen + count + 1, len(self.history))):
            change = self.history[revision]
            assert change is not None
            if change.closed:
                effects = site.known.on_signed_close(change.key, change.closed, self.now)
            elif change.written:
                effects = site.known.on_put(self.seen(change.key, change.written), self.now)
            else:
                effects = site.known.on_deleted(change.key, revision, self.now)
            site.apply(effects, self.now)
            site.seen = revision

    @rule(gate=GATES)
    def read_all(self, gate: int) -> None:
        site, revision = self.sites[gate], len(self.history) - 1
        for change in self.history:
            if change and change.closed:
                site.apply(site.known.on_signed_close(change.key, change.closed, self.now), self.now)
        stored = [self.seen(key, written) for key, written in self.store.items()]
        site.apply(site.known.on_snapshot(stored, revision, self.now), self.now)
        site.seen = max(site.seen, revision)

    @rule(ms=st.integers(1, 5_000))
    def wait(self, ms: int) -> None:
        self.now += ms
        for site in self.sites:
            site.open = {key: held for key, held in site.open.items() if held[0] > self.now}
        for key in [key for key, written in self.store.items() if written.until + 3_000 < self.now]:
            del self.store[key]  # its lease is over
            self.history.append(Change(key))

    @invariant()
    def every_known_opening_is_open_at_the_gate(self) -> None:
        for site in self.sites:
            all_known = site.known._known.items()
            known = {key for key, each in all_known if each.until_ms > self.now and each.is_open}
            assert known == site.open.keys(), site.name

    def teardown(self) -> None:
        for _ in range(8):  # a gate may have to try again after the write of each other gate
            for gate in range(3):
                self.perform(gate)
                self.write(gate, True)
                self.deliver(gate, len(self.history))
        soon = self.now + 2 * END_TOLERANCE_MS  # two gates may each differ from etcd by as much
        open_here = [site.open.keys() for site in self.sites]
        lasting = {key for site in self.sites for key, (until, _) in site.open.items() if until > soon}
        stored = {key: written.until for key, written in self.store.items()}
        assert all(lasting <= keys for keys in open_here), (open_here, self.store)
        for key in lasting:
            ends = [site.open[key][0] for site in self.sites]
            assert max(ends) - min(ends) <= 2 * END_TOLERANCE_MS, (key, ends, self.store)
        assert {key for key, until in stored.items() if until > soon} <= lasting <= stored.keys()
        closed = max((change.closed for change in self.history if change), default=0)
        assert all(site.open[ADA][1] > closed for site in self.sites if ADA in site.open), (closed, self.sites)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=150, stateful_step_count=40)
