"""Honest knocks during a flood of spoofed sources onto a first knock port, at the sender's full speed."""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

from bench.rig import KNOCK, doors_toml, doorward, finished, flood
from bench.table import Bound, Row
from doorward.client.sequence import knock, resolve
from doorward.lab.topology import Lab

KNOCKS = 50
WARM_UP_S = 1.5


class Siege(NamedTuple):
    """What the knocks meet: so many spoofed IPv4 sources, a pause before each knock, and one between its packets."""

    what: str
    shield: str
    sources: int
    before_s: float
    between_s: float
    flood_s: float
    version: int = 4  # of the knocks


SIEGES = (
    # The knocks are spread over the flood, so that most of them meet a full window.
    Siege("", shield="off", sources=1_000_000, before_s=0.25, between_s=0, flood_s=22),
    Siege(", with the shield", shield="on", sources=1 << 22, before_s=0.25, between_s=0, flood_s=22),
    Siege(", with the shield, 0.3 s apart", shield="on", sources=1 << 22, before_s=0.1, between_s=0.3, flood_s=50),
    Siege(", with the shield, IPv6", shield="on", sources=1 << 22, before_s=0.25, between_s=0, flood_s=50, version=6),
)  # fmt: skip


def rows(_runs: int) -> list[Row]:
    """Count who gets in: each of fifty addresses knocks once and connects once."""
    return [besieged(siege) for siege in SIEGES]


def besieged(siege: Siege) -> Row:
    with Lab(direct=True) as lab, doorward(lab, doors_toml(1, "stealth", shield=siege.shield)):
        lab.server.start_greeter(22)
        form = "198.51.100.{}" if siege.version == 4 else "2001:db8:{}::1"  # a network each
        addresses = list(map(form.format, range(100, 100 + KNOCKS)))
        lab.client.add_addresses(addresses)
        flooding = flood(lab, "random", [KNOCK[0].number], seconds=siege.flood_s, sources=siege.sources)
        time.sleep(WARM_UP_S)
        let_in = lab.client.call(lambda: sum(knock_once(lab, address, siege) for address in addresses))
        still = flooding.poll() is None
        pps = finished(flooding)
    if not still:
        raise RuntimeError(f"the flood ended before the knocks did, of which {let_in} were let in")
    return Row(
        f"honest knocks let in, of {KNOCKS}, during {pps:,.0f} spoofed packets/s{siege.what}", "knocks", "higher",
        let_in, None, Bound("value", ">=", KNOCKS),
    )  # fmt: skip


def knock_once(lab: Lab, source: str, siege: Siege) -> bool:
    """Knock once from `source`; tell whether one connection that follows at once is accepted."""
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    server = lab.server.ipv4 if siege.version == 4 else lab.server.ipv6
    time.sleep(siege.before_s)
    lab.client.ip("route", "replace", str(server), "dev", lab.client.interface, "src", source)
    knock(resolve(str(server)), KNOCK, siege.between_s)
    try:
        with socket.create_connection((str(server), 22), 0.9, (source, 0)):  # below TCP's first repeat
            return True
    except OSError:
        return False
