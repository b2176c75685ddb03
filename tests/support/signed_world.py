"""The values of the model of signed knocks (tests/support/signed_model.py): messages, gates, and what happened."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address
from typing import NamedTuple

from doorward.core.signed_rules import CloseDates, DatedKnock, Holders
from tests.support.model_cache import CacheState, Limits

BASE_MS = 1_000_000_000_000
DOOR = "ssh"

Dates = frozenset[tuple[str, str, str, int]]


class Offer(NamedTuple):
    """A message that a user may send: by whom, which, for which address ("": the packet's source), clock error."""

    by: str
    is_close: bool = False
    asked: str = ""
    ahead_ms: int = 0


class Setup(NamedTuple):
    """What is explored. `names` of the gates, which have one key; all messages are for `target`."""

    names: tuple[str, ...]
    target: str
    offers: tuple[Offer, ...]
    messages: int
    ticks: int
    faults: int  # kills, losses of power, orderly boots
    is_fleet: bool = False
    limits: Limits = Limits()
    cuts: int = 0  # of a gate from etcd


class SentPacket(NamedTuple):
    number: int
    by: str
    is_close: bool
    asked: str
    time_ms: int

    def __str__(self) -> str:
        return f"packet {self.number}"

    def address(self, source: str) -> str:
        return self.asked or source

    def knock(self, source: str) -> DatedKnock:
        return DatedKnock(self.by, DOOR, _place(self.address(source)), self.time_ms)


class Delivery(NamedTuple):
    """A packet between its claim and what follows; `unclaimed`: the cache's state is written later."""

    packet: SentPacket
    source: str
    at_ms: int
    unclaimed: CacheState | None = None


class Saved(NamedTuple):
    """What the ledger has: used numbers, dates of closes, openings by address."""

    cache: CacheState = CacheState()
    closes: Dates = frozenset()
    openings: tuple[tuple[str, Holders], ...] = ()

    def holders(self, address: str) -> Holders:
        return dict(self.openings).get(address, Holders())

    def with_holders(self, address: str, holders: Holders) -> Saved:
        openings = {**dict(self.openings), address: holders}
        return self._replace(openings=tuple(sorted((a, h) for a, h in openings.items() if h.shares)))

    def expire(self, now_ms: int) -> Saved:
        openings = tuple((a, left) for a, h in self.openings if (left := h.expire(now_ms / 1000)).shares)
        return self._replace(openings=openings)


class Announced(NamedTuple):
    """An entry of the fleet's log: an opening with its end, or a close."""

    packet: SentPacket
    address: str
    until_s: float = 0.0


class Gate(NamedTuple):
    name: str
    ledger: Saved = Saved()
    disk: Saved = Saved()  # what of it is left after a loss of power
    boot: int = 0
    booted_ms: int = BASE_MS - 5000
    asking: Delivery | None = None  # claimed in the fleet
    claimed: Delivery | None = None  # and in the gate's ledger; neither opened nor closed yet
    heard: int = 0  # entries of the fleet's log
    is_cut: bool = False  # etcd does not answer
    owed: tuple[Announced, ...] = ()  # closes that it applied then


class Duty(NamedTuple):
    """What a gate owes to a user: an opening that the same user did not close later."""

    gate: str
    by: str
    address: str
    until_s: float
    dated_ms: int

    def is_met_by(self, kept: Duty) -> bool:
        own = kept.gate, kept.by, kept.address
        return own == self[:3] and kept.until_s >= self.until_s and kept.dated_ms >= self.dated_ms


class World(NamedTuple):
    now_ms: int
    gates: tuple[Gate, ...]
    sent: tuple[SentPacket, ...]
    may_send: bool = True  # users send before anything else happens; the attacker may hold back, so that is all orders
    faults: int = 0
    cuts: int = 0
    claims: frozenset[int] = frozenset()  # the fleet's
    closes: Dates = frozenset()  # the fleet's
    log: tuple[Announced, ...] = ()  # the fleet's
    # What happened, to compare with: packets that opened, packets that were answered, closes that were claimed (the
    # first word is the gate or the fleet), and what is owed.
    opened: frozenset[int] = frozenset()
    answered: frozenset[int] = frozenset()
    closed: frozenset[tuple[str, str, str, int]] = frozenset()
    owed: frozenset[Duty] = frozenset()

    def with_gate(self, number: int, gate: Gate) -> World:
        if gate is self.gates[number]:
            return self
        return self._replace(gates=(*self.gates[:number], gate, *self.gates[number + 1 :]))


_place = cache(ip_address)


@cache
def last_close(rows: Dates, by: str, address: str) -> int:
    return CloseDates(rows).last(by, DOOR, _place(address))


@cache
def noted(rows: Dates, close: DatedKnock, forgotten_ms: int) -> Dates:
    dates = CloseDates(rows)
    dates.note(close)
    dates.prune(forgotten_ms)
    return frozenset(dates.rows())


@cache
def finished(rows: Dates, address: str, holders: Holders) -> Holders:
    return CloseDates(rows).finish(DOOR, _place(address), holders)
