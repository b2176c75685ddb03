"""The openings of a gate: events in, effects out. Pure: times are arguments, in seconds of one monotonic clock.

Each function `on_...` handles an event: it updates the table of openings, and returns what else is to be done.
`daemon/openings_service.py` performs these effects, and rolls back an opening that the kernel refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from doorward.core.deadlines import Deadlines
from doorward.core.diff import Remaining
from doorward.core.reconcile import differences
from doorward.core.signed_rules import CloseDates, DatedKnock, Holders
from doorward.model import Door, Element, Opening, Share, Source, elements_of, set_port

_MOST_NAMES = 4  # of holders, in one text
OTHER_FAMILY = "family"  # the code of a rejection
Key = tuple[str, Source]  # of an opening: a door and an address


class RecordOpening(NamedTuple):
    """Record an opening, or its changed end; `before` is the opening that it replaces in the table."""

    key: Key
    opening: Opening
    before: Opening | None


class RecordRun(NamedTuple):
    """Record a knock that only runs a command."""

    key: Key
    opening: Opening


class RecordEnd(NamedTuple):
    """Record that an opening ended at `at_s`, by "time", "hand", "ban", "fleet", "lost" or "key NAME"."""

    key: Key
    opening: Opening
    at_s: float
    by: str


class RecordCloses(NamedTuple):
    """Remember a close by hand, dated now, for each signer that holds an opening.

    Without it a knock that was held back could undo it.
    """

    key: Key
    opening: Opening


class RecordConfirmation(NamedTuple):
    """Record what became of the confirmation of a knock that opened or closed `key`: "sent", or why not, as a code."""

    key: Key
    outcome: str


class SetElements(NamedTuple):
    """Set these elements in the kernel to the state of the table.

    If it refuses, the opening `key` is rolled back; None: nothing is. `have` are the elements that the kernel has,
    without those that it lacks; None: read them.
    """

    key: Key | None
    elements: tuple[Element, ...]
    have: Remaining | None


class LogLine(NamedTuple):
    """Log an event of an opening."""

    key: Key
    event: str
    fields: Mapping[str, object]


class Announce(NamedTuple):
    """Announce to the fleet that an opening was "opened" or "closed"."""

    key: Key
    event: str
    opening: Opening
    by: str


class RunHook(NamedTuple):
    """Run the door's command for "open" or "close"; `end` is owed in the ledger until the command has ended."""

    key: Key
    event: str
    end: RecordEnd | None = None


class Reject(NamedTuple):
    """Record, log and announce a rejected source; `reason` is a text for people, `code` a word for programs."""

    source: Source
    door: str | None
    reason: str
    code: str
    key: None = None


Effect = (
    RecordOpening
    | RecordRun
    | RecordEnd
    | RecordCloses
    | RecordConfirmation
    | SetElements
    | LogLine
    | Announce
    | RunHook
    | Reject
)


class OpeningTable:
    """Current openings, one per door and address; opening a door again extends the opening."""

    def __init__(self) -> None:
        self._by_source: dict[Source, dict[str, Opening]] = {}
        self._ends: Deadlines[Key] = Deadlines()
        self._counts: Counter[str] = Counter()  # openings, by holder
        self._wide: Counter[str] = Counter()  # set elements of openings to networks, likewise

    def __iter__(self) -> Iterator[Opening]:
        for doors in self._by_source.values():
            yield from doors.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_source.values()))

    def get(self, door: str, address: Source) -> Opening | None:
        """Return the current opening, or None."""
        return self._by_source.get(address, {}).get(door)

    def count(self, by: str) -> int:
        """Return the number of openings that `by` holds."""
        return self._counts[by]

    def wide_count(self, by: str) -> int:
        """Return the number of set elements in openings to networks that `by` holds."""
        return self._wide[by]

    def enclosing(self, source: Source) -> Iterator[Opening]:
        """Yield the openings to networks that contain a network."""
        if isinstance(source, IPv4Network | IPv6Network):
            for bits in range(source.prefixlen):
                yield from self._by_source.get(source.supernet(new_prefix=bits), {}).values()

    def open(self, new: Opening) -> Opening:
        """Add an opening, or extend the current one and its shares, never shortening them; return the result."""
        old = self.get(new.door, new.address)
        if old is not None:
            ports = tuple(dict.fromkeys((*old.ports, *new.ports)))
            holders = Holders.of(old).expire(new.since_s)
            for share in Holders.of(new).shares:
                holders = holders.hold(share) or holders
            new = old._replace(ports=ports, until_s=max(old.until_s, holders.until_s), shares=holders.shares)
            self._count(old, -1)
        self._count(new, 1)
        self._by_source.setdefault(new.address, {})[new.door] = new
        self._ends.set(new.key, new.until_s)
        return new

    def replace(self, door: str, address: Source, opening: Opening | None) -> None:
        """Replace the current opening by another, or by none."""
        self.close(door, address)
        if opening is not None:
            self.open(opening)

    def close(self, door: str, address: Source) -> Opening | None:
        """Remove an opening and return it; return None if there was none."""
        doors = self._by_source.get(address, {})
        opening = doors.pop(door, None)
        if not doors:
            self._by_source.pop(address, None)
        if opening is not None:
            self._count(opening, -1)
            self._ends.discard(opening.key)
        return opening

    def _count(self, opening: Opening, sign: int) -> None:
        is_wide = isinstance(opening.address, IPv4Network | IPv6Network)
        for by in {share.by for share in Holders.of(opening).shares}:
            for counts, amount in (self._counts, 1), (self._wide, len(opening.ports) if is_wide else 0):
                counts[by] += sign * amount
                if not counts[by]:
                    del counts[by]  # keys come and go

    def expire(self, now_s: float) -> list[Opening]:
        """Remove and return the openings that end at or before `now_s`."""
        ended: list[Opening] = []
        while (due := self.next_end()) is not None and due.until_s <= now_s:
            self.close(*due.key)
            ended.append(due)
        return ended

    def next_end(self) -> Opening | None:
        """Return the opening that ends first, or None."""
        first = self._ends.first()
        return None if first is None else self.get(*first[1])

    def wanted_until(self, elements: Iterable[Element]) -> dict[Element, float]:
        """Return the latest end of the openings that need each element; elements that none needs are left out."""
        until: dict[Element, float] = {}
        for element in elements:
            openings = self._by_source.get(element.address, {}).values()
            ends = [o.until_s for o in openings if element.port in map(set_port, o.ports)]
            if ends:
                until[element] = max(ends)
        return until


def new_opening(door: Door, address: Source, for_s: float, by: str, now_s: float) -> Opening:
    """Return an opening of a door that begins now."""
    return Opening(door.name, address, door.opens_to(address), now_s, now_s + for_s, by)


def signed_opening(door: Door, knock: DatedKnock, for_s: float, by: str, now_s: float) -> Opening:
    """Return an opening by a signed knock, which its signer holds."""
    share = Share(knock.by, now_s + for_s, knock.time_ms, by)
    return new_opening(door, knock.source, for_s, by, now_s)._replace(shares=(share,))


def on_open(table: OpeningTable, door: Door, new: Opening, now_s: float, *, is_learnt: bool = False) -> list[Effect]:
    """Handle a request to open a door: by a signed knock, an operator or, if `is_learnt`, another gate."""
    if not door.is_opening:
        return _run_command(new)
    effects = _opened(table, new, now_s, is_learnt=is_learnt)
    return [*effects, SetElements(new.key, new.elements(), {})]


def on_knock(
    table: OpeningTable, doors: Iterable[Door], source: Source, now_s: float, *, is_current: bool = True
) -> list[Effect]:
    """Handle a completed port sequence, for which the kernel has opened the doors itself.

    It set the end of this knock: where another opening of a port lasts longer, its end is restored. `is_current` is
    false where the ruleset may have been replaced since.
    """
    effects, have = list[Effect](), dict[Element, float]()
    for door in doors:
        if reason := door.exclusion(source):
            effects.append(Reject(source, door.name, reason, OTHER_FAMILY))
            continue
        new = new_opening(door, source, door.for_ms / 1000, "knock", now_s)
        if not door.is_opening:
            effects += _run_command(new)
            continue
        effects += _opened(table, new, now_s)
        for element in new.elements():
            have[element] = max(have.get(element, 0.0), door.for_ms / 1000)
    return [*effects, SetElements(None, tuple(have), have if is_current else None)]


def on_banned_knock(doors: Iterable[Door], source: Source) -> list[Effect]:
    """Handle a port sequence that a source completed just before it was banned."""
    return [SetElements(None, elements_of(doors, source), None)]


def on_close(table: OpeningTable, key: Key, by: str, now_s: float) -> list[Effect]:
    """Handle a close by an operator or by another gate; return nothing if there is no such opening."""
    opening = table.close(*key)
    if opening is None:
        return []
    elements = opening.elements()
    effects: list[Effect] = [SetElements(key, elements, dict.fromkeys(elements, 0.0)), *_ended(opening, by, now_s)]
    return [RecordCloses(key, opening), *effects] if by == "hand" and opening.shares else effects


def on_signed_close(table: OpeningTable, close: DatedKnock, by: str, now_s: float) -> list[Effect]:
    """Handle a close by a signed knock; return nothing if its signer has no share, or one made later."""
    opening = table.get(close.door, close.source)
    holders = Holders.of(opening).close(close.by, close.time_ms)
    return [] if opening is None else _release(table, opening, holders, by, now_s)


def on_unfinished(table: OpeningTable, closes: CloseDates, now_s: float) -> list[Effect]:
    """Handle closes that were recorded but not applied when the daemon ended."""
    effects: list[Effect] = []
    for opening in list(table):
        holders = closes.finish(*opening.key, Holders(opening.shares))
        by = ", ".join(share.name for share in opening.shares if share not in holders.shares)
        effects += _release(table, opening, holders, by, now_s) if by else []
    return effects


def on_ban(table: OpeningTable, openings: Sequence[Opening], now_s: float) -> list[Effect]:
    """Handle a ban of the sources of openings, which end even if the kernel keeps their elements: it drops packets."""
    elements = distinct_elements(openings)
    return [SetElements(None, elements, dict.fromkeys(elements, 0.0)), *_remove(table, openings, "ban", now_s)]


def on_expire(table: OpeningTable, now_s: float) -> list[Effect]:
    """Handle the ends of openings whose time is over; the kernel has removed their elements."""
    return on_ended(table.expire(now_s))


def on_ended(openings: Iterable[Opening]) -> list[Effect]:
    """Handle openings that reached their end, for example while no daemon ran."""
    return [effect for opening in openings for effect in _ended(opening, "time", opening.until_s)]


def on_lost(
    table: OpeningTable, openings: Sequence[Opening], have: Remaining, now_s: float, others: Iterable[Element] = ()
) -> list[Effect]:
    """Handle openings that a repair or a configuration leaves out; `others` are elements of no opening."""
    elements = tuple(dict.fromkeys((*distinct_elements(openings), *others)))
    return [SetElements(None, elements, have), *_remove(table, openings, "lost", now_s)]


def on_reconcile(table: OpeningTable, have: Remaining, doors: Sequence[Door], now_s: float) -> list[Effect]:
    """Handle what the kernel has: add openings that were not logged, and end those that are gone."""
    seen = differences(table, have, doors, now_s)
    effects = _remove(table, seen.lost, "lost", now_s)
    for opening in seen.found:
        effects += _opened(table, opening, now_s)
    return effects


def distinct_elements(openings: Iterable[Opening]) -> tuple[Element, ...]:
    """Return the elements of openings, each once."""
    return tuple(dict.fromkeys(element for opening in openings for element in opening.elements()))


def _opened(table: OpeningTable, new: Opening, now_s: float, *, is_learnt: bool = False) -> list[Effect]:
    before, opening = table.get(*new.key), table.open(new)
    event = "opened" if before is None else "prolonged"
    effects: list[Effect] = [
        RecordOpening(new.key, opening, before),
        LogLine(new.key, event, log_fields(opening, opening.until_s - now_s, new.by)),
    ]
    if not is_learnt:
        effects.append(Announce(new.key, "opened", opening, new.by))
    if before is None:
        effects.append(RunHook(new.key, "open"))
    return effects


def _run_command(knock: Opening) -> list[Effect]:
    fields = {"door": knock.door, "address": str(knock.address), "by": knock.by}
    over = knock._replace(until_s=knock.since_s, shares=())
    return [RecordRun(knock.key, over), LogLine(knock.key, "ran", fields), RunHook(knock.key, "open")]


def _remove(table: OpeningTable, openings: Iterable[Opening], by: str, now_s: float) -> list[Effect]:
    effects: list[Effect] = []
    for opening in openings:
        table.close(*opening.key)
        effects += _ended(opening, by, now_s)
    return effects


def _release(table: OpeningTable, opening: Opening, holders: Holders, by: str, now_s: float) -> list[Effect]:
    """Leave an opening to the holders that are left; it ends without any."""
    if holders == Holders.of(opening):
        return []
    key, elements, left = opening.key, opening.elements(), holders.expire(now_s)
    change = SetElements(key, elements, dict.fromkeys(elements, 0.0))  # an end that a batch may have changed
    if not left.shares:
        table.close(*key)
        return [change, *_ended(opening, by, now_s)]
    shorter = opening._replace(until_s=left.until_s, shares=left.shares)
    table.replace(*key, shorter)
    fields = {**log_fields(shorter, left.until_s - now_s, by), "still": holder_names(shorter, now_s)}
    return [RecordOpening(key, shorter, opening), change, LogLine(key, "released", fields)]


def _ended(opening: Opening, by: str, at_s: float) -> list[Effect]:
    end = RecordEnd(opening.key, opening, at_s, by)
    line = LogLine(opening.key, "closed", log_fields(opening, at_s - opening.since_s, by))
    return [end, line, Announce(opening.key, "closed", opening, by), RunHook(opening.key, "close", end)]


def holder_names(opening: Opening, now_s: float) -> str:
    """Return who holds an opening, for users."""
    names = [share.name for share in Holders.of(opening).expire(now_s).shares] or [opening.by]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def log_fields(opening: Opening, for_s: float, by: str) -> dict[str, object]:
    """Return what the log has of an opening, for a duration."""
    ports = [str(port) for port in opening.ports]
    return {"door": opening.door, "address": str(opening.address), "ports": ports, "for_s": for_s, "by": by}
