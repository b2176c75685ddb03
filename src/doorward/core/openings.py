"""The openings of a gate: events in, effects out. Pure: times are arguments, in seconds of one monotonic clock.

Each function `on_...` handles an event: it updates the table of openings, and returns what else is to be done.
`daemon/openings_service.py` performs these effects, and rolls back an opening that the kernel refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from doorward.core.diff import Remaining
from doorward.core.opening_table import Key, OpeningTable
from doorward.core.reconcile import differences
from doorward.core.signed_rules import CloseDates, DatedKnock, Holders
from doorward.model import Door, Element, Opening, Share, Source, elements_of

_MOST_NAMES = 4  # of holders, in one text
USE = "use"  # how an opening for one connection ends; with " from port N" behind it, if that is known
OTHER_FAMILY = "family"  # the code of a rejection


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
    """Record that an opening ended at `at_s`, by "time", "hand", "ban", "fleet", "lost", "key NAME" or USE."""

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
    without those that it lacks; None: read them. `opens`: for a new knock, so elements for one connection are written.
    """

    key: Key | None
    elements: tuple[Element, ...]
    have: Remaining | None
    opens: bool = False


class LogLine(NamedTuple):
    """Log an event of an opening."""

    key: Key
    event: str
    fields: Mapping[str, object]


class Announce(NamedTuple):
    """Announce to the fleet that the shares of `opening` were "opened", or "closed"."""

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


def new_opening(door: Door, address: Source, for_s: float, by: str, now_s: float) -> Opening:
    """Return an opening of a door that begins now."""
    until_s = now_s + for_s
    shares = (Share(by, until_s, name=by, once=True),) if door.once else ()
    return Opening(door.name, address, door.opens_to(address), now_s, until_s, by, shares)


def signed_opening(
    door: Door, knock: DatedKnock, for_s: float, by: str, now_s: float, *, once: bool = False
) -> Opening:
    """Return an opening by a signed knock, which its signer holds; `once`: for one connection, whatever the door is."""
    share = Share(knock.by, now_s + for_s, knock.time_ms, by, once or door.once)
    return new_opening(door, knock.source, for_s, by, now_s)._replace(shares=(share,))


def on_open(table: OpeningTable, door: Door, new: Opening, now_s: float, *, is_learnt: bool = False) -> list[Effect]:
    """Handle a request to open a door: by a signed knock, an operator or, if `is_learnt`, another gate."""
    if not door.is_opening:
        return _run_command(new)
    effects = _opened(table, new, now_s, is_learnt=is_learnt)
    return [*effects, SetElements(new.key, new.elements(), {}, opens=True)]


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
            if not element.once:  # its newest knock sets its end
                have[element] = max(have.get(element, 0.0), door.for_ms / 1000)
    return [*effects, SetElements(None, tuple(have), have if is_current else None)]


def on_banned_knock(doors: Iterable[Door], source: Source) -> list[Effect]:
    """Handle a port sequence that a source completed just before it was banned."""
    return [SetElements(None, elements_of(doors, source), None)]


def on_use(
    table: OpeningTable, openings: Iterable[Opening], have: Collection[Element], by: str, now_s: float
) -> list[Effect]:
    """Handle openings for one connection that were used: the kernel has removed an element of each.

    `have` are those of their elements that it still has: other ports of the doors, which close with it.
    """
    effects: list[Effect] = []
    for opening in openings:
        elements = tuple(element for element in opening.elements() if element.once and element in have)
        change = SetElements(None, elements, dict.fromkeys(elements, 0.0))
        effects += _release(table, opening, Holders.of(opening).use(), by, now_s, change)
    return effects


def on_close(table: OpeningTable, key: Key, by: str, now_s: float) -> list[Effect]:
    """Handle a close by an operator, of all shares; return nothing if there is no such opening."""
    opening = table.close(*key)
    if opening is None:
        return []
    elements = opening.elements()
    effects: list[Effect] = [SetElements(key, elements, dict.fromkeys(elements, 0.0)), *_ended(opening, by, now_s)]
    return [RecordCloses(key, opening), *effects] if by == "hand" and opening.shares else effects


def on_signed_close(table: OpeningTable, close: DatedKnock, by: str, now_s: float) -> list[Effect]:
    """Handle a close by a signed knock; return nothing if its signer has no share, or one made later.

    For a close that another gate announced `close.by` may be "" and its date 0: of what no signed knock made.
    """
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
    effects += on_use(table, seen.used, have.keys(), USE, now_s)
    for opening in seen.found:
        effects += _opened(table, opening, now_s)
    return effects


def on_knockd(table: OpeningTable, door: Door, source: Source, now_s: float) -> list[Effect]:
    """Handle a knock at a door of knockd with a start and a stop command, which opens no port itself."""
    return _opened(table, new_opening(door, source, door.for_ms / 1000, "knock", now_s), now_s)


def distinct_elements(openings: Iterable[Opening]) -> tuple[Element, ...]:
    """Return the elements of openings, each once."""
    return tuple(dict.fromkeys(element for opening in openings for element in opening.elements()))


def _opened(table: OpeningTable, new: Opening, now_s: float, *, is_learnt: bool = False) -> list[Effect]:
    """Add an opening to the table, or extend the one that is there; return what else is to be done."""
    before, opening = table.get(*new.key), table.open(new)
    event = "opened" if before is None else "prolonged"
    effects: list[Effect] = [
        RecordOpening(new.key, opening, before),
        LogLine(new.key, event, log_fields(opening, opening.until_s - now_s, new.by)),
    ]
    if not is_learnt:
        (made,) = Holders.of(new).shares
        own = opening._replace(shares=tuple(share for share in opening.shares if share.by == made.by))
        effects.append(Announce(new.key, "opened", own, new.by))
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


def _release(
    table: OpeningTable,
    opening: Opening,
    holders: Holders,
    by: str,
    now_s: float,
    change: SetElements | None = None,
) -> list[Effect]:
    """Leave an opening to the holders that are left; it ends without any. `change`: of the kernel, if known."""
    if holders == Holders.of(opening):
        return []
    key, elements, left = opening.key, opening.elements(), holders.expire(now_s)
    if change is None:
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


def is_use(by: str) -> bool:
    """Return whether an opening ended by USE, with its port or without."""
    return by.split(" ", 1)[0] == USE


def holder_names(opening: Opening, now_s: float) -> str:
    """Return who holds an opening, for users."""
    names = [share.name for share in Holders.of(opening).expire(now_s).shares] or [opening.by]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def log_fields(opening: Opening, for_s: float, by: str) -> dict[str, object]:
    """Return what the log has of an opening, for a duration."""
    ports = [str(port) for port in opening.ports]
    return {"door": opening.door, "address": str(opening.address), "ports": ports, "for_s": for_s, "by": by}
