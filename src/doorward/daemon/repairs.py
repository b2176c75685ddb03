"""Apply many openings, new ones or all after a repair; one that nftables rejects does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from doorward.daemon.openings_service import OpeningsService
from doorward.errors import DoorwardError
from doorward.model import Address, Element, Opening, Place
from doorward.nftables.nft_error import NftError

_MOST_NAMED = 8  # openings in one log line; the ledger has all
# Rejections after which the rest is not attempted: a forged ledger must not block the daemon.
_MOST_REFUSED = 50


def settle_each(
    service: OpeningsService,
    openings: Sequence[Opening],
    is_there: Callable[[Opening], bool],
    refused: Callable[[Opening, DoorwardError], None],
) -> None:
    """Add the entries of openings in few transactions; call `refused` for each opening that nftables rejects.

    A rejection takes the kernel some 10 ms. Once a set is full, or many were rejected, openings for which `is_there`
    is false are not attempted.
    """
    full: dict[type[Place], DoorwardError] = {}  # addresses and networks of each family have their own set
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
            service.apply_openings(tuple(dict.fromkeys(element for each in some for element in each.elements())), {})
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


def remaining(service: OpeningsService) -> dict[Element, float]:
    """Return the remaining seconds of each entry of the table's openings."""
    now_s = service.loop.now_s()
    touched = [element for opening in _narrow_first(service.table) for element in opening.elements()]
    return {element: until_s - now_s for element, until_s in service.table.wanted_until(touched).items()}


def _narrow_first(openings: Iterable[Opening]) -> list[Opening]:
    """Sort openings so that nftables accepts all: a network before a wider one, never after it."""
    return sorted(openings, key=lambda each: -129 if isinstance(each.address, Address) else -each.address.prefixlen)


def fill(service: OpeningsService, restored: Iterable[Element], refusal: str) -> str:
    """Update the open sets to the state of the table; an opening that nftables rejects ends, without the others.

    `restored` are the entries that were loaded with the ruleset. `refusal` is why it was loaded without any, or "" if
    it was loaded with all. Return which openings were lost and why, or "".
    """
    openings, lost, have = _narrow_first(service.table), list[tuple[Opening, DoorwardError]](), dict[Element, float]()
    wanted = tuple(dict.fromkeys(element for opening in openings for element in opening.elements()))
    if not refusal:
        closed = tuple(set(restored).difference(wanted))  # during the repair
        try:
            service.apply_openings((*closed, *wanted))
        except DoorwardError as error:
            refusal = str(error)
            service.apply_openings(closed)
            have = service.firewall.elements()
    if not refusal:
        return ""

    def is_there(opening: Opening) -> bool:
        return all(element in have for element in opening.elements())

    def lose(opening: Opening, error: DoorwardError) -> None:
        service.table.close(opening.door, opening.address)
        lost.append((opening, error))

    settle_each(service, openings, is_there, lose)
    left = tuple(dict.fromkeys(element for opening, _ in lost for element in opening.elements()))
    with service.recording(lambda: service.apply_openings(left, have)):
        for opening, _ in lost:
            service.record_end(opening, "lost")
    named = ", ".join(f"{each.door} to {each.address} ({why})" for each, why in lost[:_MOST_NAMED])
    rest = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    trouble = f"restored without {named}{rest}; to open again, knock or use `doorward open`" if lost else ""
    service.log.message(
        "restored-in-part", f"the gate was {trouble or f'restored, its openings one by one: {refusal}'}", "error"
    )
    return trouble


def close_removed(service: OpeningsService) -> None:
    """End the openings of doors that are not in the configuration in force, though their ports stay hidden.

    The kernel may have opened such a door while no daemon ran: then only its ports are known.
    """
    removed = [opening for opening in service.table if opening.door not in service.doors]
    for opening in removed:
        service.table.close(opening.door, opening.address)
    have, ports = service.firewall.elements(), {port for door in service.doors.values() for port in door.opens}
    touched = [element for opening in removed for element in opening.elements()]
    touched += [element for element in have if element.port not in ports]
    service.apply_openings(tuple(dict.fromkeys(touched)), have)
    with service.recording():
        for opening in removed:
            service.record_end(opening, "lost")
