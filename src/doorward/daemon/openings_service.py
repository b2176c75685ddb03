"""The openings of this gate. Changes happen in this order: ledger, kernel, log and fleet, hooks.

A change that the kernel rejects is rolled back; it is not logged or announced, and runs no hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

from doorward.core.diff import Remaining, diff
from doorward.core.openings import OpeningTable
from doorward.core.reconcile import differences, restored_openings, shifted
from doorward.daemon.hooks import HookQueue, HookRun
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.model import Door, Element, Opening, Place
from doorward.nftables.firewall import Firewall
from doorward.nftables.nft_error import NftError

_LOG_AGAIN_S = 60.0
_RETRY_S = 5.0  # after a write to the ledger that failed

Key = tuple[str, Place]  # an opening: a door and an address


class OpeningsListener(Protocol):
    """A listener to changes of openings: the fleet."""

    def opened(self, opening: Opening, by: str) -> None:
        """Note an opening that is in the ledger and in the kernel, for `flush`."""

    def ended(self, opening: Opening, by: str) -> None:
        """Note an opening that has ended, for `flush`."""

    def knock_rejected(self, source: Place, door: str | None, reason: str) -> None:
        """Announce a rejected knock."""

    def flush(self) -> None:
        """Announce what was noted."""


class _Line(NamedTuple):
    key: Key
    write: Callable[[], None]


class Pending:
    """The work of one recording; that of an opening that cannot be applied is dropped."""

    def __init__(self, service: OpeningsService) -> None:
        self._service = service
        self._before: dict[Key, Opening | None] = {}  # of each opening recorded here: what was there before it
        self._lines: list[_Line] = []
        self._errands: list[HookRun] = []

    def opened(self, key: Key, before: Opening | None) -> None:
        """Note that an opening was recorded; the first record of an opening counts."""
        self._before.setdefault(key, before)

    def prolongs(self, opening: Opening) -> bool:
        """Return whether an opening that was recorded here was open before."""
        return self._before.get((opening.door, opening.address)) is not None

    def line(self, key: Key, write: Callable[[], None]) -> None:
        """Add a call that logs or announces something about an opening."""
        self._lines.append(_Line(key, write))

    def errand(self, errand: HookRun) -> None:
        """Add a command."""
        self._errands.append(errand)

    def take_back(self, key: Key) -> None:
        """Roll back table and ledger to before an opening that could not be applied; drop its work.

        An opening that was not recorded here is not an error.
        """
        if key not in self._before:
            return
        service, before = self._service, self._before.pop(key)
        self._lines = [line for line in self._lines if line.key != key]
        self._errands = [errand for errand in self._errands if (errand.door, errand.address) != key]
        service.table.restore(*key, before)
        if before is not None:
            service.ledger.opened(service.in_wall_time(before))
            return
        at_s = service.loop.now_s() + service.wall_offset_s()
        service.ledger.ended(*key, at_s)
        service.ledger.closed(*key, at_s, "refused")

    def take_all_back(self) -> None:
        """Roll back every opening that was recorded here."""
        with self._service.ledger.transaction():
            for key in tuple(self._before):
                self.take_back(key)

    def finish(self) -> None:
        """Log and announce; then start the commands, once the ledger that owes them is on the disk."""
        service = self._service
        for line in self._lines:
            line.write()
        for listener in service.listeners:
            listener.flush()
        if any(errand.what == "open" for errand in self._errands):
            service.ledger.fsync()
        for errand in self._errands:
            service.hooks.run(errand)


class OpeningsService:
    """Times are of the loop's clock; the ledger has wall time. `doors` are those of the configuration in force.

    `will_repair` returns whether another program changed the ruleset, so that a repair restores all openings.
    """

    def __init__(self, ledger: Ledger, hooks: HookQueue, log: Log, firewall: Firewall) -> None:
        self.loop, self.log, self.ledger, self.hooks, self.firewall = hooks.loop, log, ledger, hooks, firewall
        self.table = OpeningTable()
        self.doors: Mapping[str, Door] = {}
        self.listeners: list[OpeningsListener] = []
        self.pending = Pending(self)
        self.will_repair: Callable[[], bool] = lambda: False
        self._timer_s, self._logged_s = float("inf"), float("-inf")

    def reconcile(self) -> None:
        """Read the open sets back: add openings that were not logged, and end those that are gone."""
        now_s = self.loop.now_s()
        try:
            have = self.firewall.elements()
        except NftError:
            if self.will_repair():
                return
            raise
        seen = differences(self.table, have, tuple(self.doors.values()), now_s)
        with self.recording():
            for opening in seen.lost:
                self.table.close(opening.door, opening.address)
                self.record_end(opening, "lost")
            for opening in seen.found:
                self.record_opening(opening)

    def record_opening(self, new: Opening, *, is_learnt: bool = False) -> None:
        """Enter an opening into table, ledger and log, and notify the fleet unless it came from there."""
        key, before = (new.door, new.address), self.table.get(new.door, new.address)
        opening, event = self.table.open(new), "opened" if before is None else "prolonged"
        self.ledger.opened(self.in_wall_time(opening))
        left_s = opening.until_s - self.loop.now_s()
        self.pending.opened(key, before)
        self.pending.line(key, lambda: self.log.opening(event, opening, left_s, new.by))
        if not is_learnt:
            for listener in self.listeners:
                self.pending.line(key, partial(listener.opened, opening, new.by))
        if before is None:
            self._send(HookRun(*key, "open"))
        self._schedule()

    def record_command_run(self, knock: Opening) -> None:
        """Run the command of a door that opens no ports, and record that it ran."""
        moment = self.in_wall_time(knock._replace(until_s=knock.since_s))  # over as it begins
        self.ledger.opened(moment)
        self.ledger.closed(knock.door, knock.address, moment.until_s, "time")
        fields = {"door": knock.door, "address": str(knock.address), "by": knock.by}
        self.pending.line((knock.door, knock.address), lambda: self.log.event("ran", fields))
        self._send(HookRun(knock.door, knock.address, "open"))

    def record_end(self, opening: Opening, by: str) -> None:
        """Write the end of an opening into ledger and log: by "time", "hand", "ban", "fleet" or "lost".

        The ledger keeps the command as owed until it has ended, so that after a crash the next daemon runs it.
        """
        ended_s = opening.until_s if by == "time" else self.loop.now_s()  # it may have ended while no daemon ran
        at_s = ended_s + self.wall_offset_s()
        self.ledger.ended(opening.door, opening.address, at_s)
        key = opening.door, opening.address
        self._send(HookRun(*key, "close", lambda: self._mark_closed(opening, at_s, by)))
        self.pending.line(key, lambda: self.log.opening("closed", opening, ended_s - opening.since_s, by))
        for listener in self.listeners:
            self.pending.line(key, partial(listener.ended, opening, by))
        self._schedule()

    def _send(self, errand: HookRun) -> None:
        if self.hooks.has_command(errand):
            self.pending.errand(errand)
        else:
            errand.then()

    def _mark_closed(self, opening: Opening, at_s: float, by: str) -> None:
        if self.table.get(opening.door, opening.address) is None:  # not opened again meanwhile
            self.ledger.closed(opening.door, opening.address, at_s, by)

    def in_wall_time(self, opening: Opening) -> Opening:
        """Return an opening with times since the epoch."""
        return shifted([opening], self.wall_offset_s())[0]

    def wall_offset_s(self) -> float:
        """Return the offset from the loop's clock to wall time."""
        return self.ledger.wall_offset(self.loop.now_s(), time.time())

    @contextmanager
    def recording(self, and_then: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Write the records made inside in one transaction, then the log; once they are synced, start the commands.

        `and_then` is called in between, to open doors in the kernel. If it fails, the openings recorded inside are
        rolled back, and nothing is logged or run for them.

        So a crash cannot undo what the log shows, and after a power failure the ledger still has an `on_close` whose
        `on_open` has run. All records are made inside of this.
        """
        outer, self.pending = self.pending, Pending(self)  # a repair may record while an opening is being applied
        try:
            with self.ledger.transaction():
                yield
            and_then()
        except BaseException:
            self.pending.take_all_back()
            raise
        finally:
            done, self.pending = self.pending, outer
            done.finish()

    def apply_openings(self, touched: tuple[Element, ...], have: Remaining | None = None) -> None:
        """Update these entries of the open sets to the state of the table.

        `have` are those present; without it the sets are read back, which takes a second if they are full.
        """
        for last_try in (False, False, True):
            now_s = self.loop.now_s()
            want = {element: until_s - now_s for element, until_s in self.table.wanted_until(touched).items()}
            try:
                self.firewall.apply(diff(touched, want, self.firewall.elements() if have is None else have))
            except NftError as error:
                if error.is_of_entries or (last_try and not self.will_repair()):
                    raise
                have = have if have == {} else None  # an entry ended between reading and removing
            else:
                return

    def restore(self) -> list[Opening]:
        """Restore the active openings of the ledger; return those that ended while no daemon ran."""
        offset_s, now_s = self.wall_offset_s(), self.loop.now_s()
        openings = restored_openings(self.ledger.active(), offset_s, now_s)
        for opening in openings:
            if opening.until_s > now_s:
                self.table.open(opening)
        self._schedule()
        return [opening for opening in openings if opening.until_s <= now_s]

    def reject(self, source: Place, door: str | None, reason: str, why: str) -> None:
        """Record a rejected source; `reason` is a text for people, `why` a word for programs."""
        self.ledger.refused(door, source, time.time(), reason)
        self.log.event("refused", {"address": str(source), "door": door, "reason": reason})
        self.hooks.run_on_refuse(source, why)
        for listener in self.listeners:
            listener.knock_rejected(source, door, reason)
        self._schedule()

    def _schedule(self) -> None:
        """Set the timer for the next end of an opening, a ledger retry, or a count of suppressed log lines."""
        ends = self.table.next_end()
        due = min(
            ends.until_s if ends else float("inf"),
            self.loop.now_s() + _RETRY_S if self.ledger.trouble else float("inf"),
            self.log.due_s,
        )
        if due < self._timer_s:
            self._timer_s = due
            self.loop.at(due, self._wake)

    def _wake(self) -> None:
        self._timer_s = float("inf")
        with self.recording():
            for opening in self.table.expire(self.loop.now_s()):
                self.record_end(opening, "time")
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
