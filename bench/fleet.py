"""A fleet with one, five and twenty gates and three etcd nodes: the delay of an opening, how many a second, memory."""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path

from bench.openings import pss_mib
from bench.table import Bound, Row
from tests.support.fleet import KNOCK, Fleet, datagram, running_fleet, until_all_let_in

GATES = (1, 5, 20)
CROWD = 2000
TIMES = 21
PATIENCE_S = 120.0


def rows(_runs: int) -> list[Row]:
    """Measure each size; the crowd comes to five gates."""
    found: list[Row] = []
    for count in GATES:
        with (
            tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder,
            running_fleet(Fleet(Path(folder), count, nodes=3)) as fleet,
        ):
            found += measured(fleet, count)
    return found


def measured(fleet: Fleet, count: int) -> list[Row]:
    until_all_let_in(fleet)
    took_ms = statistics.median(until_all_let_in(fleet) for _ in range(TIMES))
    what = "at the gate itself" if count == 1 else f"at the last of {count} gates"
    bound = Bound("value", "<=", 20) if count == 5 else None
    found = [Row(f"from the knock to the connection {what}", "ms", "lower", took_ms, must=bound)]
    return [*found, *crowd(fleet)] if count == 5 else found


def crowd(fleet: Fleet) -> list[Row]:
    """Have many knock at the first gate, and wait until the last has them all."""
    last = fleet.gates[-1]
    before, before_bytes = memory_kib(fleet), database_bytes(fleet)
    stood = len(last.elements())
    began_s = time.monotonic()
    fleet.client.call(knock_each, fleet.gates[0].host.ipv4)
    while len(last.elements()) < stood + CROWD:
        if time.monotonic() > began_s + PATIENCE_S:
            raise RuntimeError(f"only {len(last.elements()) - stood} of {CROWD} openings came through")
        time.sleep(0.02)
    took_s = time.monotonic() - began_s
    gate = (memory_kib(fleet) - before) / CROWD
    etcd = (database_bytes(fleet) - before_bytes) / 1024 / CROWD
    return [
        Row(f"{CROWD} openings through five gates, a second", "", "higher", CROWD / took_s),
        Row("memory of a gate's processes for each opening", "KiB", "lower", gate),
        Row("etcd's database for each opening", "KiB", "lower", etcd),
    ]


def knock_each(gate: IPv4Address) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for number in range(CROWD):
            for port in KNOCK:
                sender.sendto(datagram(IPv4Address("10.70.0.1") + number, gate, port), (str(gate), 0))
            if number % 20 == 0:
                time.sleep(0.001)


def memory_kib(fleet: Fleet) -> float:
    """Return the memory of the last gate's processes."""
    return 1024 * sum(map(pss_mib, fleet.gates[-1].host.pids()))


def database_bytes(fleet: Fleet) -> int:
    return int(fleet.etcd().call("maintenance/status", {}).get("dbSizeInUse", 0))
