"""Sort the ledger's records of a period into openings, refusals and bans. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from doorward.daemon.ledger import KEPT_ROWS, Record
from doorward.model import BY_BROWSER, BY_FWKNOP, BY_KEY

KEYS = (BY_KEY.strip(), BY_FWKNOP.strip())
_SHORTEST_S = 60.0  # least length of a period: charts divide by it
_SLACK_S = 60.0  # the daemon may write while its ledger is read


class Period(NamedTuple):
    """A time span, in seconds since the epoch."""

    since_s: float
    until_s: float

    @property
    def length_s(self) -> float:
        """The length, always above zero."""
        return self.until_s - self.since_s


class Session(NamedTuple):
    """An opening. `person`: the name of the key that signed, else the address.

    `ended_by` is None while the door is open; `until_s` is then in the future.
    """

    door: str
    person: str
    by: str  # "key", "fwknop", "knock" or "hand"
    address: str
    ports: tuple[str, ...]
    since_s: float
    until_s: float
    ended_by: str | None

    @property
    def key(self) -> str:
        """Return the kind of key that opened it, a signer's or one that fwknop's clients share; "" if none did."""
        return self.by if self.by in KEYS else ""


class Refusal(NamedTuple):
    """A rejected knock or request; `door` is None if unknown."""

    at_s: float
    door: str | None
    address: str
    reason: str


class Ban(NamedTuple):
    """A ban of an address or network. `ended_s` is None if it ends, or ended, at `until_s`."""

    at_s: float
    address: str
    until_s: float
    ended_s: float | None


class PeriodEvents(NamedTuple):
    """The ledger's records of a period, oldest first.

    `future`: the number of records skipped because they are in the future (the clock was set back). `dropped`: the
    events whose older records in the period the ledger has dropped, with the time of the oldest that is left.
    """

    period: Period
    sessions: list[Session]
    refusals: list[Refusal]
    bans: list[Ban]
    future: int
    dropped: dict[str, float]


def collect_events(records: Iterable[Record], since_s: float, now_s: float) -> PeriodEvents:
    """Return the events since `since_s`, and the openings and bans of that time.

    `records` are the whole ledger, oldest first.
    """
    sessions, refusals, bans, future = list[Session](), list[Refusal](), list[Ban](), 0
    rows = {"opened": 0, "refused": 0}
    oldest: dict[str, float] = {}
    for record in records:
        if record.event in rows:
            rows[record.event] += 1
            oldest.setdefault(record.event, record.at_s)
        if record.at_s > now_s + _SLACK_S:
            future += 1
        elif record.event == "banned":
            ban = Ban(record.at_s, record.address, record.detail["until"], record.detail["ended"])
            if (ban.until_s if ban.ended_s is None else ban.ended_s) >= since_s:
                bans.append(ban)
        elif record.event == "refused":
            if record.at_s >= since_s:
                refusals.append(Refusal(record.at_s, record.door, record.address, record.detail["reason"]))
        elif (session := _session(record, now_s)).until_s >= since_s:
            sessions.append(session)
    oldest_s = min(oldest.values(), default=since_s)
    start_s = min(max(since_s, oldest_s), now_s - _SHORTEST_S)
    dropped = {event: at_s for event, at_s in oldest.items() if rows[event] >= KEPT_ROWS and at_s > since_s}
    return PeriodEvents(Period(start_s, now_s), sessions, refusals, bans, future, dropped)


def _session(record: Record, now_s: float) -> Session:
    detail, door = record.detail, record.door or ""
    by, person = (detail["by"], record.address)
    kind, _, name = by.partition(" ")
    if name and kind in KEYS:
        by, person = kind, name.removesuffix(BY_BROWSER)
    until_s, ended_by = detail["until"], detail["closed_by"]
    if detail["closed"] is not None:
        until_s = min(detail["closed"], now_s)
        ended_by = str(ended_by or "time")
    elif until_s <= now_s:
        ended_by = "time"  # no daemon was running to record it
    ports = tuple(detail["ports"])
    return Session(door, person, by, record.address, ports, record.at_s, max(until_s, record.at_s), ended_by)
