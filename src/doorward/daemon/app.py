"""The daemon: the gate's events in, records and answers out. Every part is wired here."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from doorward.capture.nflog import Event, LogSocket
from doorward.daemon import notify, requests
from doorward.daemon.book import Book
from doorward.daemon.control import ControlServer
from doorward.daemon.errands import Errands
from doorward.daemon.loading import Loaded, Loading
from doorward.daemon.log import Log
from doorward.daemon.loop import Loop
from doorward.daemon.reconcile import differences, shifted
from doorward.errors import DoorwardError
from doorward.gate.chains import LOG_GROUP
from doorward.gate.nft import NftError, NftFilter
from doorward.gate.plan import Remaining, plan
from doorward.ledger import Ledger
from doorward.model import Door, Element, Opening

_TELL_AGAIN_S = 60.0
_RETRY_S = 5.0  # how long a ledger that could not be written waits for the next try
_REFUSALS = {
    "fast": "more than 20 symbols a second: a scanner; back to the start",
    "full": "the knock was right, but the open set is full",
}


class Daemon:
    """Holds what runs. Times inside are of the loop's clock; the ledger and the answers have wall time."""

    def __init__(self, config: Path, control: Path, ledger: Ledger, log: Log) -> None:
        self.loop, self.log, self.ledger, self._config = Loop(), log, ledger, config
        self.book = Book()
        self.errands = Errands(self.loop, log, ledger.path.with_name("commands.lock"))
        self.filter = NftFilter()
        self.missed = 0  # times the kernel dropped log messages, after which the sets were read back
        self._states: dict[str, dict[int, tuple[str, ...]]] = {}
        self._loading: Loading | None = None
        self._again = False
        self._timer_s, self._told_s = float("inf"), float("-inf")
        with ExitStack() as parts:  # what cannot start leaves nothing behind
            for close in (ledger.close, self.loop.close, self.errands.close):
                parts.callback(close)
            # Both refuse where another daemon runs, before anything is changed.
            self._control = ControlServer(control, self.loop, self._answer)
            parts.callback(self._control.close)
            self._events = LogSocket(LOG_GROUP)
            parts.callback(self._events.close)
            late = self._enter_standing()
            self.take(Loading(config, self._remaining()).result())
            for opening in late:
                self.record_end(opening, "time")
            self.reconcile()
            self._open_parts = parts.pop_all()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; openings are left to the kernel's timers."""
        self.loop.on_readable(self._events.fileno(), self._read_events)
        self.loop.on_signal(signal.SIGHUP, self.reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.on_signal(number, self.loop.stop)
        if (every_s := notify.watchdog_interval_s()) is not None:
            self._feed_watchdog(every_s)
        self.log.say(f"{self.loaded.summary()}; {len(list(self.book))} open")
        notify.notify("READY=1", f"STATUS={self.loaded.summary()}")
        self.loop.run()
        notify.notify("STOPPING=1")
        self.log.say("ends; openings end by themselves")

    def close(self) -> None:
        """Give back what the daemon holds; the gate stays."""
        if self._loading is not None:
            self._loading.abandon()
        self._open_parts.close()

    def take(self, loaded: Loaded) -> None:
        """Go on with a gate that was loaded; the messages of the one before may still be on their way."""
        before = dict(list(self._states.items())[-1:])
        names = {state: tuple(loaded.doors[i].name for i in done) for state, done in loaded.states.items()}
        self._states = before | {loaded.generation: names}
        self.loaded: Loaded = loaded
        self.doors: dict[str, Door] = {door.name: door for door in loaded.doors}
        self.errands.take(loaded.doors)
        self._control.admit_group(loaded.gate.control_group)

    def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing. A call while one is under way follows it."""
        if self._loading is not None:
            self._again = True
            return
        notify.reloading()
        self._loading = Loading(self._config, {})
        self.loop.on_readable(self._loading.fileno(), self._finish_reload)

    def reconcile(self) -> None:
        """Read the open sets back: enter what the log did not tell, strike out what is gone."""
        now_s = self.loop.now_s()
        seen = differences(self.book, self.filter.elements(), self.loaded.doors, now_s)
        for opening in seen.lost:
            self.book.close(opening.door, opening.address)
            self.record_end(opening, "lost")
        for opening in seen.found:
            self.record_opening(opening)

    def record_opening(self, new: Opening) -> None:
        """Enter an opening into book, ledger and log."""
        prolonged = self.book.get(new.door, new.address) is not None
        opening = self.book.open(new)
        self.ledger.opened(self.in_wall_time(opening))
        left_s = opening.until_s - self.loop.now_s()
        self.log.opening("prolonged" if prolonged else "opened", opening, left_s, new.by)
        if not prolonged:
            self.errands.run(new.door, new.address, "open")
        self._schedule()

    def record_errand(self, knock: Opening) -> None:
        """Run the command of a door that stays open for nobody, and record that it ran."""
        moment = self.in_wall_time(knock)._replace(until_s=time.time())
        self.ledger.opened(moment)
        self.ledger.closed(knock.door, knock.address, moment.until_s, "time")
        self.log.event("ran", {"door": knock.door, "address": str(knock.address), "by": knock.by})
        self.errands.run(knock.door, knock.address, "open")

    def record_end(self, opening: Opening, by: str) -> None:
        """Write the end of an opening into ledger and log: by "time", "hand" or "lost"."""
        ended_s = opening.until_s if by == "time" else self.loop.now_s()  # it may have ended while no daemon ran
        self.errands.run(opening.door, opening.address, "close")  # before the ledger forgets that it is owed
        self.ledger.closed(opening.door, opening.address, ended_s + time.time() - self.loop.now_s(), by)
        self.log.opening("closed", opening, ended_s - opening.since_s, by)
        self._schedule()

    def in_wall_time(self, opening: Opening) -> Opening:
        """Give an opening with times since the epoch."""
        return shifted([opening], time.time() - self.loop.now_s())[0]

    def settle(self, touched: tuple[Element, ...], have: Remaining | None = None) -> None:
        """Bring these entries of the gate to what the book wants."""
        for last_try in (False, False, True):
            now_s = self.loop.now_s()
            want = {element: until_s - now_s for element, until_s in self.book.wanted_until(touched).items()}
            try:
                self.filter.apply(plan(touched, want, self.filter.elements() if have is None else have))
            except NftError:  # an entry ended between reading and removing
                if last_try:
                    raise
                have = None
            else:
                return

    def _enter_standing(self) -> list[Opening]:
        """Take over what the ledger says still stands; give what ended while nobody watched."""
        now_s = self.loop.now_s()
        openings = shifted(self.ledger.standing(), now_s - time.time())
        for opening in openings:
            if opening.until_s > now_s:
                self.book.open(opening)
        self._schedule()
        return [opening for opening in openings if opening.until_s <= now_s]

    def _remaining(self) -> dict[Element, float]:
        """What to put into a new table: where one stands already, its own sets are right."""
        if self.filter.existing():
            return {}
        now_s = self.loop.now_s()
        touched = [element for opening in self.book for element in opening.elements()]
        return {element: until_s - now_s for element, until_s in self.book.wanted_until(touched).items()}

    def _read_events(self) -> None:
        events = self._events.read()
        if events is None:
            self.missed += 1
            self.log.say("the kernel's log overflowed; reading the open sets back", "warning")
            self.reconcile()
            return
        for event in events:
            if event.what == "knock":
                self._knocked(event)
            else:
                self._refused(event)

    def _knocked(self, event: Event) -> None:
        now_s = self.loop.now_s()
        doors = [self.doors[n] for n in self._states.get(event.generation, {}).get(event.state, ()) if n in self.doors]
        have: dict[Element, float] = {}
        for door in doors:
            new = Opening(door.name, event.source, door.opens, now_s, now_s + door.for_ms / 1000, "knock")
            if not door.is_opening:
                self.record_errand(new)
                continue
            self.record_opening(new)
            for element in new.elements():
                have[element] = max(have.get(element, 0.0), door.for_ms / 1000)
        # The kernel sets the end of the last knock; where another opening of the port lasts longer, put that back.
        self.settle(tuple(have), have)

    def _refused(self, event: Event) -> None:
        names = self._states.get(event.generation, {}).get(event.state, (None,))
        for door in names:
            self.ledger.refused(door, event.source, time.time(), _REFUSALS[event.what])
        self.log.event("refused", {"address": str(event.source), "door": names[0], "reason": _REFUSALS[event.what]})

    def _finish_reload(self) -> None:
        if self._loading is None or not self._loading.advance():
            return
        self.loop.forget(self._loading.fileno())
        loading, self._loading = self._loading, None
        try:
            self.take(loading.result())
            self.log.say(f"reloaded: {self.loaded.summary()}")
        except DoorwardError as error:
            for line in str(error).splitlines():
                self.log.say(line, "error")
            self.log.say("the configuration was not reloaded; the gate stands as it was", "error")
        notify.notify("READY=1", f"STATUS={self.loaded.summary()}")
        if self._again:
            self._again = False
            self.reload()

    def _schedule(self) -> None:
        """Wake for the next end of an opening, and for a ledger that waits."""
        ends = self.book.next_end()
        due = min(
            ends.until_s if ends else float("inf"),
            self.loop.now_s() + _RETRY_S if self.ledger.trouble else float("inf"),
        )
        if due < self._timer_s:
            self._timer_s = due
            self.loop.at(due, self._wake)

    def _wake(self) -> None:
        self._timer_s = float("inf")
        for opening in self.book.expire(self.loop.now_s()):
            self.record_end(opening, "time")
        if self.ledger.trouble:
            self._retry_ledger()
        self._schedule()

    def _retry_ledger(self) -> None:
        """Try what could not be written; tell of it once a minute, and once when it is over."""
        now_s = self.loop.now_s()
        if self.ledger.flush():
            self.log.say("the ledger is written again")
            self._told_s = float("-inf")
        elif now_s >= self._told_s + _TELL_AGAIN_S:
            self.log.say(f"{self.ledger.trouble}; make room there, doors still open and close", "error")
            self._told_s = now_s

    def _feed_watchdog(self, every_s: float) -> None:
        notify.notify("WATCHDOG=1")
        self.loop.at(self.loop.now_s() + every_s, lambda: self._feed_watchdog(every_s))

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return requests.answer(self, request)
