"""Packets a second through the path: the sender's processor runs the receiving path too, so its rate is the path's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.rig import doors_toml, doorward, finished, flood
from bench.table import Bound, Row, alternate, medians
from doorward.lab.topology import Lab

SECONDS = 3.0
DROP = """
table inet plain {
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept
        tcp dport 1-65535 drop
        udp dport 1-65535 drop
    }
}"""


@contextmanager
def dropping() -> Iterator[Lab]:
    """A server with one plain rule that drops everything."""
    with Lab(direct=True) as lab:
        lab.server.run(["nft", "-f", "-"], stdin=DROP)
        yield lab


@contextmanager
def guarding(doors: int, *, once: bool = False) -> Iterator[Lab]:
    """A server behind a gate in mode stealth."""
    with Lab(direct=True) as lab, doorward(lab, doors_toml(doors, "stealth", once=once)):
        yield lab


def rows(runs: int) -> list[Row]:
    """Measure the gate with 1 and 10,000 doors, and beside a rule that only drops."""
    with ExitStack() as stack:
        gates = guarding(1), guarding(10_000), guarding(10_000, once=True), dropping()
        one, many, once, drop = map(stack.enter_context, gates)

        def pps(lab: Lab, mode: str, ports: list[int]) -> float:
            return finished(flood(lab, mode, ports, seconds=SECONDS))

        rates = medians(
            alternate(
                {
                    "first, 1 door": lambda: pps(one, "random", [7000]),
                    "first, 10,000 doors": lambda: pps(many, "random", [7000]),
                    "first, 10,000 doors with once": lambda: pps(once, "random", [7000]),
                    "hidden, 10,000 doors": lambda: pps(many, "random", [22]),
                    "hidden, 10,000 doors with once": lambda: pps(once, "random", [22]),
                    "other, 1 door": lambda: pps(one, "random", [5]),
                    "other, 10,000 doors": lambda: pps(many, "random", [5]),
                    "alternating, doorward": lambda: pps(one, "alternate", [7000, 5]),
                    "alternating, drop": lambda: pps(drop, "alternate", [7000, 5]),
                    "random, drop": lambda: pps(drop, "random", [7000]),
                },
                runs,
            )
        )
    doors, rule = Bound("ratio", ">=", 0.85), Bound("ratio", ">=", 0.5)
    return [
        Row("random sources onto a first knock port, 10,000 doors (peer: 1 door)", "packets/s", "higher",
            rates["first, 10,000 doors"], rates["first, 1 door"], doors),
        Row("random sources onto another port, 10,000 doors (peer: 1 door)", "packets/s", "higher",
            rates["other, 10,000 doors"], rates["other, 1 door"], doors),
        Row("random sources onto a first knock port, 10,000 doors with once (peer: without)", "packets/s", "higher",
            rates["first, 10,000 doors with once"], rates["first, 10,000 doors"], doors),
        Row("random sources onto a hidden port, 10,000 doors with once (peer: without)", "packets/s", "higher",
            rates["hidden, 10,000 doors with once"], rates["hidden, 10,000 doors"], doors),
        Row("one source alternating right and wrong ports (peer: a drop rule)", "packets/s", "higher",
            rates["alternating, doorward"], rates["alternating, drop"], rule),
        Row("random sources onto a first knock port (peer: a drop rule)", "packets/s", "higher",
            rates["first, 1 door"], rates["random, drop"]),
    ]  # fmt: skip
