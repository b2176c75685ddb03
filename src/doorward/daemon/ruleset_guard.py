"""Guard the ruleset: run the daemon's own changes, one child at a time, and undo those of other programs.

Repairs never stop, but there are at most 20 per second.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from doorward.daemon.log import Log
from doorward.daemon.off_switch import SwitchedOff
from doorward.daemon.ruleset_loader import AppliedRuleset, LoadProcess
from doorward.errors import DoorwardError, HostError
from doorward.kernel.event_loop import EventLoop
from doorward.nftables.monitor import RulesetChange, RulesetMonitor, fingerprint, own_pid

_WINDOW_S = 60.0
_LINES_PER_WINDOW = 5  # one for each repair; more repairs per minute are summarized


class RepairLogLimiter:
    """Log limiter for repairs: five lines per minute, then a summary. Times are arguments."""

    def __init__(self) -> None:
        self._logged_s: deque[float] = deque(maxlen=_LINES_PER_WINDOW)
        self._summary_s = float("-inf")
        self._unlogged = 0

    def line(self, culprit: str, done: str, now_s: float) -> tuple[str, str] | None:
        """Return the level and text of the log line for a repair at `now_s`; None if it is only counted."""
        if len(self._logged_s) < _LINES_PER_WINDOW or now_s - self._logged_s[0] >= _WINDOW_S:
            self._logged_s.append(now_s)
            before = f" ({self._unlogged} more repairs since the last line)" if self._unlogged else ""
            self._unlogged = 0
            return "warning", f"{culprit} changed the gate; {done}{before}"
        self._unlogged += 1
        if now_s - self._summary_s < _WINDOW_S:
            return None
        self._summary_s, count = now_s, self._unlogged + _LINES_PER_WINDOW
        return "error", (
            f"{culprit} keeps changing the gate, {count} times or more in a minute; doorward goes on putting it back."
            " Find what starts it, and let it change its own tables only: `delete table`, never `flush ruleset`"
        )


PAUSE_S = 0.05  # between repairs
_FAILED_PAUSE_S = 1.0  # after one that failed
_MAX_HELD = 10_000  # changes held while a child loads; beyond it the ruleset is compared instead
_NOTIFIED_S = 0.02  # nf_tables reports the author of a visible change within this time
_LATE_S = 1.0  # after a repair, knocks on the previous ruleset may still be reported
Outcome = Any  # of a child: its result, or the DoorwardError that ended it


class _Damage(NamedTuple):
    """A change to be repaired: when it was noticed, and the program that made it."""

    since_s: float
    culprit: str


class RulesetGuard:
    """`put_back` starts a repair; `healed` applies its outcome and returns the number of openings.

    `openings_changed` is called if others changed the open sets, `switched_off` if doorward is switched off.
    """

    def __init__(
        self,
        loop: EventLoop,
        log: Log,
        put_back: Callable[[], LoadProcess[Any]],
        healed: Callable[[Outcome], int],
        openings_changed: Callable[[], None],
        switched_off: Callable[[], None],
    ) -> None:
        self._loop, self._log, self._switched_off = loop, log, switched_off
        self._put_back, self._healed, self._openings_changed = put_back, healed, openings_changed
        self._own = own_pid()
        self._watch = RulesetMonitor()
        self._child: LoadProcess[Any] | None = None
        self._done: Callable[[Outcome], None] = lambda _: None
        self._next: Callable[[], None] | None = None
        self._when_whole: list[Callable[[], None]] = []
        self._held: list[RulesetChange] = []
        self._unsure = False  # some changes were not seen
        self._fingerprint = b""
        self._damage: _Damage | None = None  # without a repair yet
        self._began_s = float("-inf")
        self._is_repairing = self._is_ending = False
        self.trouble = ""  # why the last repair failed; it is retried
        self._is_timed = False
        self._repair_log = RepairLogLimiter()
        loop.on_readable(self._watch.fileno(), self._read_changes)

    @property
    def is_busy(self) -> bool:
        """Return whether a child is changing the ruleset."""
        return self._child is not None

    @property
    def is_damaged(self) -> bool:
        """Return whether a repair is due or running."""
        return self._damage is not None or self._is_repairing

    @property
    def is_fresh(self) -> bool:
        """Return whether a repair began so recently that events may be from the previous ruleset."""
        return self.is_damaged or self._loop.now_s() - self._began_s < _LATE_S

    def wait_for(self, child: LoadProcess[Any]) -> Any:
        """Wait for a child outside the loop; return its result or raise its error."""
        self._start_child(child)
        with self._ending():
            outcome = self._end()
        if isinstance(outcome, DoorwardError):
            raise outcome
        return outcome

    def start(self, child: LoadProcess[Any], done: Callable[[Outcome], None]) -> None:
        """Wait for a child in the loop, and call `done` with its outcome."""
        self._start_child(child)
        self._done = done
        self._loop.on_readable(child.fileno(), self._advance)

    def after_current(self, call: Callable[[], None]) -> None:
        """Call once no child is running and no repair is due; a later call replaces an earlier one."""
        self._next = call
        self._next_task()

    def repair(self, culprit: str) -> None:
        """Restore the ruleset as soon as possible; the log names `culprit`."""
        if self._damage is None:
            self._damage = _Damage(self._loop.now_s(), culprit)
        self._next_task()

    def roll_back(self, done: Callable[[], None]) -> None:
        """Restore the ruleset from before a trial, retrying until it succeeds; then call `done`."""
        self._when_whole.append(done)
        self.repair("the end of the trial")

    def verify_ruleset(self) -> None:
        """Compare the ruleset with the loaded one, and restore it if it differs."""
        if self.is_busy:
            self._unsure = True
        elif self._damage is None and not self._is_whole():
            select.select([self._watch], [], [], _NOTIFIED_S)
            self._read_changes()  # names the program, and begins the repair
            if not self.is_damaged:
                self.repair("another program")

    def close(self) -> None:
        """End the child, if any, and stop guarding."""
        if self._child is not None:
            self._child.abandon()
        self._loop.unregister(self._watch.fileno())
        self._watch.close()

    def _start_child(self, child: LoadProcess[Any]) -> None:
        self._child = child
        self._watch.ignore_pid(child.pid)

    def _advance(self) -> None:
        assert self._child is not None  # noqa: S101
        if not self._child.advance():
            return
        self._loop.unregister(self._child.fileno())
        with self._ending():
            self._done(self._end())

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Start nothing while a child's outcome is handled; then start what is due."""
        self._is_ending = True
        try:
            yield
        finally:
            self._is_ending = False
        self._next_task()

    def _end(self) -> Outcome:
        """Return the child's outcome, and classify the changes of others after its commit."""
        assert self._child is not None  # noqa: S101
        try:
            outcome = self._child.result()
        except DoorwardError as error:
            outcome = error
            if isinstance(error, SwitchedOff):
                self._switched_off()
        self._read_changes()
        self._child = None
        self._watch.clear_filter()
        held, self._held = self._held, []
        if not isinstance(outcome, DoorwardError):
            commit: AppliedRuleset = outcome.commit
            self._fingerprint = commit.fingerprint
            own = max((place for place, change in enumerate(held) if change.process == commit.process), default=-1)
            held = held[own + 1 :]
        for change in held:
            self._classify(change)
        if self._unsure:
            self._unsure = False
            self.verify_ruleset()
        return outcome

    def _is_whole(self) -> bool:
        found = fingerprint()
        return found != b"" and found == self._fingerprint

    def _read_changes(self) -> None:
        changes = self._watch.read()
        if changes is None:
            if self.is_busy:
                self._unsure = True
            elif not self._is_whole():
                self.repair("another program")
        elif self.is_busy:
            self._held += [change for change in changes if change.scope or change.process != self._own]
            if len(self._held) > _MAX_HELD:
                self._held.clear()
                self._unsure = True
        else:
            for change in changes:
                self._classify(change)

    def _classify(self, change: RulesetChange) -> None:
        if change.process == self._own or not change.scope:
            return
        if change.scope == "rules":
            self.repair(f"{change.program} (process {change.process})")
        elif self._damage is None:
            self._openings_changed()

    def _next_task(self) -> None:
        """Start what is due, repairs first."""
        if self.is_busy or self._is_ending or self._is_timed:
            return
        if self._damage is None:
            call, self._next = self._next, None
            if call is not None:
                call()
            return
        now_s, due_s = self._loop.now_s(), self._began_s + (_FAILED_PAUSE_S if self.trouble else PAUSE_S)
        if now_s < due_s:
            self._is_timed = True
            self._loop.at(due_s, self._wake)
            return
        damage, self._damage = self._damage, None
        self._began_s, self._is_repairing = now_s, True
        try:
            child = self._put_back()
        except OSError as error:
            self._on_repaired(damage, HostError("fork-failed", f"cannot start a process: {error.strerror}"))
        else:
            self.start(child, lambda outcome: self._on_repaired(damage, outcome))

    def _wake(self) -> None:
        self._is_timed = False
        self._next_task()

    def _on_repaired(self, damage: _Damage, outcome: Outcome) -> None:
        now_s = self._loop.now_s()
        self._is_repairing = False
        if isinstance(outcome, SwitchedOff):
            return
        if not isinstance(outcome, DoorwardError):
            try:
                count = self._healed(outcome)
            except DoorwardError as error:
                outcome = error
        if isinstance(outcome, DoorwardError):
            self.trouble = f"not restored: {outcome}"
            line = self._repair_log.line(damage.culprit, f"it could not be restored: {outcome}; trying again", now_s)
            self._damage = damage
        else:
            self.trouble = ""
            took_ms = round((now_s - damage.since_s) * 1000)
            line = self._repair_log.line(damage.culprit, f"restored after {took_ms}ms, {count} open", now_s)
            while self._when_whole:
                self._when_whole.pop()()
        if line is not None:
            level, text = line
            self._log.message("gate-changed", text, level)
        self._next_task()
