"""The openings of a fleet as one gate knows them: what happens here and in etcd goes in, what is to be done comes out.

Pure: times are arguments, `now_ms` of the machine's clock that never jumps. etcd's revisions order everything: what
is older than what is known of a key is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from doorward.fleet.etcd_records import OpeningKey

CLOSE_MS = 50  # ends that differ by less are the same
FORGOTTEN_AFTER_MS = 60_000  # what ended: its key is gone by then, or is found again and seen to be over


@dataclass(slots=True)
class OpeningState:
    """One opening: until when it stands here, by whom; the revision that wrote its key (0: none that is known)."""

    until_ms: int
    by: str
    revision: int = 0
    is_owed: bool = False  # etcd is to be told until when
    is_closing: bool = False  # etcd is to be told that it was closed


class OpenHere(NamedTuple):
    """Open it here: another gate did, for `for_ms`."""

    key: OpeningKey
    left_ms: int
    by: str
    for_ms: int


class CloseHere(NamedTuple):
    """Close it here: it was closed elsewhere."""

    key: OpeningKey


class PublishOpening(NamedTuple):
    """Have etcd told of a key; what is to be told is asked for when it is written."""

    key: OpeningKey


class ConflictFound(NamedTuple):
    """A key as etcd has it: its revision, whose it is, what it says, and how much of `for_ms` is left of it here."""

    key: OpeningKey
    revision: int
    gate: str
    by: str
    left_ms: int
    for_ms: int


Effect = OpenHere | CloseHere | PublishOpening


class SharedOpeningTable:
    """All that one gate knows. `gate` is its name."""

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self._known: dict[OpeningKey, OpeningState] = {}
        self.changed: set[OpeningKey] = set()  # since somebody emptied it

    def __len__(self) -> int:
        return sum(not known.is_closing for known in self._known.values())

    def get(self, key: OpeningKey) -> OpeningState | None:
        """Give what is known of a key."""
        return self._known.get(key)

    def begin(
        self,
        standing: Iterable[tuple[OpeningKey, int, str]],
        closed: Iterable[OpeningKey],
        told: Mapping[OpeningKey, OpeningState],
        now_ms: int,
    ) -> list[Effect]:
        """Begin with what stands here (until when, by whom), what was closed here, and what etcd was known to have."""
        for key, was in told.items():
            if was.is_closing:
                self._known[key] = was
        effects: list[Effect] = []
        for key, until_ms, by in standing:
            known = told.get(key)
            if known is not None and not known.is_closing:
                self._known[key] = OpeningState(known.until_ms, by, known.revision)
            effects += self.opened(key, until_ms, by, now_ms)
        for key in closed:
            if key in told:
                self._known[key] = told[key]
            effects += self.closed(key, now_ms)
        return effects

    def opened(self, key: OpeningKey, until_ms: int, by: str, now_ms: int) -> list[Effect]:
        """It was opened here, or prolonged."""
        known = self._known.get(key)
        if known is None or known.is_closing or known.until_ms <= now_ms:
            known = self._known[key] = OpeningState(until_ms, by, known.revision if known else 0, is_owed=True)
        elif until_ms > known.until_ms + CLOSE_MS or not known.revision:
            known.until_ms, known.by, known.is_owed = max(until_ms, known.until_ms), by, True
        else:
            return []
        self.changed.add(key)
        return [PublishOpening(key)]

    def closed(self, key: OpeningKey, now_ms: int) -> list[Effect]:
        """It was closed here, by hand; closing what nobody knows is closing it elsewhere."""
        known = self._known.get(key)
        until_ms, revision = (known.until_ms, known.revision) if known else (now_ms, 0)
        self._known[key] = OpeningState(until_ms, "", revision, is_closing=True)
        self.changed.add(key)
        return [PublishOpening(key)]

    def put(self, found: ConflictFound, now_ms: int) -> list[Effect]:
        """A key was written, here or elsewhere."""
        known = self._known.get(found.key)
        if known is not None and known.revision >= found.revision:
            return []
        until_ms = now_ms + found.left_ms
        self.changed.add(found.key)
        if known is not None and known.is_closing and found.gate == self._gate:  # what was closed here since
            known.revision = found.revision
            return []
        if known is None or known.is_closing:  # whoever wrote it did so after what was closed here
            known = self._known[found.key] = OpeningState(0, found.by)
        known.revision = found.revision
        if found.left_ms <= 0 or until_ms <= known.until_ms + CLOSE_MS:
            return []
        known.until_ms, known.by, known.is_owed = until_ms, found.by, False
        # Also with this gate's own name: anyone who can write to etcd can use it, and it did not happen here.
        return [OpenHere(found.key, found.left_ms, f"{found.by} at {found.gate}", found.for_ms)]

    def deleted(self, key: OpeningKey, revision: int, now_ms: int) -> list[Effect]:
        """A key is gone. Before its end that is a close, since its lease outlasts it."""
        known = self._known.get(key)
        if known is None or known.revision > revision or (not known.revision and known.is_owed):
            return []
        self.changed.add(key)
        if known.is_owed and known.until_ms > now_ms:  # opened here since: that is told yet
            known.revision = 0
            return []
        del self._known[key]
        return [CloseHere(key)] if known.until_ms > now_ms and not known.is_closing else []

    def snapshot(self, found: Iterable[ConflictFound], revision: int, now_ms: int) -> list[Effect]:
        """All keys, as they were at a revision: what is known to have been there and is not was closed."""
        effects: list[Effect] = []
        there = set()
        for each in found:
            there.add(each.key)
            effects += self.put(each, now_ms)
        for key in [key for key, known in self._known.items() if known.revision and key not in there]:
            effects += self.deleted(key, revision, now_ms)
        return effects + self.owed(now_ms)

    def owed(self, now_ms: int) -> list[Effect]:
        """All that etcd is still to be told."""
        return [PublishOpening(key) for key in self._known if self.owes(key, now_ms)]

    def owes(self, key: OpeningKey, now_ms: int) -> bool:
        """Tell whether etcd is still to be told of a key; what is over is told to nobody."""
        known = self._known.get(key)
        return known is not None and (known.is_closing or (known.is_owed and known.until_ms > now_ms))

    def told(self, key: OpeningKey, revision: int, until_ms: int) -> None:
        """Etcd has taken it: until then, at this revision."""
        known = self._known.get(key)
        if known is None or known.revision > revision:
            return
        known.revision = revision
        if not known.is_closing and known.until_ms <= until_ms + CLOSE_MS:
            known.is_owed = False
        self.changed.add(key)

    def was_closed(self, key: OpeningKey) -> None:
        """Etcd has deleted it, or has none."""
        known = self._known.get(key)
        if known is None:
            return
        if known.is_closing:
            del self._known[key]
        else:  # opened here since
            known.revision = 0
        self.changed.add(key)

    def differs(self, key: OpeningKey, found: ConflictFound | None, revision: int, now_ms: int) -> list[Effect]:
        """Etcd has not taken what it was told, since the key is not as it was known to be, but so.

        `revision` wrote it last (0: it is not there); what makes no sense is written over.
        """
        known = self._known.get(key)
        if found is not None:
            return self.put(found, now_ms)
        if known is not None and known.is_closing and not revision:
            self.was_closed(key)
        elif known is not None:
            known.revision = revision
        return []

    def forget(self, now_ms: int) -> None:
        """Forget what is long over."""
        for key in [k for k, known in self._known.items() if known.until_ms < now_ms - FORGOTTEN_AFTER_MS]:
            del self._known[key]
            self.changed.add(key)
