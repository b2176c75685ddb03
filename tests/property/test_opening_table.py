"""The opening table and its reconciliation with the kernel under any order of events."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from doorward.core.opening_table import OpeningTable
from doorward.core.openings import RecordEnd, on_signed_close, signed_opening
from doorward.core.reconcile import differences
from doorward.core.signed_rules import DatedKnock
from doorward.model import Address, Door, Element, Opening, Port, Protocol

SIGNERS = ["ada", "bob"]
DOORS = ["ssh", "web", "wake"]
ADDRESSES: list[Address] = [ip_address(text) for text in ("192.0.2.7", "192.0.2.8", "2001:db8::7")]
PORTS = [Port(Protocol.TCP, 22), Port(Protocol.TCP, 80), Port(Protocol.UDP, 22)]
ELEMENTS = [Element(address, port) for address in ADDRESSES for port in PORTS]
some_ports = st.lists(st.sampled_from(PORTS), max_size=3, unique=True).map(tuple)
durations = st.sampled_from([0.1, 1.0, 5.0, 5.0, 30.0])


class BookMachine(RuleBasedStateMachine):
    """Compare the opening table with a dictionary of end times."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OpeningTable()
        self.now_s = 0.0
        self.ends: dict[tuple[str, Address], float] = {}
        # The shares: holder, end, date (0: not by a signed knock).
        self.held: dict[tuple[str, Address], dict[str, tuple[float, int]]] = {}

    @rule(door=st.sampled_from(DOORS), address=st.sampled_from(ADDRESSES), opened=some_ports, for_s=durations)
    def open(self, door: str, address: Address, opened: tuple[Port, ...], for_s: float) -> None:
        before = self.book.get(door, address)
        opening = self.book.open(Opening(door, address, opened, self.now_s, self.now_s + for_s, "knock"))
        self.hold(door, address, "knock", for_s, 0)
        assert opening.until_s == self.ends[door, address]
        assert opening.since_s == (before.since_s if before else self.now_s)
        assert set(opened) <= set(opening.ports)

    def hold(self, door: str, address: Address, by: str, for_s: float, dated_ms: int) -> None:
        until_s = self.now_s + for_s
        self.ends[door, address] = max(self.ends.get((door, address), 0.0), until_s)
        before = self.held.get((door, address), {})
        shares = {by: share for by, share in before.items() if share[0] > self.now_s}
        end_s, date_ms = shares.get(by, (0.0, 0))
        self.held[door, address] = {**shares, by: (max(end_s, until_s), max(date_ms, dated_ms))}

    @rule(
        door=st.sampled_from(DOORS),
        address=st.sampled_from(ADDRESSES),
        by=st.sampled_from(SIGNERS),
        opened=some_ports,
        for_s=durations,
        dated_ms=st.integers(1, 5),
    )
    def open_signed(
        self, door: str, address: Address, by: str, opened: tuple[Port, ...], for_s: float, dated_ms: int
    ) -> None:
        knock = DatedKnock(by, door, address, dated_ms)
        self.book.open(signed_opening(Door(door, (), opened), knock, for_s, f"key {by}", self.now_s))
        self.hold(door, address, by, for_s, dated_ms)

    @rule(
        door=st.sampled_from(DOORS),
        address=st.sampled_from(ADDRESSES),
        by=st.sampled_from(SIGNERS),
        dated_ms=st.integers(1, 5),
    )
    def close_signed(self, door: str, address: Address, by: str, dated_ms: int) -> None:
        effects = on_signed_close(self.book, DatedKnock(by, door, address, dated_ms), f"key {by}", self.now_s)
        shares = self.held.get((door, address), {})
        _, date_ms = shares.get(by, (0.0, 0))
        assert bool(effects) == (0 < date_ms <= dated_ms)
        if not effects:
            return
        del shares[by]
        left = [end_s for end_s, _ in shares.values() if end_s > self.now_s]
        assert any(isinstance(effect, RecordEnd) for effect in effects) == (not left)
        if left:
            self.ends[door, address] = max(left)
        else:
            del self.ends[door, address], self.held[door, address]

    @rule(door=st.sampled_from(DOORS), address=st.sampled_from(ADDRESSES))
    def close(self, door: str, address: Address) -> None:
        closed = self.book.close(door, address)
        assert (closed.until_s if closed else None) == self.ends.pop((door, address), None)
        self.held.pop((door, address), None)

    @precondition(lambda self: self.ends)
    @rule(forward_s=st.sampled_from([0.0, 0.1, 4.9, 5.0, 31.0]))
    def let_time_pass(self, forward_s: float) -> None:
        self.now_s += forward_s
        ended = self.book.expire(self.now_s)
        assert [one.until_s for one in ended] == sorted(one.until_s for one in ended)
        due = {key for key, until_s in self.ends.items() if until_s <= self.now_s}
        assert {(one.door, one.address) for one in ended} == due
        assert len(ended) == len(due)
        for key in due:
            del self.ends[key], self.held[key]

    @invariant()
    def the_book_holds_what_the_model_holds(self) -> None:
        assert {(one.door, one.address): one.until_s for one in self.book} == self.ends

    @invariant()
    def the_quota_counts_what_each_holds(self) -> None:
        for by in SIGNERS:
            holds = [one for one in self.book if any(share.by == by for share in one.shares)]
            assert self.book.count(by) == len(holds)

    @invariant()
    def the_next_end_is_the_least(self) -> None:
        upcoming = self.book.next_end()
        assert (upcoming.until_s if upcoming else None) == min(self.ends.values(), default=None)

    @invariant()
    def an_entry_is_wanted_until_the_last_end(self) -> None:
        expected: dict[Element, float] = {}
        for one in self.book:
            for entry in one.elements():
                expected[entry] = max(expected.get(entry, 0.0), one.until_s)
        assert self.book.wanted_until(ELEMENTS) == expected


TestBook = BookMachine.TestCase


@given(
    doors=st.lists(some_ports, max_size=4),
    standing=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(ADDRESSES), some_ports, durations), max_size=6),
    have=st.dictionaries(st.sampled_from(ELEMENTS), durations, max_size=9),
)
@example(  # a port of an opening was extended by another door's knock
    doors=[(PORTS[0], PORTS[1])],
    standing=[(0, ADDRESSES[0], (PORTS[0], PORTS[1]), 5.0)],
    have={ELEMENTS[0]: 5.0, ELEMENTS[1]: 30.0},
)
def test_reconciliation_is_idempotent(
    doors: list[tuple[Port, ...]],
    standing: list[tuple[int, Address, tuple[Port, ...], float]],
    have: dict[Element, float],
) -> None:
    now_s = 1000.0
    configured = [Door(f"door{number}", (), opens) for number, opens in enumerate(doors)]
    book = OpeningTable()
    for number, address, opened, left_s in standing:  # including doors that are no longer configured
        book.open(Opening(f"door{number}", address, opened, now_s - 1, now_s + left_s, "knock"))

    seen = differences(book, have, configured, now_s)
    for one in seen.lost:  # before what was found: a door may be among both, with other ports since a reload
        book.close(one.door, one.address)
    for one in seen.found:
        book.open(one)

    again = differences(book, have, configured, now_s)
    assert (again.found, again.lost) == ((), ())
