"""Whatever happens, and in whatever order it is reported, no connection comes in after the one that a knock is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from hypothesis import example, given, settings
from hypothesis import strategies as st

from doorward.core.diff import diff
from doorward.core.opening_table import OpeningTable
from doorward.core.openings import (
    Effect,
    SetElements,
    new_opening,
    on_close,
    on_expire,
    on_knock,
    on_open,
    on_reconcile,
    on_signed_close,
    on_use,
    signed_opening,
)
from doorward.core.reconcile import is_used
from doorward.core.signed_rules import DatedKnock
from doorward.nftables.fake import FakeFirewall
from doorward.nftables.nft_error import NftError
from tests.support.effort import EFFORT
from tests.support.openings import door, element

HOME = ip_address("192.0.2.7")
DOORS = (door("ssh", "22/tcp", for_ms=30_000, once=True), door("long", "22/tcp", for_ms=90_000, once=True))
PLAIN = door("plain", "22/tcp", for_ms=60_000)
ENTRY = element("192.0.2.7 22/tcp once")
KNOCKS = ("sequence", "long sequence", "ada", "bob", "ada on plain", "hand")
OTHERS = ("connection", "report", "close by ada", "close by hand", "repair", "overflow", "restart", "pause", "plain")


class Gate:
    """Table and kernel of a gate, and the reports on their way between them."""

    def __init__(self) -> None:
        self.now_s, self.dated_ms = 0.0, 0
        self.table, self.kernel = OpeningTable(), FakeFirewall(lambda: self.now_s)
        self.reports: list[str] = []
        self.is_used = True  # since the newest knock

    def perform(self, effects: Iterable[Effect]) -> None:
        """Change the kernel as OpeningsService does."""
        for change in effects:
            if not isinstance(change, SetElements):
                continue
            have = change.have
            for _ in range(3):
                ends = self.table.wanted_until(change.elements)
                want = {each: end_s - self.now_s for each, end_s in ends.items()}
                present = self.kernel.elements() if have is None else have
                try:
                    self.kernel.apply(diff(change.elements, want, present, change.elements if change.opens else ()))
                    break
                except NftError:
                    have = None

    def knock(self, what: str) -> None:
        self.is_used = False
        self.dated_ms += 1
        chosen = DOORS[what == "long sequence"]
        if "sequence" in what:
            self.kernel._until_s[ENTRY] = self.now_s + chosen.for_ms / 1000
            self.reports.append(chosen.name)
        elif what == "hand":
            self.perform(on_open(self.table, chosen, new_opening(chosen, HOME, 50.0, "hand", self.now_s), self.now_s))
        else:
            signed = DatedKnock(what.split()[0], "plain" if "plain" in what else "ssh", HOME, self.dated_ms)
            opened = PLAIN if "plain" in what else chosen
            new = signed_opening(opened, signed, 40.0, f"key {signed.by}", self.now_s, once=True)
            self.perform(on_open(self.table, opened, new, self.now_s))

    def other(self, what: str) -> None:
        if what == "connection" and ENTRY in self.kernel.elements():
            del self.kernel._until_s[ENTRY]
            assert not self.is_used, "it came back"
            self.is_used = True
            self.reports.append("used")
        elif what == "report" and self.reports:
            self.report(self.reports.pop(0))
        elif what == "close by ada":
            self.perform(on_signed_close(self.table, DatedKnock("ada", "ssh", HOME, self.dated_ms), "ada", self.now_s))
        elif what == "close by hand":
            self.perform(on_close(self.table, ("ssh", HOME), "hand", self.now_s))
        elif what == "repair":
            self.kernel._until_s.pop(ENTRY, None)
            self.end_used()
        elif what == "overflow":
            self.reports.clear()
            self.reconcile()
        elif what == "restart":
            self.reports.clear()
            self.end_used()
            self.reconcile()
        elif what == "pause":
            self.now_s += 25
            self.perform(on_expire(self.table, self.now_s))
        elif what == "plain":
            self.perform(on_open(self.table, PLAIN, new_opening(PLAIN, HOME, 60.0, "hand", self.now_s), self.now_s))

    def report(self, what: str) -> None:
        if what == "used":
            self.end_used()
        else:
            chosen = next(each for each in DOORS if each.name == what)
            self.perform(on_knock(self.table, [chosen], HOME, self.now_s))

    def end_used(self) -> None:
        have = self.kernel.present([ENTRY])
        used = [opening for opening in self.table.for_one(HOME) if is_used(opening, have)]
        self.perform(on_use(self.table, used, have, "use", self.now_s))

    def reconcile(self) -> None:
        self.perform(on_reconcile(self.table, self.kernel.elements(), (*DOORS, PLAIN), self.now_s))


OFTEN = [*2 * ("ada", "bob", "close by ada"), *6 * ("connection",)]
STEPS = st.lists(st.sampled_from([*KNOCKS, *OTHERS, *OFTEN]), min_size=8, max_size=40)


@settings(max_examples=500 * EFFORT)
@given(STEPS)
@example(["ada", "bob", "connection", "close by ada", "connection"])
@example(["ada", "bob", "connection", "report", "overflow", "connection"])
@example(["sequence", "report", "long sequence", "connection", "repair", "report", "connection"])
def test_used_opening_does_not_come_back(steps: Sequence[str]) -> None:
    gate = Gate()
    for step in steps:
        gate.knock(step) if step in KNOCKS else gate.other(step)
    while gate.reports:
        gate.other("report")
    gate.end_used()
    gate.reconcile()
    assert bool(gate.table.for_one(HOME)) == (ENTRY in gate.kernel.elements())
