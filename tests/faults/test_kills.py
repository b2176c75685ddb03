"""kill -9 at random moments of load: after the next start, gate, ledger and daemon agree, and nothing was lost."""

from __future__ import annotations

import random
import signal
import threading
from contextlib import closing, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from doorward.errors import DoorwardError
from doorward.lab.topology import Lab
from doorward.model import Packet, Port, Source
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.effort import EFFORT
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns

CONFIG = """
[gate]
mode = "{mode}"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
KNOCK = [Port.parse(text) for text in ("7001/tcp", "7002/udp", "7003/tcp")]
KILLS = 10 * EFFORT  # for each seed
LATEST_S = 0.12  # after the start: some 60 openings, closings and reloads
CLOSE_S = 0.6  # of one opening's time in the ledger and in the kernel


class Load:
    """Openings, closings and reloads, and what must come of them, whenever the daemon dies."""

    def __init__(self, lab: Lab, daemon: RunningDaemon, seed: int) -> None:
        self._lab, self._daemon, self._random = lab, daemon, random.Random(seed)
        self._frames = FrameSender(lab.client, lab.server)
        self._addresses = (IPv4Address("10.20.0.1") + n for n in range(1 << 16))
        self.open: set[Source] = set()  # must be in
        self.unsure: set[Source] = set()  # asked for, and the answer did not come
        self.done = 0
        self._how: dict[Source, str] = {}  # for who reads why a test failed: what was done, in this order

    def run_until_killed(self) -> None:
        """Kill the daemon after a random time, and go on until it is felt."""
        killing = threading.Timer(self._random.uniform(0, LATEST_S), self._daemon.process.kill)
        killing.start()
        while killing.is_alive() or self._daemon.process.poll() is None:
            self._random.choices((self._knock, self._open, self._close, self._reload), (5, 4, 9, 1))[0]()
            self.done += 1
        assert self._daemon.end(signal.SIGKILL) == -signal.SIGKILL

    def agree(self) -> None:
        """Compare what must be open with the kernel's set, the daemon's book and the ledger."""
        left = {element.address: left_s for element, left_s in self._daemon.elements().items()}
        lost = {address: self._how[address] for address in self.open - left.keys()}
        assert not lost, "was open, and is not"
        assert left.keys() <= self.open | self.unsure
        standing = {opening["address"]: opening for opening in self._daemon.openings()}
        assert standing.keys() == {str(address) for address in left}
        recorded = {r["address"]: r for r in self._daemon.log("--last", "100000") if r["closed_by"] is None}
        assert recorded.keys() == standing.keys()
        now_s = max(r["until"] for r in recorded.values()) - max(left.values()) if left else 0.0
        for address, left_s in left.items():
            assert recorded[str(address)]["until"] - now_s == pytest.approx(left_s, abs=CLOSE_S)
        self.open, self.unsure = {*left}, set()

    def close(self) -> None:
        self._frames.close()

    def _knock(self) -> None:
        address = next(self._addresses)
        self._how[address] = f"{self.done}: knocked"
        for port in KNOCK:  # the kernel opens, whatever becomes of the daemon
            self._frames.send(Packet(address.packed, port, 2))
        self.open.add(address)

    def _open(self) -> None:
        address = next(self._addresses)
        self.unsure.add(address)
        self._how[address] = f"{self.done}: opened by hand"
        if self._ask("open", address):
            self.unsure.discard(address)
            self.open.add(address)

    def _close(self) -> None:
        if not self.open:
            return
        address = self._random.choice(sorted(self.open, key=str))
        self.open.discard(address)
        self.unsure.add(address)
        if self._ask("close", address):
            self.unsure.discard(address)

    def _reload(self) -> None:
        self._daemon.process.send_signal(signal.SIGHUP)

    def _ask(self, command: str, address: Source) -> bool:
        with suppress(DoorwardError, OSError):  # killed meanwhile, or (a close) not yet aware of the knock
            self._daemon.ask(command, door="ssh", address=str(address))
            return True
        return False


@pytest.mark.parametrize(("seed", "mode"), [(1, "guard"), (2, "guard"), (3, "stealth"), (4, "stealth")])
def test_killed_at_random_moments_of_load(direct_lab: Lab, tmp_path: Path, seed: int, mode: str) -> None:
    with running_daemon(direct_lab.server, tmp_path, CONFIG.format(mode=mode)) as daemon:
        daemon.message(f"mode {mode}; ")
        with closing(Load(direct_lab, daemon, seed)) as load:
            for _ in range(KILLS):
                load.run_until_killed()
                daemon.start()
                daemon.message(f"mode {mode}; ")  # a reload of the one that was killed may have said READY=1 as well
                load.agree()
            assert load.done > KILLS
