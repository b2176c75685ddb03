"""The daemon at rest, with 1 door and with 10,000; and how long compiling and loading take."""

from __future__ import annotations

import time

from bench.rig import cpu_s, doors_toml, doorward, resident_mib
from bench.table import Bound, Row
from doorward.lab.topology import Lab

IDLE_S = 60.0


def rows(_runs: int) -> list[Row]:
    """Measure resident memory and processor time over sixty idle seconds, both daemons at once."""
    with Lab(direct=True) as few, Lab(direct=True) as many:
        start_s = time.perf_counter()
        with doorward(few, doors_toml(1, "guard")) as small:
            small_s = time.perf_counter() - start_s
            start_s = time.perf_counter()
            with doorward(many, doors_toml(10_000, "guard")) as large:
                large_s = time.perf_counter() - start_s
                time.sleep(1)
                before = [cpu_s(daemon.pid) for daemon in (small, large)]
                time.sleep(IDLE_S)
                used = [cpu_s(d.pid) - was for d, was in zip((small, large), before, strict=True)]
                memory = [resident_mib(daemon.pid) for daemon in (small, large)]
    return [
        Row("daemon at rest, 1 door", "MiB", "lower", memory[0], None, Bound("value", "<=", 40 / 1.048576)),
        Row("daemon at rest, 10,000 doors", "MiB", "lower", memory[1], None, Bound("value", "<=", 40 / 1.048576)),
        Row("processor time in 60 idle seconds, 1 door", "s", "lower", used[0], None, Bound("value", "<=", 0.05)),
        Row("processor time in 60 idle seconds, 10,000 doors", "s", "lower", used[1], None, Bound("value", "<=", 0.05)),
        Row("start to ready, 1 door", "s", "lower", small_s),
        Row("start to ready, 10,000 doors", "s", "lower", large_s),
    ]
