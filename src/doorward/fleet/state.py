"""The fleet's openings as one gate knows them: events from this gate and from etcd in, effects out.

Pure: times are arguments, `now_ms` of the host's monotonic clock. etcd's revisions order everything: an event older
than the known state of its key is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from doorward.fleet.etcd_records import OpeningKey
from doorward.nftables.ruleset import OPEN_SIZE

# Keys of etcd that are remembered; they may name doors that this gate does not have. The open sets of both families
# together have as many elements. Beyond it new openings of other gates are ignored until others end.
MAX_KNOWN = 2 * OPEN_SIZE
END_TOLERANCE_MS = 50  # ends that differ by less are the same
PRUNE_AFTER_MS = 60_000  # after the end: by then its key is gone, or is read again and seen to have ended


@dataclass(slots=True)
class OpeningState:
    """One opening: its end here, who opened it, and the revision that wrote its key (0: unknown).

    Both `is_owed` and `is_closing`: it was closed and opened again. The close is published first, since a shorter end
    alone would not shorten the opening at the other gates.
    """

    until_ms: int
    by: str
    revision: int = 0
    is_owed: bool = False  # its end is to be published
    is_closing: bool = False  # that it was closed is to be published
    closed_until_ms: int = 0  # the end that it had when it was closed

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


class CloseHere(NamedTuple):
    """Close it here: another gate closed it."""

    key: OpeningKey


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


Effect = OpenHere | CloseHere | PublishOpening


class SharedOpeningTable:
    """All openings of the fleet that the gate named `gate` knows."""

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self._known: dict[OpeningKey, OpeningState] = {}
        self.changed: set[OpeningKey] = set()  # since the caller last emptied it
        self.ignored = 0  # openings beyond MAX_KNOWN, since the caller last reset it

    def __len__(self) -> int:
        return sum(known.is_open for known in self._known.values())

    def get(self, key: OpeningKey) -> OpeningState | None:
        """Return the state of a key; None if it is unknown."""
        return self._known.get(key)

    def restore(
        self,
        openings: Iterable[tuple[OpeningKey, int, str]],
        closed: Iterable[OpeningKey],
        saved: Mapping[OpeningKey, OpeningState],
        now_ms: int,
    ) -> list[Effect]:
        """Start from this gate's openings and closes, and from the last known state of etcd.

        Saved keys that this gate has no use for are changed too, so that they are deleted.
        """
        for key, state in saved.items():
            if state.is_closing:
                self._known[key] = state
        effects: list[Effect] = []
        for key in closed:  # first: what is open now was opened after it
            if key in saved:
                self._known[key] = saved[key]
            effects += self.on_closed(key, now_ms)
        for key, until_ms, by in openings:
            known = saved.get(key)
            if known is not None and key not in self._known:
                self._known[key] = OpeningState(known.until_ms, by, known.revision)
            effects += self.on_opened(key, until_ms, by, now_ms)
        self.changed |= saved.keys() - self._known.keys()
        return effects

    def on_opened(self, key: OpeningKey, until_ms: int, by: str, now_ms: int) -> list[Effect]:
        """Handle an opening that this gate made or extended."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = OpeningState(until_ms, by, is_owed=True)
        elif not known.is_open or known.until_ms <= now_ms:
            known.until_ms, known.by, known.is_owed = until_ms, by, True
        elif until_ms > known.until_ms + END_TOLERANCE_MS or not known.revision:
            known.until_ms, known.by, known.is_owed = max(until_ms, known.until_ms), by, True
        else:
            return []
        self.changed.add(key)
        return [PublishOpening(key)]

    def on_closed(self, key: OpeningKey, now_ms: int) -> list[Effect]:
        """Handle a close by hand at this gate; closing an unknown opening closes it on the other gates."""
        known = self._known.get(key, OpeningState(now_ms, ""))
        closed_until_ms = max(known.until_ms, known.closed_until_ms)
        self._known[key] = OpeningState(known.until_ms, "", known.revision, False, True, closed_until_ms)
        self.changed.add(key)
        return [PublishOpening(key)]

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
        if known is not None and known.is_closing and observed.gate == self._gate:  # closed here since then
            known.revision = observed.revision
            return []
        effects: list[Effect] = []
        is_recreated = known is not None and known.is_settled and observed.created > known.revision
        if known is not None and is_recreated and until_ms < known.until_ms - END_TOLERANCE_MS:
            effects, known = [CloseHere(observed.key)], None  # closed, and opened again for a shorter time
        if known is None or not known.is_open:  # it was written after the close here
            known = self._known[observed.key] = OpeningState(0, observed.by)
        known.revision, known.is_closing = observed.revision, False
        if observed.left_ms <= 0 or until_ms <= known.until_ms + END_TOLERANCE_MS:
            return effects
        known.until_ms, known.by, known.is_owed = until_ms, observed.by, False
        # Even under this gate's own name: anyone who can write to etcd can use it, and this gate did not open it.
        open_here = OpenHere(observed.key, observed.left_ms, f"{observed.by} at {observed.gate}", observed.for_ms)
        return [*effects, open_here]

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
        return [CloseHere(key)] if known.until_ms > now_ms and known.is_open else []

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

    def on_written(self, key: OpeningKey, revision: int, until_ms: int) -> None:
        """Handle a successful write: etcd has this end, at this revision."""
        known = self._known.get(key)
        if known is None or known.revision > revision:
            return
        known.revision = revision
        if not known.is_closing and known.until_ms <= until_ms + END_TOLERANCE_MS:
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
