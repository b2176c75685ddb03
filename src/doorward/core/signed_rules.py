"""Rules for signed closes: what a close ends, and which opens it keeps out. Pure.

An attacker may hold packets back and deliver them in another order. So what counts is the date that the signer wrote:
a close ends what its signer opened with a date at or before it, and such an open that comes later is rejected.

A close has to be remembered as long as the gate would accept such an open. That is exactly as long as the replay cache
knows the close's number: it rejects what is dated at or before the numbers that it dropped, what is dated before a lost
ledger ended, and after a loss of power what is dated before the boot. So the dates belong in the replay cache's file,
are written in the transaction that claims the close, and are dropped with the numbers, whatever the clock does.

`by` identifies a holder. For a signed knock that is the hash of its key, not the comment in authorized_keys, which two
keys may share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from doorward.model import Opening, Share, Source

MAX_HOLDERS = 64  # of one opening; beyond it another signer's open is rejected, and the opening stays as it is
# Each close of a signer for another door or address. Beyond it the oldest counts for all doors and addresses of that
# signer: its opens dated at or before that are rejected.
MAX_CLOSES_PER_SIGNER = 64
# Signers with a remembered close. Beyond it the one whose last close is oldest is dropped: opens dated at or before
# that close are rejected, for all signers. A key is one signer, so no key alone can cause that; an authority can.
MAX_CLOSING_SIGNERS = 256
_ALL = ("", "")  # in place of door and address: all of them
# Before a signer, for closes by hand. Their date is the gate's own, so it is lowered with a clock that was ahead.
# This alone, and "", are for all signers.
_BY_HAND = "hand "
CLOSED = "its signer closed the door at that time or later"


class DatedKnock(NamedTuple):
    """A verified open or close: who signed it, for which door and address, and the date in it."""

    by: str
    door: str
    source: Source
    time_ms: int


def may_open(knock: DatedKnock, last_close_ms: int) -> str:
    """Return the reason to reject an open, or ""; `last_close_ms` is from `CloseDates.last`."""
    return "" if knock.time_ms > last_close_ms else CLOSED


class Holders(NamedTuple):
    """The shares of one opening, of one door to one address: it ends with the last of them."""

    shares: tuple[Share, ...] = ()  # sorted by holder

    @classmethod
    def of(cls, opening: Opening | None) -> Holders:
        """Return the holders of an opening; None has none."""
        if opening is None:
            return cls()
        return cls(opening.shares or (Share(opening.by, opening.until_s, name=opening.by),))

    @property
    def until_s(self) -> float:
        """Return when the opening ends; minus infinity if nobody holds it."""
        return max((share.until_s for share in self.shares), default=float("-inf"))

    def hold(self, new: Share) -> Holders | None:
        """Add a share, or extend the holder's own, never shortening it; None if there is no room for another signer.

        A share for one connection sets the end of all such shares: in the kernel they are one, and what may have been
        used meanwhile is not prolonged.
        """
        own = next((share for share in self.shares if (share.by, share.once) == (new.by, new.once)), new)
        others = [share for share in self.shares if (share.by, share.once) != (new.by, new.once)]
        if new.dated_ms and len({share.by for share in others} - {new.by}) >= MAX_HOLDERS:
            return None
        until_s = new.until_s if new.once else max(own.until_s, new.until_s)
        merged = Share(new.by, until_s, max(own.dated_ms, new.dated_ms), new.name, new.once)
        others = [share._replace(until_s=until_s) if share.once and new.once else share for share in others]
        return Holders(tuple(sorted((*others, merged))))

    def close(self, by: str, dated_ms: int) -> Holders:
        """Apply a close of this door and address: remove what the signer's knocks made, unless a later one did.

        That is the signer's own share, and what the fleet announced of it. `by` "": remove what no signed knock made.
        """
        return Holders(tuple(s for s in self.shares if s.signer != by or s.dated_ms > dated_ms))

    def use(self) -> Holders:
        """Remove the shares for one connection, which has come."""
        return Holders(tuple(share for share in self.shares if not share.once))

    def expire(self, now_s: float) -> Holders:
        """Remove the shares that end at or before `now_s`."""
        return Holders(tuple(share for share in self.shares if share.until_s > now_s))


class CloseDates:
    """The date of the last close by each signer, for each door and address.

    `rows` are (signer, door, address as text, date), as `rows()` returns them and the ledger keeps them.
    """

    def __init__(self, rows: Iterable[tuple[str, str, str, int]] = ()) -> None:
        self._dates: dict[str, dict[tuple[str, str], int]] = {}
        self._newest: dict[str, int] = {}  # of each signer
        for by, door, source, time_ms in rows:
            self._raise(by, (door, source), time_ms)

    def rows(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield what has to be on disk."""
        for by, dates in self._dates.items():
            yield from ((by, *target, time_ms) for target, time_ms in dates.items())

    def last(self, by: str, door: str, source: Source) -> int:
        """Return the date up to which opens by this signer for this door and address are rejected; -1: none is."""
        known = [self._dates[signer] for signer in (by, _BY_HAND + by, "", _BY_HAND) if signer in self._dates]
        return max((dates.get(target, -1) for dates in known for target in ((door, str(source)), _ALL)), default=-1)

    def objection(self, knock: DatedKnock) -> str:
        """Return the reason to reject an open, or ""."""
        return may_open(knock, self.last(knock.by, knock.door, knock.source))

    def exact(self, by: str, door: str, source: Source) -> int:
        """Return the date of the last close by this signer of this very door and address; -1: none is remembered."""
        return self._dates.get(by, {}).get((door, str(source)), -1)

    def note(self, close: DatedKnock) -> None:
        """Remember a close that was claimed, also one that found nothing open."""
        self._raise(close.by, (close.door, str(close.source)), close.time_ms)
        own = self._dates[close.by]
        if len(own) > MAX_CLOSES_PER_SIGNER + (_ALL in own):
            oldest = min(own.keys() - {_ALL}, key=own.__getitem__)
            self._raise(close.by, _ALL, own.pop(oldest))
        signers = self._newest.keys() - {"", _BY_HAND}
        if len(signers) > MAX_CLOSING_SIGNERS:
            first = min(signers, key=self._newest.__getitem__)
            del self._dates[first]
            self._raise(_BY_HAND if first.startswith(_BY_HAND) else "", _ALL, self._newest.pop(first))

    def note_by_hand(self, close: DatedKnock) -> None:
        """Remember a close by hand of what this signer holds, dated by the gate's clock."""
        self.note(close._replace(by=_BY_HAND + close.by))

    def lower(self, latest_ms: int) -> None:
        """Lower the dates of closes by hand that a wrong clock put into the future."""
        for by, dates in self._dates.items():
            if by.startswith(_BY_HAND):
                dates.update({target: latest_ms for target, time_ms in dates.items() if time_ms > latest_ms})
                self._newest[by] = min(self._newest[by], latest_ms)

    def finish(self, door: str, source: Source, holders: Holders) -> Holders:
        """Apply the closes to an opening that the ledger has at a start: a kill may have come after their claim."""
        for share in holders.shares:
            holders = holders.close(share.signer, self.exact(share.signer, door, source))
        return holders

    def prune(self, forgotten_ms: int) -> None:
        """Drop dates up to the newest one that the replay cache has dropped: it rejects those opens itself."""
        for by, dates in list(self._dates.items()):
            self._dates[by] = {target: time_ms for target, time_ms in dates.items() if time_ms > forgotten_ms}
            if not self._dates[by]:
                del self._dates[by], self._newest[by]

    def _raise(self, by: str, target: tuple[str, str], time_ms: int) -> None:
        dates = self._dates.setdefault(by, {})
        dates[target] = max(dates.get(target, -1), time_ms)
        self._newest[by] = max(self._newest.get(by, -1), time_ms)
