"""The ruleset guard under any order of events: children, time and other programs are simulated."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from doorward.core.guard_states import FAILED_PAUSE_S, PAUSE_S
from doorward.daemon import ruleset_guard
from doorward.daemon.log import Log
from doorward.daemon.ruleset_guard import RulesetGuard
from doorward.errors import HostError
from doorward.kernel.event_loop import EventLoop
from doorward.nftables.monitor import RulesetChange

OWN, CHILD, OTHER = 1, 2, 3
EVENTS = ("flush", "flush unseen", "overflow", "open set", "child", "failing child", "wait", "load", "reload", "doubt")


class Host:
    """The loop, the kernel's ruleset and its monitor: what the guard sees."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.readable: dict[int, Callable[[], None]] = {}
        self.ruleset = self.loads = 0  # 0: damaged; else the number of its load
        self.changes: list[RulesetChange] | None = []
        self.children: list[Child] = []
        self.repairs_s: list[float] = []
        self.restored: list[bool] = []
        self.tasks = self.openings_changed = 0
        self.log = io.StringIO()
        with mock.patch.multiple(ruleset_guard, own_pid=lambda: OWN, RulesetMonitor=lambda: self):
            self.guard = RulesetGuard(
                cast(EventLoop, self),
                Log("text", self.log),
                self.begin,
                lambda _: 3,
                self.change_openings,
                lambda: None,
            )
        self.runs: list[bool] = []
        self.guard.child_runs = self.runs.append

    # The event loop

    def now_s(self) -> float:
        return self.now

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        self.timers.append((when_s, call))

    def on_readable(self, descriptor: int, call: Callable[[], None]) -> None:
        assert descriptor not in self.readable
        self.readable[descriptor] = call

    def unregister(self, descriptor: int) -> None:
        del self.readable[descriptor]

    def wait(self, for_s: float) -> None:
        self.now += for_s
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, call in due:
            call()

    # The monitor

    def fileno(self) -> int:
        return 0

    def ignore_pid(self, process: int) -> None:
        assert process == CHILD

    def clear_filter(self) -> None:
        pass

    def read(self) -> list[RulesetChange] | None:
        changes, self.changes = self.changes, []
        return changes

    # Children, and other programs

    def begin(self) -> Any:
        self.repairs_s.append(self.now)
        return self.child()

    def child(self) -> Any:
        child = Child(self)
        self.children.append(child)
        return child

    def end_child(self, *, fails: bool) -> None:
        if self.children:
            self.children[0].fails = fails
            self.readable[self.children[0].fileno()]()

    def change_openings(self) -> None:
        self.openings_changed += 1

    def see(self, *changes: RulesetChange) -> None:
        if self.changes is not None:
            self.changes += changes
        self.readable[0]()

    def happen(self, event: str) -> None:
        with mock.patch.multiple(
            ruleset_guard,
            fingerprint=lambda: str(self.ruleset).encode(),
            select=SimpleNamespace(select=lambda *_: None),
        ):
            self._happen(event)
        assert len(self.children) <= 1

    def _happen(self, event: str) -> None:
        if event == "flush":
            self.ruleset = 0
            self.see(RulesetChange(OTHER, "nft", "rules"))
        elif event == "flush unseen":  # the monitor's buffer is full
            self.ruleset = 0
            self.changes = None
        elif event == "overflow":
            self.changes = None
            self.see()
        elif event == "open set":
            self.see(RulesetChange(OTHER, "nft", "openings"))
        elif event in ("child", "failing child"):
            self.end_child(fails=event == "failing child")
        elif event == "wait":
            self.wait(0.02)
        elif event == "load" and not self.guard.is_busy:  # as `doorward apply` does
            self.guard.start(self.child(), lambda _: None)
        elif event == "reload":
            self.guard.after_current(self.reload)
        elif event == "doubt":
            self.guard.verify_ruleset()

    def reload(self) -> None:
        self.tasks += 1
        self.guard.start(self.child(), lambda _: None)

    def settle(self) -> None:
        """Let everything that is due happen, and read what the monitor has."""
        for _ in range(20):
            self.happen("overflow" if self.changes is None else "child")
            self.happen("child")
            self.now += FAILED_PAUSE_S
            self.happen("wait")


class Child:
    """A process that loads the ruleset; its transaction is its end."""

    pid = CHILD
    fails = False

    def __init__(self, host: Host) -> None:
        self.host = host

    def fileno(self) -> int:
        return 7

    def advance(self) -> bool:
        return True

    def result(self) -> Any:
        self.host.children.remove(self)
        if self.fails:
            raise HostError("no-memory", "no memory")
        self.host.loads += 1
        self.host.ruleset = self.host.loads
        if self.host.changes is not None:
            self.host.changes.append(RulesetChange(CHILD, "doorward", ""))
        return SimpleNamespace(commit=SimpleNamespace(process=CHILD, fingerprint=str(self.host.loads).encode()))


@given(st.lists(st.sampled_from(EVENTS), max_size=60))
def test_any_order_of_events(events: list[str]) -> None:
    host = Host()
    host.happen("load")
    host.happen("child")
    host.guard.roll_back(lambda: host.restored.append(True))
    for event in events:
        host.happen(event)
    host.settle()
    assert host.ruleset == host.loads > 0  # whole
    assert not host.guard.is_damaged
    assert not host.guard.is_busy
    assert not host.children
    assert host.restored == [True]
    assert host.guard.trouble == ""
    assert (host.tasks > 0) == ("reload" in events)
    assert host.runs == [True, False] * (len(host.runs) // 2)
    pauses_s = [after - before for before, after in zip(host.repairs_s, host.repairs_s[1:], strict=False)]
    assert min(pauses_s, default=PAUSE_S) >= PAUSE_S - 1e-9


def test_the_log_of_a_repair() -> None:
    host = Host()
    for event in ("load", "child", "flush", "wait", "failing child", "wait"):
        host.happen(event)
    assert host.guard.trouble == "not restored: no memory"
    host.settle()
    lines = [line.split(" ", 1)[1] for line in host.log.getvalue().splitlines()]
    assert lines == [
        "warning: nft (process 3) changed the gate; it could not be restored: no memory; trying again",
        "warning: nft (process 3) changed the gate; restored after 1060ms, 3 open",
    ]
    assert len(host.repairs_s) == 2


def test_a_load_that_the_ruleset_was_flushed_under_is_followed_by_a_repair() -> None:
    """Its commit brings the rules back, but not the openings; that of a repair does."""
    host = Host()
    for event in ("load", "flush", "child"):
        host.happen(event)
    assert host.guard.is_damaged
    for event in ("wait", "flush", "child"):
        host.happen(event)
    assert (host.guard.is_damaged, len(host.repairs_s)) == (False, 1)


def test_a_repair_that_is_due_waits_for_the_child_and_goes_before_the_next_task() -> None:
    host = Host()
    for event in ("load", "child", "reload"):
        host.happen(event)
    host.guard.roll_back(lambda: host.restored.append(True))
    for event in ("reload", "child"):
        host.happen(event)
    assert (host.guard.is_damaged, host.guard.is_busy, host.repairs_s) == (True, False, [])
    host.settle()
    assert (len(host.repairs_s), host.tasks, host.restored) == (1, 2, [True])


def test_changed_openings_are_compared_unless_all_are_restored() -> None:
    host = Host()
    for event in ("load", "child", "open set"):
        host.happen(event)
    assert host.openings_changed == 1
    for event in ("flush", "open set"):
        host.happen(event)
    assert host.openings_changed == 1
