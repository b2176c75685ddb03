"""Run the verifier of signed knocks: restart it when it ends or when its files change.

While its successor reads the files it goes on, and datagrams wait in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from doorward.config.schema import Configuration, Signed
from doorward.daemon.key_files import FileStamp, file_stamp, fwknop_keys_path, key_path, keys_path, read_authorizers
from doorward.daemon.log import Log
from doorward.daemon.verifier import Verifier
from doorward.daemon.verifier_report import VerifierReady, VerifierReport
from doorward.errors import HostError, MalformedError
from doorward.kernel.event_loop import EventLoop
from doorward.kernel.inotify import FileWatcher
from doorward.kernel.nflog import datagram_log
from doorward.nftables.chains import SIGNED_GROUP

POLL_S = 2.0  # polling interval for changed files, in addition to inotify
_TOGETHER = 100  # knocks claimed and applied in one transaction, and messages of the verifier read for them
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a verifier that ended is restarted; doubled until one is ready


class VerifierSupervisor:
    """The running verifier and its successor. `on_reports` gets the reports that waited together."""

    def __init__(self, loop: EventLoop, log: Log, on_reports: Callable[[list[VerifierReport]], None]) -> None:
        self._loop, self._messages, self._on_reports = loop, log, on_reports
        self._log = datagram_log(SIGNED_GROUP)
        self._verifier: Verifier | None = None
        self._next: Verifier | None = None
        self._settings: tuple[Configuration, Path] | None = None
        self._stamps: list[FileStamp] = []
        self._pause_s = _PAUSE_S
        self._watches: FileWatcher | None = None
        with suppress(HostError):  # without inotify the files are polled
            self._watches = FileWatcher(loop, self._restart_if_changed)

    @property
    def is_ready(self) -> bool:
        """Return whether a verifier is running."""
        return self._verifier is not None

    @property
    def stanzas(self) -> frozenset[str]:
        """Return the names of fwknop's stanzas whose packets the running verifier accepts."""
        ready = None if self._verifier is None else self._verifier.ready
        return frozenset() if ready is None else ready.stanzas

    def configure(self, configuration: Configuration, directory: Path) -> None:
        """Start a verifier for a loaded configuration; its files are relative to `directory`."""
        self._settings = configuration, directory
        if self._watches is not None:
            for path in self._files():
                self._watches.watch([str(path)])
                self._watches.watch_directory(str(path.parent))
        self._start()

    def poll(self) -> None:
        """Restart the verifier if its files have changed."""
        if self._settings is not None:
            self._restart_if_changed()

    def close(self) -> None:
        """End the verifier and close the log."""
        self._stop_candidate()
        self._stop_worker()
        if self._watches is not None:
            self._watches.close()
        self._log.close()
        self._settings = None

    def _files(self) -> list[Path]:
        configuration, directory = self._settings or (None, Path())
        signed = configuration.signed if configuration is not None and configuration.signed else Signed()
        fwknop = configuration.fwknop if configuration is not None else None
        shared = [fwknop_keys_path(fwknop, directory)] if fwknop is not None else []
        return [key_path(signed, directory), keys_path(signed, directory), *shared]

    def _start(self) -> None:
        if self._settings is None:
            return
        configuration, directory = self._settings
        self._stop_candidate()
        self._stamps = [file_stamp(path) for path in self._files()]
        try:
            self._next = Verifier(
                self._log, lambda: read_authorizers(configuration, directory), configuration.is_for_browsers
            )
        except OSError as error:
            self._messages.message(
                "verifier-start-failed", f"cannot start the verifier of signed knocks: {error.strerror}", "error"
            )
            self._stop_worker()  # its keys may be outdated
            self._schedule_restart()
            return
        self._loop.on_readable(self._next.fileno(), self._on_candidate_ready)

    def _schedule_restart(self) -> None:
        self._loop.at(self._loop.now_s() + self._pause_s, self._start)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _restart_if_changed(self) -> None:
        if [file_stamp(path) for path in self._files()] != self._stamps:
            if self._watches is not None:
                self._watches.watch(map(str, self._files()))  # a file that replaced another has a new inode
            self._start()

    def _on_candidate_ready(self) -> None:
        """Switch to the next verifier; one that reports a fault leaves signed knocks disabled until that is fixed."""
        assert self._next is not None  # noqa: S101
        try:
            ready = self._next.read()
        except MalformedError as error:  # killed, or out of memory
            self._stop_candidate()
            self._stop_worker()  # its files have changed, so it must not go on
            self._messages.message(
                "verifier-start-failed",
                f"the verifier of signed knocks did not start ({error}); restarting it",
                "error",
            )
            self._schedule_restart()
            return
        if not isinstance(ready, VerifierReady):
            return
        for fault in ready.faults:
            self._messages.message("key-file-fault", fault, "error")
        self._retire_worker()
        if ready.trouble:
            self._messages.message("signed-knocks-off", f"no signed knock is accepted: {ready.trouble}", "error")
            self._stop_candidate()
            return
        self._verifier, self._next, self._pause_s = self._next, None, _PAUSE_S
        self._loop.unregister(self._verifier.fileno())
        self._loop.on_readable(self._verifier.fileno(), self._on_report)
        self._messages.message("accepting-signed-knocks", "accepting signed knocks")

    def _on_report(self) -> None:
        """Handle all waiting reports together, so that the ledger is written once for many grants."""
        assert self._verifier is not None  # noqa: S101
        reports: list[VerifierReport] = []
        try:
            for _ in range(_TOGETHER):  # and no more: a compromised verifier could send without a pause
                report = self._verifier.read()
                if not isinstance(report, VerifierReport):
                    break
                reports.append(report)
                if sum(len(each.knocks) for each in reports) >= _TOGETHER:
                    break
        except MalformedError as error:
            self._messages.message(
                "verifier-failed", f"the verifier of signed knocks failed ({error}); restarting it", "error"
            )
            self._stop_worker()
            self._schedule_restart()
        self._on_reports(reports)

    def _retire_worker(self) -> None:
        """End the verifier after the datagrams that it took from the log: its successor never sees these."""
        if self._verifier is not None:
            reports = list(islice(self._verifier.finish(), _TOGETHER))
            self._stop_worker()
            self._on_reports(reports)

    def _stop_worker(self) -> None:
        if self._verifier is not None:
            self._loop.unregister(self._verifier.fileno())
            self._verifier.close()
            self._verifier = None

    def _stop_candidate(self) -> None:
        if self._next is not None:
            self._loop.unregister(self._next.fileno())
            self._next.close()
            self._next = None
