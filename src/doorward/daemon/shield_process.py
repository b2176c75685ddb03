"""The daemon's side of the shield: its process, started while there are rights, and what that and the gate share."""

from __future__ import annotations

import os
import re
import socket
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from doorward.config.files import read_text
from doorward.config.schema import Shield
from doorward.daemon.last_good import path_of
from doorward.daemon.log import Log
from doorward.daemon.ruleset_loader import LoadResult, memory_bytes
from doorward.errors import DoorwardError, HostError, MalformedError
from doorward.kernel.child_process import Worker
from doorward.kernel.event_loop import EventLoop
from doorward.kernel.privileges import LOAD_PROGRAMS, Identity, drop_capabilities
from doorward.model import Source
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import TABLE
from doorward.nftables.shield_chains import INTERFACES
from doorward.shield import loader
from doorward.shield.attachment import remove_filters
from doorward.shield.opening_slots import OpeningSlots
from doorward.shield.report import REPORT_BYTES, ShieldReport, parse_report
from doorward.shield.tables import pack_bans

RENEW_S = 20.0  # the shield lets everything pass 60 s after the last one
_SETTING = re.compile(r"""\bshield["']?\s*=""")
_NOT_RUNNING = "its process is not running; restart the daemon"


def start_early(config: Path, identity: Identity | None) -> Worker | None:
    """Start the loader where the file may want it; then give up the rights for that, if the unit gave them."""
    worker = None
    for path in (config, path_of(config)):
        with suppress(DoorwardError):
            if _SETTING.search(read_text(path)):  # the doors alone may take seconds to parse
                worker = Worker(loader.NAME, lambda daemon: loader.serve(daemon, identity, memory_bytes()))
            break
    if os.geteuid() != 0:
        drop_capabilities(LOAD_PROGRAMS)
    return worker


class ShieldControl:
    """Keeps the shield as the configuration says. Without it the gate works the same, and `trouble` says why."""

    def __init__(self, worker: Worker | None, loop: EventLoop, firewall: NftFirewall, log: Log) -> None:
        self._worker, self._loop, self._firewall, self._log = worker, loop, firewall, log
        self._wanted = Shield.OFF
        self._report = ShieldReport()
        self._trouble = ""
        self._tables = b""  # for the gate in force
        self._is_loaded = False
        self._renewal = loader.RENEW
        self._listed: tuple[str, ...] | None = None  # in the set
        self._slots: OpeningSlots | None = None
        remove_filters()  # no other daemon runs
        if worker is not None:
            loop.on_readable(worker.fileno(), self._read)
            loop.at(loop.now_s() + RENEW_S, self._renew)

    def configure(self, loaded: LoadResult) -> None:
        """Load, replace or end it after a ruleset was loaded."""
        self._wanted, self._tables = loaded.gate.shield, loaded.shield
        self._set_trouble(loaded.no_shield)
        self.follow_gate()

    def follow_gate(self) -> None:
        """Load it if the gate that it belongs to is loaded; end it otherwise, or it would drop what passes."""
        self._listed = None
        if self._tables and self._has_gate():
            self._is_loaded = self._send(loader.LOAD, self._tables)  # else the next renewal sends them again
            return
        if self._tables:
            self._set_trouble("the table inet doorward is not the one it belongs to")
        if self._is_loaded:
            self._is_loaded, self._report = False, ShieldReport()
            self._send(loader.END)

    def gate_changes(self, is_changing: bool) -> None:
        """Let it drop nothing while a ruleset is being loaded, for which its token and ports may be wrong."""
        self._renewal = loader.PASS if is_changing else loader.RENEW
        self._note_openings()
        if self._is_loaded and self._worker is not None:
            self._send(self._renewal)

    def as_dict(self) -> dict[str, object] | None:
        """Return the part of "status"; None: it is off."""
        if self._wanted is Shield.OFF:
            return None
        return {
            "wanted": str(self._wanted),
            "interfaces": [*self._report.interfaces],
            "at_xdp": [*self._report.at_xdp],
            "no_xdp": self._report.no_xdp,
            "counters": self._report.counters,
            "trouble": self._trouble,
        }

    def ban(self, bans: Mapping[Source, float]) -> None:
        """Add bans, each with its remaining seconds, to the sets of the gate and to the shield."""
        self._firewall.ban(bans)
        self._change_bans({ban: time.monotonic_ns() + int(left_s * 1e9) for ban, left_s in bans.items()})

    def unban(self, ban: Source) -> None:
        """Remove a ban from both."""
        self._firewall.unban(ban)
        self._change_bans({ban: 0})

    def note_opening(self, source: Source, until_s: float) -> None:
        """Tell the shield of an opening, before the gate has it."""
        if self._slots is not None:
            self._slots.note(source, until_s)

    def _note_openings(self) -> None:
        """Tell it of those that the gate has already; until that is done, it drops nothing to hidden ports."""
        if self._slots is None or self._slots.is_complete or self._renewal == loader.PASS:
            return  # a process that restores the gate may add some
        with suppress(DoorwardError, OSError):  # without the table: with the next renewal
            for element, left_s in self._firewall.elements().items():
                self._slots.note(element.address, time.monotonic() + left_s)
            self._slots.complete()

    def _change_bans(self, ends_ns: Mapping[Source, int]) -> None:
        if self._worker is not None:
            self._send(loader.BANS, pack_bans(ends_ns))

    def close(self) -> None:
        """End the process, and with it the shield, before the table can go."""
        if self._worker is not None:
            self._loop.unregister(self._worker.fileno())
            self._worker.close()
            self._worker = None
            self._map_openings([])
            remove_filters()

    def _renew(self) -> None:
        self._loop.at(self._loop.now_s() + RENEW_S, self._renew)
        self._note_openings()
        if not self._is_loaded or not self._has_gate():
            self.follow_gate()
        elif self._worker is not None:
            self._send(self._renewal)

    def _has_gate(self) -> bool:
        try:
            return any(thing.name == INTERFACES for thing in self._firewall.existing())
        except (DoorwardError, OSError):
            return False

    def _send(self, request: bytes, form: bytes = b"") -> bool:
        """Send a request; return whether the loader will read it."""
        if self._worker is None:
            self._set_trouble(self._trouble or _NOT_RUNNING)
            return False
        descriptors = []
        try:
            if form:
                descriptors.append(os.memfd_create(loader.NAME))
                os.write(descriptors[0], form)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            self._worker.socket.sendmsg([request], rights, socket.MSG_DONTWAIT)  # `send_fds` of 3.11 has no flags
            return True
        except OSError as error:  # a loader that hangs is not waited for: its deadline passes
            self._set_trouble(f"its process does not answer ({error.strerror}); restart the daemon")
            return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _read(self) -> None:
        assert self._worker is not None  # noqa: S101
        received = self._worker.receive_with_descriptors(REPORT_BYTES)
        if received is None:
            return
        raw, descriptors = received
        try:
            report = parse_report(raw) if raw else None
            if descriptors:
                self._map_openings(descriptors)
        except (MalformedError, HostError) as error:
            self._lose(str(error))
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)  # a mapping stays without it
        if report is None:
            self._lose("its process ended")
        elif self._is_loaded:
            if report.no_xdp and report.no_xdp != self._report.no_xdp:
                self._log.message("no-xdp", f"no XDP: {report.no_xdp}; the shield drops packets at tcx", "warning")
            self._report = report
            self._set_trouble(report.trouble)
            self._list()

    def _map_openings(self, descriptors: list[int]) -> None:
        """Use another map of openings, which is empty, or none."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        for descriptor in descriptors:
            self._slots = OpeningSlots(descriptor)
        self._note_openings()

    def _lose(self, reason: str) -> None:
        self.close()
        self._report = ShieldReport()
        self._set_trouble(f"{reason}; restart the daemon")
        self._list()

    def _list(self) -> None:
        names = self._report.interfaces
        if not self._is_loaded or names == self._listed:
            return
        elements = ", ".join(f'"{name}"' for name in names)
        adding = [f"add element {TABLE} {INTERFACES} {{ {elements} }}"] if names else []
        try:
            self._firewall.run("\n".join([f"flush set {TABLE} {INTERFACES}", *adding]))
            self._listed = names
        except DoorwardError as error:  # the table was removed: it is listed again with the repair
            self._set_trouble(f"its interfaces cannot be listed: {error}")

    def _set_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            self._log.message("no-shield", f"no shield: {trouble}; the gate works without it", "warning")
        self._trouble = trouble
