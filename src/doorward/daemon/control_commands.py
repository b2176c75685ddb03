"""What the daemon answers on its control socket: status, follow, open, close, and what renewal.py does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from itertools import islice
from typing import TYPE_CHECKING, Any

from doorward.config.duration import parse_duration_ms
from doorward.daemon import reload
from doorward.daemon.control_socket import METRICS_USER, Reply
from doorward.daemon.event_stream import Subscriber
from doorward.errors import DoorwardError, NegativeResult, UsageError
from doorward.kernel.sock_diag import close_connections
from doorward.model import Address, Opening, Place, parse_address, parse_place
from doorward.nftables.ban_sets import covers

if TYPE_CHECKING:
    from doorward.daemon.daemon import Daemon

MOST_DOORS = 200  # that one who follows is told of; who wants to know all reads the configuration
DEFAULT_BAN_MS = 3_600_000
_HIDDEN = "only root is shown what is wrong with it"
MAX_FOR_MS = 365 * 86_400_000  # the kernel's timers take more, but nobody means it


def answer(daemon: Daemon, request: Mapping[str, Any]) -> Reply:
    """Answer one request, or raise a DoorwardError that is the answer."""
    handler = _HANDLERS.get(request["command"])
    if handler is None:
        raise UsageError(f"{request['command']!r} is nothing that the daemon does; it does {', '.join(_HANDLERS)}")
    if request.get("is_reader") and handler is not _numbers:
        raise UsageError(f"the user {METRICS_USER} may ask for the numbers alone; call this as root")
    if handler in _OWNERS and not request.get("is_owner"):
        what = f"{request['command']} is for root"
        raise UsageError(f"{what}: members of [gate] control_group see the status, and open and close doors")
    return handler(daemon, request)


def _status(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "summary": daemon.loaded.summary(),
        "generation": daemon.loaded.generation,
        "openings": [_opening(daemon, opening) for opening in daemon.book],
        "counters": daemon.filter.counters(),
        "log_overflows": daemon.missed,
        "ledger_trouble": daemon.ledger.trouble,
        "gate_trouble": daemon.healing.trouble or daemon.trouble,
        "config": str(daemon.config),
        "is_loading": daemon.healing.is_busy,
        # Of the file, which holds secrets: its digest would let guesses be checked, and its faults quote it.
        "digest": daemon.loaded.digest if request.get("is_owner") and daemon.trial is None else "",
        "last_good": daemon.loaded.last_good if request.get("is_owner") else bool(daemon.loaded.last_good) * _HIDDEN,
        "trial": None if daemon.trial is None else daemon.trial.as_dict(),
        "signed": None if daemon.signed is None else daemon.signed.as_dict(),
        "banned": len(daemon.bans.active()),
        "fleet": None if daemon.fleet is None else daemon.fleet.as_dict(),
    }


def _open(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    door = daemon.doors.get(_text(request, "door"))
    if door is None:
        raise UsageError(_no_door(daemon, _text(request, "door")))
    for_ms = door.for_ms if request.get("for") is None else _duration(_text(request, "for"))
    now_s = daemon.loop.now_s()
    opening = Opening(door.name, _address(request), door.opens, now_s, now_s + for_ms / 1000, "hand")
    if not door.is_opening:
        with daemon.recording():
            daemon.record_command_run(opening)
        return {"opening": _opening(daemon, opening._replace(until_s=now_s))}
    if daemon.bans.contains(opening.address):
        raise NegativeResult(f"{opening.address} is banned; `doorward unban {opening.address}` ends that")

    def apply() -> None:
        daemon.ledger.fsync()  # the ledger first: after a crash it can still tell
        daemon.apply_openings(opening.elements(), {})

    with daemon.recording(apply):
        daemon.record_opening(opening)
    standing = daemon.book.get(door.name, opening.address) or opening
    return {"opening": _opening(daemon, standing)}


def _close(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    name, address = _text(request, "door"), _place(request)
    opening = daemon.book.close(name, address)
    if opening is None:
        if name not in daemon.doors:
            raise UsageError(_no_door(daemon, name))
        raise NegativeResult(f"{name} is not open to {address}; `doorward status` lists what is")
    try:
        daemon.apply_openings(
            opening.elements(), dict.fromkeys(opening.elements(), 0.0)
        )  # where they are, without a look
    except DoorwardError:
        daemon.book.restore(name, address, opening)
        raise
    with daemon.recording():
        daemon.record_end(opening, "hand")
    return {"cut": close_connections(address, opening.ports) if request.get("cut") is True else 0}


def _ban(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ban an address: every door closes to it, and it knocks in vain. Who else is in its network stays in."""
    address = _address(request)
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise UsageError(f"{address} is no address that strangers come from; its own packets would be lost")
    for_ms = DEFAULT_BAN_MS if request.get("for") is None else _duration(_text(request, "for"))
    ban = daemon.bans.add(address, for_ms / 1000)
    openings = [opening for opening in daemon.book if covers(ban, opening.address)]
    for opening in openings:
        daemon.book.close(opening.door, opening.address)
    now_s = time.time()
    daemon.ledger.banned(ban, now_s, now_s + for_ms / 1000)
    daemon.log.event("banned", {"address": str(ban), "for_s": for_ms / 1000})
    elements = tuple(element for opening in openings for element in opening.elements())
    try:
        daemon.apply_openings(elements, dict.fromkeys(elements, 0.0))
    finally:  # what could not be taken out of the sets ends by its timer, and the ban holds all the same
        with daemon.recording():
            for opening in openings:
                daemon.record_end(opening, "ban")
    ports = frozenset(port for door in daemon.doors.values() for port in door.opens)
    cut_count = close_connections(ban, tuple(ports)) if request.get("cut") is True else 0
    return {"ban": str(ban), "for": for_ms / 1000, "closed": len(openings), "cut": cut_count}


def _unban(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    ban = daemon.bans.remove(_address(request))
    daemon.ledger.unbanned(ban, time.time())
    daemon.log.event("unbanned", {"address": str(ban)})
    return {"ban": str(ban)}


def _bans(daemon: Daemon, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"bans": [[str(ban), until_s] for ban, until_s in daemon.bans.active().items()]}


def _follow(daemon: Daemon, request: Mapping[str, Any]) -> Subscriber:
    """Answer as `status` does, and with some doors; then with every event."""
    doors = [
        [d.name, [str(port) for port in d.opens], d.for_ms / 1000] for d in islice(daemon.doors.values(), MOST_DOORS)
    ]
    return daemon.followers.subscribe({**_status(daemon, request), "doors": doors})


def _off(daemon: Daemon, _: Mapping[str, Any]) -> dict[str, Any]:
    """End, since `doorward off` has made its file. Here it may not be seen: not every user can enter its directory."""
    daemon.switch_off()
    return {}


def _numbers(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    numbers = daemon.gauging.answer(daemon)
    if request.get("is_reader"):  # whose knocks are how far is not for everyone who may count
        return {name: number for name, number in numbers.items() if name not in ("attempts", "listed")}
    return numbers


_HANDLERS: dict[str, Callable[[Daemon, Mapping[str, Any]], Reply]] = {
    "status": _status,
    "open": _open,
    "close": _close,
    "apply": reload.apply,
    "confirm": reload.confirm,
    "installed": reload.reload_hooks,
    "follow": _follow,
    "numbers": _numbers,
    "ban": _ban,
    "unban": _unban,
    "bans": _bans,
    "off": _off,
}


_OWNERS = (reload.apply, reload.confirm, reload.reload_hooks, _ban, _unban, _off)


def _opening(daemon: Daemon, opening: Opening) -> dict[str, Any]:
    wall = daemon.in_wall_time(opening)
    return {
        "door": opening.door,
        "address": str(opening.address),
        "ports": [str(port) for port in opening.ports],
        "since": round(wall.since_s, 3),
        "until": round(wall.until_s, 3),
        "by": opening.by,
    }


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise UsageError(f"the request needs a text {key!r}")
    return value


def _place(request: Mapping[str, Any]) -> Place:
    """Read what a door may be open to: an address, or a network."""
    text = _text(request, "address")
    if "/" not in text:
        return _address(request)
    try:
        network = parse_place(text)
    except ValueError:
        raise UsageError(f"{text!r} is no network; write it like 192.0.2.0/24") from None
    if isinstance(network, Address) or network.num_addresses == 1:
        raise UsageError(f"{text!r} is no network but an address; write it without /{text.partition('/')[2]}")
    return network


def _address(request: Mapping[str, Any]) -> Address:
    text = _text(request, "address")
    if "%" in text:
        raise UsageError(f"{text!r} names an interface; write the address without %{text.partition('%')[2]}")
    try:
        found = parse_address(text)
    except ValueError:
        raise UsageError(f"{text!r} is no address; write it like 192.0.2.7 or 2001:db8::7") from None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _duration(text: str) -> int:
    try:
        for_ms = parse_duration_ms(text)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
    if for_ms > MAX_FOR_MS:
        raise UsageError(f"--for: {text} is too long; at most 365d")
    return for_ms


def _no_door(daemon: Daemon, name: str) -> str:
    import difflib

    # Among 100,000 doors the search would hold the daemon for seconds.
    near = difflib.get_close_matches(name, daemon.doors, n=1) if len(daemon.doors) <= 1000 else []
    hint = f"did you mean {near[0]!r}?" if near else "`doorward check` counts the doors of the configuration"
    return f"there is no door {name!r}; {hint}"
