"""Apply the verifier's decisions: grants become openings, rejections become ledger entries.

A grant is first claimed in the replay cache; then the opening is recorded; then the door opens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from doorward.config.schema import Configuration, Signed
from doorward.core.openings import Effect, Key, new_opening, on_open
from doorward.core.token_bucket import TokenBucket
from doorward.daemon.bans import BanList
from doorward.daemon.confirmations import Confirmations
from doorward.daemon.key_files import key_path, keys_path, read_authorizer
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.replay_cache import Clock, PacketId
from doorward.daemon.reply_sockets import ReplySockets
from doorward.daemon.verifier import REJECTIONS_AT_ONCE, REJECTIONS_PER_S, Verifier, VerifierReady, VerifierReport
from doorward.errors import DoorwardError, HostError, MalformedError
from doorward.kernel.inotify import FileWatcher
from doorward.kernel.nflog import datagram_log
from doorward.model import Address, Opening, Place
from doorward.nftables.chains import SIGNED_GROUP
from doorward.nftables.nft_error import NftError
from doorward.signed.authorize import KnockClose, KnockGrant

if TYPE_CHECKING:
    from doorward.daemon.fleet_sync import ClaimRejection, FleetSync

_POLL_S = 2.0  # polling interval for changed files, in addition to inotify
_TOGETHER = 100  # grants claimed and opened in one transaction, and messages of the verifier read for them
# Openings of one key at a time; prolonging does not count. An attacker needs eight keys to fill a set: an opening has
# up to 32 ports, and the sets hold 65,536 entries, those of networks 1,024.
MAX_OPENINGS_PER_KEY = 256
MAX_WIDE_PER_KEY = 128  # entries of networks: each network counts once for each port
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a verifier that ended is restarted; doubled until one is ready
_Stamp = tuple[int, int, int] | None


class SignedKnocks:
    """Run a verifier. While its successor reads the files it goes on, and datagrams wait in the kernel."""

    def __init__(
        self,
        openings: OpeningsService,
        bans: BanList,
        fleet: Callable[[], FleetSync | None],
        window_ms: int,
        replies: ReplySockets | None = None,
    ) -> None:
        self._openings, self._bans, self._fleet = openings, bans, fleet
        self._confirmations = Confirmations(replies or ReplySockets(), openings.log)
        self._log = datagram_log(SIGNED_GROUP)
        self._verifier: Verifier | None = None
        self._next: Verifier | None = None
        self._settings: tuple[Configuration, Path] | None = None
        self._stamps: list[_Stamp] = []
        self._is_closed = False
        self._pause_s = _PAUSE_S
        self._watches: FileWatcher | None = None
        self.counts: Counter[str] = Counter()  # rejected datagrams, by reason
        self._window_ms = window_ms
        self._limit = TokenBucket(REJECTIONS_PER_S, REJECTIONS_AT_ONCE)  # of rejections with text, as in the verifier
        # The same for the verifier's own, which may be compromised; twice as much, since messages may have waited.
        self._verifier_limit = TokenBucket(2 * REJECTIONS_PER_S, 2 * REJECTIONS_AT_ONCE)
        # Packets that only a damaged ledger knew may have been dated ahead.
        floor_ms = _clock().now_ms + (window_ms if openings.ledger.follows_a_damaged_one else 0)
        if warning := openings.ledger.seen.begin(_clock, floor_ms):
            openings.log.message("clock-warning", warning, "warning")
        with suppress(HostError):  # without inotify the files are polled
            self._watches = FileWatcher()
            openings.loop.on_readable(self._watches.fileno(), self._changed)
        self._poll_files()

    def configure(self, configuration: Configuration, directory: Path) -> None:
        """Apply a loaded configuration; its files are relative to `directory`."""
        self._settings = configuration, directory
        self._confirmations.configure(configuration.confirming_ports)
        self._window_ms = configuration.signed.window_ms if configuration.signed else self._window_ms
        if self._watches is not None:
            for path in self._files():
                self._watches.watch([str(path)])
                self._watches.watch_directory(str(path.parent))
        self._start()

    def as_dict(self) -> dict[str, object]:
        """Return whether a verifier is running, the number of rejected datagrams by reason, and the confirmations."""
        confirmations = self._confirmations.as_dict()
        return {"takes": self._verifier is not None, "refused": dict(self.counts), "confirmations": confirmations}

    def close(self) -> None:
        """End the verifier and close the log."""
        self._stop_candidate()
        self._stop_worker()
        if self._watches is not None:
            self._openings.loop.unregister(self._watches.fileno())
            self._watches.close()
        self._log.close()
        self._confirmations.configure(())
        self._settings, self._is_closed = None, True

    def _files(self) -> list[Path]:
        configuration, directory = self._settings or (None, Path())
        signed = configuration.signed if configuration is not None and configuration.signed else Signed()
        return [key_path(signed, directory), keys_path(signed, directory)]

    def _start(self) -> None:
        if self._settings is None:
            return
        configuration, directory = self._settings
        self._stop_candidate()
        self._stamps = [_stamp(path) for path in self._files()]
        try:
            self._next = Verifier(self._log, lambda: read_authorizer(configuration, directory))
        except OSError as error:
            self._openings.log.message(
                "verifier-start-failed", f"cannot start the verifier of signed knocks: {error.strerror}", "error"
            )
            self._stop_worker()  # its keys may be outdated
            self._schedule_restart()
            return
        self._openings.loop.on_readable(self._next.fileno(), self._on_candidate_ready)

    def _schedule_restart(self) -> None:
        self._openings.loop.at(self._openings.loop.now_s() + self._pause_s, self._start)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _poll_files(self) -> None:
        """Poll for changed files and for a clock that was set."""
        if self._is_closed:
            return
        if warning := self._openings.ledger.seen.follow_clock(self._window_ms):
            self._openings.log.message("clock-warning", warning, "warning")
        if self._settings is not None:
            self._restart_if_changed()
        self._openings.loop.at(self._openings.loop.now_s() + _POLL_S, self._poll_files)

    def _changed(self) -> None:
        assert self._watches is not None  # noqa: S101
        self._watches.drain()
        self._restart_if_changed()

    def _restart_if_changed(self) -> None:
        if [_stamp(path) for path in self._files()] != self._stamps:
            if self._watches is not None:
                self._watches.watch(map(str, self._files()))  # a file that replaced another has a new inode
            self._start()

    def _on_candidate_ready(self) -> None:
        """Switch to the next verifier; one that reports a fault leaves signed knocks disabled until that is fixed."""
        assert self._next is not None  # noqa: S101
        try:
            ready = self._next.read()
        except MalformedError as error:  # killed, or out of memory
            self._stop_candidate()
            self._stop_worker()  # its files have changed, so it must not go on
            self._openings.log.message(
                "verifier-start-failed",
                f"the verifier of signed knocks did not start ({error}); restarting it",
                "error",
            )
            self._schedule_restart()
            return
        if not isinstance(ready, VerifierReady):
            return
        for fault in ready.faults:
            self._openings.log.message("authorized-keys-fault", fault, "error")
        self._stop_worker()
        if ready.trouble:
            self._openings.log.message("signed-knocks-off", f"no signed knock is accepted: {ready.trouble}", "error")
            self._stop_candidate()
            return
        self._verifier, self._next, self._pause_s = self._next, None, _PAUSE_S
        self._openings.loop.unregister(self._verifier.fileno())
        self._openings.loop.on_readable(self._verifier.fileno(), self._on_report)
        self._openings.log.message("accepting-signed-knocks", "accepting signed knocks")

    def _on_report(self) -> None:
        """Handle all waiting reports together, so that the ledger is written once for many grants."""
        assert self._verifier is not None  # noqa: S101
        granted: list[KnockGrant] = []
        try:
            for _ in range(_TOGETHER):  # and no more: a compromised verifier could send without a pause
                report = self._verifier.read()
                if not isinstance(report, VerifierReport):
                    break
                self._record_rejections(report)
                for knock in report.knocks:
                    if isinstance(knock, KnockGrant):
                        granted.append(knock)
                    else:
                        self._reject(knock, "close-unsupported", "this version cannot close a door by a knock")
                if len(granted) >= _TOGETHER:
                    break
        except MalformedError as error:
            self._openings.log.message(
                "verifier-failed", f"the verifier of signed knocks failed ({error}); restarting it", "error"
            )
            self._stop_worker()
            self._schedule_restart()
        if granted:
            self._claim_grants(granted)

    def _record_rejections(self, report: VerifierReport) -> None:
        self.counts.update(report.counts)
        for source, refused in report.refused:
            if self._verifier_limit.admits(self._openings.loop.now_s()):
                self._openings.reject(source, refused.door, f"signed knock: {refused.words}", refused.reason)

    def _claim_grants(self, granted: list[KnockGrant]) -> None:
        """Claim the grants; those for shared doors from the fleet first, as other gates may have used them."""
        if alone := [grant for grant in granted if not grant.is_shared]:
            self._claim(alone)
        shared = self._not_banned([grant for grant in granted if grant.is_shared])
        if shared and (fleet := self._fleet()) is not None:
            fleet.claim(shared, self._on_fleet_answer)
            return
        for grant in shared:  # verified with the previous configuration
            self._reject(grant, "fleet", "its door is shared, and this gate has left the fleet")

    def _on_fleet_answer(self, granted: list[KnockGrant], objections: list[ClaimRejection | None]) -> None:
        if new := [grant for grant, objection in zip(granted, objections, strict=True) if objection is None]:
            self._claim(new)
        for grant, objection in zip(granted, objections, strict=True):
            if objection is not None:
                self._reject(grant, *objection)

    def _claim(self, granted: list[KnockGrant]) -> None:
        granted = self._not_banned(granted)
        objections = self._openings.ledger.seen.claim([PacketId(grant.id, grant.time_ms) for grant in granted])
        for grant, objection in zip(granted, objections, strict=True):
            if objection:
                self._reject(grant, "used", objection)
        self._open([grant for grant, objection in zip(granted, objections, strict=True) if not objection])

    def _not_banned(self, granted: list[KnockGrant]) -> list[KnockGrant]:
        """Reject grants for banned addresses, before they are claimed, and return the rest.

        Packets from a banned address never arrive here: such a grant is for an address other than its sender's.
        """
        banned = [grant for grant in granted if self._bans.contains(grant.place)]
        for grant in banned:
            self._refuse(grant.place, grant.door, "banned", f"{grant.place} is banned")
        return [grant for grant in granted if grant not in banned]

    def _reject(self, knock: KnockGrant | KnockClose, reason: str, words: str) -> None:
        self._refuse(knock.place, knock.door, reason, f"packet from key {knock.key} rejected: {words}")

    def _refuse(self, place: Place, door: str, reason: str, words: str) -> None:
        """Count a rejection, and record it within the rate limit: a flood by one key must not displace the rest."""
        self.counts[reason] += 1
        if self._limit.admits(self._openings.loop.now_s()):
            self._openings.reject(place, door, f"signed knock: {words}", reason)

    def _open(self, grants: list[KnockGrant]) -> None:
        openings, now_s = self._openings, self._openings.loop.now_s()
        effects: list[Effect] = []
        opened: dict[Key | None, Opening] = {}
        performed: list[KnockGrant] = []
        for grant in grants:
            door = openings.doors.get(grant.door)
            if door is None:  # removed by a reload meanwhile
                continue
            new = new_opening(door, grant.place, grant.for_ms / 1000, f"key {grant.key}", now_s)
            if door.is_opening and (objection := self._no_room(new)):
                self._reject(grant, *objection)
                continue
            effects += on_open(openings.table, door, new, now_s)
            opened[new.key] = new
            performed.append(grant)
        refusals = openings.perform(effects)
        for refusal in refusals:
            self._not_opened(opened[refusal.change.key], refusal.error)
        refused = {refusal.change.key for refusal in refusals}
        self._applied([grant for grant in performed if (grant.door, grant.place) not in refused])

    def _applied(self, knocks: Sequence[KnockGrant | KnockClose]) -> None:
        """Confirm the knocks that opened or closed a door: claimed, recorded, and performed by the kernel."""
        now_s = self._openings.loop.now_s()
        for knock in knocks:
            opening = self._openings.table.get(knock.door, knock.place)
            left_s = 0 if opening is None else max(1, round(opening.until_s - now_s))
            self._confirmations.confirm(knock, left_s if isinstance(knock, KnockGrant) else None, now_s)

    def _no_room(self, new: Opening) -> tuple[str, str] | None:
        """Return the reason, as a word and a text, why an opening is not attempted; None if it is."""
        book = self._openings.table
        for wider in book.enclosing(new.address):  # a refusal by the kernel would take 10 ms
            if set(wider.ports).intersection(new.ports):
                return "overlap", f"{new.address} is part of {wider.address}, which is open already"
        if book.get(new.door, new.address) is not None:
            return None
        wide = 0 if isinstance(new.address, Address) else len(new.ports)
        if book.count(new.by) < MAX_OPENINGS_PER_KEY and book.wide_count(new.by) + wide <= MAX_WIDE_PER_KEY:
            return None
        return (
            "quota",
            f"it has {book.count(new.by)} openings, as many as a key may have; wait until some end, or close some",
        )

    def _not_opened(self, opening: Opening, error: DoorwardError) -> None:
        """Reject the grant of an opening that nftables refused."""
        reason = "full" if isinstance(error, NftError) and error.is_full else "failed"
        self._refuse(opening.address, opening.door, reason, f"{opening.by} opened nothing: {error}")

    def _stop_worker(self) -> None:
        if self._verifier is not None:
            self._openings.loop.unregister(self._verifier.fileno())
            self._verifier.close()
            self._verifier = None

    def _stop_candidate(self) -> None:
        if self._next is not None:
            self._openings.loop.unregister(self._next.fileno())
            self._next.close()
            self._next = None


def _clock() -> Clock:
    """Return the wall clock and the boot time on it."""
    now_s = time.time()
    return Clock(round(now_s * 1000), round((now_s - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000))


def _stamp(path: Path) -> _Stamp:
    """Return a value that changes with the file's content, identity or mode; None if the file is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
