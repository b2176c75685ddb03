"""The doors' commands, as the daemon has them run, and what the process that runs them reports in the log."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import read
from doorward.daemon.commands import DoorCommands
from doorward.daemon.log import Log
from doorward.daemon.loop import Loop
from doorward.daemon.runner import Report, Runner
from doorward.model import Door, Place


class Errand(NamedTuple):
    """A door's command for "open" or "close", to be run for an address; `then` is called when it has ended."""

    door: str
    address: Place
    what: str
    then: Callable[[], None] = lambda: None


class Errands:
    """Begin it before rights are given up: the commands run with those that it finds, and come from `config`."""

    def __init__(self, loop: Loop, log: Log, config: Path, lock: Path) -> None:
        self.loop, self._log, self._config, self._lock = loop, log, config, lock
        self._user = os.geteuid()
        self._commands: dict[str, DoorCommands] = {}
        self._running: dict[int, Errand] = {}  # by the runner's number
        self._runner = self._new_runner(first=True)

    def take(self, doors: Iterable[Door]) -> None:
        """Go over to the commands of these doors, which the runner reads for itself; what it was told it still does."""
        before, self._commands = self._commands, commands_of(doors)
        if before or self._commands:
            self._runner.reload()

    def has_command(self, errand: Errand) -> bool:
        """Tell whether the door has a command for that."""
        commands = self._commands.get(errand.door)
        return commands is not None and commands.of(errand.what, errand.address) is not None

    def run(self, errand: Errand) -> None:
        """Have the command run."""
        self._running[self._runner.run(errand.door, errand.address, errand.what)] = errand

    def drain(self) -> None:
        """Wait a moment for what runs; the runner ends it in any case, and nobody is told."""
        self._runner.drain()

    def close(self) -> None:
        """Let the runner go once its commands have ended."""
        self._runner.close()

    def _new_runner(self, *, first: bool) -> Runner:
        config = self._config
        return Runner(
            {}, self.loop, self._report, self._lock, first=first, source=lambda: commands_of(read(config).doors)
        )

    def _report(self, report: Report) -> None:
        errand = self._running.get(report.number)
        door = errand.door if errand else ""
        if report.event == "gone":
            self._replace(report.text)
        elif report.event == "unread":
            self._log.say(f"{report.text}; the commands stay as they were", "error")
        elif report.event != "done":
            self._log.say(f"{door}: {report.event}: {report.text}")
        else:
            if report.status:
                self._log.say(f"{door}: the command ended with status {report.status}", "error")
            if self._running.pop(report.number, None) is not None and errand is not None:
                errand.then()

    def _replace(self, why: str) -> None:
        rights = "" if os.geteuid() == self._user else ", with the daemon's few rights: restart it, to run as before"
        self._log.say(f"{why}; starting it again{rights}", "error")
        self._runner = self._new_runner(first=False)
        if self._commands:
            self._runner.reload()
        owed = [errand for errand in self._running.values() if errand.what == "close"]  # a second time, if need be
        self._running.clear()
        for errand in owed:
            self.run(errand)


def commands_of(doors: Iterable[Door]) -> dict[str, DoorCommands]:
    """Give the commands of those doors that have any, the same for both families."""
    return {
        door.name: DoorCommands(
            door.on_open or None, door.on_open or None, door.on_close or None, door.on_close or None
        )
        for door in doors
        if door.on_open or door.on_close
    }
