"""The daemon's log: one line per event, as text or JSON, on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from doorward.config.duration import format_duration
from doorward.core.openings import USE, is_use
from doorward.core.token_bucket import TokenBucket
from doorward.errors import ConfigError, DoorwardError
from doorward.escape import visible
from doorward.json_form import json_line
from doorward.model import BY_FWKNOP, BY_KEY

if TYPE_CHECKING:
    from doorward.daemon.hook_runner import HookReport

# Rate and burst of each kind of line: unknown senders must not fill the disk. The ledger has what is left out here.
LINES_PER_S, LINES_AT_ONCE = 100, 1000
COUNT_AFTER_S = 1.0  # after the first suppressed line, the count is logged

_TEXT = {
    "opened": "opened {door} to {address} for {for} ({ports}), by {by}",
    "prolonged": "prolonged {door} for {address} to {for} more, by {by}",
    "closed": "closed {door} to {address}, by {by}",
    "used": "used {door} to {address} after {for}{how}, for one connection",
    "released": "released {door} to {address}, by {by}; open for {for} more, by {still}",
    "not_open": "closed nothing: {by} had not opened {door} to {address} before",
    "ran": "ran the command of {door} for {address}, by {by}",
    "confirmed": "confirmed {door} for {address} to {to}",
    "unconfirmed": "did not confirm {door} for {address} to {to}: {reason}",
    "refused": "refused {address}: {reason}",
    "banned": "banned {address} for {for}",
    "unbanned": "unbanned {address}",
    "lost": "{count} events left out here: they came faster than they were read; `doorward log` has them",
}


class Log:
    """Writes events. The journal adds timestamps itself; elsewhere each line begins with one."""

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        self._json = form == "json"
        self._stream = stream or sys.stderr
        self._stamp = "JOURNAL_STREAM" not in os.environ
        self._limits = {event: TokenBucket(LINES_PER_S, LINES_AT_ONCE) for event in _TEXT}
        self._left_out: dict[str, int] = {}
        self._renewals: dict[object, Counter[object]] = {}  # of openings that were prolonged, by key
        self.listeners: list[
            Callable[[str, Mapping[str, object]], None]
        ] = []  # called with every event, also suppressed ones
        self.due_s = float("inf")  # when `log_suppressed` is to be called, on CLOCK_MONOTONIC's scale

    def message(self, code: str, message: str, level: str = "info") -> None:
        """Write a message: what was done, or a fault and its remedy."""
        self.event("message", {"level": level, "code": code, "message": " ".join(message.splitlines())})

    def error(self, error: DoorwardError, before: str = "") -> None:
        """Write an error, a line for each fault, with `before` in front."""
        faults = error.faults if isinstance(error, ConfigError) else [error]
        for fault in faults:
            for line in str(fault).splitlines():
                self.message(fault.code, before + line, "error")

    def hook_report(self, door: str, report: HookReport) -> None:
        """Write what became of a command, or of a request to the hook runner."""
        name = door or "on_refuse"
        if report.event == "unread":
            self.message("hooks-not-reloaded", f"{report.text}; the commands stay as they were", "error")
        elif report.event == "unkept":
            unkept = f"{report.text}; a start with a wrong file could not use this configuration"
            self.message("last-good-not-kept", unkept, "warning")
        elif report.event != "done":
            self.message("hook-report", f"{name}: {report.event}: {report.text}")
        elif report.status:
            self.message("hook-failed", f"{name}: the command ended with status {report.status}", "error")

    def event(self, event: str, fields: Mapping[str, object]) -> None:
        """Write one line, or count it if its kind exceeds the rate limit."""
        for listener in self.listeners:
            listener(event, fields)
        if self._is_only_counted(event, fields):
            return
        if event == "closed" and (count := self._renewals.pop(_opening_key(fields), Counter()).total()) > 1:
            fields = {**fields, "prolonged": count}
        now_s = time.monotonic()
        if event in self._limits and not self._limits[event].admits(now_s):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            self.due_s = min(self.due_s, now_s + COUNT_AFTER_S)
            return
        self._write(event, fields)

    def _is_only_counted(self, event: str, fields: Mapping[str, object]) -> bool:
        """Count a renewal by a key; after its first, those of a door that is held open would fill the log.

        So would their confirmations, which follow them.
        """
        by = fields.get("by")
        if event == "prolonged" and str(by).startswith((BY_KEY, BY_FWKNOP)):
            self._renewals.setdefault(_opening_key(fields), Counter())[by] += 1
        elif event not in ("confirmed", "unconfirmed"):
            return False
        return self._renewals.get(_opening_key(fields), Counter())[by] > 1

    def log_suppressed(self) -> None:
        """Log the number of suppressed lines of each kind since the last call."""
        counted = ", ".join(f"{count} {event!r}" for event, count in self._left_out.items())
        self._left_out, self.due_s = {}, float("inf")
        if counted:
            self.message(
                "lines-left-out",
                f"too many lines at once, these were left out: {counted}; `doorward log` has them",
                "warning",
            )

    def _write(self, event: str, fields: Mapping[str, object]) -> None:
        if self._json:
            text = as_json(event, fields)
        else:
            text = text_of(event, fields)
            if self._stamp:
                text = stamped(_now(), text)
            text = visible(text)
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError:  # a closed log must not end the daemon
            pass


def _opening_key(fields: Mapping[str, object]) -> object:
    return fields["door"], fields["address"]


def as_json(event: str, fields: Mapping[str, object]) -> str:
    """Return an event that happens now as JSON, without a newline."""
    return json_line({"time": _now().isoformat(timespec="milliseconds"), "event": event, **fields})


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def stamped(moment: datetime, text: str) -> str:
    """Return a line with the local time before it."""
    return f"{moment.astimezone():%Y-%m-%dT%H:%M:%S%z} {text}"


def text_of(event: str, fields: Mapping[str, object]) -> str:
    """Return an event as text."""
    if event == "message":
        level = "" if fields["level"] == "info" else f"{fields['level']}: "
        return f"{level}{fields['message']}"
    shown = dict(fields)
    if isinstance(for_s := fields.get("for_s"), int | float):
        shown["for"] = format_duration(max(1, round(for_s)) * 1000 if for_s >= 1 else max(1, round(for_s * 1000)))
    if isinstance(ports := fields.get("ports"), list):
        shown["ports"] = ", ".join(ports) or "no port"
    if event == "closed" and is_use(str(fields["by"])):
        event, shown["how"] = "used", str(fields["by"])[len(USE) :]
    text = _TEXT[event].format_map(shown)
    return f"{text}, prolonged {fields['prolonged']} times" if "prolonged" in fields else text
