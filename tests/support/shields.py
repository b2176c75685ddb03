"""Frames for the shield, its program run for them alone, and what a daemon and the kernel tell of it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from doorward.model import Packet, Port, Protocol
from doorward.shield import attachment, libbpf
from doorward.shield.libbpf import Place
from doorward.shield.opening_slots import OpeningSlots
from tests.support.daemon import RunningDaemon, until
from tests.support.service_user import children_of
from tests.support.shield_object import cannot_load

SERVER = {4: ip_address("198.51.100.2").packed, 6: ip_address("2001:db8:2::2").packed}
PASS, DROP, XDP_DROP = -1, 2, 1
FINAL = 4  # the state after the third packet, of a gate with one door
_ETHER = bytes(12)  # to the address of lo, where the kernel runs a test
_PERCPU_ARRAY = "6"  # BPF_MAP_TYPE_PERCPU_ARRAY; only the counters are one
_SK_BUFF_BYTES, _PRIORITY_AT = 192, 32  # struct __sk_buff


class _TestRun(ctypes.Structure):
    """The first fields of struct bpf_test_run_opts; libbpf accepts a shorter one."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_int32),
    )


class RunnableProgram(libbpf.ShieldProgram):
    """A program that is attached nowhere, and runs for frames at a time that the test sets."""

    is_test = True

    def openings(self) -> OpeningSlots:
        """Return its map of openings as the daemon has it."""
        return OpeningSlots(self.map("openings"))

    def run(self, frame: bytes, priority: int = 0, *, is_sent: bool = False) -> tuple[int, int]:
        """Run the programs for frames received or sent (BPF_PROG_TEST_RUN); return the verdict and the priority."""
        if self.tables.wants_xdp and not is_sent and self._run_at_xdp(frame) == XDP_DROP:
            return DROP, 0
        return self._run_at_tcx(frame, priority, Place.EGRESS if is_sent else Place.INGRESS)

    def run_together(self, frames: Sequence[bytes]) -> list[tuple[int, int]]:
        """Run the program at XDP for all frames, as in a driver that has read several, and then that at tcx."""
        passed = [not self.tables.wants_xdp or self._run_at_xdp(frame) != XDP_DROP for frame in frames]
        return [
            self._run_at_tcx(frame, 0, Place.INGRESS) if passes else (DROP, 0)
            for frame, passes in zip(frames, passed, strict=True)
        ]

    def _run_at_tcx(self, frame: bytes, priority: int, place: Place) -> tuple[int, int]:
        before = ctypes.create_string_buffer(_SK_BUFF_BYTES)
        struct.pack_into("=I", before, _PRIORITY_AT, priority)
        after, data = ctypes.create_string_buffer(_SK_BUFF_BYTES), ctypes.create_string_buffer(frame, len(frame))
        options = _TestRun(
            sz=ctypes.sizeof(_TestRun),
            data_in=ctypes.addressof(data),
            data_size_in=len(frame),
            ctx_in=ctypes.addressof(before),
            ctx_out=ctypes.addressof(after),
            ctx_size_in=_SK_BUFF_BYTES,
            ctx_size_out=_SK_BUFF_BYTES,
        )
        self._run(place, options)
        return options.retval, struct.unpack_from("=I", after, _PRIORITY_AT)[0]

    def _run_at_xdp(self, frame: bytes) -> int:
        data = ctypes.create_string_buffer(frame, len(frame))
        options = _TestRun(sz=ctypes.sizeof(_TestRun), data_in=ctypes.addressof(data), data_size_in=len(frame))
        self._run(Place.XDP, options)
        return int(options.retval)

    def _run(self, place: Place, options: _TestRun) -> None:
        number = libbpf.library().bpf_prog_test_run_opts(self.program(place), ctypes.byref(options))
        assert number == 0, os.strerror(-number)


def needs_conntrack() -> None:
    """Skip this test where conntrack is a module: a loader without CAP_SYS_ADMIN cannot find its function."""
    found = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines() if " bpf_skb_ct_lookup" in line]
    if not any(len(words) == 3 for words in found):  # the fourth is a module
        pytest.skip("this kernel has conntrack in a module, or none")


def frame(
    source: bytes, port: Port, flags: int = 2, destination: bytes | None = None, source_port: int = 1234
) -> bytes:
    version = 4 if len(source) == 4 else 6
    to = destination or SERVER[version]
    if port.protocol is Protocol.TCP:
        inside = struct.pack("!HHIIBBHHH", source_port, port.number, 1, 0, 0x50, flags, 100, 0, 0)
    else:
        inside = struct.pack("!HHHH", source_port, port.number, 8, 0)
    if version == 4:
        size = 20 + len(inside)
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, port.protocol, 0, source, to)
        return _ETHER + b"\x08\0" + head + inside
    head = struct.pack("!IHBB16s16s", 6 << 28, len(inside), port.protocol, 64, source, to)
    return _ETHER + b"\x86\xdd" + head + inside


def programs_at(interface: str) -> int:
    """Return how many programs are attached to an interface, of both directions: at tcx, or the shield's as filters."""
    index, count = socket.if_nametoindex(interface), 0
    for kind, parent in (
        (Place.INGRESS, attachment._INGRESS),
        (Place.EGRESS, attachment._EGRESS),
    ):
        count += sum(name == attachment._OURS for _, name in attachment._filters(index, parent))
        count += len(attachment.at_tcx(index, kind) or [])
    return count


def shield(daemon: RunningDaemon) -> dict[str, Any]:
    """Return what the daemon reports of its shield."""
    found: dict[str, Any] = daemon.ask("status")["shield"]
    return found


def attached(daemon: RunningDaemon) -> list[str]:
    """Wait until the shield is attached, and return where; the test is skipped where this kernel cannot."""
    until(lambda: shield(daemon)["interfaces"] or shield(daemon)["trouble"], lambda: daemon.lines)
    if trouble := shield(daemon)["trouble"]:
        assert "its process" not in trouble, daemon.lines  # a fault of doorward's on any kernel
        cannot_load(trouble)
    interfaces: list[str] = shield(daemon)["interfaces"]
    assert {daemon.host.call(programs_at, name) for name in interfaces} == {2}
    return interfaces


def attachments(daemon: RunningDaemon) -> int:
    """Return how many programs are attached to the host's interface."""
    return daemon.host.call(programs_at, daemon.host.interface)


def loader_of(daemon: RunningDaemon) -> int:
    """Return the process that loads the shield."""
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in children_of(daemon.process.pid)}
    [pid] = [pid for pid, name in names.items() if name == "doorward-shield"]
    return pid


def counted(daemon: RunningDaemon) -> dict[str, int]:
    """Return the counters from the kernel; what the daemon reports may be older."""
    program = libbpf.ShieldProgram.__new__(libbpf.ShieldProgram)
    descriptor = libbpf.library().bpf_map_get_fd_by_id(_counters_of(loader_of(daemon)))
    with patch.object(program, "map", Mock(return_value=descriptor)):
        found = program.counters()
    os.close(descriptor)
    return found


def _counters_of(loader: int) -> int:
    """Return the number of the map that has the counters."""
    for path in Path(f"/proc/{loader}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            fields = dict(line.split(":\t") for line in path.read_text().splitlines() if line.count(":\t") == 1)
            if fields.get("map_type") == _PERCPU_ARRAY:
                return int(fields["map_id"])
    raise AssertionError("its process has no counters")


def drops_at_shield(daemon: RunningDaemon, send: Callable[[Packet], None], packets: Sequence[Packet]) -> None:
    """Send packets; the shield, once it drops again after a change, drops and counts each once, and the gate none."""

    def dropped() -> int:
        return counted(daemon)["dropped"]

    def drops() -> bool:
        before = dropped()
        send(packets[0])
        time.sleep(0.005)  # one that is counted later would be one too many
        return dropped() > before

    until(drops, lambda: (counted(daemon), shield(daemon)))
    before, at_gate = dropped(), daemon.counters()
    for packet in packets:
        send(packet)
    until(lambda: dropped() >= before + len(packets), lambda: (before, dropped()))
    assert dropped() == before + len(packets)
    assert daemon.counters() == at_gate


def token_of(daemon: RunningDaemon) -> int:
    """Return the token by which the gate accepts the shield's word, from its rule."""
    text = daemon.host.run(["nft", "list", "chain", "inet", "doorward", "prerouting"]).stdout
    [rule] = [line for line in text.splitlines() if "goto shielded" in line]
    assert rule.strip().startswith("iifname @shielded ")
    major, minor = (int(part, 16) for part in rule.split("== ")[1].split()[0].split(":"))
    return major << 16 | minor
