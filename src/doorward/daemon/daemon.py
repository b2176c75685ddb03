"""The daemon: creates and connects all parts."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from doorward.config.schema import longest_window_ms
from doorward.daemon import bans, repairs
from doorward.daemon.bans import BanList
from doorward.daemon.control_commands import ControlCommands
from doorward.daemon.control_socket import ControlServer
from doorward.daemon.event_stream import Subscribers
from doorward.daemon.gate_loader import GateLoader
from doorward.daemon.hooks import HookQueue
from doorward.daemon.knock_events import KnockEvents
from doorward.daemon.ledger import Ledger
from doorward.daemon.log import Log
from doorward.daemon.nflog_reader import NflogReader
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.reply_sockets import ReplySockets
from doorward.daemon.ruleset_loader import LoadResult
from doorward.daemon.shield_process import ShieldControl
from doorward.daemon.stats import EventStats
from doorward.kernel import sd_notify
from doorward.kernel.child_process import Worker
from doorward.kernel.nflog import event_log
from doorward.nftables.chains import LOG_GROUP
from doorward.nftables.libnftables import NftFirewall

if TYPE_CHECKING:
    from doorward.daemon.fleet_sync import FleetSync
    from doorward.daemon.signed_knocks import SignedKnocks


class Daemon:
    """The parts of the daemon. Times are on the loop's clock; the ledger and answers use wall time."""

    def __init__(
        self,
        config: Path,
        control: Path,
        ledger: Ledger,
        hooks: HookQueue,
        log: Log,
        replies: ReplySockets,
        shield: Worker | None = None,
        trial_s: float | None = None,
    ) -> None:
        self._loop, self._log, self._hooks, self._replies = hooks.loop, log, hooks, replies
        self._signed: SignedKnocks | None = None
        self._fleet: FleetSync | None = None
        firewall, subscribers = NftFirewall(), Subscribers()
        self._stats = EventStats()
        log.listeners += [subscribers.publish, self._stats.count]
        self._openings = OpeningsService(ledger, hooks, log, firewall)
        with ExitStack() as parts:  # a failed start leaves nothing behind
            for close in (ledger.close, self._loop.close, hooks.close):
                parts.callback(close)
            # Both fail if another daemon runs, before anything is changed.
            self._control = ControlServer(control, self._loop, lambda request: commands.answer(request))
            parts.callback(self._control.close)
            reader = NflogReader([event_log(LOG_GROUP)])
            parts.callback(reader.close)
            self._shield = ShieldControl(shield, self._loop, firewall, log)
            parts.callback(self._shield.close)
            self._openings.note_opening = self._shield.note_opening
            self._bans = BanList(ledger.path.with_name(bans.NAME), self._shield, log.message)
            self._gate = GateLoader(self._openings, firewall, config, control)
            self._gate.in_force, self._gate.restore_bans = self._configure, self._restore_sets
            self._gate.guard.child_runs = self._shield.gate_changes
            self._gate.held_ports = lambda: replies.ports
            self._events = KnockEvents(reader, self._openings, self._gate, self._bans, self._stats)
            parts.callback(self._gate.close)
            commands = ControlCommands(
                self._openings, self._gate, self._bans, subscribers, self._stats, self._describe_workers
            )
            parts.callback(self._end_signed)
            parts.callback(self._leave_fleet)
            ended = self._openings.restore()
            self._gate.load_first(trial_s)
            self._bans.restore()
            self._openings.perform(ended)
            self._openings.reconcile()
            self._open_parts = parts.pop_all()

    def run(self) -> int:
        """Serve until a signal; the kernel's timers end the openings. Return 1 after an unconfirmed trial, else 0."""
        self._loop.on_readable(self._events.fileno(), self._events.read)
        self._loop.on_signal(signal.SIGHUP, self._gate.reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._loop.stop)
        if (every_s := sd_notify.watchdog_interval_s()) is not None:
            self._feed_watchdog(every_s)
        self._log.message("started", f"{self._gate.loaded.summary()}; {len(self._openings.table)} open")
        self._gate.notify_ready()
        self._gate.keep_configuration()
        self._loop.run()
        sd_notify.notify("STOPPING=1")
        trial = self._gate.trial
        if trial is not None:
            trial.end()
        self._hooks.drain()
        self._log.log_suppressed()
        self._log.message("stopping", "stopping; openings expire by themselves")
        return int(trial is not None)

    def close(self) -> None:
        """Release what the daemon holds; the ruleset stays."""
        self._open_parts.close()

    def _configure(self, loaded: LoadResult) -> None:
        """Apply a loaded configuration to every part."""
        self._events.configure(loaded)
        self._openings.doors = {door.name: door for door in loaded.doors}
        self._hooks.configure(loaded.doors, loaded.gate.on_refuse)
        repairs.close_reassigned(self._openings)
        self._control.admit_group(loaded.gate.control_group)
        self._configure_fleet(loaded)
        self._configure_signed(loaded)
        self._shield.configure(loaded)

    def _restore_sets(self) -> None:
        """Fill the sets that are not openings again after the table was restored."""
        self._bans.restore()
        self._shield.follow_gate()

    def _configure_fleet(self, loaded: LoadResult) -> None:
        if loaded.fleet is None:
            self._leave_fleet()
        elif self._fleet is None:
            from doorward.daemon.fleet_sync import FleetSync  # imported only for a gate in a fleet

            self._fleet = FleetSync(self._openings, self._bans)
            self._openings.listeners.append(self._fleet)
        has_sets = loaded.signed is not None or any(door.once for door in loaded.doors)
        if gone_by := self._gate.gone_by or ("" if has_sets else "lost"):
            self._openings.end_used(gone_by)  # the fleet is sent what was closed, and then what is open
        if self._fleet is not None:
            self._fleet.configure(loaded, self._gate.config.parent)

    def _leave_fleet(self) -> None:
        if self._fleet is not None:
            self._openings.listeners.remove(self._fleet)
            self._fleet.close()
            self._fleet = None

    def _configure_signed(self, loaded: LoadResult) -> None:
        if loaded.signed is None:
            self._end_signed()
            self._replies.open(())
            return
        if self._signed is None:
            from doorward.daemon.signed_knocks import (
                SignedKnocks,
            )  # imports `cryptography`, which other gates do not need

            self._signed = SignedKnocks(
                self._openings,
                self._bans,
                lambda: self._fleet,
                longest_window_ms(loaded.signed, loaded.fwknop),
                self._replies,
            )
        self._signed.configure(loaded, self._gate.config.parent)

    def _end_signed(self) -> None:
        if self._signed is not None:
            self._signed.close()
            self._signed = None

    def _describe_workers(self) -> dict[str, object]:
        return {
            "log_overflows": self._events.overflows,
            "signed": None if self._signed is None else self._signed.as_dict(),
            "fleet": None if self._fleet is None else self._fleet.as_dict(),
            "shield": self._shield.as_dict(),
        }

    def _feed_watchdog(self, every_s: float) -> None:
        sd_notify.notify("WATCHDOG=1")
        self._loop.at(self._loop.now_s() + every_s, lambda: self._feed_watchdog(every_s))
