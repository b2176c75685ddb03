"""The process that loads the shield, attaches it to the interfaces and notes this host's addresses for it.

It has rights that the daemon has not (CAP_BPF, CAP_PERFMON), so it compiles nothing, reads no configuration, and takes
requests in a fixed form alone: tables, a renewal, with or without drops, bans, the end. Programs and maps are its own,
unpinned: they are gone with it, and it ends with the daemon. Only a filter of tc(8) remains if it is killed, until the
daemon removes it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress

from doorward.config.schema import is_watched
from doorward.errors import DoorwardError, HostError, MalformedError
from doorward.kernel import privileges
from doorward.kernel.child_process import STANDARD, close_descriptors_except
from doorward.kernel.forwarding import is_forwarding
from doorward.kernel.interfaces import InterfaceMonitor
from doorward.shield.attachment import Attachment, attach
from doorward.shield.host_limits import can_attach, has_vlans, obstacle, udp_busy_s, udp_ports
from doorward.shield.libbpf import DEADLINE_S, Place, ShieldProgram, source_sets
from doorward.shield.report import MAX_ATTACHED, ShieldReport
from doorward.shield.tables import MAX_BANS, ShieldTables, parse_bans, parse_tables

NAME = "doorward-shield"  # ps(1) shows it
LOAD, RENEW, PASS, END, BANS = b"load", b"renew", b"pass", b"end", b"bans"  # PASS: renew it, and let it drop nothing
_MAX_FORM_BYTES = 256 << 20
_RIGHTS = privileges.NET_ADMIN | privileges.LOAD_PROGRAMS


def serve(daemon: socket.socket, identity: privileges.Identity | None, memory_bytes: int) -> None:
    """Answer the daemon until it ends; `memory_bytes`: the host's, for the size of the table of sources."""
    close_descriptors_except([daemon.fileno(), *STANDARD])
    privileges.drop_privileges(identity, _RIGHTS)
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    privileges.exit_with_parent(signal.SIGTERM)
    loader = ShieldLoader(source_sets(memory_bytes))
    try:
        _serve(daemon, ended, loader)
    finally:
        signal.set_wakeup_fd(-1)  # its other end is closed before this process ends
        loader.end()


def _serve(daemon: socket.socket, ended: socket.socket, loader: ShieldLoader) -> None:
    while True:
        readable = select.select([daemon.fileno(), ended.fileno(), loader.monitor.fileno()], [], [])[0]
        if ended.fileno() in readable:
            return
        if daemon.fileno() not in readable:
            loader.follow_host()
            with suppress(BlockingIOError):  # the daemon has reports to read
                daemon.send(loader.report().pack(), socket.MSG_DONTWAIT)
            continue
        request, descriptors, _, _ = socket.recv_fds(daemon, 16, 1)
        if not request:
            return
        loader.answer(request, descriptors)
        socket.send_fds(daemon, [loader.report().pack()], loader.new_openings())


class ShieldLoader:
    """The shield that is loaded, if one is. `trouble` is why none is, or where it is not attached."""

    def __init__(self, sets: int) -> None:
        self.monitor = InterfaceMonitor()
        self.trouble = ""
        self._sets = sets
        self._tables: ShieldTables | None = None
        self._program: ShieldProgram | None = None
        self._attachments: dict[tuple[int, Place], Attachment] = {}  # by interface
        self._interfaces: dict[int, str] = {}  # with the ingress program
        self._no_xdp: dict[int, str] = {}  # why an interface has no program at XDP
        self._addresses: frozenset[bytes] = frozenset()
        self._bans: dict[bytes, int] = {}
        self._has_sent = False  # the map of openings of the program, or of the first one before it

    def answer(self, request: bytes, descriptors: list[int]) -> None:
        """Do what the daemon requests; a failure is in `trouble`, and then no shield is loaded."""
        try:
            if request == LOAD and len(descriptors) == 1:
                self._tables = None  # an invalid form leaves none
                self._tables = parse_tables(_form(descriptors[0]))
            elif request == BANS and len(descriptors) == 1:
                self._change_bans(parse_bans(_form(descriptors[0])))
                return
            elif request == END:
                self._tables, self.trouble = None, ""
                self.end()
            elif request not in (RENEW, PASS):
                raise MalformedError("shield-request", "shield: an unknown request")
            self._refresh(drops=request != PASS)
        except (DoorwardError, OSError) as error:
            self.end()
            self.trouble = str(error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def follow_host(self) -> None:
        """Attach to new interfaces, and note new addresses."""
        try:
            if self.monitor.changed() and self._program is not None:
                self._note_addresses(self._program)
                self._attach(self._program)
        except (DoorwardError, OSError) as error:
            self.end()
            self.trouble = str(error)

    def report(self) -> ShieldReport:
        """Return the report to the daemon."""
        counters = {} if self._program is None else self._program.counters()
        at_xdp = (name for index, name in self._interfaces.items() if (index, Place.XDP) in self._attachments)
        return ShieldReport(
            interfaces=tuple(sorted(self._interfaces.values())),
            counters=counters,
            trouble=self.trouble,
            at_xdp=tuple(sorted(at_xdp)),
            no_xdp="; ".join(self._no_xdp.values()),
        )

    def new_openings(self) -> list[int]:
        """Return the descriptor of the program's map of openings, once for each such map: the daemon fills it."""
        found = [] if self._program is None or self._has_sent else [self._program.map("openings")]
        self._has_sent = self._program is not None
        return found

    def _refresh(self, *, drops: bool) -> None:
        """Load, attach and renew what is to be loaded; end it where it would drop what the gate accepts."""
        if self._tables is None:
            return
        self.trouble = ""
        if reason := obstacle():
            self.end()
            self.trouble = reason
            return
        program, before = self._program, None
        if program is None or program.tables is not self._tables:
            before = program
            program = self._program = self._made(self._tables, before)
        forwards, until_ns = is_forwarding(4) or is_forwarding(6), time.monotonic_ns() + DEADLINE_S * 1_000_000_000
        program.renew(until_ns, udp_busy_s=udp_busy_s(), drops=drops, forwards=forwards)
        self._put_in_place(program)
        if before is not None:
            before.close()
        if program.asks_conntrack:
            pass  # which knows of flows in which this host sends nothing any more
        elif forwards:
            program.expect_answers()  # of hosts behind this one, which may send nothing for as long as they receive
        else:
            program.expect_answers(udp_ports())
        self._attach(program)
        if not self._interfaces:
            self.trouble = "no watched interface is one it can attach to"

    def _put_in_place(self, program: ShieldProgram) -> None:
        """Replace the programs that are attached."""
        for key, attachment in list(self._attachments.items()):
            if key[1] is Place.XDP and not program.tables.wants_xdp:
                self._attachments.pop(key).close()
                continue
            try:
                attachment.replace(program.program(key[1]))
            except HostError:  # another program detached it, and what was sent since is not known
                self._attachments.pop(key).close()
                program.expect_answers()

    def _made(self, tables: ShieldTables, before: ShieldProgram | None) -> ShieldProgram:
        """Load a program; the one before is still attached, and sources of the same automaton are kept."""
        program = ShieldProgram(tables, self._sets, before)
        try:
            if before is None:
                self._has_sent = False
                program.expect_answers()
            program.set_bans(self._bans)
            self._addresses = frozenset()
            self._note_addresses(program)
        except (DoorwardError, OSError):
            program.close()  # each renewal makes another
            raise
        return program

    def _change_bans(self, changed: dict[bytes, int]) -> None:
        """Note bans, with 0 for one that was removed, and forget those that ended."""
        now_ns = time.monotonic_ns()
        changed |= {key: 0 for key, end_ns in self._bans.items() if end_ns <= now_ns and key not in changed}
        bans = {key: end_ns for key, end_ns in {**self._bans, **changed}.items() if end_ns}
        if len(bans) > MAX_BANS:
            raise MalformedError("shield-request", f"shield: more than {MAX_BANS:,} bans")
        self._bans = bans
        if self._program is not None:
            self._program.set_bans(changed)

    def _note_addresses(self, program: ShieldProgram) -> None:
        found = self.monitor.local_addresses().addresses
        for address in self._addresses - found:
            program.set_local(address, is_local=False)
        for address in found - self._addresses:
            program.set_local(address, is_local=True)
        self._addresses = found

    def _attach(self, program: ShieldProgram) -> None:
        """Attach to the interfaces that have none yet, first the program that notes what this host sends."""
        present = {index: name for index, name in socket.if_nameindex() if name != "lo"}
        for key in [key for key in self._attachments if key[0] not in present]:
            self._attachments.pop(key).close()
        watched = () if self._tables is None else self._tables.interfaces
        fitting = [index for index, name in present.items() if is_watched(watched, name) and can_attach(name)]
        shielded = {index: present[index] for index in sorted(fitting)[:MAX_ATTACHED]}
        for key in [key for key in self._attachments if key[1] is not Place.EGRESS and key[0] not in shielded]:
            self._attachments.pop(key).close()
        for index in present:
            self._link(program, index, Place.EGRESS)
        for index in shielded:
            self._link(program, index, Place.INGRESS)
        self._interfaces = {
            index: name for index, name in shielded.items() if (index, Place.INGRESS) in self._attachments
        }
        self._attach_at_xdp(program)
        if any(found.may_be_skipped() for (_, place), found in self._attachments.items() if place is Place.EGRESS):
            program.expect_answers()

    def _attach_at_xdp(self, program: ShieldProgram) -> None:
        """Attach to the drivers that run XDP programs, if that is wanted; the others are in `_no_xdp`."""
        self._no_xdp = {}
        for index, name in self._interfaces.items() if program.tables.wants_xdp else ():
            if has_vlans(name):
                self._no_xdp[index] = f"{name} has VLANs"
            elif self._attachments[index, Place.INGRESS].may_be_skipped():  # the rest of a knock would be lost
                self._no_xdp[index] = f"{name} has another program at ingress, which may keep packets from the shield"
            else:
                try:
                    self._link(program, index, Place.XDP)
                except HostError as error:
                    self._no_xdp[index] = str(error)
            if index in self._no_xdp and (index, Place.XDP) in self._attachments:
                self._attachments.pop((index, Place.XDP)).close()

    def _link(self, program: ShieldProgram, index: int, place: Place) -> None:
        if (index, place) in self._attachments:
            return
        try:
            self._attachments[index, place] = attach(program.program(place), index, place)
        except HostError:
            if index in dict(socket.if_nameindex()):  # else it is gone meanwhile
                raise

    def end(self) -> None:
        """Detach, and free everything."""
        while self._attachments:
            self._attachments.popitem()[1].close()
        if self._program is not None:
            self._program.close()
        self._program, self._interfaces, self._no_xdp = None, {}, {}


def _form(descriptor: int) -> bytes:
    """Return what the file holds that came with a request."""
    size = os.fstat(descriptor).st_size
    if size > _MAX_FORM_BYTES:
        raise MalformedError("shield-form", f"shield: a form of {size:,} bytes, more than {_MAX_FORM_BYTES:,}")
    return os.pread(descriptor, size, 0)
