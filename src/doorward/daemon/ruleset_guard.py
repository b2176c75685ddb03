"""Guard the ruleset: run the daemon's own changes, one child at a time, and undo those of other programs.

Repairs never stop, but there are at most 20 per second. `core/guard_states.py` has the states.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, NamedTuple

from doorward.core.guard_states import (
    FAILED_PAUSE_S,
    PAUSE_S,
    GuardAction,
    GuardEvent,
    GuardState,
    RepairLogLimiter,
    transition,
)
from doorward.daemon.log import Log
from doorward.daemon.off_switch import SwitchedOff
from doorward.daemon.ruleset_loader import LoadProcess
from doorward.errors import DoorwardError, HostError
from doorward.kernel.event_loop import EventLoop
from doorward.nftables.monitor import RulesetChange, RulesetMonitor, fingerprint, own_pid

_MAX_HELD = 10_000  # changes held while a child loads; beyond it the ruleset is compared instead
_NOTIFIED_S = 0.02  # nf_tables reports the author of a visible change within this time
_LATE_S = 1.0  # after a repair, knocks on the previous ruleset may still be reported
Outcome = Any  # of a child: its result, or the DoorwardError that ended it


class _Damage(NamedTuple):
    """A change to be repaired: when it was noticed, and the program that made it."""

    since_s: float
    culprit: str


class RulesetGuard:
    """`begin_repair` starts a repair; `finish_repair` applies its outcome and returns the number of openings.

    `openings_changed` is called if others changed the open sets, `switched_off` if doorward is switched off.
    """

    def __init__(
        self,
        loop: EventLoop,
        log: Log,
        begin_repair: Callable[[], LoadProcess[Any]],
        finish_repair: Callable[[Outcome], int],
        openings_changed: Callable[[], None],
        switched_off: Callable[[], None],
    ) -> None:
        self._loop, self._log, self._switched_off = loop, log, switched_off
        self._begin_repair, self._finish_repair, self._openings_changed = begin_repair, finish_repair, openings_changed
        self._own, self._monitor = own_pid(), RulesetMonitor()
        self._state = GuardState.IDLE
        self._child: LoadProcess[Any] | None = None
        self._restores = False  # the child restores all openings too: changes before its commit do not matter
        self._done: Callable[[Outcome], None] = lambda _: None
        self._task: Callable[[], None] | None = None
        self._on_restored: list[Callable[[], None]] = []
        self._held: list[RulesetChange] | None = []  # while a child is running; None: some were missed
        self._fingerprint = b""
        self._damage: _Damage | None = None  # the first without a repair
        self._began_s = float("-inf")  # the last repair
        self.trouble = ""  # why the last repair failed; it is retried
        self.child_runs: Callable[[bool], None] = lambda _: None  # called with False once its outcome is applied
        self._repair_log = RepairLogLimiter()
        loop.on_readable(self._monitor.fileno(), self._read_changes)

    @property
    def is_busy(self) -> bool:
        """Return whether a child is changing the ruleset."""
        return self._child is not None

    @property
    def is_damaged(self) -> bool:
        """Return whether a repair is due or running."""
        return self._state in (GuardState.REPAIRING, GuardState.DAMAGED, GuardState.BACKOFF)

    @property
    def is_fresh(self) -> bool:
        """Return whether a repair began so recently that events may be from the previous ruleset."""
        return self.is_damaged or self._loop.now_s() - self._began_s < _LATE_S

    def wait_for(self, child: LoadProcess[Any]) -> Any:
        """Wait for a child outside the loop; return its result or raise its error."""
        self._on(GuardEvent.CHILD_STARTED)
        self._restores = False
        self._watch(child)
        try:
            outcome = self._end()
        finally:
            self._applied()
        if isinstance(outcome, DoorwardError):
            raise outcome
        return outcome

    def start(self, child: LoadProcess[Any], done: Callable[[Outcome], None]) -> None:
        """Wait for a child in the loop, and call `done` with its outcome."""
        self._on(GuardEvent.CHILD_STARTED)
        self._restores = False
        self._wait_in_loop(child, done)

    def after_current(self, task: Callable[[], None]) -> None:
        """Call once no child is running and no repair is due; a later task replaces an earlier one."""
        self._task = task
        self._on(GuardEvent.REQUEST)

    def repair(self, culprit: str) -> None:
        """Restore the ruleset as soon as possible; the log names `culprit`."""
        self._damage = self._damage or _Damage(self._loop.now_s(), culprit)
        self._on(GuardEvent.DAMAGE)

    def roll_back(self, done: Callable[[], None]) -> None:
        """Restore the ruleset from before a trial, retrying until it succeeds; then call `done`."""
        self._on_restored.append(done)
        self.repair("the end of the trial")

    def verify_ruleset(self) -> None:
        """Compare the ruleset with the loaded one, now or when the child has ended; restore it if it differs."""
        self._on(GuardEvent.DOUBT)

    def close(self) -> None:
        """End the child, if any, and stop guarding."""
        if self._child is not None:
            self._child.abandon()
        self._loop.unregister(self._monitor.fileno())
        self._monitor.close()

    def _on(self, event: GuardEvent) -> None:
        self._state, action = transition(self._state, event)
        if action is GuardAction.START_TASK:
            task, self._task = self._task, None
            if task is not None:
                task()
        elif action is GuardAction.START_REPAIR:
            self._start_repair()
        elif action is GuardAction.SET_TIMER:
            self._loop.at(self._due_s(), self._on_timer)
        elif action is GuardAction.COMPARE:
            self._compare()
        elif action is GuardAction.COMPARE_AFTERWARDS:
            self._held = None

    def _due_s(self) -> float:
        return self._began_s + (FAILED_PAUSE_S if self.trouble else PAUSE_S)

    def _on_timer(self) -> None:
        if self._loop.now_s() >= self._due_s():  # else it is the timer of an earlier pause
            self._on(GuardEvent.TIMER)

    def _watch(self, child: LoadProcess[Any]) -> None:
        assert self._child is None  # noqa: S101
        self._child = child
        self._monitor.ignore_pid(child.pid)
        self.child_runs(True)

    def _wait_in_loop(self, child: LoadProcess[Any], done: Callable[[Outcome], None]) -> None:
        self._watch(child)
        self._done = done
        self._loop.on_readable(child.fileno(), self._advance)

    def _advance(self) -> None:
        assert self._child is not None  # noqa: S101
        if not self._child.advance():
            return
        self._loop.unregister(self._child.fileno())
        try:
            self._done(self._end())
        finally:
            self._applied()

    def _applied(self) -> None:
        self.child_runs(False)
        self._on(GuardEvent.EXAMINED)

    def _end(self) -> Outcome:
        """Return the child's outcome, and classify the changes of others that its commit does not undo."""
        assert self._child is not None  # noqa: S101
        try:
            outcome = self._child.result()
        except DoorwardError as error:
            outcome = error
            if isinstance(error, SwitchedOff):
                self._switched_off()
        self._read_changes()
        self._child = None
        self._on(GuardEvent.CHILD_ENDED)
        self._monitor.clear_filter()
        held, self._held = self._held, []
        commit = None if isinstance(outcome, DoorwardError) else outcome.commit
        if commit is not None:
            self._fingerprint = commit.fingerprint
        own = [at for at, change in enumerate(held or ()) if commit is not None and change.process == commit.process]
        for change in (held or ())[max(own, default=-1) + 1 if self._restores else 0 :]:
            if commit is None or change.process != commit.process:
                self._classify(change)
        if held is None:
            self._on(GuardEvent.DOUBT)
        return outcome

    def _is_whole(self) -> bool:
        found = fingerprint()
        return found != b"" and found == self._fingerprint

    def _compare(self) -> None:
        if self._is_whole():
            return
        select.select([self._monitor], [], [], _NOTIFIED_S)
        for change in self._monitor.read() or ():
            self._classify(change)  # names the program, and begins the repair
        if not self.is_damaged:
            self.repair("another program")

    def _read_changes(self) -> None:
        changes = self._monitor.read()
        if changes is None:
            self._on(GuardEvent.DOUBT)
        elif self._child is None:
            for change in changes:
                self._classify(change)
        elif self._held is not None:
            self._held += [change for change in changes if change.scope or change.process != self._own]
            if len(self._held) > _MAX_HELD:
                self._on(GuardEvent.DOUBT)

    def _classify(self, change: RulesetChange) -> None:
        if change.process == self._own or not change.scope:
            return
        if change.scope == "rules":
            self.repair(f"{change.program} (process {change.process})")
        elif self._damage is None:
            self._openings_changed()

    def _start_repair(self) -> None:
        assert self._damage is not None  # noqa: S101
        damage, self._damage = self._damage, None
        self._began_s, self._restores = self._loop.now_s(), True
        try:
            child = self._begin_repair()
        except OSError as error:
            self._on(GuardEvent.CHILD_ENDED)
            self._on_repaired(damage, HostError("fork-failed", f"cannot start a process: {error.strerror}"))
            self._on(GuardEvent.EXAMINED)
        else:
            self._wait_in_loop(child, lambda outcome: self._on_repaired(damage, outcome))

    def _on_repaired(self, damage: _Damage, outcome: Outcome) -> None:
        now_s = self._loop.now_s()
        if isinstance(outcome, SwitchedOff):
            return
        if not isinstance(outcome, DoorwardError):
            try:
                count = self._finish_repair(outcome)
            except DoorwardError as error:
                outcome = error
        if isinstance(outcome, DoorwardError):
            self.trouble = f"not restored: {outcome}"
            line = self._repair_log.line(damage.culprit, f"it could not be restored: {outcome}; trying again", now_s)
            self._damage = damage
            self._on(GuardEvent.DAMAGE)
        else:
            self.trouble = ""
            took_ms = round((now_s - damage.since_s) * 1000)
            line = self._repair_log.line(damage.culprit, f"restored after {took_ms}ms, {count} open", now_s)
            while self._on_restored:
                self._on_restored.pop()()
        if line is not None:
            level, text = line
            self._log.message("gate-changed", text, level)
