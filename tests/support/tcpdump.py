"""tcpdump on a lab's host, its capture read as it is written."""

from __future__ import annotations

import signal
import struct
import subprocess
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from doorward.errors import MalformedError
from doorward.lab.namespace import NamespaceHost
from doorward.packets.datalink import strip_link_header
from doorward.packets.decode import decode_flow
from doorward.packets.pcap import CapturedFrame, CaptureFile
from tests.support.daemon import PATIENCE_S

MARKER = 9  # discard/udp: no test knocks there


class Tcpdump:
    """Captures until it is stopped. `frames` is what it wrote so far, `raw` the same as bytes."""

    def __init__(self, host: NamespaceHost, *words: str) -> None:
        # With the usual 256 KiB a packet its ring has room for eight in immediate mode; signed knocks are 1,372 bytes.
        command = ["tcpdump", "-n", "-Z", "root", "-U", "--immediate-mode", "-s", "1500", "-w", "-", *words]
        self._process = host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False, bufsize=-1)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._output = self._process.stdout
        said = b""
        while b"listening on" not in said:
            line: bytes = self._process.stderr.readline()  # type: ignore[assignment]
            assert line, f"tcpdump ended: {said.decode()}"
            said += line
        self.frames: list[CapturedFrame] = []
        self.raw = bytearray()
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_frames(self, count: int) -> list[CapturedFrame]:
        """Wait until so many frames were captured."""
        with self._more:
            came = self._more.wait_for(lambda: len(self.frames) >= count, PATIENCE_S)
            assert came, f"{len(self.frames)} frames of {count}"
            return self.frames[:count]

    def read(self, count: int) -> bytes:
        """Read from tcpdump, and keep what was read."""
        data: bytes = self._output.read(count)  # type: ignore[assignment]
        self.raw += data
        return data

    def await_marker(self, number: int) -> None:
        """Wait until the datagram from this source port to `MARKER` was captured."""
        with self._more:
            came = self._more.wait_for(lambda: any(_marks(frame, number) for frame in self.frames[-50:]), PATIENCE_S)
        assert came, f"no marker among {len(self.frames)} frames"

    def stop(self) -> None:
        """End tcpdump in order, and wait for the end of what it wrote."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def _read(self) -> None:
        for frame in CaptureFile(self):  # type: ignore[arg-type]
            with self._more:
                self.frames.append(frame)
                self._more.notify_all()


@contextmanager
def tcpdump(host: NamespaceHost, *words: str) -> Iterator[Tcpdump]:
    """Capture until the end of the block."""
    found = Tcpdump(host, *words)
    try:
        yield found
    finally:
        found.stop()


def _marks(frame: CapturedFrame, number: int) -> bool:
    try:
        flow = decode_flow(strip_link_header(frame.link, frame.data).packet)
    except MalformedError:
        return False
    return flow.port is not None and flow.port.number == MARKER and flow.source_port == number


def concerning(frames: Iterable[CapturedFrame], addresses: Collection[bytes]) -> list[CapturedFrame]:
    """Return the frames from or to some addresses."""
    found = []
    for frame in frames:
        try:
            flow = decode_flow(strip_link_header(frame.link, frame.data).packet)
        except MalformedError:
            continue
        if {flow.source, flow.destination, *((flow.about.source,) if flow.about else ())} & set(addresses):
            found.append(frame)
    return found


def write_pcap(path: Path, frames: Iterable[CapturedFrame], *, order: str = "<", nanoseconds: bool = False) -> Path:
    """Write frames of one link type as pcap."""
    frames = list(frames)
    link = frames[0].link if frames else 1
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 262144, link)]
    for frame in frames:
        seconds, rest = divmod(frame.at_ns, 1_000_000_000)
        fraction = rest if nanoseconds else rest // 1000
        parts.append(struct.pack(order + "IIII", seconds, fraction, len(frame.data), frame.length) + frame.data)
    path.write_bytes(b"".join(parts))
    return path


def pcapng_block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Give one block of pcapng."""
    padded = body + bytes(-len(body) % 4)
    size = 12 + len(padded)
    return struct.pack(order + "II", kind, size) + padded + struct.pack(order + "I", size)


def pcapng_option(kind: int, value: bytes, order: str = "<") -> bytes:
    """Give one option of a pcapng block."""
    return struct.pack(order + "HH", kind, len(value)) + value + bytes(-len(value) % 4)


def pcapng_section(order: str = "<") -> bytes:
    """Return a section header."""
    return pcapng_block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def pcapng_interface(link: int, name: str = "", *, order: str = "<", options: bytes = b"") -> bytes:
    """Describe an interface."""
    named = pcapng_option(2, name.encode(), order) if name else b""
    end = pcapng_option(0, b"", order) if named or options else b""
    return pcapng_block(1, struct.pack(order + "HHI", link, 0, 0) + named + options + end, order)


def pcapng_packet(frame: CapturedFrame, interface: int = 0, *, order: str = "<", units_per_s: int = 1_000_000) -> bytes:
    """Return an enhanced packet block."""
    units = frame.at_ns * units_per_s // 1_000_000_000
    head = struct.pack(order + "IIIII", interface, units >> 32, units & 0xFFFFFFFF, len(frame.data), frame.length)
    return pcapng_block(6, head + frame.data, order)


def write_pcapng(path: Path, frames: Iterable[CapturedFrame], name: str, *, order: str = "<") -> Path:
    """Write frames of one link type as pcapng, from an interface of this name."""
    frames = list(frames)
    parts = [pcapng_section(order), pcapng_interface(frames[0].link, name, order=order)]
    path.write_bytes(b"".join([*parts, *(pcapng_packet(frame, order=order) for frame in frames)]))
    return path
