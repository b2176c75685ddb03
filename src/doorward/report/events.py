"""What the ledger holds about a period, sorted out: who was in, and who was refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from doorward.daemon.ledger import KEPT_ROWS, Record

_KEY = "key "  # `Opening.by` of a signed knock goes on with the key's name
_SHORTEST_S = 60.0  # a period: charts divide by its length
_SLACK_S = 60.0  # a daemon goes on writing while its ledger is read


class Period(NamedTuple):
    """From when until when; seconds since the epoch."""

    since_s: float
    until_s: float

    @property
    def length_s(self) -> float:
        """Tell how long it is; never nothing."""
        return self.until_s - self.since_s


class Session(NamedTuple):
    """An opening: by whom (a key's name, or the address where no key tells), how, from when until when.

    `ended_by` None: it stands, until `until_s`.
    """

    door: str
    person: str
    by: str  # "key", "knock" or "hand"
    address: str
    ports: tuple[str, ...]
    since_s: float
    until_s: float
    ended_by: str | None


class Refusal(NamedTuple):
    """Who was refused when, at which door if that is known, and why."""

    at_s: float
    door: str | None
    address: str
    reason: str


class PeriodEvents(NamedTuple):
    """What a ledger holds about a period, oldest first.

    `ahead`: records of a time that has not come (the clock was set back), which are left out. `forgotten`: the kinds
    whose older records the ledger has dropped in the period, with the moment of the oldest that it has.
    """

    period: Period
    visits: list[Session]
    refusals: list[Refusal]
    ahead: int
    forgotten: dict[str, float]


def sort_out(records: Iterable[Record], since_s: float, now_s: float) -> PeriodEvents:
    """Read all records of a ledger, oldest first; what was open at `since_s` counts too."""
    visits, refusals, ahead = list[Session](), list[Refusal](), 0
    rows = {"opened": 0, "refused": 0}
    oldest: dict[str, float] = {}
    for record in records:
        if record.event == "banned":
            continue
        rows[record.event] += 1
        oldest.setdefault(record.event, record.at_s)
        if record.at_s > now_s + _SLACK_S:
            ahead += 1
        elif record.event == "refused":
            if record.at_s >= since_s:
                refusals.append(Refusal(record.at_s, record.door, record.address, record.detail["reason"]))
        elif (visit := _visit(record, now_s)).until_s >= since_s:
            visits.append(visit)
    begun_s = min(oldest.values(), default=since_s)
    start_s = min(max(since_s, begun_s), now_s - _SHORTEST_S)
    forgotten = {event: at_s for event, at_s in oldest.items() if rows[event] >= KEPT_ROWS and at_s > since_s}
    return PeriodEvents(Period(start_s, now_s), visits, refusals, ahead, forgotten)


def _visit(record: Record, now_s: float) -> Session:
    detail, door = record.detail, record.door or ""
    by, person = (detail["by"], record.address)
    if by.startswith(_KEY):
        by, person = "key", by.removeprefix(_KEY)
    until_s, ended_by = detail["until"], detail["closed_by"]
    if detail["closed"] is not None:
        until_s = min(detail["closed"], now_s)
        ended_by = str(ended_by or "time")
    elif until_s <= now_s:
        ended_by = "time"  # while no daemon ran to record it
    ports = tuple(detail["ports"])
    return Session(door, person, by, record.address, ports, record.at_s, max(until_s, record.at_s), ended_by)
