"""knockd's log: to the log file, to syslog, and with -v to standard output."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from doorward.daemon.hook_runner import HookReport
from doorward.daemon.log import Log
from doorward.escape import visible
from doorward.model import Source, parse_address

_MAX_LINE = 1023  # characters; knockd truncates too
LOG_SOCKET = "/dev/log"
WAIT_S = 0.05  # for room in the reader's queue, ten lines by default
BACKOFF_S = 5.0  # after a timeout, how long lines are sent without waiting: no log may delay a door
_DAEMON, _NOTICE = 3 << 3, 5  # facility and severity, RFC 5424, 6.2.1

# Calls with the address's name once it is known and earlier lines are written.
InOrder = Callable[[Source | None, Callable[[str | None], None]], None]
_TEXT = {
    "stage": "Stage {number}",
    "complete": "OPEN SESAME",
    "prolonged": "open already; open for longer now",
    "closed": "command timeout",
}


class KnockdLog(Log):
    """Writes lines as knockd 0.8 does, character by character, and leaves none out."""

    def __init__(self, *, verbose: bool, debug: bool) -> None:
        super().__init__("text")
        self.names: Mapping[str, str] = {}  # of the doors, by key
        self._verbose, self._debug = verbose, debug
        self._file: TextIO | None = None
        self._in_order: InOrder = _at_once
        self._syslog: Syslog | None = None

    def resolve_names_with(self, in_turn: InOrder) -> None:
        """Append host names to addresses from now on, as `in_turn` resolves them and orders the lines."""
        self._in_order = in_turn

    def open_log(self, path: str | None, *, use_syslog: bool) -> None:
        """Open or reopen the log file; if it cannot be opened, warn and continue without it."""
        self._in_order(None, lambda _: self._open_log(path, use_syslog=use_syslog))

    def log(self, line: str, verbose: str | None = None, *, who: Source | None = None) -> None:
        """Log a line, and print it with -v (as `verbose`, if given).

        `who` is put before the line, with its host name if names are looked up.
        """
        self._in_order(
            who, lambda name: self._log_line(line if who is None else f"{_named(who, name)}: {line}", verbose)
        )

    def event(self, event: str, fields: Mapping[str, object]) -> None:
        """Log what happened, if knockd has a line for it and the configuration the door; and errors of services."""
        if event == "message":
            if fields["level"] == "error":
                self.alert(f"error: {fields['message']}")
            return
        name = self.names.get(str(fields["door"]))
        if name is not None and event in _TEXT and not (event == "closed" and fields["by"] != "time"):
            self.log(f"{name}: {_TEXT[event].format_map(fields)}", who=parse_address(str(fields["address"])))

    def hook_report(self, door: str, report: HookReport) -> None:
        """Log what became of a command."""
        name = self.names.get(door, door)
        if report.event == "running":
            self.log(f"{name}: running command: {report.text}")
        elif report.event in ("output", "hangs"):
            for line in report.text.splitlines():
                self.log(f"{name}: {line}")
        elif report.status:
            self.alert(f"{name}: command returned non-zero status code ({report.status})")

    def alert(self, line: str) -> None:
        """Log a fault, also to standard error."""
        self._in_order(None, lambda _: self._error(line))

    def print_verbose(self, line: str) -> None:
        """Print a line with -v, without logging it."""
        if self._verbose:
            self._show(line)

    def _open_log(self, path: str | None, *, use_syslog: bool) -> None:
        if self._syslog is not None:
            self._syslog.close()
        self._syslog = Syslog("knockd") if use_syslog else None
        if self._file is not None:
            self.print_verbose(f"closing log file: {self._file.name}")
            self._file.close()
            self._file = None
            self._log_line(f"re-opening log file: {path}" if path else "no log file any more", None)
        if path:
            try:
                self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - stays open
            except OSError as error:
                sys.stderr.write(f"warning: cannot open logfile: {error.strerror}\n")

    def _log_line(self, line: str, verbose: str | None) -> None:
        line = self._record(line)
        self.print_verbose(line if verbose is None else verbose)

    def _error(self, line: str) -> None:
        self._record(line)
        sys.stderr.write(visible(line) + "\n")

    def _record(self, line: str) -> str:
        line = visible(" ".join(line.splitlines()))[:_MAX_LINE]
        if self._syslog is not None:
            self._syslog.write(line)
        if self._file is not None:
            with suppress(OSError):  # a full disk must not keep a door from closing
                self._file.write(f"[{time.strftime('%Y-%m-%d %H:%M')}] {line}\n")
        return line

    def debug(self, line: str) -> None:
        """Print a line with -D."""
        if self._debug:
            self._show(line)

    def _show(self, line: str) -> None:
        with suppress(OSError):
            sys.stdout.write(visible(line) + "\n")
            sys.stdout.flush()


def _at_once(_: Source | None, call: Callable[[str | None], None]) -> None:
    call(None)


def _named(who: Source, name: str | None) -> str:
    return f"{who} ({name})" if name else str(who)


class Syslog:
    """Sends lines to /dev/log as syslog(3) does, but without waiting indefinitely for a reader.

    A line without room in the queue in time is lost.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._socket: socket.socket | None = None
        self._backoff_until_s = 0.0

    def write(self, line: str) -> None:
        """Send one line; reconnect if the log daemon was restarted."""
        message = f"<{_DAEMON | _NOTICE}>{time.strftime('%b %e %H:%M:%S')} {self._program}: {line}".encode()
        for _ in range(2):
            try:
                self._send(message)
            except (BlockingIOError, TimeoutError):
                self._backoff_until_s = time.monotonic() + BACKOFF_S
                return
            except OSError:
                self.close()
            else:
                return

    def close(self) -> None:
        """Close the socket; the next line opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.connect(LOG_SOCKET)
        self._socket.settimeout(WAIT_S if time.monotonic() >= self._backoff_until_s else 0)
        self._socket.send(message)
