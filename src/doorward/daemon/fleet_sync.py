"""Synchronize openings with the fleet: announce the local ones, and apply those of other gates.

A separate process speaks to etcd (fleet/worker.py). The daemon never waits for it: a door opens before the fleet is
notified, and a process that ends is replaced by one that announces all openings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from pathlib import Path

from doorward.config.schema import EtcdOutagePolicy, Fleet, Signed, longest_window_ms
from doorward.core.opening_table import Key
from doorward.core.openings import Announce, Effect, Reject, is_use, on_open, on_signed_close
from doorward.core.signed_rules import CLOSED, CloseDates, DatedKnock, Holders
from doorward.core.token_bucket import TokenBucket
from doorward.daemon.bans import BanList
from doorward.daemon.fleet_process import FleetProcess
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.ruleset_loader import LoadResult
from doorward.errors import MalformedError
from doorward.escape import printable
from doorward.fleet import protocol
from doorward.fleet.admission import FULL, Limits, Rejected, Room, admit
from doorward.fleet.etcd_records import OpeningKey, latest_date_ms, read_address, read_date, read_name, read_signer
from doorward.kernel.socket_writer import SocketWriter
from doorward.model import Opening, Source
from doorward.signed.authorize import ValidKnock, signer_text

_MOST_WAITING = 20_000  # messages to the process; if it reads none of them, it is restarted
_MOST_CLOSES = 20_000  # kept for a process; openings whose close was older last until their end at other gates
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # before a process that ended is restarted
_LOG_AGAIN_S = 60.0
RECORDS_PER_S, RECORDS_AT_ONCE = 20, 500  # to the fleet's access log; each gate's ledger has all
_REJECTIONS_PER_S, _REJECTIONS_AT_ONCE = 1 / 60, 5  # lines in the log; all are counted
_LINES_PER_S, _LINES_AT_ONCE = 1, 50  # lines of the process in the log; it may be compromised
_OWN_ENDS = ("hand", "ban")  # ends that apply to the whole fleet, as a use does


Answered = Callable[[list[ValidKnock], list[Rejected | None]], None]
_OBJECTIONS: dict[protocol.ClaimOutcome, Rejected | None] = {
    "new": None,
    "used": Rejected("used", "it was used at this or another gate of the fleet"),
    "closed": Rejected("closed", CLOSED),
}


class FleetSync:
    """Run the fleet process, and exchange openings and claims with it."""

    def __init__(self, openings: OpeningsService, bans: BanList) -> None:
        self._openings, self._bans = openings, bans
        self._takes_networks = False
        self._child: FleetProcess | None = None
        self._settings: tuple[Fleet, str, int, Path] | None = None
        self._writer: SocketWriter | None = None
        self._closed: list[protocol.Close] = []  # in no snapshot that a process has read
        self._sent = 0  # of these, to the process that runs
        self._has_read = False  # it has reported its state, which it does once it has read the snapshot
        # By signed knocks at any gate. They are for shared doors only, and not in the ledger: anyone who can write to
        # etcd can add one.
        self._closes = CloseDates()
        self._pause_s = _PAUSE_S
        self._claims: dict[int, tuple[list[ValidKnock], Answered]] = {}
        self._numbers = 0
        self._logged_s = float("-inf")
        self._limit = TokenBucket(RECORDS_PER_S, RECORDS_AT_ONCE)
        self.state = protocol.State(False, 0, 0, 0)
        self.counts: Counter[str] = Counter()  # signed knocks without an answer of the fleet, by outcome
        self.rejected: Counter[str] = Counter()  # openings of the fleet, by reason
        self._rejections = TokenBucket(_REJECTIONS_PER_S, _REJECTIONS_AT_ONCE)
        self._unlogged = 0  # rejections since the last line
        self._lines = TokenBucket(_LINES_PER_S, _LINES_AT_ONCE)

    def configure(self, loaded: LoadResult, directory: Path) -> None:
        """Apply a loaded configuration; its files are relative to `directory`."""
        fleet, gate = loaded.fleet, loaded.gate.name
        assert fleet is not None  # noqa: S101
        assert gate is not None  # noqa: S101
        # Without [signed] it limits the dates of others' closes.
        window_ms = longest_window_ms(loaded.signed or Signed(), loaded.fwknop)
        self._takes_networks = loaded.signed is not None
        settings = fleet, gate, window_ms, directory
        if settings != self._settings:
            self._settings = settings
            self._start()

    def announce(self, changes: Sequence[Announce | Reject]) -> None:
        """Announce openings, closes and rejected knocks; an opening that expires does so at every gate.

        Closes are announced first, so an opening that ended again is left out. A close by a signed knock is not
        announced: its claim does that.
        """
        opened: dict[OpeningKey, protocol.Item] = {}
        for change in changes:
            if isinstance(change, Reject):
                self.record("refused", change.door, change.source, change.reason)
            elif change.event == "closed":
                for item in self._note_close(change.opening, change.by):
                    opened.pop(item.key, None)
            elif change.opening.ports:  # without ports it only runs a command, on this gate alone
                if self._is_shared(change.opening.door):
                    opened |= {item.key: item for item in _items(change.opening)}
                self.record("opened", *change.key, change.by)
        self._send_closes()
        for items in protocol.batches(list(opened.values())):
            self._send(protocol.Opened(items))

    def _note_close(self, opening: Opening, by: str) -> list[protocol.Item]:
        """Note a close for the fleet, and return the shares that it ended."""
        items = _items(opening)
        if (by in _OWN_ENDS or is_use(by)) and opening.ports and self._may_close(opening.door):
            self._closed += [protocol.Close(item.key, item.dated_ms) for item in items]
        if by != "time":
            self.record("closed", *opening.key, by)
        return items

    def _send_closes(self) -> None:
        for closes in protocol.batches(self._closed[self._sent :]):
            self._send(protocol.Closed(closes))
        del self._closed[: len(self._closed) if self._has_read else -_MOST_CLOSES]
        self._sent = len(self._closed)  # without a process the next snapshot has them

    def record(self, event: str, door: str | None, address: Source, words: str) -> None:
        """Send an event to the fleet's access log, unless the rate limit is exceeded."""
        if self._limit.admits(self._openings.loop.now_s()):
            self._send(protocol.Recorded(event, door or "", str(address), printable(words, protocol.MAX_LINE_LENGTH)))

    def claim(self, grants: list[ValidKnock], then: Answered) -> None:
        """Ask the fleet which signed knocks are new, and call `then` with a rejection or None for each."""
        for some in protocol.batches(grants):
            self._numbers += 1
            number = self._numbers
            self._claims[number] = some, then
            if self._child is None:
                self._answer(number, None, "the fleet process is not running")
                continue
            self._send(protocol.Claim(number, list(map(_claim, some))))
            due_s = self._openings.loop.now_s() + self._fleet.timeout_ms / 1000
            self._openings.loop.at(due_s, partial(self._answer, number, None, "no answer in time"))

    def objection(self, knock: DatedKnock) -> str:
        """Return the reason to reject an open, for a close at any gate, or ""."""
        return self._closes.objection(knock) if self._is_shared(knock.door) else ""

    def as_dict(self) -> dict[str, object]:
        """Return the state of the connection, and the counts."""
        counts = {"without_answer": dict(self.counts), "rejected": dict(self.rejected)}
        return {"name": self._fleet.name, **self.state._asdict(), **counts}

    def close(self) -> None:
        """End the process."""
        self._settings = None
        self._stop_worker("this gate left the fleet")

    @property
    def _fleet(self) -> Fleet:
        return self._settings[0] if self._settings is not None else Fleet("", ())

    def _start(self) -> None:
        if self._settings is None:
            return
        self._stop_worker("the fleet process was restarted")
        try:
            self._child = FleetProcess(*self._settings, self._openings.ledger.path.parent)
        except OSError as error:
            self._openings.log.message(
                "fleet-start-failed", f"cannot start the fleet process: {error.strerror}", "error"
            )
            self._schedule_restart()
            return
        self._openings.loop.on_readable(self._child.fileno(), self._on_message)
        self._writer = SocketWriter(self._openings.loop, self._child.socket)  # where it fails, reading reports the end
        closed, self._sent = list(dict.fromkeys([*self._recorded_closes(), *self._closed])), len(self._closed)
        shared = [opening for opening in self._openings.table if opening.ports and self._is_shared(opening.door)]
        active = [item for opening in shared for item in _items(opening)]
        most = protocol.MAX_PER_MESSAGE
        for at in range(0, max(len(active), len(closed), 1), most):
            is_last = at + most >= max(len(active), len(closed))
            self._send(protocol.OpeningsSnapshot(active[at : at + most], closed[at : at + most], is_last))

    def _recorded_closes(self) -> list[protocol.Close]:
        """Return the closes by signed knocks here, oldest first: the last process may not have announced them all."""
        closes: list[protocol.Close] = []
        for by, door, source, dated_ms in sorted(self._openings.ledger.seen.closes.rows(), key=itemgetter(3)):
            with suppress(ValueError):  # by hand, or for all doors of a signer
                key = OpeningKey(read_name(door), read_address(source), read_signer(by))
                if key.signer and self._is_shared(door):
                    closes.append(protocol.Close(key, read_date(dated_ms, key), is_signed=True))
        return closes

    def _schedule_restart(self) -> None:
        loop = self._openings.loop
        loop.at(loop.now_s() + self._pause_s, lambda: None if self._child is not None else self._start())
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _send(self, message: protocol.Message) -> None:
        if self._child is None or self._writer is None:
            return
        self._writer.write(protocol.pack(message))
        if len(self._writer.waiting) > _MOST_WAITING:
            self._failed("stopped reading")

    def _on_message(self) -> None:
        assert self._child is not None  # noqa: S101
        try:
            message = self._child.read()
        except MalformedError as error:
            self._failed(f"failed ({error})")
            return
        if isinstance(message, protocol.Opened):
            self._open(message.openings)
        elif isinstance(message, protocol.Closed):
            self._close(message.closes)
        elif isinstance(message, protocol.Claimed):
            self._answer(message.number, message.outcomes, message.why)
        elif isinstance(message, protocol.LogMessage):
            if self._lines.admits(self._openings.loop.now_s()):
                self._openings.log.message(message.code, f"fleet: {message.words}", message.level)
        elif isinstance(message, protocol.State):
            self.state, self._has_read = message, True
            self._pause_s = _PAUSE_S
            self._send_closes()  # which drops those that were sent

    def _failed(self, how: str) -> None:
        self._openings.log.message("fleet-failed", f"the fleet process {how}; restarting it", "error")
        self._stop_worker("the fleet process ended")
        self._schedule_restart()

    def _stop_worker(self, why: str) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._child is not None:
            self._openings.loop.unregister(self._child.fileno())
            self._child.close()
            self._child = None
        self.state, self._has_read = self.state._replace(is_in_touch=False), False
        for number in list(self._claims):
            self._answer(number, None, why)

    def _is_shared(self, name: str) -> bool:
        door = self._openings.doors.get(name)
        return door is not None and door.shared

    def _may_close(self, name: str) -> bool:
        """Return whether the fleet may close the door's openings, and is notified; also for a removed door."""
        return name not in self._openings.doors or self._is_shared(name)

    def _open(self, items: list[protocol.Item]) -> None:
        """Apply openings of other gates, each as far as this gate's configuration allows it."""
        openings, now_ms = self._openings, round(self._openings.loop.now_s() * 1000)
        limits = Limits(self._fleet.for_max_ms, allows_networks=self._takes_networks)
        room = Room(openings.table)
        effects: list[Effect] = []
        items_of: dict[Key | None, protocol.Item] = {}
        for item in items:
            door = openings.doors.get(item.key.door)
            found = admit(item, door, limits, now_ms)
            if door is None or found is None or self._is_over(item):
                continue
            if isinstance(found, Opening) and not room.reserve(found, openings.table.get(*found.key)):
                found = FULL
            if isinstance(found, Rejected):
                self._reject(item, found)
            else:
                effects += on_open(openings.table, door, found, now_ms / 1000, is_learnt=True)
                items_of[found.key] = item
        for refusal in openings.perform(effects):
            self._reject(items_of[refusal.change.key], Rejected("kernel", str(refusal.error)))

    def _is_over(self, item: protocol.Item) -> bool:
        """Return whether its address is banned, its signer has closed it meanwhile, or no close could end it."""
        target = item.key.signer, item.key.door, item.key.address
        closes = self._closes, self._openings.ledger.seen.closes
        is_closed = bool(item.key.signer) and item.dated_ms <= max(dates.exact(*target) for dates in closes)
        return is_closed or item.dated_ms > self._latest_date_ms() or self._bans.contains(item.key.address)

    def _latest_date_ms(self) -> int:
        wall_s = self._openings.loop.now_s() + self._openings.wall_offset_s()
        return latest_date_ms(round(1000 * wall_s), self._settings[2] if self._settings is not None else 0)

    def _reject(self, item: protocol.Item, why: Rejected) -> None:
        """Count and log; no ledger entry and no `on_refuse`: the address itself may have sent nothing."""
        self.rejected[why.reason] += 1
        if not self._rejections.admits(self._openings.loop.now_s()):
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more rejected since the last line)" if self._unlogged else ""
        self._unlogged = 0
        what = f"opening {item.key.door} to {item.key.address}, by {item.by}, is rejected"
        self._openings.log.message("fleet-opening-rejected", f"fleet: {what}: {why.message}{more}", "warning")

    def _close(self, closes: list[protocol.Close]) -> None:
        """Apply closes of other gates: each ends the share of one signer, or what no signed knock opened."""
        openings, now_s = self._openings, self._openings.loop.now_s()
        latest_ms = self._latest_date_ms()
        effects: list[Effect] = []
        for key, dated_ms, is_signed in closes:
            if self._may_close(key.door):
                close = DatedKnock(key.signer, key.door, key.address, dated_ms)
                effects += on_signed_close(openings.table, close, "fleet", now_s)
                if is_signed and dated_ms <= latest_ms:
                    self._closes.note(close)
        if refusals := openings.perform(effects):
            openings.log.message(
                "fleet-close-failed", f"what was closed elsewhere was not closed here: {refusals[0].error}", "error"
            )

    def _answer(self, number: int, outcomes: list[protocol.ClaimOutcome] | None, why: str) -> None:
        """Pass on the fleet's answer about signed knocks; without an answer apply the policy to opens.

        A close always counts here: whatever the other gates know of it, it can only end what its signer opened earlier.
        It is not confirmed, since the other gates have yet to learn of it.
        """
        if number not in self._claims:
            return
        grants, then = self._claims.pop(number)
        if outcomes is not None and len(outcomes) == len(grants):
            then(grants, [_OBJECTIONS[outcome] for outcome in outcomes])
            new = [grant for grant, outcome in zip(grants, outcomes, strict=True) if outcome == "new"]
            self._close([_close(grant) for grant in new if grant.is_close])
            return
        opens, closes = [g for g in grants if not g.is_close], [g for g in grants if g.is_close]
        is_closed = self._fleet.policy is EtcdOutagePolicy.CLOSED
        self.counts.update("refused" if is_closed and not grant.is_close else "taken" for grant in grants)
        if opens:
            self._log_policy(why, is_closed)
        objection = Rejected("fleet", f"the fleet cannot tell whether it was used ({why})") if is_closed else None
        then(
            [grant._replace(reply=None) if grant.is_close else grant for grant in grants],
            [None if grant.is_close else objection for grant in grants],
        )
        for close in closes:
            self._close_here(close, why)

    def _close_here(self, close: ValidKnock, why: str) -> None:
        """Have the process announce a close once etcd answers, and log that it counts here only."""
        self._close([_close(close)])
        self._closed.append(_close(close))
        self._send_closes()
        if self._lines.admits(self._openings.loop.now_s()):
            what = f"{signer_text(close)} closes {close.door} for {close.source} at this gate only ({why})"
            self._openings.log.message(
                "fleet-close-local", f"fleet: {what}; the others follow once etcd answers", "warning"
            )

    def _log_policy(self, why: str, is_closed: bool) -> None:
        now_s = self._openings.loop.now_s()
        if now_s >= self._logged_s + _LOG_AGAIN_S:
            self._logged_s = now_s
            what = "refused" if is_closed else "taken without asking other gates"
            words = f"the fleet cannot tell which signed knocks were used ({why}): those for shared doors are {what}"
            self._openings.log.message("fleet-policy-applied", f"{words}, as [fleet] policy says", "warning")


def _items(opening: Opening) -> list[protocol.Item]:
    """Return what the fleet is to know of an opening: of each signer's share, and of what no signed knock made."""
    items: dict[OpeningKey, protocol.Item] = {}
    for share in Holders.of(opening).shares:
        key, until_ms = OpeningKey(*opening.key, share.signer), round(share.until_s * 1000)
        for_ms, dated_ms = until_ms - round(opening.since_s * 1000), share.dated_ms
        if key in items:  # this gate's own, and that of other gates
            until_ms, dated_ms = max(until_ms, items[key].until_ms), max(dated_ms, items[key].dated_ms)
        items[key] = protocol.build_item(key, until_ms, share.name or share.by, for_ms, dated_ms)
    return list(items.values())


def _claim(knock: ValidKnock) -> protocol.KnockClaim:
    return protocol.KnockClaim(knock.id.hex(), _share_key(knock), knock.time_ms, knock.is_close)


def _close(knock: ValidKnock) -> protocol.Close:
    return protocol.Close(_share_key(knock), knock.time_ms, is_signed=True)


def _share_key(knock: ValidKnock) -> OpeningKey:
    return OpeningKey(knock.door, knock.source, knock.signer.hex())
