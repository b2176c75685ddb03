"""Trials: a ruleset that is rolled back at a deadline unless the operator confirms it from a new connection."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from doorward.daemon import off_switch, saved_ruleset
from doorward.daemon.control_client import answering
from doorward.daemon.log import Log
from doorward.daemon.off_switch import SwitchedOff
from doorward.daemon.ruleset_guard import RulesetGuard
from doorward.daemon.ruleset_loader import LoadResult, load_saved
from doorward.errors import DoorwardError, HostError, NegativeResult
from doorward.escape import visible
from doorward.kernel.child_process import STANDARD, close_descriptors_except
from doorward.kernel.event_loop import EventLoop
from doorward.kernel.sock_diag import Connection, established_connections
from doorward.nftables.libnftables import NftFirewall

_RETRY_S = 1.0  # also how late a deadline may be noticed after a suspend
_LOOK_S = 0.5  # how late it may be noticed that doorward is switched off
_DONE = b"."


def now_s() -> float:
    """Return the seconds since boot, including suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class RollbackWatchdog:
    """A process that restores the ruleset saved in `before` at `deadline_s` if the daemon died during a trial.

    If `before` is None there was none: then the table is removed.
    """

    def __init__(self, deadline_s: float, before: Path | None, control: Path) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _watch(read, deadline_s, before, control)
        os.close(read)

    def dismiss(self) -> None:
        """End the watchdog: the trial is over."""
        with suppress(BrokenPipeError):  # it was killed
            os.write(self._write, _DONE)
        self.abandon()
        os.waitpid(self.pid, 0)

    def abandon(self) -> None:
        """Close the pipe, which the watchdog takes for the daemon's death."""
        os.close(self._write)


def _watch(read: int, deadline_s: float, before: Path | None, control: Path) -> None:
    """Wait for `dismiss` or the daemon's death, and after a death for the deadline; then roll back."""
    status, hurry = 1, list[int]()
    try:
        os.setsid()  # it must survive the end of the operator's session
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # A service manager that stops the unit waits for this process only for a limited time.
        signal.signal(signal.SIGTERM, lambda number, _: hurry.append(number))
        # The daemon's descriptors, above all its netlink sockets, which act as its lock, must not outlive it here.
        close_descriptors_except((*STANDARD, read))
        if _is_alone(read) and _is_due(deadline_s, hurry):
            while not _take_back(before, control):
                time.sleep(_RETRY_S)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _is_alone(read: int) -> bool:
    """Wait; return True if the daemon died, False if the trial is over or doorward is switched off."""
    while not off_switch.is_off():
        if select.select([read], [], [], _LOOK_S)[0]:
            return os.read(read, 1) != _DONE
    return False


def _is_due(deadline_s: float, hurry: list[int]) -> bool:
    """Wait for the deadline or a signal; return False if doorward was switched off before."""
    while not off_switch.is_off():
        if (left_s := deadline_s - now_s()) <= 0 or hurry:
            return True
        select.select([], [], [], min(left_s, _LOOK_S))
    return False


def _take_back(before: Path | None, control: Path) -> bool:
    """Roll back, unless another daemon loaded its own ruleset or doorward was switched off; False: try again."""
    if answering(control) is not None or (before is not None and not os.path.lexists(before)):
        return True
    try:
        restore(before)
    except SwitchedOff:
        return True
    except DoorwardError as error:
        with suppress(OSError):
            sys.stderr.write(
                f"doorward: the gate on trial could not be taken back: {visible(str(error))}; trying again\n"
            )
            sys.stderr.flush()
        return False
    return True


def restore(before: Path | None) -> None:
    """Restore the ruleset from before a trial; openings stay."""
    if before is None:
        NftFirewall().unload()
    else:
        load_saved(before, {})


_TICK_S = 1.0  # during suspend the loop's clock stops, and the deadline's does not
HOW = "open a new connection, through a knock, and run `doorward confirm` there"


class TrialOwner(Protocol):
    """The part of the ruleset loader that a trial uses."""

    loop: EventLoop
    log: Log
    firewall: NftFirewall
    guard: RulesetGuard
    control_path: Path
    saved: Path  # the file in which the next ruleset is saved
    trial: Trial | None

    def put_in_force(self, loaded: LoadResult) -> None:
        """Use a loaded ruleset."""


class Trial:
    """One trial: made before the load, then `on_loaded`, then `confirm` or the deadline."""

    def __init__(self, owner: TrialOwner, for_s: float, before: LoadResult | None, digest: str | None = None) -> None:
        """`before` is the present ruleset, None at the daemon's start; `digest` is of the configuration on trial."""
        self._owner, self._before, self._digest = owner, before, digest
        self._gate = owner.saved
        self._back = self._gate if before is not None or self._has_previous() else None
        if before is not None and before.not_kept:
            raise HostError(
                "gate-not-saved",
                f"the present gate could not be kept, so no trial could be taken back: {before.not_kept}",
            )
        self._deadline_s = now_s() + for_s
        self._noted = frozenset(established_connections(loopback=True))
        self._watchdog = RollbackWatchdog(self._deadline_s, self._back, owner.control_path)
        self._is_loaded = False
        owner.saved = self._gate.with_name(saved_ruleset.TRIAL_NAME)

    @property
    def left_s(self) -> float:
        """Seconds until the rollback."""
        return max(0.0, self._deadline_s - now_s())

    def as_dict(self) -> dict[str, object]:
        """Return the trial for an answer; "digest" is None if the daemon's own file is on trial."""
        return {"left_s": round(self.left_s, 3), "digest": self._digest}

    def on_loaded(self, loaded: LoadResult) -> None:
        """Start the countdown. HostError: the new ruleset could not be saved, so it is rolled back at once."""
        self._is_loaded = True
        if loaded.not_kept:
            self._deadline_s = now_s()
        self._tick()
        if loaded.not_kept:
            raise HostError(
                "gate-not-saved", f"the gate on trial cannot be kept: {loaded.not_kept}; make room there, and try again"
            )

    def drop(self) -> None:
        """End the trial without a rollback."""
        self._owner.saved = self._gate
        self._watchdog.dismiss()
        self._owner.trial = None

    def confirm(self, connection: Connection | None) -> None:
        """Keep the new ruleset; None is a console session. NegativeResult: the session does not prove access."""
        if connection is not None:
            self._check(connection)
        if trouble := saved_ruleset.replace_saved(self._owner.saved, self._gate):
            raise HostError("gate-not-saved", f"{trouble}; the trial goes on: make room there, and confirm again")
        self.drop()
        self._owner.log.message("trial-confirmed", "the trial is confirmed: the new gate stays")

    def end(self) -> None:
        """Roll back at once, since the daemon ends during the trial."""
        try:
            restore(self._back)
        except DoorwardError as error:
            self._owner.log.message("rollback-failed", f"the gate on trial could not be taken back: {error}", "error")
            self._watchdog.abandon()
            return
        self._over("the trial was not confirmed; " + self._result())
        self._watchdog.dismiss()

    def abandon(self) -> None:
        """Leave the rollback to the watchdog, since the daemon fails."""
        (self._watchdog.abandon if self._is_loaded else self._watchdog.dismiss)()

    def _has_previous(self) -> bool:
        """Return whether a ruleset is loaded and can be restored. HostError: it is loaded without a saved copy."""
        if not self._owner.firewall.existing():
            return False
        if not os.access(self._gate, os.R_OK):
            raise HostError(
                "no-saved-gate",
                f"a gate is loaded, and {self._gate} has no copy to go back to; run doorward once without --trial",
            )
        return True

    def _check(self, connection: Connection) -> None:
        source = f"{connection.source} port {connection.source_port}"
        if connection in self._noted:
            raise NegativeResult(
                "session-too-old", f"the connection of this session (from {source}) is older than the trial; {HOW}"
            )
        if connection not in established_connections(loopback=True):
            raise NegativeResult(
                "session-not-established",
                f"the connection of this session (from {source}) is not established on this host;"
                f" outside of tmux and screen, {HOW}",
            )

    def _tick(self) -> None:
        if self._owner.trial is not self:
            return
        if (left_s := self.left_s) > 0:
            self._owner.loop.at(self._owner.loop.now_s() + min(left_s, _TICK_S), self._tick)
        elif self._before is None:
            self._owner.loop.stop()  # and `end` does the rest
        else:
            self._owner.saved = self._gate
            self._owner.put_in_force(self._before)
            self._over("the trial was not confirmed in time; the previous gate is being restored")
            self._owner.guard.roll_back(self._watchdog.dismiss)

    def _over(self, words: str) -> None:
        self._owner.trial = None
        self._owner.log.message("trial-ended", words, "warning")

    def _result(self) -> str:
        return "the gate is removed: none was loaded before" if self._back is None else "the previous gate is restored"
