"""Trials: a gate that is taken back by itself, unless the operator confirms it from a connection that it let in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from doorward.daemon import kept
from doorward.daemon.keeper import Keeper, now_s, restore
from doorward.daemon.loading import Loaded
from doorward.errors import AnswerNo, DoorwardError, HostError
from doorward.gate.connections import Connection, standing_connections

if TYPE_CHECKING:
    from doorward.daemon.app import Daemon

_TICK_S = 1.0  # the loop's clock stands still while the machine is suspended, the deadline's goes on
HOW = "open a new connection, through a knock, and run `doorward confirm` there"


class Trial:
    """One trial of a daemon's: `begin` before the load, `loaded` after it, then `confirm` or the deadline."""

    def __init__(self, daemon: Daemon, for_s: float, before: Loaded | None, digest: str | None = None) -> None:
        """`before` is the daemon's gate until now, None at its start; `digest` is of the text that is tried."""
        self._daemon, self._before, self._digest = daemon, before, digest
        self._gate, self._for_s = daemon.kept, for_s
        self._back = self._gate if before is not None or self._stood() else None
        if before is not None and before.not_kept:
            raise HostError(f"the present gate could not be kept, so no trial could be taken back: {before.not_kept}")
        self._deadline_s = now_s() + for_s
        self._noted = frozenset(standing_connections(loopback=True))
        self._keeper = Keeper(self._deadline_s, self._back, daemon.control_path)
        self._is_loaded = False
        daemon.kept = self._gate.with_name(kept.TRIAL_NAME)

    @property
    def left_s(self) -> float:
        """Seconds until it is taken back."""
        return max(0.0, self._deadline_s - now_s())

    def described(self) -> dict[str, object]:
        """Tell of it in an answer; "digest" is None where the daemon tries its own file."""
        return {"left_s": round(self.left_s, 3), "digest": self._digest}

    def loaded(self, loaded: Loaded) -> None:
        """The new gate is in force; count down. HostError: it is not kept, so it is taken back at once."""
        self._is_loaded = True
        if loaded.not_kept:
            self._deadline_s = now_s()
        self._tick()
        if loaded.not_kept:
            raise HostError(f"the gate on trial cannot be kept: {loaded.not_kept}; make room there, and try again")

    def drop(self) -> None:
        """End it and take nothing back: the new gate was not loaded, or doorward is switched off."""
        self._daemon.kept = self._gate
        self._keeper.dismiss()
        self._daemon.trial = None

    def confirm(self, connection: Connection | None) -> None:
        """Keep the new gate; AnswerNo says why this session proves nothing. None is a session on the console."""
        if connection is not None:
            self._check(connection)
        if trouble := kept.move(self._daemon.kept, self._gate):
            raise HostError(f"{trouble}; the trial goes on: make room there, and confirm again")
        self._daemon.kept = self._gate
        self._keeper.dismiss()
        self._daemon.trial = None
        self._daemon.log.say("the trial is confirmed: the new gate stays")

    def end(self) -> None:
        """The daemon ends in the middle of it: take the gate back at once, and wait for that."""
        try:
            restore(self._back)
        except DoorwardError as error:
            self._daemon.log.say(f"the gate on trial could not be taken back: {error}", "error")
            self._keeper.leave()
            return
        self._over("the trial was not confirmed; " + self._result())
        self._keeper.dismiss()

    def leave(self) -> None:
        """The daemon fails: what is in force is the keeper's to take back."""
        (self._keeper.leave if self._is_loaded else self._keeper.dismiss)()

    def _stood(self) -> bool:
        """Tell whether a gate stands that can be put back. HostError: one stands of which there is no copy."""
        if not self._daemon.filter.existing():
            return False
        if not os.access(self._gate, os.R_OK):
            raise HostError(
                f"a gate stands and {self._gate} has no copy of it to go back to; run doorward once without --trial"
            )
        return True

    def _check(self, connection: Connection) -> None:
        source = f"{connection.source} port {connection.source_port}"
        if connection in self._noted:
            raise AnswerNo(f"the connection of this session (from {source}) is older than the trial; {HOW}")
        if connection not in standing_connections(loopback=True):
            raise AnswerNo(
                f"the connection that this session tells of (from {source}) does not stand on this host;"
                f" outside of tmux and screen, {HOW}"
            )

    def _tick(self) -> None:
        if self._daemon.trial is not self:
            return
        if (left_s := self.left_s) > 0:
            self._daemon.loop.at(self._daemon.loop.now_s() + min(left_s, _TICK_S), self._tick)
        elif self._before is None:
            self._daemon.loop.stop()  # and `end` does the rest
        else:
            self._daemon.kept = self._gate
            self._daemon.take(self._before)
            self._over("the trial was not confirmed in time; the gate that stood before comes back")
            self._daemon.healing.take_back(self._keeper.dismiss)

    def _over(self, words: str) -> None:
        self._daemon.trial = None
        self._daemon.log.say(words, "warning")

    def _result(self) -> str:
        return "the gate is taken away: none stood before" if self._back is None else "the gate before it is back"
