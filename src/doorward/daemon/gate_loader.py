"""Load rulesets: the daemon's own file at the start and by SIGHUP, another by `doorward apply`; and repair them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from doorward.config.duration import format_duration
from doorward.config.files import MAX_BYTES, decode_text
from doorward.config.schema import LONGEST_TRIAL_MS, SHORTEST_TRIAL_MS
from doorward.config.toml import parse
from doorward.core.diff import Remaining
from doorward.core.openings import USE
from doorward.daemon import repairs, saved_ruleset
from doorward.daemon.control_socket import DeferredReply
from doorward.daemon.last_good import load_last, path_of
from doorward.daemon.off_switch import SwitchedOff
from doorward.daemon.openings_service import OpeningsService
from doorward.daemon.ruleset_guard import RulesetGuard
from doorward.daemon.ruleset_loader import (
    LoadProcess,
    LoadResult,
    RestoredRuleset,
    digest_of,
    load,
    load_file,
    load_saved,
)
from doorward.daemon.trial import HOW, Trial
from doorward.errors import DoorwardError, NegativeResult, UsageError
from doorward.kernel import sd_notify
from doorward.kernel.sock_diag import Connection
from doorward.model import Element, Port, parse_address
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nft_error import NftError


class GateLoader:
    """Loads rulesets, keeps what is in force and its trial, and repairs it. `in_force` is called with each new one."""

    trial: Trial | None = None
    loaded: LoadResult

    def __init__(self, service: OpeningsService, firewall: NftFirewall, config: Path, control: Path) -> None:
        self.service, self.firewall, self.config, self.control_path = service, firewall, config, control
        self.loop, self.log, self.hooks = service.loop, service.log, service.hooks
        self.saved = service.ledger.path.with_name(saved_ruleset.NAME)
        self.trouble = ""  # which openings could not be restored
        self.gone_by = ""  # at the start: how openings for one connection ended that the kernel does not have
        self.in_force: Callable[[LoadResult], None] = lambda _: None
        self.restore_bans: Callable[[], None] = lambda: None
        self.held_ports: Callable[[], frozenset[Port]] = frozenset  # bound by the daemon itself
        self._restored: tuple[Element, ...] = ()  # the entries that the repair under way restores
        self.guard = RulesetGuard(
            self.loop, self.log, self._begin_repair, self._finish_repair, service.reconcile, self.switch_off
        )
        service.will_repair = self._will_repair

    def put_in_force(self, loaded: LoadResult) -> None:
        """Use a ruleset that was loaded."""
        self.loaded, self.trouble = loaded, ""
        self.in_force(loaded)
        for line in loaded.warning.splitlines():
            self.log.message("load-warning", line, "warning")
        if loaded.not_kept:
            self.log.message(
                "ruleset-not-saved",
                f"the ruleset is in force but not saved for the next boot: {loaded.not_kept}; make room",
                "error",
            )

    def switch_off(self) -> None:
        """End the daemon without a ruleset. No hook runs: the ledger keeps the openings and the commands owed."""
        if self.trial is not None:
            self.trial.drop()
        self.log.message("switched-off", "switched off by `doorward off`; `doorward on` ends that", "warning")
        self.loop.stop()

    def close(self) -> None:
        """Leave a trial to its watchdog, and stop repairs."""
        if self.trial is not None:
            self.trial.abandon()
        self.guard.close()

    def _will_repair(self) -> bool:
        self.guard.verify_ruleset()
        return self.guard.is_damaged

    def _begin_repair(self) -> LoadProcess[RestoredRuleset] | LoadProcess[LoadResult]:
        """Start a repair: the ruleset as it was last loaded, or from the file where that could not be saved."""
        restore, saved, config, before = repairs.remaining(self.service), self.saved, self.config, self.loaded
        self._restored = tuple(restore)
        if not before.not_kept:
            return LoadProcess(lambda: load_saved(saved, restore))
        if before.last_good:
            return LoadProcess(lambda: replace(load_last(config, restore, saved), last_good=before.last_good))
        held = self.held_ports()
        return LoadProcess(lambda: load_file(config, restore, saved, held))

    def _finish_repair(self, outcome: RestoredRuleset | LoadResult) -> int:
        """Apply what was opened and closed meanwhile; return how many openings there are."""
        if isinstance(outcome, LoadResult):
            self.put_in_force(outcome)
        self.restore_bans()
        self.trouble = repairs.fill(self.service, self._restored, outcome.commit.refusal)
        return len(self.service.table)

    def load_first(self, trial_s: float | None) -> None:
        """Load at the start. Where a daemon's table is loaded already, its own sets are right.

        If the file cannot be loaded, the last good configuration is: without a daemon no signed knock opens a door. A
        trial has no such second try.
        """
        if trial_s is not None:
            self.trial = Trial(self, trial_s, None)
        is_kept = bool(self.firewall.existing()) and not self.firewall.is_from_file()
        restore, self.gone_by = ({}, USE) if is_kept else (repairs.remaining(self.service), "lost")
        config, ruleset, held = self.config, self.saved, self.held_ports()
        try:
            loaded = self.guard.wait_for(LoadProcess(lambda: load_file(config, restore, ruleset, held)))
        except SwitchedOff:
            raise
        except DoorwardError as error:
            if self.trial is not None:
                raise
            loaded = self._load_last(restore, error)
            self.hooks.turn_off()
        self.put_in_force(loaded)
        self.gone_by = ""
        if loaded.last_good:
            repairs.close_removed(self.service)
        if refusal := loaded.commit.refusal:
            self.trouble = repairs.fill(self.service, (), refusal)
        if self.trial is not None:
            self.log.message(
                "on-trial",
                f"on trial for {format_duration(round(self.trial.left_s) * 1000)}: {loaded.summary()}; {HOW}",
                "warning",
            )
            self.trial.on_loaded(loaded)

    def _load_last(self, restore: Remaining, error: DoorwardError) -> LoadResult:
        """Load the last good configuration instead of the file with this error, or raise the error."""
        config, ruleset, copy = self.config, self.saved, path_of(self.config)
        if not os.path.lexists(copy):
            raise error
        try:
            loaded: LoadResult = self.guard.wait_for(LoadProcess(lambda: load_last(config, restore, ruleset)))
        except SwitchedOff:
            raise
        except DoorwardError as trouble:
            self.log.error(trouble, "the last good configuration is not used: ")
            raise error from None
        self.log.error(error)
        self.log.message(
            "last-good-in-force",
            f"{config} cannot be loaded: {copy} is in force instead, the last good configuration. Hooks (on_open,"
            " on_close, on_refuse) do not run. Correct the file and reload it (`doorward check`, then SIGHUP)",
            "error",
        )
        return replace(loaded, last_good=str(error))

    def keep_configuration(self) -> None:
        """Let root save a copy of the daemon's file, if it is in force and not on trial."""
        if self.trial is None and self.loaded.digest:
            self.hooks.keep(self.loaded.digest)

    def reload(self) -> None:
        """Reload the configuration; an invalid one changes nothing. A call during a reload is done after it."""
        sd_notify.reloading()
        self.guard.after_current(self._reload)

    def _reload(self) -> None:
        if self.trial is not None:
            self.log.message("trial-running", f"not reloaded: a gate is on trial; {HOW}, or wait for its end", "error")
            self.notify_ready()
            return
        path, keep, held = self.config, self.saved, self.held_ports()
        self.guard.start(LoadProcess(lambda: load_file(path, {}, keep, held)), self._reloaded)

    def _reloaded(self, outcome: LoadResult | DoorwardError) -> None:
        if not isinstance(outcome, DoorwardError):
            self.put_in_force(outcome)
            self.hooks.turn_on()
            self.log.message("reloaded", f"reloaded: {outcome.summary()}")
            self.keep_configuration()
        elif isinstance(outcome, NftError) and self.guard.is_damaged:  # the table was gone under it
            self.reload()
            return
        else:
            self.log.error(outcome)
            self.log.message(
                "not-reloaded", "the configuration was not reloaded; the loaded gate stays in force", "error"
            )
        self.notify_ready()

    def notify_ready(self) -> None:
        """Notify the service manager of what is in force."""
        sd_notify.notify("READY=1", f"STATUS={self.loaded.summary()}")

    def apply(self, request: Mapping[str, Any]) -> DeferredReply:
        """Load the configuration in the file sent with the request, permanently or on trial."""
        name, for_ms, descriptor = request.get("name"), request.get("trial_ms"), request.get("descriptor")
        if not isinstance(name, str) or not isinstance(descriptor, int):
            raise UsageError("invalid-request", "the request needs a text 'name' and an open file")
        if for_ms is not None and not (isinstance(for_ms, int) and SHORTEST_TRIAL_MS <= for_ms <= LONGEST_TRIAL_MS):
            raise UsageError("trial-range", "a trial lasts from 1s to 24h")
        if self.trial is not None:
            raise NegativeResult("trial-running", f"a gate is on trial already; {HOW}, or wait for its end")
        if self.guard.is_busy:
            raise NegativeResult("gate-loading", "the gate is being loaded just now; try again")
        keep_open = os.dup(descriptor)
        try:
            if for_ms is not None:
                self.trial = Trial(self, for_ms / 1000, self.loaded, _digest(keep_open))
            keep, directory, held = self.saved, self.config.parent, self.held_ports()
            child = LoadProcess(
                lambda: _load_text(decode_text(_read(keep_open), name), name, directory, keep, held), keep_open
            )
        finally:
            os.close(keep_open)
        later = DeferredReply()
        self.guard.start(child, lambda outcome: later.give_outcome(lambda: self._applied(name, outcome)))
        return later

    def _applied(self, name: str, outcome: LoadResult | DoorwardError) -> dict[str, Any]:
        trial = self.trial
        if isinstance(outcome, DoorwardError):
            if trial is not None:
                trial.drop()
            raise outcome
        self.put_in_force(outcome)
        sd_notify.notify(f"STATUS={outcome.summary()}")
        if trial is None:
            self.log.message("applied", f"applied {name}: {outcome.summary()}")
            return {"summary": outcome.summary()}
        self.log.message(
            "on-trial",
            f"{name} is on trial for {format_duration(round(trial.left_s) * 1000)}: {outcome.summary()}; {HOW}",
            "warning",
        )
        trial.on_loaded(outcome)
        return {"summary": outcome.summary(), "left_s": trial.left_s}

    def confirm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Confirm the trial, from the session whose SSH connection the request names; None is the console."""
        if self.trial is None:
            raise NegativeResult("no-trial", "no gate is on trial; an expired one was rolled back")
        self.trial.confirm(_connection(request.get("connection")))
        return {"summary": self.loaded.summary()}

    def reload_hooks(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Read the hooks again, since the daemon's file now holds what is in force."""
        self.hooks.configure(self.loaded.doors, self.loaded.gate.on_refuse)
        self.hooks.turn_on()
        return {}


def _load_text(text: str, name: str, directory: Path, ruleset: Path, held: Collection[Port]) -> LoadResult:
    return replace(load(parse(text, name), directory, {}, ruleset, held), digest=digest_of(text))


def _connection(value: object) -> Connection | None:
    if value is None:
        return None
    try:
        source, source_port, destination, destination_port = cast(list[Any], value)
        return Connection(parse_address(source), int(source_port), parse_address(destination), int(destination_port))
    except (TypeError, ValueError, OverflowError):  # JSON has an Infinity
        raise UsageError("invalid-connection", "a connection is two addresses, each with a port") from None


def _digest(descriptor: int) -> str:
    return hashlib.sha256(_read(descriptor)).hexdigest()


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, min(os.fstat(descriptor).st_size, MAX_BYTES), 0)
    except OSError as error:  # a pipe, a directory
        raise UsageError(
            "unreadable-file", f"the file that came with the request cannot be read: {error.strerror}"
        ) from None
