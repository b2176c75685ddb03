"""What changes the gate: this daemon, one child at a time; and others, whose changes are undone.

A repair is never given up. Where a program changes the gate again and again, there are at most twenty a second.
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
_TOLD_APART = 5  # repairs in a minute that have a line of their own; more is a fight


class RepairLogLimiter:
    """Counts repairs, with their moments as arguments."""

    def __init__(self) -> None:
        self._told_s: deque[float] = deque(maxlen=_TOLD_APART)
        self._loud_s = float("-inf")
        self._untold = 0

    def line(self, culprit: str, done: str, now_s: float) -> tuple[str, str] | None:
        """Give level and words for a repair at `now_s`, or None where it is only counted."""
        if len(self._told_s) < _TOLD_APART or now_s - self._told_s[0] >= _WINDOW_S:
            self._told_s.append(now_s)
            before = f" ({self._untold} more repairs since the last line)" if self._untold else ""
            self._untold = 0
            return "warning", f"{culprit} changed the gate; {done}{before}"
        self._untold += 1
        if now_s - self._loud_s < _WINDOW_S:
            return None
        self._loud_s, count = now_s, self._untold + _TOLD_APART
        return "error", (
            f"{culprit} keeps changing the gate, {count} times or more in a minute; doorward goes on putting it back."
            " Find what starts it, and let it change its own tables only: `delete table`, never `flush ruleset`"
        )


PAUSE_S = 0.05  # between repairs
_FAILED_PAUSE_S = 1.0  # after one that failed
_MAX_HELD = 10_000  # changes noted while a child loads; beyond it the gate is compared instead
_TOLD_S = 0.02  # in which nf_tables tells who made the change that has just been seen
_LATE_S = 1.0  # after a repair: knocks of the gate before it may still be told
Outcome = Any  # of a child: what its work gives, or the DoorwardError that ended it


class _Damage(NamedTuple):
    """What is to be repaired: since when, and who did it."""

    since_s: float
    culprit: str


class RulesetGuard:
    """`put_back` starts a repair, `healed` takes its outcome and gives how many openings stand.

    `openings_changed` is called where others changed the open sets, `switched_off` where nothing may be loaded.
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
        self._unsure = False  # some changes were not told
        self._fingerprint = b""
        self._damage: _Damage | None = None  # what no repair has begun for yet
        self._began_s = float("-inf")
        self._is_repairing = self._is_ending = False
        self.trouble = ""  # why the last repair failed; another is to come
        self._is_timed = False
        self._fights = RepairLogLimiter()
        loop.on_readable(self._watch.fileno(), self._read_changes)

    @property
    def is_busy(self) -> bool:
        """Tell whether a child is at work on the gate."""
        return self._child is not None

    @property
    def is_damaged(self) -> bool:
        """Tell whether a repair is owed or at work."""
        return self._damage is not None or self._is_repairing

    @property
    def is_fresh(self) -> bool:
        """Tell whether a repair was begun so lately that what is told may be of the gate before it."""
        return self.is_damaged or self._loop.now_s() - self._began_s < _LATE_S

    def wait_for(self, child: LoadProcess[Any]) -> Any:
        """Wait for a child outside the loop; give its outcome or raise its error."""
        self._start_child(child)
        with self._ending():
            outcome = self._end()
        if isinstance(outcome, DoorwardError):
            raise outcome
        return outcome

    def start(self, child: LoadProcess[Any], done: Callable[[Outcome], None]) -> None:
        """Wait for a child beside other things, and call `done` with its outcome."""
        self._start_child(child)
        self._done = done
        self._loop.on_readable(child.fileno(), self._advance)

    def after_current(self, call: Callable[[], None]) -> None:
        """Call once no child is at work and no repair is owed; of several, the last."""
        self._next = call
        self._next_task()

    def repair(self, culprit: str) -> None:
        """Put the gate back as soon as may be, and say that `culprit` changed it."""
        if self._damage is None:
            self._damage = _Damage(self._loop.now_s(), culprit)
        self._next_task()

    def roll_back(self, done: Callable[[], None]) -> None:
        """Put back the gate from before a trial, however long it takes; `done` is called after it."""
        self._when_whole.append(done)
        self.repair("the end of the trial")

    def verify_ruleset(self) -> None:
        """Compare the gate with what was loaded, and put it back where it differs."""
        if self.is_busy:
            self._unsure = True
        elif self._damage is None and not self._is_whole():
            select.select([self._watch], [], [], _TOLD_S)
            self._read_changes()  # who it was, and then the repair begins
            if not self.is_damaged:
                self.repair("another program")

    def close(self) -> None:
        """End the child, if there is one; nobody repairs any more."""
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
        """Begin nothing while a child's outcome is taken; then what is due."""
        self._is_ending = True
        try:
            yield
        finally:
            self._is_ending = False
        self._next_task()

    def _end(self) -> Outcome:
        """Take the child's outcome, and judge what others did after its commit."""
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
        """Begin what is due: a repair before everything else."""
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
            self._on_repaired(damage, HostError(f"no process can be started: {error.strerror}"))
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
            self.trouble = f"not put back: {outcome}"
            told = self._fights.line(damage.culprit, f"it could not be put back: {outcome}; trying again", now_s)
            self._damage = damage
        else:
            self.trouble = ""
            took_ms = round((now_s - damage.since_s) * 1000)
            told = self._fights.line(damage.culprit, f"put back after {took_ms}ms, {count} open", now_s)
            while self._when_whole:
                self._when_whole.pop()()
        if told is not None:
            level, words = told
            self._log.message(words, level)
        self._next_task()
