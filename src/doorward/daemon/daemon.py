"""The daemon: the gate's events in, records and answers out. Every part is wired here."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorward.config.schema import Configuration
from doorward.core.diff import Remaining, diff
from doorward.core.openings import OpeningTable
from doorward.core.reconcile import differences, restored_openings, shifted
from doorward.daemon import bans, control_commands, reload, repairs, saved_ruleset, sharing
from doorward.daemon.bans import BanList
from doorward.daemon.control_socket import ControlServer, Reply
from doorward.daemon.event_stream import Subscribers
from doorward.daemon.hooks import HookQueue, HookRun
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.pending import Pending
from doorward.daemon.ruleset_guard import RulesetGuard
from doorward.daemon.ruleset_loader import LoadResult
from doorward.daemon.stats import EventStats, KernelStats
from doorward.daemon.trial import Trial
from doorward.errors import DoorwardError
from doorward.kernel import sd_notify
from doorward.kernel.nflog import NflogEvent, event_log
from doorward.model import Door, Element, Opening, Place
from doorward.nftables.chains import LOG_GROUP
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nft_error import NftError

if TYPE_CHECKING:
    from doorward.daemon.fleet_sync import FleetSync
    from doorward.daemon.signed_knocks import SignedKnocks

_TELL_AGAIN_S = 60.0
_RETRY_S = 5.0  # how long a ledger that could not be written waits for the next try
_REFUSALS = {
    "fast": "more than 20 symbols a second: a scanner; back to the start",
    "full": "the knock was right, but the open set is full",
}


class Daemon:
    """Holds what runs. Times inside are of the loop's clock; the ledger and the answers have wall time."""

    trial: Trial | None = None
    signed: SignedKnocks | None = None
    fleet: FleetSync | None = None

    def __init__(
        self, config: Path, control: Path, ledger: Ledger, errands: HookQueue, log: Log, trial_s: float | None = None
    ) -> None:
        self.loop, self.log, self.ledger, self.config = errands.loop, log, ledger, config
        self.book = OpeningTable()
        self.errands = errands
        self.filter = NftFirewall()
        self.followers = Subscribers(self.loop)
        self.numbers, self.gauging = EventStats(), KernelStats()
        log.listeners += [self.followers.publish, self.numbers.count]
        self.missed = 0  # times that log messages were lost, after which the sets were read back
        self._states: dict[str, dict[int, tuple[str, ...]]] = {}
        self.pending = Pending(self)
        self.restored: tuple[Element, ...] = ()  # the entries that the repair at work puts back
        self.trouble = ""  # why the gate was put back without some openings
        self.control_path, self.kept = control, ledger.path.with_name(saved_ruleset.NAME)
        self.bans = BanList(ledger.path.with_name(bans.NAME), self.filter, log.message)
        self._timer_s, self._told_s = float("inf"), float("-inf")
        with ExitStack() as parts:  # what cannot start leaves nothing behind
            for close in (ledger.close, self.loop.close, self.errands.close):
                parts.callback(close)
            # Both refuse where another daemon runs, before anything is changed.
            self._control = ControlServer(control, self.loop, self._answer)
            parts.callback(self._control.close)
            self._events = NflogReader([event_log(LOG_GROUP)])
            parts.callback(self._events.close)
            begin, finish = partial(repairs.begin, self), partial(repairs.finish, self)
            self.healing = RulesetGuard(self.loop, log, begin, finish, self.reconcile, self.switch_off)
            parts.callback(self.healing.close)
            parts.callback(self._leave_trial)
            parts.callback(self._end_signed)
            parts.callback(sharing.end, self)
            late = self._restore_openings()
            reload.load_first(self, trial_s)
            self.bans.restore()
            with self.recording():
                for opening in late:
                    self.record_end(opening, "time")
            self.reconcile()
            self._open_parts = parts.pop_all()

    def run(self) -> int:
        """Serve until a signal ends it; the kernel's timers end the openings. Gives 1 after an unconfirmed trial."""
        self.loop.on_readable(self._events.fileno(), self._read_events)
        self.loop.on_signal(signal.SIGHUP, lambda: reload.reload(self))
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.on_signal(number, self.loop.stop)
        if (every_s := sd_notify.watchdog_interval_s()) is not None:
            self._feed_watchdog(every_s)
        self.log.message(f"{self.loaded.summary()}; {len(self.book)} open")
        reload.tell_ready(self)
        reload.keep_configuration(self)
        self.loop.run()
        sd_notify.notify("STOPPING=1")
        is_unconfirmed = self.trial is not None
        if self.trial is not None:
            self.trial.end()
        self.errands.drain()
        self.log.log_suppressed()
        self.log.message("ends; openings end by themselves")
        return int(is_unconfirmed)

    def switch_off(self) -> None:
        """End without a gate. No hook runs for it: the ledger keeps what is open, and what is owed at its end."""
        if self.trial is not None:
            self.trial.drop()
        self.log.message("switched off by `doorward off`; `doorward on` ends that", "warning")
        self.loop.stop()

    def close(self) -> None:
        """Give back what the daemon holds; the gate stays."""
        self._open_parts.close()

    def apply_loaded(self, loaded: LoadResult) -> None:
        """Go on with a gate that was loaded; the messages of the one before may still be on their way."""
        before = dict(list(self._states.items())[-1:])
        names = {state: tuple(loaded.doors[i].name for i in done) for state, done in loaded.states.items()}
        self._states = before | {loaded.generation: names}
        self.loaded: LoadResult = loaded
        self.trouble = ""
        self.doors: dict[str, Door] = {door.name: door for door in loaded.doors}
        self.errands.configure(loaded.doors, loaded.gate.on_refuse)
        self._control.admit_group(loaded.gate.control_group)
        sharing.follow(self)
        self._follow_signed()
        for line in loaded.warning.splitlines():
            self.log.message(line, "warning")
        if loaded.not_kept:
            self.log.message(
                f"the gate is in force and not kept for the next boot: {loaded.not_kept}; make room", "error"
            )

    def _follow_signed(self) -> None:
        """Take signed knocks where the configuration that is in force says so."""
        signed = self.loaded.signed
        if signed is None:
            self._end_signed()
            return
        if self.signed is None:
            from doorward.daemon.signed_knocks import SignedKnocks  # with `cryptography`, which other gates go without

            self.signed = SignedKnocks(self, signed.window_ms)
        configuration = Configuration(self.loaded.gate, self.loaded.doors, signed, self.loaded.fleet)
        self.signed.configure(configuration, self.config.parent)

    def _end_signed(self) -> None:
        if self.signed is not None:
            self.signed.close()
            self.signed = None

    def reconcile(self) -> None:
        """Read the open sets back: enter what the log did not tell, strike out what is gone."""
        now_s = self.loop.now_s()
        try:
            have = self.filter.elements()
        except NftError:
            if self._will_repair():
                return
            raise
        seen = differences(self.book, have, self.loaded.doors, now_s)
        with self.recording():
            for opening in seen.lost:
                self.book.close(opening.door, opening.address)
                self.record_end(opening, "lost")
            for opening in seen.found:
                self.record_opening(opening)

    def record_opening(self, new: Opening, *, is_learnt: bool = False) -> None:
        """Enter an opening into book, ledger and log, and tell the fleet, unless it was learnt from there."""
        key, before = (new.door, new.address), self.book.get(new.door, new.address)
        opening, event = self.book.open(new), "opened" if before is None else "prolonged"
        self.ledger.opened(self.in_wall_time(opening))
        left_s = opening.until_s - self.loop.now_s()
        self.pending.opened(key, before)
        self.pending.line(key, lambda: self.log.opening(event, opening, left_s, new.by))
        if self.fleet is not None and not is_learnt:
            self.pending.line(key, partial(self.fleet.opened, opening, new.by))
        if before is None:
            self._send(HookRun(*key, "open"))
        self._schedule()

    def record_command_run(self, knock: Opening) -> None:
        """Run the command of a door that stays open for nobody, and record that it ran."""
        moment = self.in_wall_time(knock._replace(until_s=knock.since_s))  # over as it begins
        self.ledger.opened(moment)
        self.ledger.closed(knock.door, knock.address, moment.until_s, "time")
        fields = {"door": knock.door, "address": str(knock.address), "by": knock.by}
        self.pending.line((knock.door, knock.address), lambda: self.log.event("ran", fields))
        self._send(HookRun(knock.door, knock.address, "open"))

    def record_end(self, opening: Opening, by: str) -> None:
        """Write the end of an opening into ledger and log: by "time", "hand", "ban", "fleet" or "lost".

        The ledger keeps what is owed until the command has ended, so that the next daemon runs it, whatever comes.
        """
        ended_s = opening.until_s if by == "time" else self.loop.now_s()  # it may have ended while no daemon ran
        at_s = ended_s + self.wall_offset_s()
        self.ledger.ended(opening.door, opening.address, at_s)
        key = opening.door, opening.address
        self._send(HookRun(*key, "close", lambda: self._mark_closed(opening, at_s, by)))
        self.pending.line(key, lambda: self.log.opening("closed", opening, ended_s - opening.since_s, by))
        if self.fleet is not None:
            self.pending.line(key, partial(self.fleet.ended, opening, by))
        self._schedule()

    def _send(self, errand: HookRun) -> None:
        if self.errands.has_command(errand):
            self.pending.errand(errand)
        else:
            errand.then()

    def _mark_closed(self, opening: Opening, at_s: float, by: str) -> None:
        if self.book.get(opening.door, opening.address) is None:  # not opened again meanwhile
            self.ledger.closed(opening.door, opening.address, at_s, by)

    def in_wall_time(self, opening: Opening) -> Opening:
        """Give an opening with times since the epoch."""
        return shifted([opening], self.wall_offset_s())[0]

    def wall_offset_s(self) -> float:
        """Give what to add to the loop's clock for wall time."""
        return self.ledger.wall_offset(self.loop.now_s(), time.time())

    @contextmanager
    def recording(self, and_then: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Write what is recorded inside together, and then the log; once it is on the disk, start the commands.

        `and_then` is called between: what opens a door, so that the ledger knows first and the log tells no lie. Where
        it fails, the openings that were recorded inside are taken back, and nothing is logged or run for them.

        So the log tells of nothing that a kill could still undo, and not even a loss of power makes the ledger forget
        an `on_close` whose `on_open` has run. Everything that is recorded is recorded inside of one.
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
        """Bring these entries of the gate to what the book wants.

        `have` is what is there of them; without it the sets are read back, which takes a second where they are full.
        """
        for last_try in (False, False, True):
            now_s = self.loop.now_s()
            want = {element: until_s - now_s for element, until_s in self.book.wanted_until(touched).items()}
            try:
                self.filter.apply(diff(touched, want, self.filter.elements() if have is None else have))
            except NftError as error:
                if error.is_of_entries or (last_try and not self._will_repair()):
                    raise
                have = None  # an entry ended between reading and removing
            else:
                return

    def _restore_openings(self) -> list[Opening]:
        """Take over what the ledger says still stands; give what ended while nobody watched."""
        offset_s, now_s = self.wall_offset_s(), self.loop.now_s()
        openings = restored_openings(self.ledger.active(), offset_s, now_s)
        for opening in openings:
            if opening.until_s > now_s:
                self.book.open(opening)
        self._schedule()
        return [opening for opening in openings if opening.until_s <= now_s]

    def _leave_trial(self) -> None:
        if self.trial is not None:
            self.trial.abandon()

    def _will_repair(self) -> bool:
        """Tell whether nftables refuses since another program changed the gate: the repair puts all of the book in."""
        self.healing.verify_ruleset()
        return self.healing.is_damaged

    def _read_events(self) -> None:
        events = self._events.read()
        if events is None:
            self.missed += 1
            self.log.message(f"{self._events.loss}; reading the open sets back", "warning")
            self.reconcile()
            return
        with self.recording():
            for event in events:
                if event.what == "knock":
                    try:
                        self._knocked(event)
                    except DoorwardError as error:  # the kernel has opened already: this is about until when
                        self.log.message(f"the end of an opening for {event.source} was not set: {error}", "error")
                else:
                    self._refused(event)
        for event in events:
            if event.what == "knock" and event.at_us:
                self.numbers.latency.add(time.time() - event.at_us / 1_000_000)

    def _knocked(self, event: NflogEvent) -> None:
        now_s = self.loop.now_s()
        doors = [self.doors[n] for n in self._states.get(event.generation, {}).get(event.state, ()) if n in self.doors]
        have: dict[Element, float] = {}
        if self.bans.contains(event.source):  # it knocked in the moment before
            self.apply_openings(tuple(Element(event.source, port) for door in doors for port in door.opens))
            return
        for door in doors:
            new = Opening(door.name, event.source, door.opens, now_s, now_s + door.for_ms / 1000, "knock")
            if not door.is_opening:
                self.record_command_run(new)
                continue
            self.record_opening(new)
            for element in new.elements():
                have[element] = max(have.get(element, 0.0), door.for_ms / 1000)
        # The kernel sets the end of the last knock; where another opening of the port lasts longer, put that back.
        self.apply_openings(tuple(have), None if self.healing.is_fresh else have)

    def _refused(self, event: NflogEvent) -> None:
        self.numbers.refused[event.what] += 1
        for door in self._states.get(event.generation, {}).get(event.state, (None,)):
            self.reject(event.source, door, _REFUSALS[event.what], event.what)

    def reject(self, source: Place, door: str | None, reason: str, why: str) -> None:
        """Record that a source was refused, and why: `reason` are words for people, `why` is one for programs."""
        self.ledger.refused(door, source, time.time(), reason)
        self.log.event("refused", {"address": str(source), "door": door, "reason": reason})
        self.errands.run_on_refuse(source, why)
        if self.fleet is not None:
            self.fleet.record("refused", door, source, reason)
        self._schedule()

    def _schedule(self) -> None:
        """Wake for the next end of an opening, for a ledger that waits, and for lines that were left out."""
        ends = self.book.next_end()
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
            for opening in self.book.expire(self.loop.now_s()):
                self.record_end(opening, "time")
        if self.ledger.trouble:
            self._retry_ledger()
        if self.loop.now_s() >= self.log.due_s:
            self.log.log_suppressed()
        self._schedule()

    def _retry_ledger(self) -> None:
        """Try what could not be written; tell of it once a minute, and once when it is over."""
        now_s = self.loop.now_s()
        if self.ledger.flush():
            self.log.message("the ledger is written again")
            self._told_s = float("-inf")
        elif now_s >= self._told_s + _TELL_AGAIN_S:
            self.log.message(f"{self.ledger.trouble}; make room there, doors still open and close", "error")
            self._told_s = now_s

    def _feed_watchdog(self, every_s: float) -> None:
        sd_notify.notify("WATCHDOG=1")
        self.loop.at(self.loop.now_s() + every_s, lambda: self._feed_watchdog(every_s))

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        return control_commands.answer(self, request)
