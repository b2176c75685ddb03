"""Apply many openings, new ones or all after a repair; one that nftables rejects does not affect the others."""

from __future__ import annotations

from collections.abc import Iterable

from doorward.core.opening_table import Key
from doorward.core.openings import SetElements, distinct_elements, on_lost
from doorward.daemon.openings_service import OpeningsService
from doorward.errors import DoorwardError
from doorward.model import Address, Element, Opening, SetPort, set_port

_MOST_NAMED = 8  # openings in one log line; the ledger has all


def remaining(service: OpeningsService) -> dict[Element, float]:
    """Return the remaining seconds of each entry of the table's openings, but for those for one connection.

    Such a connection may have come while nobody watched.
    """
    now_s = service.loop.now_s()
    elements = (element for opening in _narrow_first(service.table) for element in opening.elements())
    touched = [element for element in elements if not element.once]
    return {element: until_s - now_s for element, until_s in service.table.wanted_until(touched).items()}


def _narrow_first(openings: Iterable[Opening]) -> list[Opening]:
    """Sort openings so that nftables accepts all: a network before a wider one, never after it."""
    return sorted(openings, key=lambda each: -129 if isinstance(each.address, Address) else -each.address.prefixlen)


def fill(service: OpeningsService, restored: Iterable[Element], refusal: str) -> str:
    """Update the open sets to the state of the table; an opening that nftables rejects ends, without the others.

    `restored` are the entries that were loaded with the ruleset. `refusal` is why it was loaded without any, or "" if
    it was loaded with all. Return which openings were lost and why, or "".
    """
    service.end_used("lost")
    openings, lost = _narrow_first(service.table), dict[Key, DoorwardError]()
    wanted, have = distinct_elements(openings), dict[Element, float]()
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

    def takes_room(change: SetElements) -> bool:
        return not all(element in have for element in change.elements)

    def lose(change: SetElements, error: DoorwardError) -> None:
        assert change.key is not None  # noqa: S101
        service.table.close(*change.key)
        lost[change.key] = error

    service.set_each([SetElements(each.key, each.elements(), {}) for each in openings], takes_room, lose)
    ended = [opening for opening in openings if opening.key in lost]
    service.perform_all(on_lost(service.table, ended, have, service.loop.now_s()))
    named = ", ".join(f"{each.door} to {each.address} ({lost[each.key]})" for each in ended[:_MOST_NAMED])
    rest = f" and {len(ended) - _MOST_NAMED} more" if len(ended) > _MOST_NAMED else ""
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
    ports = {set_port(port) for door in service.doors.values() for port in door.all_opens}
    have = service.firewall.elements()
    others = [element for element in have if element.port not in ports]
    service.perform_all(on_lost(service.table, removed, have, service.loop.now_s(), others))


def close_reassigned(service: OpeningsService) -> None:
    """End openings of ports that their door no longer opens, if another door makes them lead to a range or a host."""
    leading: set[SetPort] = {each.first for door in service.doors.values() for each in door.ranges}
    leading |= {each.port for door in service.doors.values() for each in door.redirects}

    def is_reassigned(opening: Opening) -> bool:
        door = service.doors.get(opening.door)
        own = map(set_port, door.all_opens) if door else ()
        return bool(leading.intersection(map(set_port, opening.ports)).difference(own))

    if ended := [opening for opening in service.table if leading and is_reassigned(opening)]:
        have = dict.fromkeys(distinct_elements(ended), 0.0)
        for refusal in service.perform(on_lost(service.table, ended, have, service.loop.now_s())):
            text = f"an opening of a reassigned port was not closed: {refusal.error}; restart doorward"
            service.log.message("reassigned-not-closed", text, "error")
