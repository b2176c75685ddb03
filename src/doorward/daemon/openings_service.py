"""The openings of this gate: performs what `core/openings.py` returns for each event.

An opening that the kernel refuses is rolled back; it is not logged or announced, and runs no hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from doorward.core import openings as events
from doorward.core.diff import Remaining, diff
from doorward.core.opening_table import Key, OpeningTable
from doorward.core.openings import (
    Announce,
    Effect,
    LogLine,
    RecordCloses,
    RecordConfirmation,
    RecordEnd,
    RecordOpening,
    RecordRun,
    Reject,
    RunHook,
    SetElements,
)
from doorward.core.reconcile import is_used, restored_openings
from doorward.core.signed_rules import DatedKnock
from doorward.daemon.hook_runner import HookRun
from doorward.daemon.hooks import HookQueue
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.errors import DoorwardError
from doorward.kernel.event_loop import Alarm
from doorward.model import Door, Element, Opening, Source
from doorward.nftables.firewall import Firewall
from doorward.nftables.nfnetlink import set_name
from doorward.nftables.nft_error import NftError

_LOG_AGAIN_S = 60.0
_RETRY_S = 5.0  # after a write to the ledger that failed
# Refused changes after which the rest is not attempted: each takes the kernel some 10 ms, and a forged ledger must not
# block the daemon.
_MOST_REFUSED = 50
# For so long after an element was removed, a knock that the kernel completed before may still be reported.
_REPORT_DELAY_S = 5.0


class OpeningsListener(Protocol):
    """A listener to changes of openings: the fleet."""

    def announce(self, changes: Sequence[Announce | Reject]) -> None:
        """Announce changes that are in the ledger and in the kernel, and rejected knocks."""


class KernelRefusal(NamedTuple):
    """A change that the kernel refused; if it is of one opening, that was rolled back."""

    change: SetElements
    error: DoorwardError


class OpeningsService:
    """Times are of the loop's clock; the ledger has wall time. `doors` are those of the configuration in force.

    `will_repair` returns whether another program changed the ruleset, so that a repair restores all openings.
    """

    def __init__(self, ledger: Ledger, hooks: HookQueue, log: Log, firewall: Firewall) -> None:
        self.loop, self.log, self.ledger, self.hooks, self.firewall = hooks.loop, log, ledger, hooks, firewall
        self.table = OpeningTable()
        self.doors: Mapping[str, Door] = {}
        self.listeners: list[OpeningsListener] = []
        self.will_repair: Callable[[], bool] = lambda: False
        self.note_opening: Callable[[Source, float], None] = lambda _source, _until_s: None  # before the kernel has it
        self._alarm, self._logged_s = Alarm(self.loop, self._wake), float("-inf")
        self._removed_s: dict[Element, float] = {}  # elements that were removed, or shortened, and when

    def perform(self, effects: Sequence[Effect], *, is_durable: bool = False) -> list[KernelRefusal]:
        """Perform effects: ledger, then kernel, then log and fleet, then hooks. Return what the kernel refused.

        So a crash cannot undo what the log shows. The ledger is synced before a hook for "open" starts: after a power
        failure it still has the hook for "close" that is owed. `is_durable` syncs it before the kernel opens a door.
        """
        hooks = [effect for effect in effects if isinstance(effect, RunHook) and self._has_command(effect)]
        owed = {hook.end for hook in hooks}
        with self.ledger.transaction():
            for effect in effects:
                self._record(effect, owed)
        if is_durable:
            self.ledger.fsync()
        refusals = self._set_elements(effects)
        refused = {refusal.change.key for refusal in refusals} - {None}
        self._publish([effect for effect in effects if effect.key not in refused])
        self._run_hooks([hook for hook in hooks if hook.key not in refused])
        for effect in effects:
            if isinstance(effect, Reject):
                self.hooks.run_on_refuse(effect.source, effect.code)
        self._schedule()
        return refusals

    def perform_all(self, effects: Sequence[Effect], *, is_durable: bool = False) -> None:
        """Perform effects; raise the first error of the kernel."""
        for refusal in self.perform(effects, is_durable=is_durable):
            raise refusal.error

    def reject(self, source: Source, door: str | None, reason: str, code: str) -> None:
        """Handle a rejected source."""
        self.perform([Reject(source, door, reason, code)])

    def _has_command(self, hook: RunHook) -> bool:
        return self.hooks.has_command(HookRun(*hook.key, hook.event))

    def _record(self, effect: Effect, owed: set[RecordEnd | None]) -> None:
        """Write to the ledger. An end in `owed` is recorded once the door's command has ended."""
        if isinstance(effect, RecordOpening):
            self.ledger.opened(self.in_wall_time(effect.opening))
        elif isinstance(effect, RecordRun):
            moment = self.in_wall_time(effect.opening)
            self.ledger.opened(moment)
            self.ledger.closed(*effect.key, moment.until_s, "time")
        elif isinstance(effect, RecordEnd):
            at_s = effect.at_s + self.wall_offset_s()
            self.ledger.ended(*effect.key, at_s)
            if effect not in owed:
                self.ledger.closed(*effect.key, at_s, effect.by)
        elif isinstance(effect, RecordCloses):
            self._note_closes(effect.opening)
        elif isinstance(effect, RecordConfirmation):
            self.ledger.confirmed(*effect.key, effect.outcome)
        elif isinstance(effect, Reject):
            self.ledger.refused(effect.door, effect.source, time.time(), effect.reason)

    def _note_closes(self, opening: Opening) -> None:
        now_ms = round(time.time() * 1000)
        signed = [share for share in opening.shares if share.dated_ms]
        if signed:
            self.ledger.seen.note_by_hand(DatedKnock(s.signer, *opening.key, max(now_ms, s.dated_ms)) for s in signed)

    def _publish(self, effects: Sequence[Effect]) -> None:
        """Write the log, and notify the fleet."""
        for effect in effects:
            if isinstance(effect, LogLine):
                self.log.event(effect.event, effect.fields)
            elif isinstance(effect, Reject):
                fields = {"address": str(effect.source), "door": effect.door, "reason": effect.reason}
                self.log.event("refused", fields)
        for listener in self.listeners:
            listener.announce([effect for effect in effects if isinstance(effect, Announce | Reject)])

    def _run_hooks(self, hooks: Sequence[RunHook]) -> None:
        if any(hook.event == "open" for hook in hooks):
            self.ledger.fsync()
        for hook in hooks:
            end = hook.end
            then = partial(self._mark_closed, end) if end is not None else lambda: None
            self.hooks.run(HookRun(*hook.key, hook.event, then))

    def _mark_closed(self, end: RecordEnd) -> None:
        if self.table.get(*end.key) is None:  # not opened again meanwhile
            self.ledger.closed(*end.key, end.at_s + self.wall_offset_s(), end.by)

    def _set_elements(self, effects: Sequence[Effect]) -> list[KernelRefusal]:
        """Change the kernel; roll back each opening whose change it refuses."""
        before: dict[Key | None, RecordOpening | RecordEnd] = {}
        for effect in effects:
            if isinstance(effect, RecordOpening):
                self.note_opening(effect.opening.address, effect.opening.until_s)
            if isinstance(effect, RecordOpening | RecordEnd):
                before.setdefault(effect.key, effect)  # a rollback restores what was there before the first
        refusals: list[KernelRefusal] = []

        def refuse(change: SetElements, error: DoorwardError) -> None:
            refusals.append(KernelRefusal(change, error))
            if change.key is not None and (first := before.pop(change.key, None)) is not None:
                self._roll_back(first)

        def takes_room(change: SetElements) -> bool:
            first = before.get(change.key)
            return change.key is not None and not (isinstance(first, RecordOpening) and first.before is not None)

        self.set_each([effect for effect in effects if isinstance(effect, SetElements)], takes_room, refuse)
        return refusals

    def _roll_back(self, first: RecordOpening | RecordEnd) -> None:
        """Roll back table and ledger to before a change."""
        previous = first.before if isinstance(first, RecordOpening) else first.opening
        self.table.replace(*first.key, previous)
        if isinstance(first, RecordEnd):
            self.ledger.reopened(self.in_wall_time(first.opening))
        elif previous is not None:
            self.ledger.opened(self.in_wall_time(previous))
        else:
            at_s = self.loop.now_s() + self.wall_offset_s()
            self.ledger.ended(*first.key, at_s)
            self.ledger.closed(*first.key, at_s, "refused")

    def set_each(
        self,
        changes: Sequence[SetElements],
        takes_room: Callable[[SetElements], bool],
        refuse: Callable[[SetElements, DoorwardError], None],
    ) -> None:
        """Make changes in few transactions; call `refuse` for each that the kernel refuses, without the others.

        Once a set is full, or many were refused, changes for which `takes_room` is true are not attempted.
        """
        full: dict[str, DoorwardError] = {}  # by the name of the set
        count, last = 0, None
        waiting = [[change for change in changes if change.elements]]
        while waiting:
            attempted = []
            for change in waiting.pop():
                error = full.get(set_name(change.elements[0]), last)
                if error is not None and takes_room(change):
                    refuse(change, error)
                else:
                    attempted.append(change)
            if not attempted:
                continue
            try:
                self._set_together(attempted)
            except DoorwardError as error:
                if len(attempted) > 1:
                    middle = len(attempted) // 2
                    waiting += [attempted[middle:], attempted[:middle]]
                    continue
                if isinstance(error, NftError) and error.is_full:
                    full[set_name(attempted[0].elements[0])] = error
                count += 1
                last = error if count >= _MOST_REFUSED else None
                refuse(attempted[0], error)

    def _set_together(self, changes: Sequence[SetElements]) -> None:
        have: dict[Element, float] = {}
        for change in changes:
            have.update(change.have or {})
        elements = tuple(dict.fromkeys(element for change in changes for element in change.elements))
        opened = {element for change in changes if change.opens for element in change.elements}
        self.apply_openings(elements, None if any(change.have is None for change in changes) else have, opened)

    def reconcile(self) -> None:
        """Read the open sets back: add openings that were not logged, and end those that are gone."""
        now_s = self.loop.now_s()
        try:
            have = self.firewall.elements()
        except NftError:
            if self.will_repair():
                return
            raise
        self.perform(events.on_reconcile(self.table, have, tuple(self.doors.values()), now_s))

    def end_used(self, by: str) -> None:
        """End the openings for one connection that the kernel no longer has: only a new knock opens them again."""
        self.perform(self._used([opening for opening in self.table if True in opening.ends()], by))

    def on_use(self, source: Source, by: str) -> list[Effect]:
        """Return what to do about the kernel's report that a connection used up an opening to this source.

        Only an opening that the kernel no longer has ends: another knock may have come since then.
        """
        return self._used(self.table.for_one(source), by)

    def _used(self, openings: Sequence[Opening], by: str) -> list[Effect]:
        if not openings:
            return []
        have = self.firewall.present(e for opening in openings for e in opening.elements() if e.once)
        used = [opening for opening in openings if is_used(opening, have)]
        return events.on_use(self.table, used, have, by, self.loop.now_s())

    def in_wall_time(self, opening: Opening) -> Opening:
        """Return an opening with times since the epoch."""
        return opening.shifted(self.wall_offset_s())

    def wall_offset_s(self) -> float:
        """Return the offset from the loop's clock to wall time."""
        return self.ledger.wall_offset(self.loop.now_s(), time.time())

    def apply_openings(
        self, touched: tuple[Element, ...], have: Remaining | None = None, opened: Collection[Element] = ()
    ) -> None:
        """Update these entries of the open sets to the state of the table.

        `have` are those present; without it the sets are read back, which takes a second if they are full. `opened` are
        those of new knocks.
        """
        for last_try in (False, False, True):
            now_s = self.loop.now_s()
            want = {element: until_s - now_s for element, until_s in self.table.wanted_until(touched).items()}
            try:
                present = self.firewall.elements() if have is None else have
                changes = diff(touched, want, present, opened)
                self.firewall.apply(changes)
            except NftError as error:
                if error.is_of_entries or (last_try and not self.will_repair()):
                    raise
                have = have if have == {} else None  # an entry ended between reading and removing
            else:
                longer = {element for element, left_s in changes.put.items() if 0 < present.get(element, 0.0) < left_s}
                self._note_removed(changes.remove | (changes.put.keys() & present.keys()) - longer, now_s)
                return

    def _note_removed(self, elements: Collection[Element], now_s: float) -> None:
        if elements:
            recent = {element: at_s for element, at_s in self._removed_s.items() if at_s > now_s - _REPORT_DELAY_S}
            self._removed_s = recent | dict.fromkeys(elements, now_s)

    def were_removed(self, elements: Iterable[Element]) -> bool:
        """Return whether one was removed so recently that a knock which the kernel reports now may be older."""
        earliest_s = self.loop.now_s() - _REPORT_DELAY_S
        return any(self._removed_s.get(element, float("-inf")) > earliest_s for element in elements)

    def restore(self) -> list[Effect]:
        """Restore the active openings of the ledger; return what to do about those that have ended.

        They ended while no daemon ran, or by a signed close that one did not get to apply.
        """
        offset_s, now_s = self.wall_offset_s(), self.loop.now_s()
        openings = restored_openings(self.ledger.active(), offset_s, now_s)
        for opening in openings:
            if opening.until_s > now_s:
                self.table.open(opening)
        late = events.on_ended([opening for opening in openings if opening.until_s <= now_s])
        unfinished = events.on_unfinished(self.table, self.ledger.seen.closes, now_s)
        self._schedule()
        return [*late, *unfinished]

    def _schedule(self) -> None:
        """Set the alarm for the next end of an opening, a ledger retry, or a count of suppressed log lines."""
        ends = self.table.next_end()
        self._alarm.set(ends.until_s if ends else float("inf"))
        self._alarm.set(self.loop.now_s() + _RETRY_S if self.ledger.trouble else float("inf"))
        self._alarm.set(self.log.due_s)

    def _wake(self) -> None:
        self.perform(events.on_expire(self.table, self.loop.now_s()))
        if self.ledger.trouble:
            self._retry_ledger()
        if self.loop.now_s() >= self.log.due_s:
            self.log.log_suppressed()
        self._schedule()

    def _retry_ledger(self) -> None:
        """Retry failed writes; log a failure once per minute, and the recovery."""
        now_s = self.loop.now_s()
        if self.ledger.flush():
            self.log.message("ledger-restored", "the ledger is written again")
            self._logged_s = float("-inf")
        elif now_s >= self._logged_s + _LOG_AGAIN_S:
            self.log.message(
                "ledger-not-written", f"{self.ledger.trouble}; make room there, doors still open and close", "error"
            )
            self._logged_s = now_s
