"""Check whether the gate would lock out the operator: whether their port is hidden, and whether a knock opens it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doorward.config.schema import Configuration, Mode, is_watched
from doorward.doctor.host import Facts
from doorward.doctor.problem import ERROR, OK, WARNING, Level, Problem
from doorward.model import Port, Protocol

SSH = Port(Protocol.TCP, 22)


def check(file: str, configuration: Configuration, facts: Facts) -> Iterator[Problem]:
    """Yield the finding for the port of the operator's SSH session; on a console, for SSH's usual port."""
    session = facts.session
    if session is None:
        if SSH in (facts.listening or ()):
            yield _port_problem(file, configuration, facts, SSH, "SSH's port", WARNING)
        return
    port = Port(Protocol.TCP, session.destination_port)
    interface = facts.network.interface_with(session.destination)
    if interface is not None and not is_watched(configuration.gate.interfaces, interface):
        yield Problem(
            "session-not-watched", OK, interface, f"your session uses {interface}, which the gate does not watch"
        )
        return
    yield _port_problem(file, configuration, facts, port, f"the port of your session from {session.source}", ERROR)


def _cannot_verify(daemon: Mapping[str, Any]) -> bool:
    """Return whether a daemon that should verify signed knocks cannot."""
    signed = daemon.get("signed")
    return signed is not None and not signed["takes"]


def _port_problem(
    file: str, configuration: Configuration, facts: Facts, port: Port, description: str, severity: Level
) -> Problem:
    gate = configuration.gate
    opening = [door for door in configuration.doors if door.opens_port(port)]
    knocked = next((door for door in opening if door.knock), None)
    if gate.mode is Mode.OBSERVE:
        return Problem("ssh-stays-open", OK, file, f"{port}, {description}, stays open: mode observe drops nothing")
    if redirect := next((each for door in opening for each in door.redirects if each.port == port), None):
        what = f"{port}, {description}, would lead to {redirect.to.host} for all who knock, and to nobody else"
        return Problem("ssh-forwarded", severity, file, what, "forward another port")
    if knocked is not None:
        return Problem(
            "ssh-hidden", OK, file, f"{port}, {description}, is hidden; door {knocked.name!r} opens it by a knock"
        )
    signed = next((door for door in opening if door.name in facts.signed_doors), None)
    if signed is not None:
        what = (
            f"{port}, {description}, is hidden, and nothing opens it: door {signed.name!r} opens by signed knocks only"
        )
        if facts.daemon is None and facts.is_table_loaded is not False:
            return Problem(
                "signed-knocks-unverified",
                ERROR,
                file,
                f"{what}, and no daemon is running to verify them",
                "start the daemon",
            )
        if facts.daemon is not None and _cannot_verify(facts.daemon):
            return Problem(
                "signed-knocks-unverified",
                ERROR,
                file,
                f"{what}, and the daemon cannot verify them",
                "see the daemon's log",
            )
        return Problem(
            "ssh-hidden", OK, file, f"{port}, {description}, is hidden; door {signed.name!r} opens it by a signed knock"
        )
    if opening and configuration.signed is not None:
        why = facts.signed_error or "no key of its authorized_keys may open it"
        what = f"{port}, {description}, is hidden, and its door {opening[0].name!r} accepts no signed knock: {why}"
        return Problem("no-signed-knock-accepted", severity, file, what, "fix that; `doorward check` shows details")
    if opening:
        what = f"{port}, {description}, is hidden, and its door {opening[0].name!r} opens by hand only"
        remedy = f"write [signed], or give door {opening[0].name!r} a `knock`, or take {port} out of its `opens`"
        return Problem("opens-by-hand-only", severity, file, what, remedy)
    if gate.mode is Mode.STEALTH and port not in gate.public:
        what = (
            f"{port}, {description}, would be hidden, and no door opens it: only established connections would continue"
        )
        remedy = f'add a door with opens = ["{port}"] and a `knock`, or add "{port}" to `public`'
        return Problem("ssh-locked-out", severity, file, what, remedy)
    return Problem("ssh-stays-open", OK, file, f"{port}, {description}, stays open to everyone")
