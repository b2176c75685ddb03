"""doorward with signed knocks on a lab's server, and what is read off it: openings, processor time, counters."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.datagrams import Stream, pouring
from bench.flood import Flooded
from bench.knocks import PORT, SIGNERS, Keys
from bench.reach import Service
from bench.rig import PATIENCE_S, doorward_in, family, run_s
from doorward.lab.topology import Lab

SERVER_CPU = 1  # all of doorward's processes; the sender has the other
READY = "accepting signed knocks"
LOOK_S, QUIET_S = 0.05, 0.5


class Taken(NamedTuple):
    """What became of a stream: sent, opened, in what time, with how much of the processor."""

    flooded: Flooded
    opened: int
    seconds: float
    cpu_s: float


class Refused(NamedTuple):
    """What became of a flood: sent, dropped by the gate's own limits, given to the daemon, and lost on that way."""

    flooded: Flooded
    dropped: int
    handed: int
    lost: int
    cpu_s: float

    @property
    def read(self) -> int:
        return self.handed - self.lost


class Server(NamedTuple):
    """A daemon that accepts signed knocks."""

    lab: Lab
    daemon: subprocess.Popen[str]
    folder: Path
    keys: Keys

    @property
    def service(self) -> Service:
        return Service(str(self.lab.server.ipv4), PORT)

    def openings(self) -> int:
        """Count what the ledger has recorded."""
        with closing(sqlite3.connect(f"file:{self.folder}/ledger.sqlite3?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM openings").fetchone()[0])

    def cpu_s(self) -> float:
        """Return what all its processes have used."""
        return sum(map(run_s, family(self.daemon.pid)))

    def counters(self) -> dict[str, int]:
        """Return the packets that each of the gate's counters has seen."""
        said = json.loads(self.lab.server.run(["nft", "-j", "list", "counters", "table", "inet", "doorward"]).stdout)
        found = [item["counter"] for item in said["nftables"] if "counter" in item]
        return {counter["name"]: counter["packets"] for counter in found}

    def lost(self) -> int:
        """Count the datagrams that found the daemon's netlink socket full."""
        rows = [row.split() for row in Path(f"/proc/{self.daemon.pid}/net/netlink").read_text().splitlines()]
        return sum(int(row[rows[0].index("Drops")]) for row in rows[1:] if row[1] == "12")  # NETLINK_NETFILTER

    def pin(self) -> None:
        """Keep all its processes on one processor."""
        for pid in family(self.daemon.pid):
            os.sched_setaffinity(pid, {SERVER_CPU})

    def settled(self) -> tuple[int, float]:
        """Wait until no opening has been recorded for a while; gives their number, and when the last was."""
        count, since_s = self.openings(), time.perf_counter()
        while time.perf_counter() < since_s + QUIET_S:
            time.sleep(LOOK_S)
            if (now := self.openings()) != count:
                count, since_s = now, time.perf_counter()
        return count, since_s

    def take(self, packets: list[bytes], pps: float) -> Taken:
        """Send it distinct packets, each from an address of its own."""
        before, cpu_s = self.openings(), self.cpu_s()
        seed = random.getrandbits(32)  # an address that is in already is not a new opening
        stream = Stream(packets, len(packets), seconds=PATIENCE_S, pps=pps, is_once=True, seed=seed)
        with pouring(self.lab, PORT, stream) as flooding:
            start_s = time.perf_counter()
            flooded = flooding.finished()
        opened, end_s = self.settled()
        return Taken(flooded, opened - before, end_s - start_s, self.cpu_s() - cpu_s)

    def refuse(self, stream: Stream, kind: str = "signed") -> Refused:
        """Flood it; `kind`: how the gate counts these datagrams."""
        before, lost, cpu_s = self.counters(), self.lost(), self.cpu_s()
        with pouring(self.lab, PORT, stream) as flooding:
            flooded = flooding.finished()
        idle(self.cpu_s)
        after = self.counters()
        grown = {name: after[name] - before[name] for name in after if name == kind or name.startswith(f"{kind}_")}
        handed = grown.pop(kind)
        return Refused(flooded, sum(grown.values()), handed, self.lost() - lost, self.cpu_s() - cpu_s)


def idle(cpu_s: Callable[[], float]) -> None:
    """Wait until what has used so much of a processor uses no more: it has worked off what waited."""
    used_s, until_s = cpu_s(), time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        time.sleep(LOOK_S)
        if (now_s := cpu_s()) - used_s < LOOK_S / 10:
            return
        used_s = now_s


@contextmanager
def serving(lab: Lab, keys: Keys, authorized: int = SIGNERS) -> Iterator[Server]:
    """Run doorward with so many authorized keys; inside, it accepts signed knocks."""
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as name:
        folder = Path(name)
        keys.write(folder, authorized)
        with doorward_in(lab, folder) as daemon:
            until_s = time.monotonic() + PATIENCE_S
            while READY not in (folder / "log").read_text():
                if time.monotonic() > until_s or daemon.poll() is not None:
                    raise RuntimeError(f"doorward accepts no signed knocks: {(folder / 'log').read_text()}")
                time.sleep(0.01)
            yield Server(lab, daemon, folder, keys)
