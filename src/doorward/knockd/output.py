"""Where knockd's lines go: the log file, syslog, and with -v the standard output."""

from __future__ import annotations

import sys
import syslog
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_MAX_LINE = 1023  # letters; knockd cuts the rest off


class Output:
    """Writes lines as knockd 0.8 does, character by character."""

    def __init__(self, *, use_syslog: bool, verbose: bool, debug: bool) -> None:
        self._verbose, self._debug = verbose, debug
        self._log: TextIO | None = None
        self._syslog = use_syslog
        if use_syslog:
            syslog.openlog("knockd", 0, syslog.LOG_USER)

    def open_log(self, path: str | None) -> None:
        """Begin, or begin again, with a log file; one that cannot be opened is told of and done without."""
        if self._log is not None:
            self.tell(f"closing log file: {self._log.name}")
            self._log.close()
            self._log = None
            self.tell(f"re-opening log file: {path}" if path else "no log file any more")
        if path:
            try:
                self._log = Path(path).open("a", buffering=1)  # noqa: SIM115 - kept open
            except OSError as error:
                sys.stderr.write(f"warning: cannot open logfile: {error.strerror}\n")

    def say(self, line: str, verbose: str | None = None) -> None:
        """Log a line, and show it with -v (there in other words where `verbose` gives them)."""
        line = self._record(line)
        self.tell(line if verbose is None else verbose)

    def complain(self, line: str) -> None:
        """Log a line that also goes to standard error: something is wrong."""
        self._record(line)
        sys.stderr.write(line + "\n")

    def tell(self, line: str) -> None:
        """Show a line with -v, and log nothing."""
        if self._verbose:
            self._show(line)

    def _record(self, line: str) -> str:
        line = " ".join(line.splitlines())[:_MAX_LINE]
        if self._syslog:
            syslog.syslog(syslog.LOG_NOTICE, line)
        if self._log is not None:
            with suppress(OSError):  # a full disk must not keep a door from closing
                self._log.write(f"[{time.strftime('%Y-%m-%d %H:%M')}] {line}\n")
        return line

    def debug(self, line: str) -> None:
        """Show a line with -D."""
        if self._debug:
            self._show(line)

    def _show(self, line: str) -> None:
        with suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
