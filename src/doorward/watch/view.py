"""The state that the live view shows, built from the daemon's events. Pure; `now_s` is monotonic time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

MOST_OPENINGS = 500  # rows; a terminal has about fifty lines
MOST_CLOSED = 100  # rows of closed doors
MORE = "…"  # the door of a row that counts the rows left out
KEPT_RATES = 60  # measured once per second
FINGERPRINT = re.compile(r"(?<=[46])_")  # in the names of sets of the automaton: first_knock4_0123abcd
JsonObject = Mapping[str, Any]
DROPS = (
    "dropped_closed",
    "dropped_stealth",
    "throttled",
    "banned",
    "signed_length",
    "signed_throttled",
    "signed_budget_exceeded",
    "browser_throttled",
    "browser_budget_exceeded",
    "fwknop_throttled",
    "fwknop_budget_exceeded",
)


class TableRow(NamedTuple):
    """A row of the table: an opening, or a closed door (`address` empty)."""

    door: str
    address: str
    left: str
    ports: str
    by: str


class _Open(NamedTuple):
    until_s: float
    ports: Sequence[str]
    by: str


class WatchState:
    """Tracks openings from events, and rates from counters."""

    def __init__(self) -> None:
        self.summary = ""
        self.generation = ""
        self.stats: JsonObject = {}
        self.bans: list[tuple[str, float]] | None = None  # the newest first, each with its end
        self.drops: deque[float] = deque([0.0] * KEPT_RATES, KEPT_RATES)  # packets per second
        self._doors: dict[str, Sequence[str]] = {}  # their ports; the daemon sends a limited number of doors
        self._openings: dict[tuple[str, str], _Open] = {}
        self._rates: dict[str, float] = {}
        self._measured_s = 0.0

    def begin(self, first: JsonObject, now_s: float, wall_s: float) -> None:
        """Start from the daemon's status. `wall_s` converts its times once; later clock changes have no effect."""
        self.summary, self.generation = first["summary"], first["generation"]
        self._doors = {door["name"]: door["ports"] for door in first.get("doors", ())}
        self._openings = {
            (o["door"], o["address"]): _Open(o["until"] - wall_s + now_s, o["ports"], o["by"])
            for o in first["openings"]
        }

    def on_event(self, event: JsonObject, now_s: float) -> None:
        """Apply one event to the openings and bans."""
        kind, key = event["event"], (str(event.get("door")), str(event.get("address")))
        if kind in ("opened", "prolonged"):
            before = self._openings.get(key) if kind == "prolonged" else None
            by = event["by"] if before is None else before.by
            self._openings[key] = _Open(now_s + event["for_s"], event["ports"], by)
        elif kind == "released":
            self._openings[key] = _Open(now_s + event["for_s"], event["ports"], event["still"])
        elif kind == "closed":
            self._openings.pop(key, None)
        elif kind in ("banned", "unbanned") and self.bans is not None:
            self.bans = [ban for ban in self.active_bans(now_s) if ban[0] != key[1]]
            if kind == "banned":
                self.bans.insert(0, (key[1], now_s + event["for_s"]))

    def on_stats(self, stats: JsonObject, now_s: float) -> None:
        """Store the counters, and compute rates since the last call."""
        before, passed_s = self.stats.get("counters", {}), now_s - self._measured_s
        if before and passed_s > 0:
            counters = stats["counters"].items()
            self._rates = {name: max(0, count - before.get(name, 0)) / passed_s for name, count in counters}
            self.drops.append(sum(self._rates.get(name, 0.0) for name in DROPS))
        self.stats, self._measured_s = stats, now_s
        self.summary = stats["summary"]

    def on_bans(self, data: JsonObject, now_s: float, wall_s: float) -> None:
        """Store the bans; events change them from then on."""
        self.bans = [(str(address), until_s - wall_s + now_s) for address, until_s in reversed(data["bans"])]

    @property
    def open_count(self) -> int:
        """The number of openings."""
        return len(self._openings)

    def rows(self, now_s: float) -> list[TableRow]:
        """Return the table: openings by door and time left, then closed doors."""
        entries = sorted(self._openings.items(), key=lambda entry: (entry[0][0], entry[1].until_s, entry[0][1]))
        rows = [
            TableRow(door, address, left(until_s - now_s), " ".join(ports), by)
            for (door, address), (until_s, ports, by) in entries[:MOST_OPENINGS]
        ]
        if len(entries) > MOST_OPENINGS:
            rows.append(TableRow(MORE, "", "", "", f"{len(entries) - MOST_OPENINGS:,} more open"))
        return [*rows, *self._closed({door for door, _ in self._openings})]

    def _closed(self, is_in: set[str]) -> Iterator[TableRow]:
        closed = {name: ports for name, ports in self._doors.items() if name not in is_in}
        for name, ports in islice(closed.items(), MOST_CLOSED):
            yield TableRow(name, "", "", " ".join(ports), "")
        unseen = max(0, self.stats.get("doors", 0) - len(self._doors)) + max(0, len(closed) - MOST_CLOSED)
        if unseen:
            yield TableRow(MORE, "", "", "", f"{unseen:,} more doors")

    def attempts(self, most: int) -> list[str]:
        """Return at most `most` lines of knocks in progress, the furthest first."""
        attempts = sorted(self.stats.get("attempts", ()), key=lambda attempt: (-attempt["knocks"], attempt["left"]))
        lines = [_attempt_line(attempt["address"], attempt["knocks"], attempt["left"]) for attempt in attempts[:most]]
        unseen = len(attempts) - len(lines) + max(0, self._in_progress() - self.stats.get("listed", 0))
        if unseen:
            dropped = len(lines) - most + 1  # replaced by the last line
            lines = [*lines[: most - 1], f"and about {unseen + max(0, dropped):,} more"]
        return lines

    def active_bans(self, now_s: float) -> list[tuple[str, float]]:
        """Return the bans that have not expired, the newest first, each with its end."""
        return [ban for ban in self.bans or () if ban[1] > now_s]

    def ban_lines(self, most: int, now_s: float) -> list[str]:
        """Return at most `most` lines of bans, the newest first; nothing where this user may not see them."""
        if self.bans is None:
            return []
        bans = self.active_bans(now_s)
        lines = [f"{cut(address, 22):<22} {left(until_s - now_s):>5}" for address, until_s in bans[:most]]
        if unseen := len(bans) - len(lines):
            lines = [*lines[: most - 1], f"and {unseen + 1:,} more"]
        return lines or ["none"]

    def _in_progress(self) -> int:
        sets = self.stats.get("sets", {}).items()
        return sum(entry["elements"] or 0 for name, entry in sets if name.startswith(("first_knock", "short_window")))

    def drop_rate(self) -> str:
        """Return the rate of dropped packets as text."""
        return f"dropped {rate(self.drops[-1]) if self._rates else '-'}/s"

    def gate(self) -> list[str]:
        """Return the gate's counters as lines: the rate per second, and the total."""
        if not self.stats:
            return []
        counters = self.stats["counters"]
        lines = [
            f"{words:<15}{rate(self._rates.get(name, 0.0)):>9}/s {short(counters.get(name, 0)):>8}"
            for name, words in (
                ("knocked", "sequences"),
                ("dropped_closed", "hidden ports"),
                ("dropped_stealth", "silent drops"),
                ("throttled", "rate-limited"),
            )
        ]
        return [*lines, self._fullest(), *self._warnings()]

    def _fullest(self) -> str:
        sets = self.stats["sets"].items()
        bounded = {name: entry for name, entry in sets if entry["size"] and entry["elements"] is not None}
        if not bounded:
            return ""  # the kernel reports this since Linux 6.16
        name, entry = max(bounded.items(), key=lambda entry: float(entry[1]["elements"] / entry[1]["size"]))
        share = entry["elements"] / entry["size"]
        set_name = FINGERPRINT.split(name)[0]
        return f"fullest set    {set_name} {share:.0%}" if share >= 0.01 else "sets           under 1% full"

    def _warnings(self) -> Iterable[str]:
        counters = self.stats["counters"]
        if signed := self.stats["signed"]:
            if not signed["takes"]:
                yield "signed knocks unavailable: see the log"
            elif refused := sum(signed["refused"].values()):
                reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(signed["refused"].items()))
                yield f"signed, rejected: {short(refused)} ({reasons})"
        if no_room := sum(count for name, count in counters.items() if name.endswith("_full")):
            yield f"table full     {short(no_room)} knocks"
        if self.stats["log_overflows"]:
            yield f"log overflowed {self.stats['log_overflows']} times"
        if self.stats["ledger_trouble"]:
            yield "the ledger cannot be written"


def _attempt_line(address: str, knocks: int, left_s: float) -> str:
    count = f"{knocks} knock{'' if knocks == 1 else 's'}"
    return f"{cut(address, 22):<22} {count:<9}{left(left_s):>5}"


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters; a cut one ends in `…`."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def left(seconds: float) -> str:
    """Return a duration in at most five characters."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}" if whole < 600 else f"{whole // 60}m"
    return (
        f"{whole // 3600}h{whole % 3600 // 60:02}" if whole < 86400 else f"{whole // 86400}d{whole % 86400 // 3600:02}"
    )


def rate(per_s: float) -> str:
    """Return a rate per second as short text."""
    return f"{per_s:.1f}" if 0 < per_s < 10 else short(round(per_s))


def short(count: int) -> str:
    """Return a count in at most six characters."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            scale = 1000 if unit == "k" else size
            return f"{count / scale:.1f}{unit}" if count < 100 * scale else f"{count // scale}{unit}"
    return f"{count:,}"
