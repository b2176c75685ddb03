"""Honest knocks during a flood of spoofed sources onto a first knock port, at the sender's full speed."""

from __future__ import annotations

import os
import socket
import time

from bench.rig import KNOCK, doors_toml, doorward, finished, flood
from bench.table import Bound, Row
from doorward.client.sequence import knock, resolve
from doorward.lab.topology import Lab

KNOCKS = 50
PAUSE_S = 0.25  # the knocks are spread over the flood, so that most of them meet a full window
FLOOD_S = 22.0
WARM_UP_S = 1.5


def rows(_runs: int) -> list[Row]:
    """Count who gets in: each of fifty addresses knocks once and connects once."""
    with Lab(direct=True) as lab, doorward(lab, doors_toml(1, "stealth")):
        lab.server.start_greeter(22)
        sources = [f"198.51.100.{n}" for n in range(10, 10 + KNOCKS)]
        lab.client.add_addresses(sources)
        flooding = flood(lab, "random", [KNOCK[0].number], seconds=FLOOD_S)
        time.sleep(WARM_UP_S)
        let_in = lab.client.call(lambda: sum(knock_once(lab, source) for source in sources))
        still = flooding.poll() is None
        pps = finished(flooding)
    if not still:
        raise RuntimeError("the flood ended before the knocks did")
    return [
        Row(f"honest knocks let in, of {KNOCKS}, during {pps:,.0f} spoofed packets/s", "knocks", "higher", let_in, None,
            Bound("value", ">=", KNOCKS)),
    ]  # fmt: skip


def knock_once(lab: Lab, source: str) -> bool:
    """Knock once from `source`; tell whether one connection that follows at once is accepted."""
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    server = str(lab.server.ipv4)
    time.sleep(PAUSE_S)
    lab.client.ip("route", "replace", f"{server}/32", "dev", lab.client.interface, "src", source)
    knock(resolve(server), KNOCK)
    try:
        with socket.create_connection((server, 22), 0.9, (source, 0)):  # below TCP's first repeat
            return True
    except OSError:
        return False
