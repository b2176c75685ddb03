"""The second engine: what Ring, parser and tracker take of a flood on one processor, beside Debian's knockd.

`python -m bench.ring` is the engine alone, inside a lab's server: it prints a line when it is ready, and what it
took (JSON) when the flood is over.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.rig import KNOCK, PATIENCE_S, knockd
from bench.table import Bound, Row, alternate
from doorward.core.automaton import compile_doors
from doorward.core.tracker import Tracker
from doorward.kernel.bpf import knock_filter
from doorward.kernel.tpacket import TpacketRing
from doorward.lab.topology import Lab
from doorward.model import Door, Port, Protocol

SECONDS = 3.0
SOURCES = 65_536
ENGINE_CPU, SENDER_CPU = 1, 0
CAPACITY = 1 << 20
SILENCE_S = 0.5
# Packet sockets come before the packet filter: behind them nothing answers, so that the sender, whose processor runs
# the server's IP stack too, gets to a speed that fills the ring.
DROP = """
table inet silence {
    chain prerouting { type filter hook prerouting priority raw; policy accept; tcp dport 1-65535 drop; }
}"""
STEPS = 14  # tries to find a rate without loss, each 5 % lower
LEAST_PPS = 250_000
SOL_PACKET, PACKET_STATISTICS = 263, 6
PIDFD_GETFD = 438  # the system call, Linux 5.6


class Taken(NamedTuple):
    """What an engine made of one flood: packets offered, taken and lost, and what that took."""

    offered: int
    seconds: float
    taken: int
    lost: int
    cpu_s: float

    @property
    def pps(self) -> float:
        return self.taken / self.seconds

    @property
    def loss_percent(self) -> float:
        return 100 * self.lost / max(1, self.taken + self.lost)


class Found(NamedTuple):
    """One engine at the sender's full speed, and at the highest rate without loss."""

    full: Taken
    lossless: Taken


def rows(runs: int) -> list[Row]:
    """Flood each engine in turn; medians over the runs."""
    with Lab(direct=True) as ours, Lab(direct=True) as theirs, knockd(theirs) as daemon:
        os.sched_setaffinity(daemon.pid, {ENGINE_CPU})
        for lab in (ours, theirs):
            lab.server.run(["nft", "-f", "-"], stdin=DROP)
        found: list[Found] = []
        peers: list[Taken] = []

        def own() -> float:
            found.append(without_loss(ours))
            return found[-1].lossless.pps

        def peer() -> float:
            peers.append(of_knockd(theirs, daemon.pid))
            return peers[-1].pps

        rates = alternate({"doorward": own, "knockd": peer}, runs)
    full = [each.full for each in found]
    offered = median(each.offered / each.seconds for each in full)
    return [
        Row(f"ring engine: taken on one core with no loss, of {offered:,.0f} offered (peer: knockd handled)",
            "packets/s", "higher", median(rates["doorward"]), median(rates["knockd"]), Bound("value", ">=", LEAST_PPS)),
        Row("the same at the sender's full speed: loss", "%", "lower",
            median(each.loss_percent for each in full), median(each.loss_percent for each in peers)),
        Row("the same: packets a second of processor time", "packets/s", "higher",
            median(each.taken / each.cpu_s for each in full), median(each.taken / each.cpu_s for each in peers)),
    ]  # fmt: skip


def without_loss(lab: Lab) -> Found:
    """Flood the ring at full speed, then from above what it took then downwards until it loses nothing."""
    full = tried = of_ring(lab, 0)
    for step in range(STEPS):
        if not tried.lost:
            return Found(full, tried)
        tried = of_ring(lab, full.pps * (1.2 - 0.05 * step))
    return Found(full, tried if not tried.lost else tried._replace(taken=0))  # no rate without loss: none to tell


def of_ring(lab: Lab, pps: float) -> Taken:
    """Run the engine through one flood."""
    engine = lab.server.popen([sys.executable, "-m", "bench.ring"])
    assert engine.stdout is not None
    engine.stdout.readline()
    offered, seconds = flooded(lab, pps)
    counted = json.loads(engine.communicate(timeout=PATIENCE_S)[0])
    return Taken(offered, seconds, counted["taken"], counted["lost"], counted["cpu_s"])


def of_knockd(lab: Lab, pid: int) -> Taken:
    """Flood knockd at full speed and read its socket's own counts."""
    with packet_socket_of(pid) as borrowed:
        statistics(borrowed)  # reading them sets them back
        before_s = cpu_s(pid)
        offered, seconds = flooded(lab, 0)
        time.sleep(SILENCE_S)
        packets, drops = statistics(borrowed)
        return Taken(offered, seconds, packets - drops, drops, cpu_s(pid) - before_s)


def flooded(lab: Lab, pps: float) -> tuple[int, float]:
    """Send one flood from the client to the server; give how many packets went, and in what time."""
    words = ["--interface", lab.client.interface, "--mac", lab.server.mac, "--destination", lab.server.ipv4]
    words += ["--ports", KNOCK[0].number, "--sources", SOURCES, "--seconds", SECONDS, "--pps", pps]
    done = lab.client.run([sys.executable, "-m", "bench.flood", *words, "--cpu", SENDER_CPU], timeout_s=PATIENCE_S)
    said = json.loads(done.stdout)
    return said["sent"], said["seconds"]


@contextmanager
def packet_socket_of(pid: int) -> Iterator[socket.socket]:
    """Borrow a process's packet socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            handle = libc.syscall(PIDFD_GETFD, process, int(entry.name), 0)
            if handle < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            with socket.socket(fileno=handle) as borrowed:
                if borrowed.family == socket.AF_PACKET:
                    yield borrowed
                    return
    finally:
        os.close(process)
    raise RuntimeError(f"process {pid} has no packet socket")


def statistics(borrowed: socket.socket) -> tuple[int, int]:
    """Return the packets that came and those that were dropped, since the last call."""
    packets, drops = struct.unpack_from("II", borrowed.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
    return packets, drops


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, with its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Be the engine: take packets until none has come for a while."""
    os.sched_setaffinity(0, {ENGINE_CPU})
    automaton = compile_doors([Door("ssh", KNOCK, (Port(Protocol.TCP, 22),))])
    flags = [machine.flags for machine in automaton.machines]
    ring = TpacketRing((), knock_filter(flags, never=automaton.ignored_ports))
    moves, taken = Tracker(automaton, CAPACITY).transitions, 0
    print("ready", flush=True)
    select.select([ring], [], [], PATIENCE_S)
    while select.select([ring], [], [], SILENCE_S)[0]:
        for packets, now_ns in ring.read():
            for packet in packets:
                moves(packet, now_ns)
            taken += len(packets)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"taken": taken, "lost": ring.drops(), "cpu_s": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    main()
