"""A knock, and the connection that follows it with no pause."""

from __future__ import annotations

import socket
import time
from statistics import median

from bench.rig import KNOCK, doors_toml, doorward, knockd
from bench.table import Bound, Row, alternate
from doorward.client.sequence import knock, resolve
from doorward.lab.topology import Lab

KNOCKS = 8  # a run, each from an address of its own


def knock_and_connect(lab: Lab, sources: list[str]) -> list[float]:
    """Give, for each source, the milliseconds from the last knock's sending to the connection."""
    server = str(lab.server.ipv4)

    def inside() -> list[float]:
        targets, took = resolve(server), []
        for source in sources:
            lab.client.ip("route", "replace", f"{server}/32", "dev", lab.client.interface, "src", source)
            knock(targets, KNOCK)
            start_s = time.perf_counter()
            with socket.create_connection((server, 22), 5, (source, 0)):
                took.append((time.perf_counter() - start_s) * 1000)
        return took

    return lab.client.call(inside)


def rows(runs: int) -> list[Row]:
    """Measure both, in turn, medians of medians."""
    with Lab(direct=True) as ours, Lab(direct=True) as theirs:
        for lab in (ours, theirs):
            lab.server.start_greeter(22)
            lab.client.add_addresses(f"198.51.100.{n}" for n in range(10, 10 + KNOCKS * runs))
        fresh = {lab.name: iter(range(10, 10 + KNOCKS * runs)) for lab in (ours, theirs)}

        def measure(lab: Lab) -> float:
            sources = [f"198.51.100.{next(fresh[lab.name])}" for _ in range(KNOCKS)]
            return median(knock_and_connect(lab, sources))

        with doorward(ours, doors_toml(1, "guard")), knockd(theirs):
            times = alternate({"doorward": lambda: measure(ours), "knockd": lambda: measure(theirs)}, runs)
    own, peer = median(times["doorward"]), median(times["knockd"])
    return [
        Row("knock, then connect with no pause, against knockd", "ms", "lower", own, peer, Bound("ratio", ">=", 1000)),
        Row("the same, doorward's own", "ms", "lower", own, None, Bound("value", "<=", 1)),
    ]
