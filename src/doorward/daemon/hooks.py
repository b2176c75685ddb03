"""The queue of hooks: requests to the hook runner, and its reports in the log."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from doorward.config.files import read
from doorward.core.token_bucket import TokenBucket
from doorward.daemon import last_good
from doorward.daemon.hook_commands import REFUSALS, Commands, DoorCommands
from doorward.daemon.hook_runner import HookReport, HookRun, HookRunner
from doorward.daemon.log import Log
from doorward.kernel.event_loop import EventLoop
from doorward.model import Door, Source

MOST_OWED = 10_000  # commands owed while hooks are off; the ledger has all of them for the next start
REFUSALS_A_MINUTE = 10  # runs of `on_refuse`: anyone can send packets that are rejected


class HookQueue:
    """Create it before privileges are dropped: commands run with those it starts with, and come from `config`.

    Without `config` the runner has the `commands` with which it is forked.

    While hooks are off no command runs; an `on_close` whose `on_open` ran stays owed, in the ledger too, until they
    are on again. An opening that began meanwhile owes nothing.
    """

    _are_off = False

    def __init__(
        self, loop: EventLoop, log: Log, config: Path | None, lock: Path, commands: Commands | None = None
    ) -> None:
        self.loop, self._log, self._config, self._lock = loop, log, config, lock
        self._user, self._commands = os.geteuid(), commands or {}
        self._limit, self._left_out = TokenBucket(REFUSALS_A_MINUTE / 60, REFUSALS_A_MINUTE), 0
        self._owed: dict[tuple[str, Source], HookRun] = {}  # ends, while hooks are off
        self._unhooked: set[tuple[str, Source]] = set()  # openings that began while hooks were off
        self._runner = self._new_runner(first=True)

    def configure(self, doors: Iterable[Door], on_refuse: tuple[str, ...] = ()) -> None:
        """Switch to these commands, which the runner reads itself; earlier requests use the previous ones."""
        before, self._commands = self._commands, commands_of(doors, on_refuse)
        if (before or self._commands) and not self._are_off:
            self._runner.reload()

    def use_commands(self, commands: Commands) -> None:
        """Switch to these commands, where there is no `config`; earlier requests use the previous ones."""
        if commands != self._commands:
            self._runner.finish()
            self._commands = commands
            self._runner = self._new_runner(first=False)

    def turn_off(self) -> None:
        """Run no command until `turn_on`, since the configuration file is invalid."""
        self._are_off = True

    def turn_on(self) -> None:
        """Run commands again, first those that are owed."""
        if not self._are_off:
            return
        self._are_off = False
        if self._commands:
            self._runner.reload()
        owed, self._owed = self._owed, {}
        for run in owed.values():
            if self.has_command(run):
                self.run(run)
            else:
                run.then()

    def keep(self, digest: str) -> None:
        """Let the runner save a copy of the configuration whose text has this digest, if root started it."""
        if self._user == 0:
            self._runner.keep(digest)

    def has_command(self, run: HookRun) -> bool:
        """Return whether the door has a command for this event."""
        commands = self._commands.get(run.door)
        return commands is not None and commands.of(run.event, run.address) is not None

    def run(self, run: HookRun) -> None:
        """Run the command; while hooks are off, record what is owed."""
        opening = (run.door, run.address)
        if run.event == "open":
            self._unhooked.discard(opening)
            if self._are_off:
                # An owed end and this new opening cancel out.
                if self._owed.pop(opening, None) is None and self.has_command(run._replace(event="close")):
                    self._unhooked.add(opening)
                return
        elif opening in self._unhooked:
            self._unhooked.discard(opening)
            run.then()
            return
        elif self._are_off:
            if len(self._owed) < MOST_OWED:
                self._owed[opening] = run
            return
        self._runner.run(run)

    def run_on_refuse(self, address: Source, reason: str) -> None:
        """Run `on_refuse`, if configured, at most REFUSALS_A_MINUTE times; `reason` is one word."""
        if self._are_off or REFUSALS not in self._commands:
            return
        if not self._limit.admits(self.loop.now_s()):
            self._left_out += 1
            return
        if self._left_out:
            limit = f"it is run {REFUSALS_A_MINUTE} times a minute at most"
            self._log.message(
                "refusal-hooks-limited", f"on_refuse was not run for {self._left_out} more refusals: {limit}"
            )
            self._left_out = 0
        self._runner.run(HookRun(REFUSALS, address, "open"), reason)

    def drain(self) -> None:
        """Wait briefly for running hooks; those still running are left to the hook runner."""
        self._runner.drain()

    def close(self) -> None:
        """Let the runner end once its commands have ended."""
        self._runner.close()

    def _new_runner(self, *, first: bool) -> HookRunner:
        config = self._config
        source = None if config is None else lambda: commands_in(config)
        keeper = None if config is None else lambda digest: last_good.keep(config, digest)
        return HookRunner(
            self._commands, self.loop, self._report, self._lock, first=first, source=source, keeper=keeper
        )

    def _report(self, run: HookRun | None, report: HookReport) -> None:
        if report.event == "gone":
            self._replace(report.text)
        else:
            self._log.hook_report(REFUSALS if run is None else run.door, report)

    def _replace(self, why: str) -> None:
        rights = "" if os.geteuid() == self._user else ", with the daemon's few rights: restart it, to run as before"
        self._log.message("hook-runner-restarted", f"{why}; starting it again{rights}", "error")
        owed, self._runner = self._runner.owed, self._new_runner(first=False)
        if self._commands and not self._are_off:
            self._runner.reload()
        for run in owed:  # a second time, if need be
            self.run(run)


def commands_in(config: Path) -> dict[str, DoorCommands]:
    """Read the commands from the configuration."""
    found = read(config)
    return commands_of(found.doors, found.gate.on_refuse)


def commands_of(doors: Iterable[Door], on_refuse: tuple[str, ...] = ()) -> dict[str, DoorCommands]:
    """Return the commands of doors that have any, the same for both address families, and `on_refuse`."""
    refusals = {REFUSALS: DoorCommands(on_refuse, on_refuse)} if on_refuse else {}
    return refusals | {
        door.name: DoorCommands(
            door.on_open or None, door.on_open or None, door.on_close or None, door.on_close or None
        )
        for door in doors
        if door.on_open or door.on_close
    }
