"""The daemon behind `knockd`: engine events in; log lines, commands and ledger entries out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from doorward.config.files import read_text, trusted_owners
from doorward.config.knockd import DEFAULT_INTERFACE, KnockdConfiguration, KnockdDoor, parse
from doorward.core.guard_states import PAUSE_S, RepairLogLimiter
from doorward.core.openings import Effect, LogLine, RecordEnd, RunHook, on_knockd, on_lost
from doorward.daemon.hook_runner import HookRun
from doorward.daemon.hooks import HookQueue
from doorward.daemon.ledger import Ledger
from doorward.daemon.openings_service import OpeningsService
from doorward.errors import DoorwardError, HostError
from doorward.kernel import sd_notify
from doorward.kernel.event_loop import Alarm, EventLoop
from doorward.kernel.inotify import FileWatcher
from doorward.kernel.sock_diag import listening_ports
from doorward.knockd.engine import Engine, EngineEvent
from doorward.knockd.knockd_log import KnockdLog
from doorward.knockd.one_time import OneTimeDoors
from doorward.knockd.reverse_dns import ReverseResolver
from doorward.knockd.stages import AttemptTable, build_commands, by_key, to_door
from doorward.model import Door, Port, Source
from doorward.nftables.libnftables import NftFirewall

POLL_S = 2.0  # polling interval for listening services and edited one-time files


class KnockdSettings(NamedTuple):
    """The command line options, which override the file."""

    config: Path
    directory: Path  # the initial working directory, which relative paths refer to
    interface: str | None = None
    only_ipv4: bool = False
    lookup: bool = False
    log_file: str | None = None


class Knockd:
    """The running daemon. Times are on the loop's clock; the ledger uses wall time."""

    def __init__(
        self,
        settings: KnockdSettings,
        configuration: KnockdConfiguration,
        engine: Engine,
        output: KnockdLog,
        ledger: Ledger,
    ) -> None:
        self._settings, self._engine, self._output = settings, engine, output
        self._loop, self._attempts = EventLoop(), AttemptTable()
        self._alarm, self._repair_alarm = Alarm(self._loop, self._on_timer), Alarm(self._loop, self._repair)
        self._end_signal = self._lost = 0
        self._is_stale = False
        self._repaired_s, self._repair_log = float("-inf"), RepairLogLimiter()
        self._effects: list[Effect] = []  # of the events that are being read
        lock = ledger.path.with_name("knockd-commands.lock")
        self._hooks = HookQueue(self._loop, output, None, lock, build_commands(by_key(configuration.doors)))
        # These doors open no ports, their commands do: nothing is asked of the firewall.
        self._service = OpeningsService(ledger, self._hooks, output, NftFirewall())
        with ExitStack() as parts:
            for close in (ledger.close, self._loop.close, engine.close, self._hooks.close):
                parts.callback(close)
            if settings.lookup:
                names = ReverseResolver(self._loop)
                parts.callback(names.close)
                output.resolve_names_with(names.call_in_order)
            self._watches = self._open_watches(parts)
            self._apply(configuration)
            self._parts = parts.pop_all()

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT; return the signal's number, knockd's exit status.

        `ready` is called once no knock and no signal can be lost.
        """
        for descriptor in self._engine.descriptors():
            self._loop.on_readable(descriptor, self._read_events)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, lambda n=number: self._on_end_signal(n))  # type: ignore[misc]
        self._loop.on_signal(signal.SIGHUP, self._reload)
        ready()
        self._output.log(f"starting up, listening on {self._interface}", f"listening on {self._interface}...")
        self._output.debug(
            f"engine: {self._engine.name}; ignored ports, since this host listens on them: {self._busy_text()}"
        )
        self._restore_openings()
        self._loop.at(self._loop.now_s() + POLL_S, self._poll)
        sd_notify.notify("READY=1")
        self._loop.run()
        self._output.print_verbose("waiting for child processes...")
        self._hooks.drain()
        self._output.log("shutting down", "closing...")
        return self._end_signal

    def close(self) -> None:
        """Release all resources; running commands continue."""
        self._parts.close()

    def _apply(self, configuration: KnockdConfiguration) -> None:
        """Apply a configuration; on a DoorwardError the previous one stays in force. Openings of removed doors end."""
        doors = by_key(configuration.doors)
        files = {key: self._path(door.one_time_file) for key, door in doors.items() if door.one_time_file}
        self._watch(files)  # before they are read, so that an edit in between is noticed
        one_time = OneTimeDoors(files, self._output)
        interface = self._settings.interface or configuration.options.interface or DEFAULT_INTERFACE
        busy = self._listening()
        self._engine.load(_automaton_doors(doors, one_time), _interfaces(interface), busy)
        self._service.perform(self._end_without(doors))  # with the previous commands
        self._interface, self._busy, self._doors, self._one_time = interface, busy, doors, one_time
        self._output.names = {key: door.name for key, door in doors.items()}
        self._hooks.use_commands(build_commands(doors))

    def _end_without(self, doors: Mapping[str, KnockdDoor]) -> list[Effect]:
        removed = [opening for opening in self._service.table if opening.door not in doors]
        return on_lost(self._service.table, removed, {}, self._loop.now_s())

    def _path(self, written: str) -> str:
        return str(self._settings.directory / written)

    def _watch(self, files: Mapping[str, str]) -> None:
        if self._watches is not None:
            self._watches.watch(files.values())

    def _open_watches(self, parts: ExitStack) -> FileWatcher | None:
        """Watch one-time files with inotify; without it `_poll` polls them."""
        try:
            watches = FileWatcher(self._loop, self._on_files_changed)
        except HostError as error:
            self._output.debug(f"{error}; edited one-time files are noticed within {POLL_S:.0f} s")
            return None
        parts.callback(watches.close)
        return watches

    def _load(self) -> None:
        """Load the current doors into the engine; a failed load is retried by `_poll`.

        Meanwhile a used one-time sequence may still complete, but opens nothing: it is no longer the current one.
        """
        try:
            self._engine.load(_automaton_doors(self._doors, self._one_time), _interfaces(self._interface), self._busy)
        except HostError as error:
            self._output.alert(f"error: {error}; the engine keeps its previous rules; retry in {POLL_S:.0f} s")
            self._is_stale = True
        else:
            self._is_stale = False

    def _listening(self) -> frozenset[Port]:
        """Return the ports that this host listens on, which are ignored; empty if the kernel does not list them."""
        try:
            return listening_ports()
        except HostError as error:
            self._output.debug(f"{error}; without the list a connection to a service resets a knock")
            return frozenset()

    def _read_events(self) -> None:
        for event in self._engine.read():
            if not (self._settings.only_ipv4 and event.source.version == 6):
                self._on_event(event)
        self._perform()
        if self._engine.culprit:
            self._repair_alarm.set(self._repaired_s + PAUSE_S)
        self._alarm.set(self._attempts.next_deadline_s())

    def _perform(self) -> None:
        effects, self._effects = self._effects, []
        self._service.perform(effects)

    def _repair(self) -> None:
        """Restore rules that another program removed: at most 20 times per second, with rate-limited log lines."""
        self._repaired_s = self._loop.now_s()
        if culprit := self._engine.culprit:
            self._load()
            message = self._repair_log.line(
                culprit, "could not be put back" if self._is_stale else "put back", self._repaired_s
            )
            if message is not None:
                self._output.alert(": ".join(message))

    def _on_event(self, event: EngineEvent) -> None:
        if event.event == "wrong":
            self._attempts.fail(event.source)
            return
        stages = event.stages.stages_at(event.state)
        self._attempts.advance(event.source, event.stages.automaton_key(event.state), stages, self._loop.now_s())
        for stage in stages:
            if stage.door.name not in self._doors:  # removed by a reload
                continue
            key = stage.door.name, event.source
            fields = {"door": stage.door.name, "address": event.source, "number": stage.number}
            self._effects.append(LogLine(key, "stage", fields))
            if stage.last:
                self._effects.append(LogLine(key, "complete", fields))
                self._on_knock(stage.door, event.source)

    def _on_knock(self, door: Door, address: Source) -> None:
        """Run the door's command. A one-time sequence is marked as used first, so that no crash revives it."""
        key = door.name
        if self._doors[key].one_time_file:
            self._perform()  # the lines about the file come after those so far
            if not self._one_time.use(key, door.knock):
                return
            self._load()
        if all(self._hooks.has_command(HookRun(key, address, event)) for event in ("open", "close")):
            self._effects += on_knockd(self._service.table, door, address, self._loop.now_s())
        else:
            self._effects.append(RunHook((key, address), "open"))

    def _restore_openings(self) -> None:
        """Restore openings of an earlier run; overdue stop commands run immediately."""
        effects = [*self._service.restore(), *self._end_without(self._doors)]
        for effect in effects:
            if isinstance(effect, RecordEnd) and effect.opening.door not in self._doors:
                self._output.alert(
                    f"{effect.opening.door}: no longer in {self._settings.config}, and its stop command for"
                    f" {effect.opening.address} was not run; run it by hand"
                )
        self._service.perform(effects)

    def _on_timer(self) -> None:
        for address, stage in self._attempts.expire(self._loop.now_s()):
            if (door := self._doors.get(stage.door.name)) is not None:
                self._output.log(f"{door.name}: sequence timeout (stage {stage.number})", who=address)
        self._alarm.set(self._attempts.next_deadline_s())

    def _on_files_changed(self) -> None:
        """Re-read edited one-time files, and watch the files that now have their names."""
        self._watch(self._one_time.files)
        if self._one_time.poll():
            self._load()

    def _poll(self) -> None:
        """Poll for changed listening services, edited one-time files and a stepped clock."""
        if (lost := self._engine.lost()) > self._lost:
            self._output.alert(f"warning: the {self._engine.name} engine lost {lost - self._lost} packets or messages")
            self._lost = lost
        self._watch(self._one_time.files)  # a file that was missing before may exist now
        if self._one_time.poll() or self._is_stale:
            self._load()
        if (busy := self._listening()) != self._busy:
            self._busy = busy
            self._load()
            self._output.debug(f"ignored ports, since this host listens on them: {self._busy_text()}")
        self._service.wall_offset_s()  # a wall clock step is recorded within POLL_S
        self._loop.at(self._loop.now_s() + POLL_S, self._poll)

    def _reload(self) -> None:
        """Reload the configuration; an invalid file changes nothing."""
        path = self._settings.config
        self._output.log(f"re-reading config file: {path}")
        sd_notify.reloading()
        try:
            configuration = parse(read_text(path, trusted_owners()), str(path))
            self._apply(configuration)
            self._open_log(configuration)
        except DoorwardError as error:
            for line in str(error).splitlines():
                self._output.alert(line)
            self._output.alert("error: the configuration was not changed")
        sd_notify.notify("READY=1")

    def _open_log(self, configuration: KnockdConfiguration) -> None:
        written = configuration.options.log_file or self._settings.log_file  # the file's setting wins, as in knockd
        self._output.open_log(written and self._path(written), use_syslog=configuration.options.use_syslog)

    def _on_end_signal(self, number: int) -> None:
        self._end_signal = number
        self._loop.stop()

    def _busy_text(self) -> str:
        return ", ".join(map(str, sorted(self._busy))) or "none"


def _automaton_doors(doors: Mapping[str, KnockdDoor], one_time: OneTimeDoors) -> list[Door]:
    return [to_door(key, door, door.knock or one_time.current(key)) for key, door in doors.items()]


def _interfaces(name: str) -> tuple[str, ...]:
    return () if name == "any" else (name,)
