"""A bounded flood of SYNs: `ip netns exec NAME python -m bench.flood --interface eth0 …`.

Frames are made beforehand and handed to the kernel 256 at a time (sendmmsg on AF_PACKET, no queueing
discipline). It refuses to run in the machine's own network namespace. Prints {sent, seconds, pps} as JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path as File
from typing import NamedTuple

from bench.frames import FRAME_BYTES, SLOT_BYTES, SPOOFED, SYN, Kind, Path, frames, random_sources
from doorward.lab.namespace import NAMESPACES

BATCH = 256  # frames a system call; beyond it the gain is lost in noise
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h
MAX_SECONDS = 60.0  # the bench needs no more, and nobody floods for long by mistake
MAX_SOURCES = 1 << 22
MAX_FRAMES = 1 << 16  # more sources differ from these in their first octet, which is replaced at each turn
ONE_SOURCE_FRAMES = BATCH * 64
FIRST_OCTET = SPOOFED.start >> 24
FULL_FOR_NOW = {errno.ENOBUFS, errno.EAGAIN, errno.EINTR}


class IoVector(ctypes.Structure):
    """One piece of memory to send (struct iovec)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """What to send and to whom (struct msghdr)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """One packet to send, and how much of it went (struct mmsghdr)."""

    _fields_ = (("header", Header), ("sent", ctypes.c_uint))


@dataclass(frozen=True, slots=True)
class Flooded:
    """What was sent, and how fast."""

    sent: int
    seconds: float
    pps: int


class Window:
    """A packet socket with `BATCH` slots of memory, which one system call sends.

    Each slot holds a frame's first bytes; `bodies` what follows them, where that is more than nothing.
    """

    def __init__(
        self, interface: str, frame_bytes: int = FRAME_BYTES, body_bytes: int = 0, slot_bytes: int = SLOT_BYTES
    ) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.bind((interface, 0))
        self._slots = (ctypes.c_char * (BATCH * slot_bytes))()
        self._bodies = (ctypes.c_char * (BATCH * body_bytes))()
        start, behind = ctypes.addressof(self._slots), ctypes.addressof(self._bodies)
        self._vectors = (IoVector * (2 * BATCH))()
        self._messages = (Message * BATCH)()
        for i, message in enumerate(self._messages):
            head, body = self._vectors[2 * i : 2 * i + 2]
            head.base, head.length = start + i * slot_bytes, frame_bytes
            body.base, body.length = behind + i * body_bytes, body_bytes
            message.header.vectors = ctypes.addressof(head)
            message.header.vector_count = 2 if body_bytes else 1
        self.slots, self.bodies = (memoryview(memory).cast("B") for memory in (self._slots, self._bodies))
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg

    def send(self, count: int) -> int:
        """Send the first `count` slots; the kernel may take fewer, or none for now."""
        taken: int = self._sendmmsg(self._socket.fileno(), self._messages, count, 0)
        if taken >= 0:
            return taken
        if ctypes.get_errno() not in FULL_FOR_NOW:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 0


class Traffic(NamedTuple):
    """What to send: frames of one kind, over and over, from so many sources in all."""

    kind: Kind
    frames: bytearray
    sources: int

    @property
    def turns(self) -> int:
        """Return in how many turns of all frames each source sends once."""
        return max(1, self.sources * self.kind.slot_bytes // len(self.frames))


def traffic(path: Path, kind: Kind, sources: int, ports: Sequence[int], seed: int) -> Traffic:
    """Build packets from so many random sources, or from whole batches of as many as fit, to the ports in turn."""
    few = whole_batches(random_sources(min(sources, MAX_FRAMES), seed))
    return Traffic(kind, frames(path, kind, few, ports, seed), sources)


def from_one(path: Path, kind: Kind, source: int, ports: Sequence[int], seed: int) -> Traffic:
    """Build packets from one source to the ports in turn, which differ in source port and sequence number."""
    return Traffic(kind, frames(path, kind, [source] * ONE_SOURCE_FRAMES, ports, seed), 1)


def flood(interface: str, traffic: Traffic, *, seconds: float, count: int = 1 << 40, pps: float = 0) -> Flooded:
    """Send until time or count runs out, at most `pps` (0: as fast as it goes)."""
    kind, view = traffic.kind, memoryview(traffic.frames)
    window, size = Window(interface, kind.frame_bytes, slot_bytes=kind.slot_bytes), BATCH * kind.slot_bytes
    batches = len(traffic.frames) // size
    sent = batch = 0
    start_s = now_s = time.perf_counter()
    while (elapsed_s := now_s - start_s) < seconds and sent < count:
        due = min(BATCH, count - sent, int(elapsed_s * pps) - sent if pps else BATCH)
        if due > 0:
            offset = batch % batches * size
            window.slots[:] = view[offset : offset + size]
            if traffic.turns > 1:
                replace_first_octets(window.slots, kind, FIRST_OCTET + batch // batches % traffic.turns)
            sent += window.send(due)
            batch += 1
        else:
            time.sleep(min(1 / pps, 0.001))
        now_s = time.perf_counter()
    return Flooded(sent, round(now_s - start_s, 3), round(sent / (now_s - start_s)))


def replace_first_octets(slots: memoryview, kind: Kind, octet: int) -> None:
    """Change the first octet of all sources, and with it what keeps the checksums right."""
    source_at, complements_at = kind.octets_at
    slots[source_at :: kind.slot_bytes] = bytes([octet]) * BATCH
    for at in complements_at:
        slots[at :: kind.slot_bytes] = bytes([255 - octet]) * BATCH


def whole_batches(sources: Sequence[int]) -> list[int]:
    """Cut or repeat sources so that they fill whole batches."""
    rounded = max(BATCH, len(sources) // BATCH * BATCH)
    return [sources[i % len(sources)] for i in range(rounded)]


def in_named_namespace() -> bool:
    """Tell whether this process runs in a network namespace that `ip netns` made."""
    own = File("/proc/self/ns/net")
    for name in NAMESPACES.iterdir() if NAMESPACES.is_dir() else ():
        with suppress(FileNotFoundError):  # others come and go
            if name.samefile(own):
                return True
    return False


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what does not fit together ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description="a bounded flood of TCP SYNs")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--mac", required=True, help="of the next hop")
    parser.add_argument("--destination", required=True, type=IPv4Address)
    parser.add_argument("--mode", choices=("random", "single", "alternate"), default="random",
                        help="many sources; one source and one port; one source and the ports in turn")  # fmt: skip
    parser.add_argument("--ports", required=True, type=lambda text: [int(port) for port in text.split(",")])
    parser.add_argument("--source", type=IPv4Address, default=IPv4Address("198.18.0.1"), help="where there is one")
    parser.add_argument("--sources", type=int, default=400_000, help="how many at random, default %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=1 << 40, help="stop after so many frames")
    parser.add_argument("--pps", type=float, default=0, help="frames a second at most, default: no limit")
    parser.add_argument("--cpu", type=int, help="stay on this processor")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= MAX_SECONDS or not BATCH <= args.sources <= MAX_SOURCES:
        parser.error(f"give --seconds up to {MAX_SECONDS:.0f} and --sources from {BATCH} to {MAX_SOURCES}")
    if args.mode == "single" and len(args.ports) != 1:
        parser.error("--mode single takes one port; --mode alternate takes several")
    if not in_named_namespace():
        parser.error("floods run in a namespace made for them (ip netns exec NAME …), not in the machine's own")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make the frames, send them, print the figures."""
    args = parse(argv)
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    own_mac = bytes.fromhex(File(f"/sys/class/net/{args.interface}/address").read_text().strip().replace(":", ""))
    path = Path(bytes.fromhex(args.mac.replace(":", "")), own_mac, args.destination)
    packets = (
        traffic(path, SYN, args.sources, args.ports, args.seed)
        if args.mode == "random"
        else from_one(path, SYN, int(args.source), args.ports, args.seed)
    )
    done = flood(args.interface, packets, seconds=args.seconds, count=args.count, pps=args.pps)
    print(json.dumps(asdict(done)))


if __name__ == "__main__":
    main()
