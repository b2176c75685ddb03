"""A thousand active openings, each with a command owed at its end: processes and memory of both knockds."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.frames import FRAME_BYTES, SLOT_BYTES, SYN, frames, random_sources
from bench.frames import Path as Wire
from bench.rig import PATIENCE_S
from bench.table import Bound, Row
from doorward.lab.topology import Lab

OPENINGS = 1000
PORT = 7000
PAUSE_S = 0.001  # between two knocks: both programs take them all
STAND_S = 120  # longer than the measurement
DOOR = f"""
[door]
 Sequence = {PORT}
 TCPFlags = syn
 Start_Command = : start %IP%
 Cmd_Timeout = {STAND_S}
 Stop_Command = : stop %IP%
"""
PROGRAMS = {"doorward": (sys.executable, "-m", "doorward.cli.knockd"), "knockd": ("/usr/sbin/knockd",)}


def rows(_runs: int) -> list[Row]:
    """Measure both, one after the other."""
    (own, own_mib), (peer, peer_mib) = (standing(command) for command in PROGRAMS.values())
    figure = f"{OPENINGS} openings with a Stop_Command"
    return [
        Row(f"{figure}: processes", "", "lower", own, peer, Bound("value", "<=", 2)),
        Row(f"{figure}: memory of all of them", "MiB", "lower", own_mib, peer_mib, Bound("ratio", ">=", 1)),
    ]


def standing(command: Sequence[str]) -> tuple[int, float]:
    """Open them all, and give the number of processes and their memory (PSS: what is shared counts once)."""
    with Lab(direct=True) as lab, tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        configuration, log = Path(folder, "knockd.conf"), Path(folder, "log")
        configuration.write_text(f"[options]\n LogFile = {log}\n Interface = {lab.server.interface}\n{DOOR}")
        env = {"STATE_DIRECTORY": folder}
        lab.server.popen([*command, "-c", configuration], env=env, stderr=subprocess.DEVNULL)
        wait_for(log, "listening on", 1)
        lab.client.call(knock_once_each, lab)
        wait_for(log, ": start ", OPENINGS)
        time.sleep(1)  # the last commands end
        pids = lab.server.pids()
        return len(pids), sum(map(pss_mib, pids))


def knock_once_each(lab: Lab) -> None:
    to_mac, from_mac = (bytes.fromhex(host.mac.replace(":", "")) for host in (lab.server, lab.client))
    wire_path = Wire(to_mac, from_mac, lab.server.ipv4)
    knocks = memoryview(frames(wire_path, SYN, random_sources(OPENINGS, 1), [PORT], 1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((lab.client.interface, 0))
        for slot in range(0, len(knocks), SLOT_BYTES):
            wire.send(knocks[slot : slot + FRAME_BYTES])
            time.sleep(PAUSE_S)


def wait_for(log: Path, part: str, count: int) -> None:
    """Wait until so many lines of the log contain `part`."""
    until_s = time.monotonic() + PATIENCE_S
    while not (log.exists() and sum(part in line for line in log.read_text().splitlines()) >= count):
        if time.monotonic() > until_s:
            raise RuntimeError(f"{part!r} is not {count} times in the log")
        time.sleep(0.05)


def pss_mib(pid: int) -> float:
    """Return a process's share of the memory that it uses."""
    with suppress(ProcessLookupError, FileNotFoundError):  # it has ended meanwhile
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        [line] = [row for row in rollup if row.startswith("Pss:")]
        return int(line.split()[1]) / 1024
    return 0.0
