"""The doors' commands, as the daemon has them run: a runner while some door has any, and its reports in the log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from doorward.daemon.commands import DoorCommands
from doorward.daemon.log import Log
from doorward.daemon.loop import Loop
from doorward.daemon.runner import Report, Runner
from doorward.model import Address, Door


class Errands:
    """Takes new doors at each load; what an old runner was told it still does."""

    def __init__(self, loop: Loop, log: Log, lock: Path) -> None:
        self._loop, self._log, self._lock = loop, log, lock
        self._first = True
        self._commands: dict[str, DoorCommands] = {}
        self._runner: Runner | None = None
        self._doors: dict[int, str] = {}

    def take(self, doors: Iterable[Door]) -> None:
        """Go over to the commands of these doors."""
        commands = {
            door.name: DoorCommands(
                door.on_open or None, door.on_open or None, door.on_close or None, door.on_close or None
            )
            for door in doors
            if door.on_open or door.on_close
        }
        if commands != self._commands:
            if self._runner is not None:
                self._runner.finish()  # it reports to its end beside the next
                self._runner = None
            self._commands = commands
            self._start()

    def run(self, door: str, address: Address, what: str) -> None:
        """Have a door's command for "open" or "close" run, if it has one."""
        commands = self._commands.get(door)
        if self._runner is not None and commands is not None and commands.of(what, address) is not None:
            self._doors[self._runner.run(door, address, what)] = door

    def close(self) -> None:
        """Let the runner go once its commands have ended."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _start(self) -> None:
        if self._commands:
            self._runner = Runner(self._commands, self._loop, self._report, self._lock, first=self._first)
            self._first = False

    def _report(self, report: Report) -> None:
        door = self._doors.get(report.number, "")
        if report.event == "gone":
            self._log.say(f"{report.text}; starting it again", "error")
            self._start()
        elif report.event != "done":
            self._log.say(f"{door}: {report.event}: {report.text}")
        else:
            self._doors.pop(report.number, None)
            if report.status:
                self._log.say(f"{door}: the command ended with status {report.status}", "error")
