"""Used signed knocks under any order of packets, clock steps, restarts, kills, boots and losses of power."""

from __future__ import annotations

import sqlite3
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from doorward.daemon import replay_cache
from doorward.daemon.replay_cache import AHEAD_MS, CLOSES, FORGOTTEN, SCHEMA, Clock, PacketId, ReplayCache

WINDOW_MS, DAY_MS = 60_000, 86_400_000
BEGUN_MS = 1000 * DAY_MS
steps = st.sampled_from([1, 500, 1000, 1001, 30_000, 59_999, 60_000, 60_001, 3_600_000, DAY_MS, 400 * DAY_MS])
off_ms = st.sampled_from([0, 1, 999, 1000, 1001, 30_000, WINDOW_MS]).flatmap(lambda ms: st.sampled_from([-ms, ms]))


class ReplayMachine(RuleBasedStateMachine):
    """A gate with a clock that may be wrong, and an attacker who repeats every packet."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = patch.multiple(replay_cache, _FORGET_EVERY=2, KEPT_ROWS=3)
        self.bounds.start()
        self.true_ms, self.wrong_ms, self.booted_ms = BEGUN_MS, 0, BEGUN_MS - 5000
        self.boots = self.numbers = 0
        self.was_wrong = self.lost_power = False
        self.packets: dict[int, int] = {}  # each that was ever sent, with its date
        self.used: set[int] = set()
        self.db = sqlite3.connect(":memory:")
        self.db.executescript(SCHEMA + FORGOTTEN + CLOSES)
        self.start()

    def teardown(self) -> None:
        self.bounds.stop()
        self.db.close()

    def clock(self) -> Clock:
        """Read the wall clock."""
        return Clock(self.true_ms + self.wrong_ms, self.booted_ms + self.wrong_ms)

    def sync(self) -> bool:
        """Keep what a loss of power leaves."""
        self.disk = self.db.serialize()
        return True

    def start(self) -> None:
        self.table = ReplayCache(self.db, f"boot-{self.boots}", self.sync)
        self.table.begin(self.clock, self.clock().now_ms)

    def send(self, number: int) -> bool:
        """Send a packet to the gate; return whether it was accepted, which may happen once."""
        if abs(self.packets[number] - self.clock().now_ms) > WINDOW_MS:
            return False
        is_accepted = self.table.claim([PacketId(number.to_bytes(16), self.packets[number])]) == [""]
        if is_accepted:
            assert number not in self.used
            self.used.add(number)
        return is_accepted

    @rule(off_ms=off_ms)
    def a_new_packet(self, off_ms: int) -> None:
        self.numbers += 1
        self.packets[self.numbers] = self.clock().now_ms + off_ms
        self.send(self.numbers)

    @rule()
    def every_packet_again(self) -> None:
        for number in self.packets:
            self.send(number)

    @rule(for_ms=steps)
    def time_passes(self, for_ms: int) -> None:
        self.true_ms += for_ms

    @precondition(lambda self: self.packets)
    @rule(number=st.integers(0), off_ms=off_ms)
    def time_comes_near_a_packet(self, number: int, off_ms: int) -> None:
        date_ms = list(self.packets.values())[number % len(self.packets)]
        self.true_ms = max(self.true_ms, date_ms + off_ms - self.wrong_ms)

    @precondition(lambda self: not self.lost_power)
    @rule(wrong_ms=steps, is_ahead=st.booleans())
    def the_clock_is_stepped(self, wrong_ms: int, is_ahead: bool) -> None:
        self.wrong_ms = wrong_ms if is_ahead else -wrong_ms
        self.was_wrong = True

    @precondition(lambda self: self.packets and not self.lost_power)
    @rule(number=st.integers(0), off_ms=off_ms)
    def the_clock_is_stepped_to_a_packet(self, number: int, off_ms: int) -> None:
        date_ms = list(self.packets.values())[number % len(self.packets)]
        self.wrong_ms = date_ms + off_ms - self.true_ms
        self.was_wrong = True

    @rule()
    def the_clock_is_set_right(self) -> None:
        self.wrong_ms = 0

    @rule()
    def the_gate_follows_its_clock(self) -> None:
        self.table.follow_clock(WINDOW_MS)

    @rule(is_killed=st.booleans())
    def a_restart(self, is_killed: bool) -> None:
        if not is_killed:
            self.table.close()
        self.start()

    @rule()
    def an_orderly_boot(self) -> None:
        self.table.close()
        self.boots, self.booted_ms = self.boots + 1, self.true_ms
        self.start()

    @precondition(lambda self: not self.was_wrong)
    @rule(wrong_ms=steps, is_ahead=st.booleans())
    def a_loss_of_power(self, wrong_ms: int, is_ahead: bool) -> None:
        """The next start may be at a wrong time, and end in order at a late one, until the network tells the time."""
        self.lost_power = True
        self.db.deserialize(self.disk)
        self.true_ms += AHEAD_MS
        self.boots, self.booted_ms = self.boots + 1, self.true_ms
        self.wrong_ms = wrong_ms if is_ahead else -wrong_ms
        self.start()
        if is_ahead:
            self.an_orderly_boot()
        self.wrong_ms = 0
        self.table.follow_clock(WINDOW_MS)

    @precondition(lambda self: max((self.packets[n] for n in self.used), default=0) <= self.true_ms)
    @rule()
    def honest_knocks_are_accepted_once_the_clock_is_right(self) -> None:
        self.wrong_ms = 0
        self.table.follow_clock(WINDOW_MS)
        self.true_ms += WINDOW_MS
        self.numbers += 1
        self.packets[self.numbers] = self.true_ms
        assert self.send(self.numbers)


TestReplays = ReplayMachine.TestCase
