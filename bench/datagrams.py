"""A bounded flood of UDP datagrams with payloads from a file: `ip netns exec NAME python -m bench.datagrams …`.

Each frame is a header of its own before one of the payloads, in turn. It refuses to run in the machine's own network
namespace. Prints `sending` when it begins, and {sent, seconds, pps} as JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from ipaddress import IPv4Address
from itertools import cycle
from pathlib import Path as File
from typing import NamedTuple

from bench.flood import BATCH, MAX_SECONDS, Flooded, Window, in_named_namespace
from bench.frames import UDP, Path, random_sources
from bench.rig import PATIENCE_S
from doorward.lab.topology import Lab

HEADER_BYTES = 42  # Ethernet 14, IPv4 20, UDP 8
SLOT_BYTES = 64
MAX_SOURCES = 1 << 20  # 64 MiB of headers
IP_AND_UDP_BYTES, UDP_BYTES = 28, 8
SENDER_CPU = 0
# Ethernet: to, from, type | IPv4: version.., length, id, fragment, ttl.protocol, checksum, from, to
# UDP: from port, to port, length, checksum
HEADER = struct.Struct("!6s6sH" + "HHHHHHII" + "HHHH")


class Stream(NamedTuple):
    """What is sent: payloads of one length, in turn, each under a header of its own.

    `first`: the address of the first of so many `sources`; without it they are random. `pps` 0: as fast as it goes.
    `is_once`: it ends when each header was sent. Another `seed`: other random addresses.
    """

    payloads: Sequence[bytes]
    sources: int
    first: str = ""
    seconds: float = 5.0
    pps: float = 0
    is_once: bool = False
    seed: int = 1


class Flooding:
    """A flood that is under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Let it end now."""
        self._process.terminate()

    def finished(self) -> Flooded:
        """Wait for its end, and tell what the path let it send."""
        out, _ = self._process.communicate(timeout=PATIENCE_S + MAX_SECONDS)
        return Flooded(**json.loads(out))


@contextmanager
def pouring(lab: Lab, port: int, stream: Stream) -> Iterator[Flooding]:
    """Send from the lab's client to its server; inside, it has begun. It ends at its time, in any case."""
    with tempfile.NamedTemporaryFile(prefix="doorward-bench-") as payloads:
        payloads.write(b"".join(stream.payloads))
        payloads.flush()
        words = ["--interface", lab.client.interface, "--mac", lab.server.mac, "--destination", lab.server.ipv4]
        words += ["--port", port, "--payloads", payloads.name, "--payload-bytes", len(stream.payloads[0])]
        words += ["--sources", stream.sources, "--seconds", stream.seconds, "--pps", stream.pps, "--cpu", SENDER_CPU]
        words += ["--seed", stream.seed]
        words += ["--source", stream.first] if stream.first else []
        words += ["--once"] if stream.is_once else []
        process = lab.client.popen([sys.executable, "-m", "bench.datagrams", *words])
        assert process.stdout is not None
        if process.stdout.readline() != "sending\n":
            raise RuntimeError("the flood did not begin")
    yield Flooding(process)


def fold(total: int) -> int:
    """Return the internet checksum (RFC 1071) of words that add up to `total`."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def words(address: int) -> int:
    """Add up an address's two words, as the checksum does."""
    return (address >> 16) + (address & 0xFFFF)


def headers(path: Path, port: int, payloads: Sequence[bytes], sources: Sequence[int], seed: int) -> bytearray:
    """Build a header for each source; header i, at i * SLOT_BYTES, comes before payload i modulo their number."""
    size = len(payloads[0])
    sums = [int.from_bytes(payload.ljust(size + size % 2, b"\0")) % 0xFFFF for payload in payloads]
    buffer = bytearray(len(sources) * SLOT_BYTES)
    to, draw = int(path.destination), random.Random(seed).getrandbits
    length, datagram = size + IP_AND_UDP_BYTES, size + UDP_BYTES
    fixed_ip = 0x4500 + length + 0x4000 + (64 << 8 | UDP) + words(to)  # identification 0, don't fragment
    fixed_udp = words(to) + UDP + 2 * datagram + port
    for slot, (source, payload_sum) in enumerate(zip(sources, cycle(sums), strict=False)):
        from_port = 1024 + draw(15)
        udp_sum = fold(fixed_udp + words(source) + from_port + payload_sum) or 0xFFFF  # 0 would say: none
        HEADER.pack_into(
            buffer, slot * SLOT_BYTES,
            path.to_mac, path.from_mac, 0x0800,
            0x4500, length, 0, 0x4000, 64 << 8 | UDP, fold(fixed_ip + words(source)), source, to,
            from_port, port, datagram, udp_sum,
        )  # fmt: skip
    return buffer


def send(
    window: Window, heads: bytearray, payloads: Sequence[bytes], pps: float, is_over: Callable[[float, int], bool]
) -> Flooded:
    """Send header after header, each before its payload, until the seconds and the number sent say that it is over."""
    size, count = len(payloads[0]), len(heads) // SLOT_BYTES
    head_view = memoryview(heads)
    repeated = [payloads[i % len(payloads)] for i in range(len(payloads) + BATCH)]  # a batch may go past the last
    body_view = memoryview(b"".join(repeated))
    sent = 0
    start_s = now_s = time.perf_counter()
    while not is_over(elapsed_s := now_s - start_s, sent):
        head = sent % count
        body = head % len(payloads)
        due = min(BATCH, count - head, int(elapsed_s * pps) - sent if pps else BATCH)
        if due > 0:
            window.slots[: due * SLOT_BYTES] = head_view[head * SLOT_BYTES : (head + due) * SLOT_BYTES]
            window.bodies[: due * size] = body_view[body * size : (body + due) * size]
            sent += window.send(due)
        else:
            time.sleep(min(1 / pps, 0.001))
        now_s = time.perf_counter()
    return Flooded(sent, round(now_s - start_s, 3), round(sent / (now_s - start_s)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what does not fit together ends the program with a message."""
    parser = argparse.ArgumentParser(prog="python -m bench.datagrams", description="a bounded flood of UDP datagrams")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--mac", required=True, help="of the next hop")
    parser.add_argument("--destination", required=True, type=IPv4Address)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--payloads", required=True, type=File, help="a file: one behind the other")
    parser.add_argument("--payload-bytes", required=True, type=int)
    parser.add_argument("--source", type=IPv4Address, help="the first of --sources addresses; else they are random")
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--once", action="store_true", help="end when there was one datagram from each source")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pps", type=float, default=0, help="datagrams a second at most, default: no limit")
    parser.add_argument("--cpu", type=int, help="stay on this processor")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= MAX_SECONDS or not 0 < args.sources <= MAX_SOURCES:
        parser.error(f"give --seconds up to {MAX_SECONDS:.0f} and --sources up to {MAX_SOURCES}")
    if not in_named_namespace():
        parser.error("floods run in a namespace made for them (ip netns exec NAME …), not in the machine's own")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make the headers, send them, print the figures."""
    args = parse(argv)
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    raw, size = args.payloads.read_bytes(), args.payload_bytes
    payloads = [raw[at : at + size] for at in range(0, len(raw), size)]
    if args.source is None:
        sources: Sequence[int] = random_sources(args.sources, args.seed)
    else:
        sources = range(int(args.source), int(args.source) + args.sources)
    many = [*sources] if args.once else [sources[i % len(sources)] for i in range(max(len(sources), len(payloads)))]
    own_mac = bytes.fromhex(File(f"/sys/class/net/{args.interface}/address").read_text().strip().replace(":", ""))
    path = Path(bytes.fromhex(args.mac.replace(":", "")), own_mac, args.destination)
    heads = headers(path, args.port, payloads, many, args.seed)
    window, asked = Window(args.interface, HEADER_BYTES, size), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    print("sending", flush=True)

    def is_over(elapsed_s: float, sent: int) -> bool:
        return elapsed_s >= args.seconds or bool(asked) or (args.once and sent >= len(many))

    done = send(window, heads, payloads, args.pps, is_over)
    print(json.dumps(asdict(done)))


if __name__ == "__main__":
    main()
