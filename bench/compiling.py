"""Doors to tables, and tables into the kernel."""

from __future__ import annotations

import gc
import random
import time
from statistics import median

from bench.table import Bound, Row
from doorward.config.schema import Gate
from doorward.core.automaton import compile_doors
from doorward.lab.topology import Lab
from doorward.model import Door, Port, Protocol
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import compile_ruleset

DOORS = 100_000


def rows(runs: int) -> list[Row]:
    """Compile 100,000 random doors of 4 knocks, and load them once."""
    dice = random.Random(1)
    doors = [
        Door(f"d{n}", tuple(Port(dice.choice(list(Protocol)), dice.randint(1024, 65535)) for _ in range(4)), ())
        for n in range(DOORS)
    ]
    doors = [door._replace(opens=(Port(Protocol.TCP, 22),)) for door in doors]
    gc.disable()
    compiling, writing = [], []
    for _ in range(runs):
        start_s = time.perf_counter()
        automaton = compile_doors(doors)
        compiled_s = time.perf_counter()
        ruleset = compile_ruleset(doors, automaton, Gate(), 1 << 20)
        compiling.append(compiled_s - start_s)
        writing.append(time.perf_counter() - compiled_s)
    gc.enable()
    with Lab(direct=True) as lab:
        start_s = time.perf_counter()
        lab.server.call(NftFirewall().run, ruleset.full_text())
        loading = time.perf_counter() - start_s
    return [
        Row("100,000 doors of 4 knocks: compile", "s", "lower", median(compiling), None, Bound("value", "<=", 10)),
        Row("the same: write the nftables text", "s", "lower", median(writing)),
        Row("the same: load it into the kernel", "s", "lower", loading),
    ]
