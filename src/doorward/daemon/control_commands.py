"""The commands of the control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from itertools import islice
from typing import Any

from doorward import __version__
from doorward.config.diagnostics import nearest
from doorward.config.duration import parse_duration_ms
from doorward.core.openings import holder_names, new_opening, on_ban, on_close, on_open
from doorward.daemon.bans import BanList
from doorward.daemon.control_socket import METRICS_USER, Reply
from doorward.daemon.event_stream import Subscriber, Subscribers
from doorward.daemon.gate_loader import GateLoader
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.stats import EventStats, KernelStats, attempt_as_dict
from doorward.errors import InvalidValueError, NegativeResult, UsageError
from doorward.kernel.sock_diag import close_connections
from doorward.model import Address, Opening, Source, parse_address, parse_source
from doorward.nftables.ban_sets import covers

MOST_DOORS = 200  # in a status; the configuration has all
DEFAULT_BAN_MS = 3_600_000
_HIDDEN = "only root is shown what is wrong with it"
MAX_FOR_MS = 365 * 86_400_000  # longer times, which the kernel accepts, are mistakes
_OWNERS = ("apply", "confirm", "reload_hooks", "ban", "unban", "off")  # for root and the daemon's own user


class ControlCommands:
    """Answer requests. `describe` returns the workers' part of "status" and "stats": see daemon.py."""

    def __init__(
        self,
        openings: OpeningsService,
        gate: GateLoader,
        bans: BanList,
        subscribers: Subscribers,
        event_stats: EventStats,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self.openings, self.gate, self.bans, self.subscribers = openings, gate, bans, subscribers
        self.event_stats, self.kernel_stats, self.describe = event_stats, KernelStats(), describe
        self._began_s = openings.loop.now_s()
        self._handlers: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
            "status": self._status,
            "open": self._open,
            "close": self._close,
            "apply": gate.apply,
            "confirm": gate.confirm,
            "reload_hooks": gate.reload_hooks,
            "follow": self._follow,
            "stats": self._stats,
            "ban": self._ban,
            "unban": self._unban,
            "bans": self._bans,
            "off": self._off,
        }

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """Answer one request, or raise a DoorwardError that is the answer."""
        handler = self._handlers.get(request["command"])
        if handler is None:
            known = ", ".join(self._handlers)
            raise UsageError("unknown-command", f"unknown command {request['command']!r}; known commands: {known}")
        if request.get("is_reader") and request["command"] != "stats":
            raise UsageError(
                "not-permitted", f"the user {METRICS_USER} may request only the statistics; run this as root"
            )
        if request["command"] in _OWNERS and not request.get("is_owner"):
            what = f"{request['command']} is for root"
            raise UsageError(
                "not-permitted", f"{what}: members of [gate] control_group see the status, and open and close doors"
            )
        return handler(request)

    def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        loaded, is_owner = self.gate.loaded, request.get("is_owner")
        return {
            "doorward_version": __version__,
            "uptime_s": round(self.openings.loop.now_s() - self._began_s, 3),
            "pid": os.getpid(),
            "mode": str(loaded.gate.mode),
            "summary": loaded.summary(),
            "generation": loaded.generation,
            "openings": [self._opening(opening) for opening in self.openings.table],
            "doors": self._first_doors(),
            "door_count": len(self.openings.doors),
            "counters": self.gate.firewall.counters(),
            "ledger_trouble": self.openings.ledger.trouble,
            "gate_trouble": self.gate.guard.trouble or self.gate.trouble,
            "config": str(self.gate.config),
            "is_loading": self.gate.guard.is_busy,
            # The file holds secrets: its digest would allow guesses to be tested, and its faults quote it.
            "digest": loaded.digest if is_owner and self.gate.trial is None else "",
            "last_good": loaded.last_good if is_owner else bool(loaded.last_good) * _HIDDEN,
            "trial": None if self.gate.trial is None else self.gate.trial.as_dict(),
            "banned": len(self.bans.active()),
            **self.describe(),
        }

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        door = self.openings.doors.get(_text(request, "door"))
        if door is None:
            raise UsageError("unknown-door", self._no_door(_text(request, "door")))
        for_ms = door.for_ms if request.get("for") is None else _duration(_text(request, "for"))
        now_s = self.openings.loop.now_s()
        opening = new_opening(door, _address(request), for_ms / 1000, "hand", now_s)
        if reason := door.exclusion(opening.address):
            raise UsageError("other-family", reason)
        if door.is_opening and self.bans.contains(opening.address):
            raise NegativeResult(
                "is-banned", f"{opening.address} is banned; `doorward unban {opening.address}` ends that"
            )
        self.openings.perform_all(on_open(self.openings.table, door, opening, now_s), is_durable=True)
        if not door.is_opening:
            return {"opening": self._opening(opening._replace(until_s=now_s))}
        standing = self.openings.table.get(door.name, opening.address) or opening
        return {"opening": self._opening(standing)}

    def _close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name, address = _text(request, "door"), _place(request)
        opening = self.openings.table.get(name, address)
        if opening is None:
            if name not in self.openings.doors:
                raise UsageError("unknown-door", self._no_door(name))
            raise NegativeResult("not-open", f"{name} is not open to {address}; `doorward status` lists what is")
        self.openings.perform_all(on_close(self.openings.table, opening.key, "hand", self.openings.loop.now_s()))
        return {"cut": close_connections(address, opening.ports) if request.get("cut") is True else 0}

    def _ban(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ban an address: close every door to it, and ignore its knocks. A network around it keeps its openings."""
        address = _address(request)
        if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
            raise UsageError("own-address", f"cannot ban {address}: this host needs packets from it")
        for_ms = DEFAULT_BAN_MS if request.get("for") is None else _duration(_text(request, "for"))
        now_s = time.time()
        ban = self.bans.add(address, for_ms / 1000, now_s)
        openings = [opening for opening in self.openings.table if covers(ban, opening.address)]
        self.openings.ledger.banned(ban, now_s, now_s + for_ms / 1000)
        self.openings.log.event("banned", {"address": str(ban), "for_s": for_ms / 1000})
        # An element that cannot be removed expires by its timer; the ban is in force.
        self.openings.perform_all(on_ban(self.openings.table, openings, self.openings.loop.now_s()))
        ports = frozenset(port for door in self.openings.doors.values() for port in door.all_opens)
        cut_count = close_connections(ban, tuple(ports)) if request.get("cut") is True else 0
        return {"ban": str(ban), "for": for_ms / 1000, "closed": len(openings), "cut": cut_count}

    def _unban(self, request: Mapping[str, Any]) -> dict[str, Any]:
        ban = self.bans.remove(_address(request))
        self.openings.ledger.unbanned(ban, time.time())
        self.openings.log.event("unbanned", {"address": str(ban)})
        return {"ban": str(ban)}

    def _bans(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"bans": [[str(ban), until_s] for ban, until_s in self.bans.active().items()]}

    def _first_doors(self) -> list[dict[str, Any]]:
        """Return the first doors; `sequence`: whether a port sequence opens it."""
        with_sequence = {index for doors in self.gate.loaded.states.values() for index in doors}
        return [
            {
                "name": door.name,
                "ports": [str(port) for port in door.all_opens],
                "for_s": door.for_ms / 1000,
                "sequence": index in with_sequence,
            }
            for index, door in enumerate(islice(self.openings.doors.values(), MOST_DOORS))
        ]

    def _follow(self, request: Mapping[str, Any]) -> Subscriber:
        """Answer as `status`, and then with every event."""
        return self.subscribers.subscribe(self._status(request))

    def _off(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """End, since `doorward off` created its file, which the daemon's user may be unable to see."""
        self.gate.switch_off()
        return {}

    def _stats(self, request: Mapping[str, Any]) -> dict[str, Any]:
        usage, counters = self.kernel_stats.read(self.gate.firewall, self.openings.loop.now_s())
        loaded = self.gate.loaded
        stats = {
            "summary": loaded.summary(),
            "generation": loaded.generation,
            "doors": len(self.openings.doors),
            "openings": len(self.openings.table),
            "bans": len(self.bans.active()),
            "counters": counters,
            "sets": {fill.name: {"elements": fill.elements, "size": fill.size} for fill in usage.fills},
            "listed": len(usage.attempts),
            "attempts": [
                attempt_as_dict(attempt, loaded.depths)
                for attempt in usage.attempts
                if attempt.state not in loaded.states  # the state stays when the door is open
            ],
            "ledger_trouble": self.openings.ledger.trouble,
            "ledger_lost": self.openings.ledger.lost,
            **self.describe(),
            **self.event_stats.as_dict(),
        }
        if request.get("is_reader"):  # the sources of attempts are not for the metrics user
            return {name: value for name, value in stats.items() if name not in ("attempts", "listed")}
        return stats

    def _opening(self, opening: Opening) -> dict[str, Any]:
        wall = self.openings.in_wall_time(opening)
        return {
            "door": opening.door,
            "address": str(opening.address),
            "ports": [str(port) for port in opening.ports],
            "since": round(wall.since_s, 3),
            "until": round(wall.until_s, 3),
            "by": holder_names(opening, self.openings.loop.now_s()),
            "once": True in opening.ends(),
        }

    def _no_door(self, name: str) -> str:
        near = nearest(name, self.openings.doors)
        hint = f"did you mean {near!r}?" if near else "`doorward check` counts the doors of the configuration"
        return f"there is no door {name!r}; {hint}"


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise UsageError("missing-field", f"the request needs a text {key!r}")
    return value


def _place(request: Mapping[str, Any]) -> Source:
    """Parse the source of an opening: an address or a network."""
    text = _text(request, "address")
    if "/" not in text:
        return _address(request)
    try:
        network = parse_source(text)
    except ValueError:
        raise UsageError("invalid-network", f"invalid network {text!r}; write it like 192.0.2.0/24") from None
    if isinstance(network, Address) or network.num_addresses == 1:
        raise UsageError("not-a-network", f"{text!r} is a single address; write it without /{text.partition('/')[2]}")
    return network


def _address(request: Mapping[str, Any]) -> Address:
    text = _text(request, "address")
    if "%" in text:
        raise UsageError(
            "scoped-address", f"{text!r} names an interface; write the address without %{text.partition('%')[2]}"
        )
    try:
        found = parse_address(text)
    except ValueError:
        raise UsageError(
            "invalid-address", f"invalid address {text!r}; write it like 192.0.2.7 or 2001:db8::7"
        ) from None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _duration(text: str) -> int:
    try:
        for_ms = parse_duration_ms(text)
    except InvalidValueError as error:
        raise UsageError(error.code, f"--for: {error}") from None
    if for_ms > MAX_FOR_MS:
        raise UsageError("duration-too-long", f"--for: {text} is too long; at most 365d")
    return for_ms
