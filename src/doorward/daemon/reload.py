"""Configurations for a daemon: its own file at the start and by SIGHUP, another by `doorward apply`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from doorward.config.files import MAX_BYTES, decode_text
from doorward.config.schema import LONGEST_TRIAL_MS, SHORTEST_TRIAL_MS
from doorward.config.toml import parse
from doorward.core.diff import Remaining
from doorward.daemon import repairs
from doorward.daemon.control_socket import DeferredReply
from doorward.daemon.last_good import load_last, path_of
from doorward.daemon.off_switch import SwitchedOff
from doorward.daemon.ruleset_loader import LoadProcess, LoadResult, digest_of, load, load_file
from doorward.daemon.trial import HOW, Trial
from doorward.errors import DoorwardError, NegativeResult, UsageError
from doorward.kernel import sd_notify
from doorward.kernel.sock_diag import Connection
from doorward.model import parse_address
from doorward.nftables.nft_error import NftError

if TYPE_CHECKING:
    from doorward.daemon.daemon import Daemon


def load_first(daemon: Daemon, trial_s: float | None) -> None:
    """Load at the start. Where a daemon's table is loaded already, its own sets are right.

    If the file cannot be loaded, the last good configuration is: without a daemon no signed knock opens a door. A
    trial has no such second try.
    """
    if trial_s is not None:
        daemon.trial = Trial(daemon, trial_s, None)
    restore = {} if daemon.filter.existing() and not daemon.filter.is_from_file() else repairs.remaining(daemon)
    config, ruleset = daemon.config, daemon.kept
    try:
        loaded = daemon.healing.wait_for(LoadProcess(lambda: load_file(config, restore, ruleset)))
    except SwitchedOff:
        raise
    except DoorwardError as error:
        if daemon.trial is not None:
            raise
        loaded = _load_last(daemon, restore, error)
        daemon.errands.turn_off()
    daemon.apply_loaded(loaded)
    if refusal := loaded.commit.refusal:
        repairs.fill(daemon, refusal)
    if daemon.trial is not None:
        daemon.log.message(f"on trial for {round(daemon.trial.left_s)}s: {loaded.summary()}; {HOW}", "warning")
        daemon.trial.on_loaded(loaded)


def _load_last(daemon: Daemon, restore: Remaining, error: DoorwardError) -> LoadResult:
    """Load the last good configuration in place of the file that has this error, or raise the error."""
    config, ruleset, copy = daemon.config, daemon.kept, path_of(daemon.config)
    if not os.path.lexists(copy):
        raise error
    try:
        loaded: LoadResult = daemon.healing.wait_for(LoadProcess(lambda: load_last(config, restore, ruleset)))
    except SwitchedOff:
        raise
    except DoorwardError as trouble:
        for line in str(trouble).splitlines():
            daemon.log.message(f"the last good configuration is not used: {line}", "error")
        raise error from None
    for line in str(error).splitlines():
        daemon.log.message(line, "error")
    daemon.log.message(
        f"{config} cannot be loaded: {copy} is in force instead, the last good configuration. Hooks (on_open,"
        " on_close, on_refuse) do not run. Repair the file and have it loaded again (`doorward check`, then SIGHUP)",
        "error",
    )
    return replace(loaded, last_good=str(error))


def keep_configuration(daemon: Daemon) -> None:
    """Have root keep a copy of the daemon's file, unless it is not what is in force, or on trial."""
    if daemon.trial is None and daemon.loaded.digest:
        daemon.errands.keep(daemon.loaded.digest)


def reload(daemon: Daemon) -> None:
    """Read the configuration again; a bad one changes nothing. A call while one is under way follows it."""
    sd_notify.reloading()
    daemon.healing.after_current(lambda: _reload(daemon))


def _reload(daemon: Daemon) -> None:
    if daemon.trial is not None:
        daemon.log.message(f"not reloaded: a gate is on trial; {HOW}, or wait for its end", "error")
        tell_ready(daemon)
        return
    path, keep = daemon.config, daemon.kept
    daemon.healing.start(LoadProcess(lambda: load_file(path, {}, keep)), lambda outcome: _reloaded(daemon, outcome))


def _reloaded(daemon: Daemon, outcome: LoadResult | DoorwardError) -> None:
    if not isinstance(outcome, DoorwardError):
        daemon.apply_loaded(outcome)
        daemon.errands.turn_on()
        daemon.log.message(f"reloaded: {outcome.summary()}")
        keep_configuration(daemon)
    elif isinstance(outcome, NftError) and daemon.healing.is_damaged:  # the table was gone under it
        reload(daemon)
        return
    else:
        for line in str(outcome).splitlines():
            daemon.log.message(line, "error")
        daemon.log.message("the configuration was not reloaded; the gate stands as it was", "error")
    tell_ready(daemon)


def tell_ready(daemon: Daemon) -> None:
    """Tell the service manager what is in force."""
    sd_notify.notify("READY=1", f"STATUS={daemon.loaded.summary()}")


def apply(daemon: Daemon, request: Mapping[str, Any]) -> DeferredReply:
    """Load the configuration whose text is in the file that came with the request, for good or on trial."""
    name, for_ms, descriptor = request.get("name"), request.get("trial_ms"), request.get("descriptor")
    if not isinstance(name, str) or not isinstance(descriptor, int):
        raise UsageError("the request needs a text 'name' and an open file")
    if for_ms is not None and not (isinstance(for_ms, int) and SHORTEST_TRIAL_MS <= for_ms <= LONGEST_TRIAL_MS):
        raise UsageError("a trial lasts from 1s to 24h")
    if daemon.trial is not None:
        raise NegativeResult(f"a gate is on trial already; {HOW}, or wait for its end")
    if daemon.healing.is_busy:
        raise NegativeResult("the gate is being loaded just now; try again")
    keep_open = os.dup(descriptor)
    try:
        if for_ms is not None:
            daemon.trial = Trial(daemon, for_ms / 1000, daemon.loaded, _digest(keep_open))
        keep, folder = daemon.kept, daemon.config.parent
        child = LoadProcess(lambda: _load_text(decode_text(_read(keep_open), name), name, folder, keep), keep_open)
    finally:
        os.close(keep_open)
    later = DeferredReply()
    daemon.healing.start(child, lambda outcome: later.give_outcome(lambda: _applied(daemon, name, outcome)))
    return later


def _load_text(text: str, name: str, folder: Path, ruleset: Path) -> LoadResult:
    return replace(load(parse(text, name), folder, {}, ruleset), digest=digest_of(text))


def _applied(daemon: Daemon, name: str, outcome: LoadResult | DoorwardError) -> dict[str, Any]:
    trial = daemon.trial
    if isinstance(outcome, DoorwardError):
        if trial is not None:
            trial.drop()
        raise outcome
    daemon.apply_loaded(outcome)
    sd_notify.notify(f"STATUS={outcome.summary()}")
    if trial is None:
        daemon.log.message(f"applied {name}: {outcome.summary()}")
        return {"summary": outcome.summary()}
    daemon.log.message(f"{name} is on trial for {round(trial.left_s)}s: {outcome.summary()}; {HOW}", "warning")
    trial.on_loaded(outcome)
    return {"summary": outcome.summary(), "left_s": trial.left_s}


def confirm(daemon: Daemon, request: Mapping[str, Any]) -> dict[str, Any]:
    """Confirm the trial that runs, from the session whose SSH connection the request names; None is the console."""
    if daemon.trial is None:
        raise NegativeResult("no gate is on trial; if there was one, it was taken back")
    daemon.trial.confirm(_connection(request.get("connection")))
    return {"summary": daemon.loaded.summary()}


def reload_hooks(daemon: Daemon, _: Mapping[str, Any]) -> dict[str, Any]:
    """The daemon's file holds what is in force: the doors' commands are read from there."""
    daemon.errands.configure(daemon.loaded.doors, daemon.loaded.gate.on_refuse)
    daemon.errands.turn_on()
    return {}


def _connection(value: object) -> Connection | None:
    if value is None:
        return None
    try:
        source, source_port, destination, destination_port = cast(list[Any], value)
        return Connection(parse_address(source), int(source_port), parse_address(destination), int(destination_port))
    except (TypeError, ValueError, OverflowError):  # JSON has an Infinity
        raise UsageError("a connection is two addresses, each with a port") from None


def _digest(descriptor: int) -> str:
    return hashlib.sha256(_read(descriptor)).hexdigest()


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, min(os.fstat(descriptor).st_size, MAX_BYTES), 0)
    except OSError as error:  # a pipe, a folder
        raise UsageError(f"the file that came with the request cannot be read: {error.strerror}") from None
