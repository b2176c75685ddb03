"""A ledger that was cut short or changed: the daemon starts, says so, and every opening stays with its time."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import running_daemon
from tests.support.effort import EFFORT

pytestmark = pytest.mark.netns

CONFIG = """
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
"""
OPENINGS = 40
PLACES = 10 * EFFORT  # for each kind of damage


def cut_short(raw: bytearray, chance: random.Random) -> None:
    del raw[chance.randrange(len(raw)) :]


def bits_flipped(raw: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 8))):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


@pytest.mark.parametrize("damage", [cut_short, bits_flipped])
def test_a_damaged_ledger_costs_no_opening(direct_lab: Lab, tmp_path: Path, damage: object) -> None:
    chance = random.Random(7)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as daemon:
        for number in range(OPENINGS):
            daemon.ask("open", door="ssh", address=f"10.30.0.{number + 1}", **{"for": "1h"})
        before = daemon.elements()
        daemon.end(signal.SIGKILL)  # so that some of it is in the file and some in the write-ahead log
        files = {path: path.read_bytes() for path in daemon.state.glob("ledger.sqlite3*")}
        assert len(files) >= 2
        for place in range(PLACES):
            for path in daemon.state.glob("ledger*"):
                path.unlink()
            victim = sorted(files)[place % 2]  # the database, the write-ahead log
            for path, whole in files.items():
                raw = bytearray(whole)
                if path == victim and raw:
                    damage(raw, chance)  # type: ignore[operator]
                path.write_bytes(raw)
            daemon.start()
            after = daemon.elements()
            assert after.keys() == before.keys()
            assert {o["address"] for o in daemon.openings()} == {str(element.address) for element in before}
            assert all(0 < before[element] - left_s < 300 for element, left_s in after.items())
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
