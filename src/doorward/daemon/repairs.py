"""Openings that go into the gate together, new ones or all after a repair: one that nftables refuses costs no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from doorward.daemon.last_good import load_last
from doorward.daemon.loading import Loaded, Loading, PutBack, load_file, put_back
from doorward.errors import DoorwardError
from doorward.gate.refusal import NftError
from doorward.model import Address, Element, Opening, Place

if TYPE_CHECKING:
    from doorward.daemon.app import Daemon

_MOST_NAMED = 8  # openings in one line of the log; the ledger has them all
# Of openings together, before the rest is not tried: a ledger that somebody else wrote must not hold the daemon.
_MOST_REFUSED = 50


def settle_each(
    daemon: Daemon,
    openings: Sequence[Opening],
    is_there: Callable[[Opening], bool],
    refused: Callable[[Opening, DoorwardError], None],
) -> None:
    """Put the entries of openings into the gate, in few transactions; call `refused` for each that nftables refuses.

    A refusal takes the kernel some 10 ms. Once a set is full, or many were refused, openings of which nothing
    `is_there` are not tried.
    """
    full: dict[type[Place], DoorwardError] = {}  # each kind of place has a set of its own
    count, last = 0, None
    waiting = [list(openings)]
    while waiting:
        some = []
        for opening in waiting.pop():
            if (error := full.get(type(opening.address), last)) is None or is_there(opening):
                some.append(opening)
            else:
                refused(opening, error)
        try:
            daemon.settle(tuple(dict.fromkeys(element for each in some for element in each.elements())), {})
        except DoorwardError as error:
            if len(some) > 1:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
                continue
            if isinstance(error, NftError) and error.is_full:
                full[type(some[0].address)] = error
            count += 1
            last = error if count >= _MOST_REFUSED else None
            refused(some[0], error)


def remaining(daemon: Daemon) -> dict[Element, float]:
    """Return for how many seconds more each entry of the openings in the book is wanted."""
    now_s = daemon.loop.now_s()
    touched = [element for opening in _narrow_first(daemon.book) for element in opening.elements()]
    return {element: until_s - now_s for element, until_s in daemon.book.wanted_until(touched).items()}


def _narrow_first(openings: Iterable[Opening]) -> list[Opening]:
    """Sort openings so that nftables takes them all: a network before a wider one, never after it."""
    return sorted(openings, key=lambda each: -129 if isinstance(each.address, Address) else -each.address.prefixlen)


def begin(daemon: Daemon) -> Loading[PutBack] | Loading[Loaded]:
    """Begin a repair: the gate as it was last loaded, or by the file where that could not be kept."""
    restore, keep, config, before = remaining(daemon), daemon.kept, daemon.config, daemon.loaded
    daemon.restored = tuple(restore)
    if not before.not_kept:
        return Loading(lambda: put_back(keep, restore))
    if before.last_good:
        return Loading(lambda: replace(load_last(config, restore, keep), last_good=before.last_good))
    return Loading(lambda: load_file(config, restore, keep))


def finish(daemon: Daemon, outcome: PutBack | Loaded) -> int:
    """Take over after a repair, with what was opened and closed meanwhile; return how many openings there are."""
    if isinstance(outcome, Loaded):
        daemon.take(outcome)
    daemon.bans.put_back()
    fill(daemon, outcome.commit.refusal)
    return len(daemon.book)


def fill(daemon: Daemon, refusal: str) -> None:
    """Bring the open sets to what the book wants; an opening that nftables refuses ends, and costs no other.

    `refusal` says why the gate was put there without any opening; it is empty where it was put there with all.
    """
    openings, lost, have = _narrow_first(daemon.book), list[tuple[Opening, DoorwardError]](), dict[Element, float]()
    wanted = tuple(dict.fromkeys(element for opening in openings for element in opening.elements()))
    daemon.trouble = ""
    if not refusal:
        closed = tuple(set(daemon.restored).difference(wanted))  # while the gate was being repaired
        try:
            daemon.settle((*closed, *wanted))
        except DoorwardError as error:
            refusal = str(error)
            daemon.settle(closed)
            have = daemon.filter.elements()
    if not refusal:
        return

    def is_there(opening: Opening) -> bool:
        return all(element in have for element in opening.elements())

    def lose(opening: Opening, error: DoorwardError) -> None:
        daemon.book.close(opening.door, opening.address)
        lost.append((opening, error))

    settle_each(daemon, openings, is_there, lose)
    left = tuple(dict.fromkeys(element for opening, _ in lost for element in opening.elements()))
    with daemon.recording(lambda: daemon.settle(left, have)):
        for opening, _ in lost:
            daemon.record_end(opening, "lost")
    named = ", ".join(f"{each.door} to {each.address} ({why})" for each, why in lost[:_MOST_NAMED])
    if lost:
        rest = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        daemon.trouble = f"restored without {named}{rest}; to open again, knock or use `doorward open`"
    daemon.log.say(f"the gate was {daemon.trouble or f'restored, its openings one by one: {refusal}'}", "error")


def close_removed(daemon: Daemon) -> None:
    """End the openings of doors that the configuration in force does not have, though their ports stay hidden.

    The kernel may have opened such a door while no daemon ran: then only its ports are known.
    """
    removed = [opening for opening in daemon.book if opening.door not in daemon.doors]
    for opening in removed:
        daemon.book.close(opening.door, opening.address)
    have, ports = daemon.filter.elements(), {port for door in daemon.doors.values() for port in door.opens}
    touched = [element for opening in removed for element in opening.elements()]
    touched += [element for element in have if element.port not in ports]
    daemon.settle(tuple(dict.fromkeys(touched)), have)
    with daemon.recording():
        for opening in removed:
            daemon.record_end(opening, "lost")
