"""A knock, and the connection that follows it with no pause."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from statistics import median

from bench.rig import KNOCK, doors_toml, doorward, knockd
from bench.table import Bound, Row, alternate, medians
from doorward.client.sequence import knock, resolve
from doorward.lab.topology import Lab

KNOCKS = 8  # a run, each from an address of its own
Server = Callable[[Lab], AbstractContextManager[subprocess.Popen[str]]]


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
    """Measure doorward beside knockd, and the shield beside the gate alone, each pair in turn: medians of medians."""
    guard, plain, shielded = (
        lambda lab, toml=toml: doorward(lab, toml)
        for toml in (doors_toml(1, "guard"), doors_toml(1, "stealth"), doors_toml(1, "stealth", shield="on"))
    )
    own, peer = beside(guard, knockd, runs)
    with_shield, without = beside(shielded, plain, runs)
    return [
        Row("knock, then connect with no pause, against knockd", "ms", "lower", own, peer, Bound("ratio", ">=", 1000)),
        Row("the same, doorward's own", "ms", "lower", own, None, Bound("value", "<=", 1)),
        Row("the same, stealth, with the shield (peer: without)", "ms", "lower", with_shield, without),
        Row("what the shield adds", "ms", "lower", with_shield - without, None, Bound("value", "<=", 0.1)),
    ]


def beside(one: Server, other: Server, runs: int) -> list[float]:
    """Measure two servers, each in a lab of its own."""
    fresh = [iter(range(10, 10 + KNOCKS * runs)) for _ in range(2)]

    def measure(lab: Lab, numbers: Iterator[int]) -> float:
        return median(knock_and_connect(lab, [f"198.51.100.{next(numbers)}" for _ in range(KNOCKS)]))

    with ExitStack() as stack:
        labs = [stack.enter_context(Lab(direct=True)) for _ in range(2)]
        for lab, server in zip(labs, (one, other), strict=True):
            lab.server.start_greeter(22)
            lab.client.add_addresses(f"198.51.100.{n}" for n in range(10, 10 + KNOCKS * runs))
            stack.enter_context(server(lab))
        measures = {lab.name: partial(measure, lab, numbers) for lab, numbers in zip(labs, fresh, strict=True)}
        return list(medians(alternate(measures, runs)).values())
