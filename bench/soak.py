"""Hours of mixed knocks, floods, reloads, restarts, kills and flushes, in a lab: what was wanted, and what came.

`python -m bench.soak --minutes 60` prints a line a minute and a table at the end; its exit status is 1 where anybody
was not let in, somebody was who should not be, or the daemon wrote what it should not.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from doorward.errors import DoorwardError
from doorward.lab.topology import Lab
from tests.support.daemon import PATIENCE_S, RunningDaemon, Visitor, Visitors, running_daemon
from tests.support.processes import descriptors_of, family_of, resident_bytes

CONFIG = """
[gate]
mode = "{mode}"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "3s"
"""
SEQUENCE = ("7001", "7002:udp", "7003")
FOR_S = 3.0
VISITORS = {4: 160, 6: 80}
A_ROUND = 8  # visitors, at random
REST_S = 8.0  # a visitor comes again when its opening has ended, and its place in every set
FLOOD_PPS, FLOOD_S = 40_000, 3.0
CONNECT_S = 3.5  # TCP repeats a SYN that a flood crowded out of the wire's queue
FLOODS = (("random", "7001"), ("random", "7003"), ("random", "22"), ("alternate", "7001,7009"))
TURNS = {"quiet": 4, "flood": 3, "reload": 3, "restart": 2, "kill": 2, "flush": 2, "scan": 2}
GROWTH_BYTES = 8 << 20


class Soak:
    """The daemon, its visitors, and what happened so far."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, chance: random.Random) -> None:
        self._lab, self._daemon, self._chance = lab, daemon, chance
        visitors = Visitors(lab)
        crowd = [visitor for version, count in VISITORS.items() for visitor in visitors.crowd(version, count)]
        self._resting = [(0.0, visitor) for visitor in chance.sample(crowd, len(crowd))]
        self._stranger = visitors.fresh(4)
        self._modes = ["guard", "stealth"]
        self.turns: Counter[str] = Counter()
        self.wanted = self.got = self.checked = self.still_open = self.strangers_in = self.packets = 0

    def turn(self) -> None:
        """Do one thing to the daemon, with visitors before, during and after."""
        name = self._chance.choices([*TURNS], [*TURNS.values()])[0]
        self.turns[name] += 1
        turns: dict[str, Callable[[], None]] = {
            "quiet": self._visit, "flood": self._flood, "reload": self._reload, "restart": self._restart,
            "kill": self._kill, "flush": self._flush, "scan": self._scan,
        }  # fmt: skip
        turns[name]()
        self._visit()

    def size(self) -> tuple[int, int, int]:
        """Return the daemon's processes, descriptors and resident bytes."""
        family = family_of(self._daemon.process.pid)
        return len(family), sum(map(descriptors_of, family)), sum(map(resident_bytes, family))

    def _visit(self) -> None:
        """Let some knock and connect, and see that they are shut out when their time is over."""
        since_s, visitors = self._take()
        for visitor in visitors:
            self.wanted += 1
            self.got += self._gets_in(visitor)
        time.sleep(FOR_S + 0.5)  # the kernel ends openings, and tells nobody
        checked = self._chance.choice(visitors)
        self.checked += 1
        self.still_open += checked.gets_in()
        self._resting += [(since_s + REST_S, visitor) for visitor in visitors]

    def _take(self) -> tuple[float, list[Visitor]]:
        self._resting.sort(key=lambda entry: entry[0])
        taken, self._resting = self._resting[:A_ROUND], self._resting[A_ROUND:]
        time.sleep(max(0.0, taken[-1][0] - time.monotonic()))
        return time.monotonic(), [visitor for _, visitor in taken]

    def _gets_in(self, visitor: Visitor) -> bool:
        try:
            visitor.knock(*SEQUENCE)
            visitor.connect(timeout_s=CONNECT_S).close()
        except (TimeoutError, AssertionError):
            return False
        return True

    def _flood(self) -> None:
        kind, ports = self._chance.choice(FLOODS)
        words = ["--interface", self._lab.client.interface, "--mac", self._lab.server.mac, "--mode", kind]
        words += ["--destination", str(self._lab.server.ipv4), "--ports", ports, "--pps", str(FLOOD_PPS)]
        words += ["--seconds", str(FLOOD_S), "--sources", "65536", "--seed", str(self._chance.randrange(1 << 30))]
        flooding = self._lab.client.popen([sys.executable, "-m", "bench.flood", *words])
        self._visit()
        out, _ = flooding.communicate(timeout=PATIENCE_S)
        self.packets += json.loads(out)["sent"]

    def _reload(self) -> None:
        self._modes.reverse()
        self._daemon.config.write_text(CONFIG.format(mode=self._modes[0]))
        self._daemon.process.send_signal(signal.SIGHUP)

    def _restart(self) -> None:
        self._daemon.end(signal.SIGTERM)
        self._start()

    def _kill(self) -> None:
        self._daemon.end(signal.SIGKILL)
        self._start()

    def _flush(self) -> None:
        self._lab.server.run(["nft", "flush", "ruleset"])
        deadline_s = time.monotonic() + PATIENCE_S
        while "inet doorward" not in self._daemon.ruleset() and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def _scan(self) -> None:
        """A stranger tries the hidden port, and sweeps the knock ports."""
        self.strangers_in += self._stranger.gets_in()
        with suppress(AssertionError, subprocess.SubprocessError):
            self._stranger.knock(*map(str, range(6990, 7010)))
        self.strangers_in += self._stranger.gets_in()

    def _start(self) -> None:
        self._daemon.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while True:  # READY=1 may have been that of a reload before
            with suppress(DoorwardError):
                self._daemon.ask("status")
                return
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the daemon does not answer; it wrote: {self._daemon.lines[-20:]}")
            time.sleep(0.02)


def main() -> int:
    """Run for the time asked for; print figures; give the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="a bounded soak test in network namespaces")
    parser.add_argument("--minutes", type=float, default=60, help="how long, at most 1,440; default: %(default)g")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not 0 < args.minutes <= 24 * 60:
        parser.error(f"--minutes {args.minutes:g}: write more than 0, and at most 1440")
    with Lab(direct=True) as lab, tempfile.TemporaryDirectory(prefix="doorward-soak-") as folder:
        lab.server.start_greeter(22)
        with running_daemon(lab.server, Path(folder), CONFIG.format(mode="guard")) as daemon:
            return soak(Soak(lab, daemon, random.Random(args.seed)), daemon, args.minutes)


def soak(run: Soak, daemon: RunningDaemon, minutes: float) -> int:
    """Take turns until the time is over."""
    start_s = time.monotonic()
    for _ in range(3):  # warm up: every part has done its work
        run.turn()
    before, report_s = run.size(), time.monotonic()
    while time.monotonic() < start_s + minutes * 60:
        run.turn()
        if time.monotonic() > report_s + 60:
            report_s = time.monotonic()
            print(f"{(report_s - start_s) / 60:5.1f} min  openings {run.got:,} of {run.wanted:,}", flush=True)
    after = run.size()
    levels = Counter(event["level"] for event in daemon.events() if event["event"] == "message")
    foreign = [line for line in daemon.lines if not line.startswith("{")]
    rows = {
        "minutes": f"{(time.monotonic() - start_s) / 60:.1f}",
        "turns": ", ".join(f"{name} {count}" for name, count in sorted(run.turns.items())),
        "flood packets": f"{run.packets:,}",
        "openings wanted / got": f"{run.wanted:,} / {run.got:,}",
        "openings recorded in the ledger": f"{sum(r['event'] == 'opened' for r in daemon.log('--last', 10**6)):,}",
        "shut again, of those looked at": f"{run.checked - run.still_open:,} of {run.checked:,}",
        "strangers let in": f"{run.strangers_in}",
        "processes, start / end": f"{before[0]} / {after[0]}",
        "descriptors, start / end": f"{before[1]} / {after[1]}",
        "resident MiB (all processes), start / end": f"{before[2] / 2**20:.1f} / {after[2] / 2**20:.1f}",
        "log messages": ", ".join(f"{level} {count}" for level, count in sorted(levels.items())),
        "errors and tracebacks": f"{levels['error'] + len(foreign)}",
    }
    for name, value in rows.items():
        print(f"{name:45} {value}")
    grown = after[2] - before[2] > GROWTH_BYTES or after[:2] != before[:2]
    wrong = run.got < run.wanted or run.still_open or run.strangers_in or levels["error"] or foreign or grown
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
