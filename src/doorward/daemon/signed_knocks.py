"""Apply the verifier's decisions: knocks open and close doors, rejections become ledger entries.

A knock is first claimed in the replay cache; then the opening or its end is recorded; then the kernel is changed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doorward.config.schema import Configuration, Signed, longest_window_ms
from doorward.core.openings import (
    OTHER_FAMILY,
    Effect,
    LogLine,
    RecordConfirmation,
    RecordRun,
    Reject,
    SetElements,
    on_open,
    on_signed_close,
    signed_opening,
)
from doorward.core.signed_rules import CLOSED, DatedKnock, Holders
from doorward.core.token_bucket import TokenBucket
from doorward.daemon.bans import BanList
from doorward.daemon.confirmations import Confirmations
from doorward.daemon.fwknop_users import FwknopUsers
from doorward.daemon.key_files import keys_path
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.replay_cache import TOO_MANY, TOO_OLD, Clock, PacketId, claim_quotas
from doorward.daemon.reply_sockets import ReplySockets
from doorward.daemon.verifier import REJECTIONS_AT_ONCE, REJECTIONS_PER_S
from doorward.daemon.verifier_report import VerifierReport
from doorward.daemon.verifier_supervisor import POLL_S, VerifierSupervisor
from doorward.errors import DoorwardError
from doorward.model import Address, Door, Opening
from doorward.nftables.nft_error import NftError
from doorward.signed.authorize import FWKNOP, ValidKnock, clock_offset, signer_text

if TYPE_CHECKING:
    from doorward.daemon.fleet_sync import FleetSync
    from doorward.fleet.admission import Rejected

# Openings of one key at a time; prolonging does not count. An attacker needs eight keys to fill a set: an opening has
# up to 32 ports, and the sets hold 65,536 entries, those of networks 1,024.
MAX_OPENINGS_PER_KEY = 256
MAX_WIDE_PER_KEY = 128  # entries of networks: each network counts once for each port


class SignedKnocks:
    """Claim, apply and confirm what the verifier grants, and record what it rejects."""

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
        self._verifiers = VerifierSupervisor(openings.loop, openings.log, self._on_reports)
        self._is_closed = self._is_for_browsers = False
        self._ports, self._authorized_keys = list[str](), ""
        self.counts: Counter[str] = Counter()  # rejected datagrams, by reason
        self.resent = 0  # repeats by browsers
        self._fwknop_users: FwknopUsers | None = None
        self._window_ms = window_ms
        self._quotas = claim_quotas(window_ms)
        self._limit = TokenBucket(REJECTIONS_PER_S, REJECTIONS_AT_ONCE)  # of rejections with text, as in the verifier
        # The same for the verifier's own, which may be compromised; twice as much, since messages may have waited.
        self._verifier_limit = TokenBucket(2 * REJECTIONS_PER_S, 2 * REJECTIONS_AT_ONCE)
        # Packets that only a damaged ledger knew may have been dated ahead.
        floor_ms = _clock().now_ms + (window_ms if openings.ledger.follows_a_damaged_one else 0)
        if warning := openings.ledger.seen.begin(_clock, floor_ms):
            openings.log.message("clock-warning", warning, "warning")
        self._poll()

    def configure(self, configuration: Configuration, directory: Path) -> None:
        """Apply a loaded configuration; its files are relative to `directory`."""
        self._is_for_browsers = configuration.is_for_browsers
        self._ports = [str(port) for port in configuration.signed_ports]
        self._authorized_keys = str(keys_path(configuration.signed or Signed(), directory))
        self._confirmations.configure(configuration.confirming_ports)
        window_ms = longest_window_ms(configuration.signed, configuration.fwknop)
        if window_ms != self._window_ms:
            self._window_ms, self._quotas = window_ms, claim_quotas(window_ms)
        self._fwknop_users = None
        if configuration.fwknop is not None:
            names = [stanza.name for stanza in configuration.fwknop.stanzas]
            self._fwknop_users = FwknopUsers(names, self._openings.ledger.last_openings())
        self._verifiers.configure(configuration, directory)

    def as_dict(self) -> dict[str, object]:
        """Return whether a verifier is running, its ports and keys, what it counted, and the confirmations."""
        confirmations = self._confirmations.as_dict()
        return {
            "takes": self._verifiers.is_ready,
            "ports": self._ports,
            "authorized_keys": self._authorized_keys,
            "browser": self._is_for_browsers,
            "resent": self.resent,
            "refused": dict(self.counts),
            "confirmations": confirmations,
            "fwknop": None if self._fwknop_users is None else self._fwknop_users.as_list(self._verifiers.stanzas),
        }

    def close(self) -> None:
        """End the verifier and close the log."""
        self._verifiers.close()
        self._confirmations.configure(())
        self._is_closed = True

    def _poll(self) -> None:
        """Poll for changed files and for a clock that was set."""
        if self._is_closed:
            return
        if warning := self._openings.ledger.seen.follow_clock(self._window_ms):
            self._openings.log.message("clock-warning", warning, "warning")
        self._verifiers.poll()
        self._openings.loop.at(self._openings.loop.now_s() + POLL_S, self._poll)

    def _on_reports(self, reports: list[VerifierReport]) -> None:
        """Handle reports together, so that the ledger is written once for many knocks; then record the rejections."""
        if knocks := [knock for report in reports for knock in report.knocks]:
            self._on_knocks(knocks)
        self._record_rejections(reports)
        for report in reports:
            for repeat in report.repeats:  # one for a fleet's knock may come before etcd's answer: more will follow
                self._confirmations.repeat(repeat, self._openings.loop.now_s())

    def _record_rejections(self, reports: Sequence[VerifierReport]) -> None:
        for report in reports:
            self.counts.update(report.counts)
        self.resent += self.counts.pop("resent", 0)
        refused, now_s = [each for report in reports for each in report.refused], self._openings.loop.now_s()
        if recorded := [each for each in refused if self._verifier_limit.admits(now_s)]:
            self._openings.perform(
                [Reject(source, why.door, f"{why.kind}: {why.words}", why.reason) for source, why in recorded]
            )

    def _on_knocks(self, knocks: list[ValidKnock]) -> None:
        """Claim the knocks; those for the fleet there first, as other gates may have used them."""
        alone: list[ValidKnock] = []
        shared: list[ValidKnock] = []
        fleet, now_s = self._fleet(), self._openings.loop.now_s()
        for knock in knocks:
            if not self._quotas.admits(knock.signer, now_s):
                self._reject(knock, "quota", TOO_MANY)
            elif objection := self._not_for_one(knock):
                self._reject(knock, "once-unsupported", objection)
            elif fleet is not None and (knock.is_shared or (knock.is_close and self._is_shared(knock.door))):
                shared.append(knock)
            elif knock.is_shared and not knock.is_close:  # verified with the previous configuration
                self._reject(knock, "fleet", "its door is shared, and this gate has left the fleet")
            else:
                alone.append(knock)
        self._claim(alone)
        if fleet is not None and (shared := self._not_banned(shared)):
            fleet.claim(shared, self._on_fleet_answer)

    def _is_shared(self, name: str) -> bool:
        door = self._openings.doors.get(name)
        return door is not None and door.shared

    def _not_for_one(self, knock: ValidKnock) -> str:
        """Return why a door cannot open for one connection, as requested or configured, or ""."""
        doors = (self._openings.doors.get(name) for name in (knock.door, *knock.also))
        for door in (door for door in doors if door is not None and (knock.once or door.once)):
            if not isinstance(knock.source, Address):
                return f"door {door.name} opens for one connection, not to the network {knock.source}; name an address"
            if not door.is_for_one_possible:
                return f"door {door.name} does not open TCP ports alone, so it cannot open for one connection"
            if door.shared and not door.once:
                return f"door {door.name} is shared with the fleet; write once = true for it at every gate"
        return ""

    def _on_fleet_answer(self, granted: list[ValidKnock], objections: list[Rejected | None]) -> None:
        self._claim([grant for grant, objection in zip(granted, objections, strict=True) if objection is None])
        for grant, objection in zip(granted, objections, strict=True):
            if objection is not None:
                self._reject(grant, *objection)

    def _claim(self, knocks: Sequence[ValidKnock]) -> None:
        """Claim knocks, in the order in which they came, and apply those that are new."""
        knocks = self._not_banned(knocks)
        if not knocks:
            return
        claims = [PacketId(k.id, k.time_ms, _dated(k), k.is_close) for k in knocks]
        objections = self._openings.ledger.seen.claim(claims)
        for knock, objection in zip(knocks, objections, strict=True):
            if objection:
                self._reject(knock, "closed" if objection == CLOSED else "used", objection + _offset(knock, objection))
        self._apply([knock for knock, objection in zip(knocks, objections, strict=True) if not objection])

    def _not_banned(self, knocks: Sequence[ValidKnock]) -> list[ValidKnock]:
        """Reject knocks for banned addresses, before they are claimed, and return the rest.

        Packets from a banned address never arrive here: such a knock is for an address other than its sender's.
        """
        banned = [knock for knock in knocks if self._bans.contains(knock.source)]
        for knock in banned:
            self._refuse(knock, "banned", f"{knock.source} is banned")
        return [knock for knock in knocks if knock not in banned]

    def _reject(self, knock: ValidKnock, reason: str, words: str) -> None:
        self._refuse(knock, reason, f"packet from {signer_text(knock)} rejected: {words}")

    def _refuse(self, knock: ValidKnock, reason: str, words: str) -> None:
        """Count a rejection, and record it within the rate limit: a flood by one key must not displace the rest."""
        self.counts[reason] += 1
        if self._limit.admits(self._openings.loop.now_s()):
            self._openings.reject(knock.source, knock.door, f"{knock.kind}: {words}", reason)

    def _apply(self, knocks: list[ValidKnock]) -> None:
        """Open and close for claimed knocks, in one transaction of the kernel."""
        effects: list[Effect] = []
        applied: list[ValidKnock] = []
        for knock in (each._replace(door=door, also=()) for each in knocks for door in (each.door, *each.also)):
            door = self._openings.doors.get(knock.door)
            if door is None:  # verified with the previous configuration
                self._reject(knock, "door", "a reload has removed its door")
                continue
            found = self._close(knock) if knock.for_ms is None else self._open(knock, knock.for_ms, door)
            effects += found
            if any(isinstance(effect, SetElements | RecordRun) for effect in found):
                applied.append(knock)
        refused = {refusal.change.key: refusal.error for refusal in self._openings.perform(effects)}
        for knock in applied:
            if (error := refused.get((knock.door, knock.source))) is not None:
                self._not_applied(knock, error)
        self._applied([knock for knock in applied if (knock.door, knock.source) not in refused])

    def _applied(self, knocks: list[ValidKnock]) -> None:
        """Confirm the knocks that opened or closed a door: claimed, recorded, and performed by the kernel.

        What became of the confirmations is recorded once all are sent.
        """
        now_s = self._openings.loop.now_s()
        outcomes = list[Effect]()
        for knock in knocks:
            opening = self._openings.table.get(knock.door, knock.source)
            left_s = 0 if opening is None else max(1, round(opening.until_s - now_s))
            outcome = self._confirmations.confirm(knock, None if knock.is_close else left_s, now_s)
            if self._fwknop_users is not None and not knock.is_close:
                self._fwknop_users.note(signer_text(knock), time.time())
            if outcome is not None:
                outcomes.append(RecordConfirmation((knock.door, knock.source), outcome))
        if outcomes:
            self._openings.perform(outcomes)

    def _open(self, grant: ValidKnock, for_ms: int, door: Door) -> list[Effect]:
        dated, now_s, fleet = _dated(grant), self._openings.loop.now_s(), self._fleet()
        closed = "" if fleet is None else fleet.objection(dated)
        if grant.kind == FWKNOP:  # its packet is claimed for its first door only
            closed = closed or self._openings.ledger.seen.closes.objection(dated)
        if closed:
            self._reject(grant, "closed", closed + _offset(grant, closed))
            return []
        new = signed_opening(door, dated, for_ms / 1000, signer_text(grant), now_s, once=grant.once)
        if reason := door.exclusion(grant.source):
            self._reject(grant, OTHER_FAMILY, reason)
            return []
        if door.is_opening and (objection := self._no_room(new)):
            self._reject(grant, *objection)
            return []
        return on_open(self._openings.table, door, new, now_s)

    def _close(self, knock: ValidKnock) -> list[Effect]:
        """Close what the signer holds; what others hold stays, and a close that finds nothing is only logged."""
        by, now_s = signer_text(knock), self._openings.loop.now_s()
        if effects := on_signed_close(self._openings.table, _dated(knock), by, now_s):
            return effects
        key = knock.door, knock.source
        return [LogLine(key, "not_open", {"door": knock.door, "address": str(knock.source), "by": by})]

    def _no_room(self, new: Opening) -> tuple[str, str] | None:
        """Return the reason, as a word and a text, why an opening is not attempted; None if it is."""
        table = self._openings.table
        for wider in table.enclosing(new.address):  # a refusal by the kernel would take 10 ms
            if set(wider.ports).intersection(new.ports):
                return "overlap", f"{new.address} is part of {wider.address}, which is open already"
        (share,) = new.shares
        holders = Holders.of(table.get(*new.key)).expire(new.since_s)
        if any(held.by == share.by for held in holders.shares):
            return None
        if holders.hold(share) is None:
            return "quota", f"{len(holders.shares)} holders keep the door open to {new.address} already"
        wide = 0 if isinstance(new.address, Address) else len(new.ports)
        count = table.count(share.by)
        if count < MAX_OPENINGS_PER_KEY and table.wide_count(share.by) + wide <= MAX_WIDE_PER_KEY:
            return None
        return "quota", f"it has {count} openings, as many as a key may have; wait until some end, or close some"

    def _not_applied(self, knock: ValidKnock, error: DoorwardError) -> None:
        """Reject a knock whose change nftables refused."""
        reason = "full" if isinstance(error, NftError) and error.is_full else "failed"
        verb = "closed" if knock.is_close else "opened"
        self._refuse(knock, reason, f"{signer_text(knock)} {verb} nothing: {error}")


def _dated(knock: ValidKnock) -> DatedKnock:
    return DatedKnock(knock.signer.hex(), knock.door, knock.source, knock.time_ms)


def _offset(knock: ValidKnock, objection: str) -> str:
    """Return how far the sender's clock is off, where that may be why a knock was rejected for its date."""
    behind_ms = _clock().now_ms - knock.time_ms
    return f"; it is {clock_offset(behind_ms)}" if objection in (CLOSED, TOO_OLD) else ""


def _clock() -> Clock:
    """Return the wall clock and the boot time on it."""
    now_s = time.time()
    return Clock(round(now_s * 1000), round((now_s - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000))
