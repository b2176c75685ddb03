"""Find weak port sequences: each check looks for one weakness. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from doorward.config.schema import Configuration, WrongPort
from doorward.lint.finding import LocatedFinding
from doorward.lint.guessing import MANY_SOURCES, Guess, guess, guess_text, odds, sweep, total
from doorward.lint.guessing import chance as chance_of
from doorward.model import Door, Port

MIN_SEQUENCE = 3
WEAK = 1 / 1000  # probability that one source opens a door, or any of all doors, within a year
FIT_FOR_MANY = 1 / 100  # the same for MANY_SOURCES sources at once


def guesses(configuration: Configuration) -> list[Guess]:
    """Rate each door that has a port sequence."""
    return [rated for door in configuration.doors if (rated := guess(door)) is not None]


def wrong_port(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Warn if wrong ports are ignored, with the probability that a sweep in random order opens a door."""
    if configuration.gate.wrong_port is WrongPort.ANY:
        return
    known = {port for door in configuration.doors for port in door.knock}
    swept = {door.name: _sweep_chance(len(known), door) for door in configuration.doors if door.knock}
    what = 'wrong_port "known" ignores other ports: a sweep over all ports opens doors with ports in its order'
    if swept and (likeliest := max(swept.values())) > 0:
        door = next(name for name, odds_of_sweep in swept.items() if odds_of_sweep == likeliest)
        how = "always" if likeliest == 1 else f"with a chance of {odds(likeliest)}"
        what += f", and one in random order opens door {door!r} {how}"
    yield LocatedFinding("wrong-port-known", "warning", ("gate", "wrong_port"), what, 'write wrong_port = "any"')


def _sweep_chance(known: int, door: Door) -> float:
    """Return the probability that a sweep in random order, which hits each known port once, opens a door."""
    return sweep(known, len(door.knock)) if len(set(door.knock)) == len(door.knock) else 0.0


def sweeps(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Find doors that a sequential port scan opens, or nearly opens."""
    known = configuration.gate.wrong_port is WrongPort.KNOWN
    ignored = frozenset(configuration.gate.public).union(*(door.opens for door in configuration.doors))
    for door in configuration.doors:
        upward = _in_order(door.knock)
        if len(door.knock) < 2 or not upward:
            continue
        direction = "ascend" if upward == door.knock else "descend"
        path = ("doors", door.name, "knock")
        if known or _adjacent(upward, ignored):
            gap = "" if known else " without a gap"
            what = f"door {door.name!r}: its ports {direction}{gap}, so a plain sweep opens it"
            yield LocatedFinding("sweep-opens", "warning", path, what, "mix their order")
        else:
            what = f"door {door.name!r}: its ports {direction}: only the wrong ports between them keep a sweep out"
            yield LocatedFinding("sweep-order", "note", path, what, "mix their order")


def _in_order(ports: tuple[Port, ...]) -> tuple[Port, ...] | None:
    """Return the ports in ascending order if they have one protocol and ascend or descend, else None."""
    upward = tuple(sorted(set(ports)))
    one_protocol = len({port.protocol for port in ports}) == 1
    return upward if one_protocol and ports in (upward, upward[::-1]) else None


def _adjacent(upward: tuple[Port, ...], ignored: frozenset[Port]) -> bool:
    """Return whether a sweep hits no other port that counts in between; public and opened ports do not count."""
    return all(
        Port(low.protocol, number) in ignored
        for low, high in pairwise(upward)
        for number in range(low.number + 1, high.number)
    )


def guessed(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Find doors that a year of guessing is likely to open."""
    rated = guesses(configuration)
    for door, door_guess in zip((door for door in configuration.doors if door.knock), rated, strict=True):
        if door_guess.by_one_source >= WEAK:
            yield LocatedFinding("guessable", "warning", ("doors", door.name, "knock"), *_weak(door, door_guess))
    strong = [door_guess for door_guess in rated if door_guess.by_one_source < WEAK]
    if not strong:
        return
    weakest = max(strong, key=lambda door_guess: door_guess.per_year)
    path = ("doors", weakest.door, "knock")
    if chance_of(total(strong)) >= WEAK:
        odds = guess_text(total(strong))
        what = f"{len(strong):,} doors: guessing ports from one address opens one of them {odds}"
        yield LocatedFinding(
            "guessable-doors", "warning", path, what, f"write more than {weakest.knocks} knocks in each"
        )
    elif chance_of(total(strong) * MANY_SOURCES) >= FIT_FOR_MANY:
        whose = f"door {weakest.door!r}" if len(strong) == 1 else f"one of {len(strong):,} doors"
        what = (
            f"{MANY_SOURCES:,} addresses at once (a botnet, or an IPv6 /48) that guess ports open {whose} "
            f"{guess_text(total(strong) * MANY_SOURCES)}; one address alone {guess_text(total(strong))}"
        )
        yield LocatedFinding(
            "guessable-by-many", "note", path, what, f"against that, write more than {weakest.knocks} knocks"
        )


def _weak(door: Door, rated: Guess) -> tuple[str, str]:
    name, count = repr(door.name), len(door.knock)
    if count == 1:
        return (
            f"door {name} has 1 knock, and every scan of all ports completes it",
            f"write {MIN_SEQUENCE} knocks or more",
        )
    if rated.tried_first:
        what = f"door {name}: its {count} ports are among the {rated.ports} that are tried first (round, or well known)"
        return (
            f"{what}: guessing among those from one address opens it {guess_text(rated.per_year)}",
            "use random ports",
        )
    what = f"door {name} has {count} knocks: guessing ports from one address opens it {guess_text(rated.per_year)}"
    return what, f"write {MIN_SEQUENCE} knocks or more"


def repeats(configuration: Configuration) -> Iterator[LocatedFinding]:
    """Find knocks that a retransmitted packet can complete."""
    for door in configuration.doors:
        twice = next((first for first, second in pairwise(door.knock) if first == second), None)
        if twice is not None:
            what = f"door {door.name!r} knocks at {twice} twice in a row: a retransmitted packet counts as the second"
            path = ("doors", door.name, "knock")
            yield LocatedFinding("repeated-port", "warning", path, what, "put another port between the two")
