"""The fleet's openings as one gate knows them: events from this gate and from etcd in, effects out.

Pure: times are arguments, `now_ms` of the host's monotonic clock. etcd's revisions order everything: an event older
than the known state of its key is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from doorward.core.signed_rules import CloseDates, DatedKnock
from doorward.fleet.etcd_records import OpeningKey
from doorward.nftables.ruleset import OPEN_SIZE

# Keys of etcd that are remembered; they may name doors that this gate does not have. The open sets of both families
# together have as many elements. Beyond it new openings of other gates are ignored until others end.
MAX_KNOWN = 2 * OPEN_SIZE
MAX_OWED_CLOSES = 1000  # beyond it the oldest ends only what this gate knows to be open
END_TOLERANCE_MS = 50  # ends that differ by less are the same
PRUNE_AFTER_MS = 60_000  # after the end: by then its key is gone, or is read again and seen to have ended


@dataclass(slots=True)
class OpeningState:
    """One opening: its end here, who opened it, and the revision that wrote its key (0: unknown).

    `dated_ms`: the date of the newest signed knock that made it.

    Both `is_owed` and `is_closing`: it was closed and opened again. The close is published first, since a shorter end
    alone would not shorten the opening at the other gates.
    """

    until_ms: int
    by: str
    revision: int = 0
    is_owed: bool = False  # its end is to be published
    is_closing: bool = False  # that it was closed is to be published
    closed_until_ms: int = 0  # the end that it had when it was closed
    dated_ms: int = 0

    @property
    def is_settled(self) -> bool:
        """Return whether nothing is to be published, and its revision is known."""
        return bool(self.revision) and not (self.is_owed or self.is_closing)

    @property
    def is_open(self) -> bool:
        """Return whether it is open here, until its end."""
        return self.is_owed or not self.is_closing


class OpenHere(NamedTuple):
    """Open it here: another gate opened it for `for_ms`."""

    key: OpeningKey
    left_ms: int
    by: str
    for_ms: int
    dated_ms: int = 0


class CloseHere(NamedTuple):
    """Close here what knocks dated at or before `dated_ms` opened: a hand closed it, or (`is_signed`) a knock."""

    key: OpeningKey
    dated_ms: int = 0
    is_signed: bool = False


class PublishOpening(NamedTuple):
    """Publish the state of a key to etcd; the state is read when it is written."""

    key: OpeningKey


class SeenOpening(NamedTuple):
    """A key as stored in etcd: revision, gate, who opened it, and how much of `for_ms` is left here.

    `created` is the revision that created it: a later one than the known revision shows that it was deleted meanwhile.
    """

    key: OpeningKey
    revision: int
    gate: str
    by: str
    left_ms: int
    for_ms: int
    created: int = 0
    dated_ms: int = 0


Effect = OpenHere | CloseHere | PublishOpening


class SharedOpeningTable:
    """All openings of the fleet that the gate named `gate` knows."""

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self._known: dict[OpeningKey, OpeningState] = {}
        self._closes = CloseDates()  # by signed knocks
        self.owed_closes: dict[OpeningKey, int] = {}  # dates of those that are still to be announced
        self.changed: set[OpeningKey] = set()  # since the caller last emptied it
        self.ignored = 0  # openings beyond MAX_KNOWN, since the caller last reset it

    def __len__(self) -> int:
        return len({key[:2] for key, known in self._known.items() if known.is_open})

    def get(self, key: OpeningKey) -> OpeningState | None:
        """Return the state of a key; None if it is unknown."""
        return self._known.get(key)

    def restore(
        self,
        openings: Iterable[tuple[OpeningKey, int, str, int, int]],
        closed: Iterable[tuple[OpeningKey, int, bool]],
        saved: Mapping[OpeningKey, OpeningState],
        now_ms: int,
    ) -> list[Effect]:
        """Start from this gate's openings and closes (as for `on_close`), and from the last known state of etcd.

        `openings`: each with its end, who opened it, for how long, and its date.

        Saved keys that this gate has no use for are changed too, so that they are deleted.
        """
        for key, state in saved.items():
            if state.is_closing:
                self._known[key] = state
        effects: list[Effect] = []
        for key, dated_ms, is_signed in closed:  # first: what is open now was opened after it
            if key in saved:
                self._known[key] = saved[key]
            effects += self.on_close(key, dated_ms, is_signed, now_ms)
        for key, until_ms, by, _, dated_ms in openings:
            if key in saved:
                self._known.setdefault(key, saved[key]).by = by
            effects += self.on_opened(key, until_ms, by, now_ms, dated_ms)
        self.changed |= saved.keys() - self._known.keys()
        return effects

    def on_opened(self, key: OpeningKey, until_ms: int, by: str, now_ms: int, dated_ms: int = 0) -> list[Effect]:
        """Handle an opening that this gate made or extended."""
        if self._is_closed(key, dated_ms):  # another gate has claimed a close since, which ends it here too
            return []
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = OpeningState(until_ms, by, is_owed=True)
        elif not known.is_open or known.until_ms <= now_ms:
            known.until_ms, known.by, known.is_owed, known.dated_ms = until_ms, by, True, 0
        elif until_ms > known.until_ms + END_TOLERANCE_MS or dated_ms > known.dated_ms or not known.revision:
            known.until_ms, known.by, known.is_owed = max(until_ms, known.until_ms), by, True
        else:
            return []
        known.dated_ms = max(known.dated_ms, dated_ms)
        self.changed.add(key)
        return [PublishOpening(key)]

    def on_closed(self, key: OpeningKey, now_ms: int, dated_ms: int = 0) -> list[Effect]:
        """Handle a close by hand at this gate. Of an unknown key it ends what this gate published, not what others did.

        Nothing says whether that is older than the close, and an opening after it must stay.
        """
        known = self._known.get(key, OpeningState(now_ms, "", dated_ms=dated_ms))
        if known.dated_ms > dated_ms:  # another gate has opened it since, which this one is about to learn
            return []
        closed_until_ms = max(known.until_ms, known.closed_until_ms)
        self._known[key] = OpeningState(
            known.until_ms, "", known.revision, False, True, closed_until_ms, known.dated_ms
        )
        self.changed.add(key)
        return [PublishOpening(key)]

    def on_signed_close(self, key: OpeningKey, dated_ms: int, now_ms: int) -> list[Effect]:
        """Handle a close by a signed knock at any gate: it ends this signer's share, unless a later knock made that."""
        self._closes.note(DatedKnock(key.signer, key.door, key.address, dated_ms))
        here = CloseHere(key, dated_ms, is_signed=True)
        known = self._known.get(key)
        is_owed = known is not None and known.is_open and known.dated_ms <= dated_ms
        return [here, *(self.on_closed(key, now_ms, dated_ms) if is_owed else [])]

    def on_close(self, key: OpeningKey, dated_ms: int, is_signed: bool, now_ms: int) -> list[Effect]:
        """Handle a close at this gate: by hand, or signed but not claimed, to be announced once etcd answers."""
        if not is_signed:
            return self.on_closed(key, now_ms, dated_ms)
        self.owed_closes[key] = max(dated_ms, self.owed_closes.get(key, 0))
        if len(self.owed_closes) > MAX_OWED_CLOSES:
            del self.owed_closes[next(iter(self.owed_closes))]
        return self.on_signed_close(key, dated_ms, now_ms)

    def _is_closed(self, key: OpeningKey, dated_ms: int) -> bool:
        """Return whether the signer closed it at that date or later; whatever etcd says, it stays closed."""
        return bool(key.signer) and dated_ms <= self._closes.exact(key.signer, key.door, key.address)

    def on_put(self, observed: SeenOpening, now_ms: int) -> list[Effect]:
        """Handle a key that was written, by this or another gate."""
        known = self._known.get(observed.key)
        if known is not None and known.revision >= observed.revision:
            return []
        if known is None and len(self._known) >= MAX_KNOWN:
            self.ignored += 1
            return []
        until_ms = now_ms + observed.left_ms
        self.changed.add(observed.key)
        if self._is_closed(observed.key, observed.dated_ms):
            return self._on_put_too_late(observed, now_ms)
        if known is not None and known.is_closing and observed.gate == self._gate:  # closed here since then
            known.revision = observed.revision
            return []
        effects: list[Effect] = []
        is_recreated = known is not None and known.is_settled and observed.created > known.revision
        if known is not None and is_recreated and max(until_ms + END_TOLERANCE_MS, now_ms) < known.until_ms:
            # Closed, and opened again for a shorter time.
            effects, known = [CloseHere(observed.key, known.dated_ms)], None
        if known is None or not known.is_open or known.until_ms <= now_ms:  # it was written after the end here
            known = self._known[observed.key] = OpeningState(0, observed.by)
        known.revision, known.is_closing = observed.revision, False
        has_all = until_ms >= known.until_ms - END_TOLERANCE_MS and observed.dated_ms >= known.dated_ms
        if observed.gate == self._gate and has_all:
            known.is_owed = False  # seen before the answer to the write: a delete that follows is a close
        is_longer = until_ms > known.until_ms + END_TOLERANCE_MS
        if observed.left_ms <= 0 or not (is_longer or observed.dated_ms > known.dated_ms):
            return effects
        if is_longer:
            is_owed = known.is_owed and known.dated_ms > observed.dated_ms
            known.until_ms, known.by, known.is_owed = until_ms, observed.by, is_owed
        known.dated_ms = max(known.dated_ms, observed.dated_ms)
        # Even under this gate's own name: anyone who can write to etcd can use it, and this gate did not open it.
        by = f"{observed.by} at {observed.gate}"
        return [*effects, OpenHere(observed.key, observed.left_ms, by, observed.for_ms, observed.dated_ms)]

    def _on_put_too_late(self, observed: SeenOpening, now_ms: int) -> list[Effect]:
        """Handle a key that a gate wrote after its signer's close, for an opening before it: delete or replace it."""
        late = OpeningState(now_ms + observed.left_ms, "", dated_ms=observed.dated_ms)
        known = self._known.setdefault(observed.key, late)
        known.revision = observed.revision
        if known.is_open and known.until_ms > now_ms and not self._is_closed(observed.key, known.dated_ms):
            known.is_owed = True  # opened after the close, which replaces it
        else:
            known.is_owed, known.is_closing = False, True
            known.closed_until_ms = max(known.closed_until_ms, known.until_ms)
        return [PublishOpening(observed.key)]

    def on_deleted(self, key: OpeningKey, revision: int, now_ms: int) -> list[Effect]:
        """Handle a key that was deleted. Before its end this means closed, since its lease outlasts it."""
        known = self._known.get(key)
        if known is None or known.revision > revision or (not known.revision and known.is_owed):
            return []
        self.changed.add(key)
        if known.is_owed and known.until_ms > now_ms:  # opened here since then, which is still to be published
            known.revision, known.is_closing = 0, False
            return []
        del self._known[key]
        return [CloseHere(key, known.dated_ms)] if known.until_ms > now_ms and known.is_open else []

    def on_snapshot(self, observed: Iterable[SeenOpening], revision: int, now_ms: int) -> list[Effect]:
        """Handle all keys as of a revision: a known key that is missing was closed."""
        effects: list[Effect] = []
        present = set()
        for opening in observed:
            present.add(opening.key)
            effects += self.on_put(opening, now_ms)
        for key in [key for key, known in self._known.items() if known.revision and key not in present]:
            effects += self.on_deleted(key, revision, now_ms)
        return effects + self.owed(now_ms)

    def owed(self, now_ms: int) -> list[Effect]:
        """Return an effect for each change that is still to be published."""
        return [PublishOpening(key) for key in self._known if self.owes(key, now_ms)]

    def owes(self, key: OpeningKey, now_ms: int) -> bool:
        """Return whether a change of this key is still to be published; an opening that has ended is not."""
        known = self._known.get(key)
        return known is not None and (known.is_closing or (known.is_owed and known.until_ms > now_ms))

    def on_written(self, key: OpeningKey, revision: int, until_ms: int, dated_ms: int = 0) -> None:
        """Handle a successful write: etcd has this end and this date, at this revision."""
        known = self._known.get(key)
        if known is None or known.revision > revision:
            return
        known.revision = revision
        is_current = known.until_ms <= until_ms + END_TOLERANCE_MS and known.dated_ms <= dated_ms
        if not known.is_closing and is_current:
            known.is_owed = False
        self.changed.add(key)

    def on_erased(self, key: OpeningKey) -> None:
        """Handle a successful delete: etcd has no such key."""
        known = self._known.get(key)
        if known is None:
            return
        if known.is_open:  # opened here since then
            known.revision, known.is_closing = 0, False
        else:
            del self._known[key]
        self.changed.add(key)

    def on_conflict(self, key: OpeningKey, observed: SeenOpening | None, revision: int, now_ms: int) -> list[Effect]:
        """Handle a write that etcd did not make because the key had changed; `observed` is its value.

        `revision` last wrote it (0: it does not exist); a malformed value (None) is overwritten.
        """
        known = self._known.get(key)
        if observed is not None:
            return self.on_put(observed, now_ms)
        if known is not None and known.is_closing and not revision:
            self.on_erased(key)
        elif known is not None:
            known.revision = revision
        return []

    def prune(self, now_ms: int) -> None:
        """Remove openings that ended long ago."""
        least_ms = now_ms - PRUNE_AFTER_MS
        for key in [k for k, s in self._known.items() if max(s.until_ms, s.closed_until_ms) < least_ms]:
            del self._known[key]
            self.changed.add(key)
