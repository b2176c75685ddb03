"""Each packet in words: what it was, what the automaton made of it, and what state it left."""

from __future__ import annotations

from doorward.config.duration import format_duration
from doorward.config.schema import Mode
from doorward.explain import words
from doorward.explain.follow import UNNAMED, Lane, Step, Verdict
from doorward.explain.house import House, Place

START = "start"


def made_of(house: House, step: Step) -> str:
    """Say what a packet was made of."""
    plain = {
        Verdict.SAME: "the same again: nothing changes",
        Verdict.IDLE: "no first knock: nothing begins",
        Verdict.FAST: "too fast: not looked at, back to the start",
        Verdict.UNKNOWN: 'in no sequence: not counted (wrong_port = "known")',
        Verdict.PUBLIC: "public port: no knock",
        Verdict.SIGNED: "a signed knock, perhaps: the daemon judges it",
        Verdict.CONNECTION: "part of a connection: no knock",
    }
    if step.verdict in plain:
        return plain[step.verdict]
    if step.verdict is Verdict.OPENS:
        return _opens(house, step)
    if step.verdict in (Verdict.FORWARD, Verdict.BACK, Verdict.WRONG):
        return _moved(house, step)
    return _no_symbol(house, step)


def state_of(house: House, step: Step) -> str:
    """Say where the source is after a packet, empty where the packet was no symbol."""
    if step.verdict is Verdict.FAST:
        return START
    if not step.lanes:
        return ""
    places = [house.places[lane.after[0]] for lane in step.lanes if lane.after[0] in house.places]
    return ", ".join(_progress(house, place) for place in places) or START


def due(house: House, lane: Lane) -> str:
    """Say which knocks would have led on from where the source was."""
    place = house.places.get(lane.before[0])
    if place is None:
        return ""
    doors = [house.doors[index] for index in place.doors]
    wanted = dict.fromkeys(str(door.knock[place.knocks]) for door in doors if len(door.knock) > place.knocks)
    return " or ".join(wanted)


def _opens(house: House, step: Step) -> str:
    parts = []
    for index in step.opened:
        door = house.doors[index]
        what = f" ({words.ports(door)}) for {format_duration(door.for_ms)}" if door.opens else ""
        parts.append(f"{door.name}{what}")
    last = len(house.doors[step.opened[0]].knock)
    return f"knock {last} of {last}: opens {words.listed(parts)}"


def _moved(house: House, step: Step) -> str:
    lane = next(lane for lane in step.lanes if lane.verdict is step.verdict)
    place = house.places.get(lane.after[0])
    late = ""
    if lane.is_late:
        within = format_duration(house.automaton.machines[lane.machine].within_ms)
        late = f"too late, {words.span(step.at_s - lane.before[1])} after the first (within {within}): "
    if place is None:
        wanted = due(house, lane)
        return f"{late or 'wrong: '}{f'{wanted} was due, ' if wanted and not late else ''}back to the start"
    again = "begins anew: " if lane.verdict is Verdict.BACK else ""
    return f"{late or again}knock {_of(house, place)}"


def _of(house: House, place: Place) -> str:
    """Say `2 of 3 for ssh`, or `2 for ssh, web` where they need different numbers."""
    doors = [house.doors[index] for index in place.doors]
    names = ", ".join(door.name for door in doors) + (f" and {place.more:,} more" if place.more else "")
    lengths = {len(door.knock) for door in doors}
    total = f" of {lengths.pop()}" if len(lengths) == 1 and not place.more else ""
    return f"{place.knocks}{total} for {names}"


def _progress(house: House, place: Place) -> str:
    door = house.doors[place.doors[0]]
    others = len(place.doors) - 1 + place.more
    return f"{door.name} {place.knocks}/{len(door.knock)}" + (f" +{others}" if others else "")


def _no_symbol(house: House, step: Step) -> str:
    seen = step.seen
    if step.verdict is Verdict.ENTERS:
        return f"let in: {_service(house, step)} is open for {words.span(step.left_s)} more"
    if step.verdict is Verdict.HIDDEN and step.is_after_signed and house.gate.mode is not Mode.OBSERVE:
        return f"dropped, unless the signed knock opened {_service(house, step)}"
    if step.verdict is Verdict.HIDDEN:
        dropped = "let through by mode observe" if house.gate.mode is Mode.OBSERVE else "dropped"
        return f"{dropped}: {_service(house, step)} is closed"
    if step.verdict is Verdict.FLAGS:
        wanted = words.listed(sorted({str(machine.flags) for machine in house.automaton.machines}))
        return f"flags do not fit ({wanted}): no knock"
    if step.verdict is Verdict.ELSEWHERE:
        return f"goes to {words.address(seen.flow.destination)}, not this host: no knock"
    if step.verdict is Verdict.INSIDE:
        if seen.interface and seen.interface != "lo" and not seen.interface.startswith(UNNAMED):
            return f"came in by {seen.interface}, which is not watched: no knock"
        return "from this host itself, whose own packets are not watched"
    return f"no whole packet: {seen.flow.trouble}"


def _service(house: House, step: Step) -> str:
    indexes = house.services.get(step.port, ()) if step.port else ()
    names = [house.doors[index].name for index in indexes[:3]]
    return words.listed(names) or "no door"
