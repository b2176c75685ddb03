"""knockd's log: to the log file, to syslog, and with -v to standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from doorward.escape import visible
from doorward.knockd.syslog import Syslog
from doorward.model import Place

_MAX_LINE = 1023  # characters; knockd truncates too

# Calls with the address's name once it is known and earlier lines are written.
InOrder = Callable[[Place | None, Callable[[str | None], None]], None]


class KnockdLog:
    """Writes lines as knockd 0.8 does, character by character."""

    def __init__(self, *, verbose: bool, debug: bool) -> None:
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

    def log(self, line: str, verbose: str | None = None, *, who: Place | None = None) -> None:
        """Log a line, and print it with -v (as `verbose`, if given).

        `who` is put before the line, with its host name if names are looked up.
        """
        self._in_order(
            who, lambda name: self._log_line(line if who is None else f"{_named(who, name)}: {line}", verbose)
        )

    def error(self, line: str) -> None:
        """Log an error, also to standard error."""
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


def _at_once(_: Place | None, call: Callable[[str | None], None]) -> None:
    call(None)


def _named(who: Place, name: str | None) -> str:
    return f"{who} ({name})" if name else str(who)
