"""Floods without sk_buffs, as a device with native XDP delivers them, beside a rule that only drops.

The kernel runs a program for copies of a frame (BPF_PROG_TEST_RUN), which redirects them into the client's veth; the
server's has NAPI. What is measured, and how often, is as in bench/shield.py.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path as File
from random import getrandbits
from typing import Any, NamedTuple

from bench.frames import FRAME_BYTES, frames
from bench.path import dropping
from bench.shield import FLOODS, Flood, beside, guarding, path_of, sending
from bench.table import Bound, Row
from doorward.lab.topology import Lab
from doorward.shield import libbpf
from hatch_build import compile_shield

WHICH = (
    "1 source, first knock port and another in turn",
    "1 M sources, first knock port",
    "1 M sources, another port",
    "1 M sources, a door's port",
)
SHIELDS = "off", "on", "xdp"
LEAST_RECEIVED = 0.99  # of what was sent; the veth drops what its ring cannot hold
FRAMES = 1 << 16  # a system call
BATCH = 64  # NAPI's budget
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES: the program's verdict is carried out
# struct bpf_test_run_opts: its size, data in and out, their sizes, the same of the context, result, repeat, duration,
# flags, processor, batch size
TEST_RUN = struct.Struct("@N2P2I2P2I6I")
SETTINGS = struct.Struct("=5I")  # as in xdp.bpf.c
SOURCE = File(__file__).with_name("xdp.bpf.c")
SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C
NATIVE = 1  # XDP_ATTACHED_DRV


class Sender(NamedTuple):
    """The program that sends, loaded, and the map of its settings: descriptors."""

    program: int
    settings: int

    def rate(self, what: Flood, lab: Lab, seconds: float) -> float:
        """Send from the lab's client to its server; return the packets per second of processor time."""
        frame = bytes(frames(path_of(lab, 4), what.kind, [0], [0], 1)[:FRAME_BYTES])
        before = received(lab)
        sent, spent_s = sending(lab, lambda: self._send(frame, what, lab.client.interface, seconds))
        arrived = received(lab) - before
        if arrived < LEAST_RECEIVED * sent:
            raise RuntimeError(f"of {sent:,} frames {arrived:,} were received")
        return arrived / spent_s

    def _send(self, frame: bytes, what: Flood, interface: str, seconds: float) -> int:
        ports = what.ports[0], what.ports[-1]
        settings = SETTINGS.pack(socket.if_nametoindex(interface), what.sources - 1, *ports, getrandbits(32))
        checked(libbpf.library().bpf_map_update_elem(self.settings, bytes(4), settings, 0))
        data, sent, end_s = ctypes.create_string_buffer(frame, len(frame)), 0, time.monotonic() + seconds
        run = TEST_RUN.size, ctypes.addressof(data), 0, len(frame), 0, 0, 0, 0, 0, 0, FRAMES, 0, LIVE_FRAMES, 0, BATCH
        while time.monotonic() < end_s:
            options = ctypes.create_string_buffer(TEST_RUN.pack(*run), TEST_RUN.size)
            checked(libbpf.library().bpf_prog_test_run_opts(self.program, options))
            sent += FRAMES
        return sent


@contextmanager
def loaded() -> Iterator[Sender]:
    """Compile and load the program that sends."""
    library = libbpf.library()
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        shutil.copy(SOURCE, folder)
        if not compile_shield(File(folder), f"-I{File(libbpf.__file__).parent}"):
            raise RuntimeError("clang or libbpf-dev is not installed")
        compiled = File(folder, SOURCE.name).with_suffix(".o")
        found = checked(library.bpf_object__open_file(str(compiled).encode(), None))
    try:
        checked(library.bpf_object__load(found))
        program = checked(library.bpf_object__find_program_by_name(found, b"send_frame"))
        settings = checked(library.bpf_object__find_map_by_name(found, b".bss"))
        yield Sender(library.bpf_program__fd(program), library.bpf_map__fd(settings))
    finally:
        library.bpf_object__close(found)


def checked(result: Any) -> Any:
    """Return what libbpf returned, unless that is a failure."""
    if result is None or result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def switch_on_napi(interface: str) -> None:
    """Let a veth receive frames without sk_buffs, through GRO, which needs NAPI."""
    value = ctypes.create_string_buffer(struct.pack("=2I", ETHTOOL_SGRO, 1))
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(value)))


def device(lab: Lab) -> Any:
    """Return what ip(8) shows of the server's interface."""
    [link] = json.loads(lab.server.ip("-json", "-statistics", "link", "show", "dev", lab.server.interface))
    return link


def received(lab: Lab) -> int:
    return int(device(lab)["stats64"]["rx"]["packets"])


def rows(runs: int) -> list[Row]:
    """Measure floods at XDP, and at tcx as information, with 1 door; their peer is the gate alone."""
    with ExitStack() as stack:
        sender, drop = stack.enter_context(loaded()), stack.enter_context(dropping())
        gates = {shield: stack.enter_context(guarding(1, shield=shield)).lab for shield in SHIELDS}
        for lab in (drop, *gates.values()):
            lab.server.call(switch_on_napi, lab.server.interface)
        if device(gates["xdp"]).get("xdp", {}).get("mode") != NATIVE:
            raise RuntimeError("the shield is not attached at XDP")
        found = {name: beside(drop, gates, partial(sender.rate, FLOODS[name]), runs) for name in WHICH}
    return [
        Row(f"without sk_buffs: {name}, {where} (peer: no shield)", "of a drop rule", "higher",
            ratios[shield], ratios["off"], must)
        for name, ratios in found.items()
        for shield, where, must in (("xdp", "at XDP", Bound("value", ">=", 1.0)), ("on", "at tcx", None))
    ]  # fmt: skip
