"""Honest signed knocks during floods on their port: garbage, replays, what passes the first look, browsers' frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from bench import fwknop
from bench.datagrams import Flooding, Stream, pouring
from bench.knocks import PORT, Keys, garbage, in_frames
from bench.reach import Service, let_in
from bench.signed_server import Server, serving
from bench.table import Bound, Row
from doorward.lab.topology import Lab

PPS, PEER_PPS = 50_000, 10_000
KNOCKS, PEER_KNOCKS = 50, 20
PAUSE_S, WARM_UP_S, LONGEST_S = 0.1, 1.5, 60.0
PATIENCE_S = 0.9  # below TCP's first repeat
TRIES, TRY_S = 4, 0.2  # where knocks get lost: fresh packets, and from one to the next
KINDS, REPLAYED, REPLAYED_PPS = 16_384, 1_000, 1_000
CHECKED = 1 << 18  # more than the daemon remembers of what it opened in vain
RANDOM_SOURCES = 1 << 18
COST_S, FRAME_US = 5.0, 250  # half a processor for the 2,000 frames/s that the gate hands on at most
REAL_SOURCES, FIRST_REAL = 100, "198.51.100.100"
HONEST = [f"198.51.100.{n}" for n in range(10, 10 + KNOCKS)]


class Flood(NamedTuple):
    """What is poured onto the port while people knock: `make` gives the payloads for a server.

    `browser`: the server takes knocks from browsers, and these are frames of them.
    """

    name: str
    make: Callable[[Server], list[bytes]]
    browser: bool = False


class Entered(NamedTuple):
    """Who got in: at the first knock, and at the last of some; with how much flood around them."""

    at_once: int
    at_last: int
    pps: int


FLOODS = (
    Flood("garbage", lambda _: garbage(KINDS)),
    Flood("one right packet again and again", lambda server: used(server, 1)),
    Flood(f"{REPLAYED:,} right packets again and again", lambda server: used(server, REPLAYED)),
    Flood("garbage with a right check", lambda server: server.keys.checked(CHECKED)),
    Flood("STUN frames of garbage", lambda _: in_frames(garbage(KINDS)), browser=True),
    Flood("STUN frames with a right check", lambda server: in_frames(server.keys.checked(CHECKED)), browser=True),
)


def rows() -> list[Row]:
    """Lay siege to doorward in all ways, and to fwknopd in one."""
    sieges = [row for flood in FLOODS for row in (_from_real_sources(flood), _from_random_sources(flood))]
    return [*sieges, *frame_costs(), *peers()]


def _from_real_sources(flood: Flood) -> Row:
    got_in = besieged(flood, REAL_SOURCES, FIRST_REAL)
    figure = f"{KNOCKS} knocks in {got_in.pps:,}/s of {flood.name}, {REAL_SOURCES} sources: let in at once"
    return Row(figure, "knocks", "higher", got_in.at_once, None, Bound("value", ">=", KNOCKS))


def _from_random_sources(flood: Flood) -> Row:
    got_in = besieged(flood, RANDOM_SOURCES, "")
    figure = f"the same in {got_in.pps:,}/s from random sources, with up to {TRIES} packets (at once {got_in.at_once})"
    must = Bound("value", ">=", KNOCKS) if flood.browser else None  # frames have limits of their own
    return Row(figure, "knocks", "higher", got_in.at_last, None, must)


def frame_costs() -> list[Row]:
    """What a frame that the gate hands on costs in a flood: one that is rejected at first sight, and one to decrypt."""
    return [_frame_cost(flood) for flood in FLOODS if flood.browser]


def _frame_cost(flood: Flood) -> Row:
    with Lab(direct=True) as lab, serving(lab, Keys(browser=True)) as server:
        server.pin()
        stream = Stream(flood.make(server), RANDOM_SOURCES, seconds=COST_S, pps=PPS)
        refused = server.refuse(stream, "browser")
    figure = f"processor time a frame handed on, of {refused.flooded.pps:,}/s of {flood.name}"
    return Row(figure, "us", "lower", refused.cpu_s / refused.read * 1e6, None, Bound("value", "<=", FRAME_US))


def used(server: Server, count: int) -> list[bytes]:
    """Give packets that were taken once already."""
    packets = server.keys.packets(count)
    if server.take(packets, REPLAYED_PPS).opened != count:
        raise RuntimeError("a right packet was not taken")
    return packets


def besieged(flood: Flood, sources: int, first: str) -> Entered:
    """Count who gets in during one flood."""
    with Lab(direct=True) as lab, serving(lab, Keys(browser=flood.browser)) as server:
        stream = Stream(flood.make(server), sources, first, LONGEST_S, PPS)
        return entered(lab, server.service, stream, HONEST, lambda _: server.keys.packet(), 1 if first else TRIES)


def peers() -> list[Row]:
    """Do the same to both ways in which fwknopd can listen, with less, and to the quicker one with as much."""
    return [
        _peer("fwknopd", PEER_PPS, udp_server=False),
        _peer("fwknopd --udp-server", PEER_PPS, udp_server=True),
        _peer("fwknopd --udp-server", PPS, udp_server=True),
    ]


def _peer(name: str, pps: float, *, udp_server: bool) -> Row:
    with Lab(direct=True) as lab, fwknop.fwknopd(lab, udp_server=udp_server) as peer:
        payloads = fwknop.garbage(peer.packet(HONEST[0]), KINDS)
        stream = Stream(payloads, RANDOM_SOURCES, "", LONGEST_S, pps)
        service = Service(str(lab.server.ipv4), PORT)
        got_in = entered(lab, service, stream, HONEST[:PEER_KNOCKS], peer.packet, 1)
    figure = f"{name}: {PEER_KNOCKS} knocks in {got_in.pps:,}/s of garbage, random sources: let in at once"
    return Row(figure, "knocks", "higher", None, got_in.at_once)


def entered(
    lab: Lab, service: Service, stream: Stream, honest: Sequence[str], packet: Callable[[str], bytes], tries: int
) -> Entered:
    """Have each honest source knock during the flood, and again with a fresh packet up to `tries` times."""
    lab.server.start_greeter(service.port)
    lab.client.add_addresses(honest)

    patience_s = PATIENCE_S if tries == 1 else TRY_S

    def knock_all(flooding: Flooding) -> list[int]:
        took = []
        for source in honest:
            time.sleep(PAUSE_S)
            took.append(let_in(service, source, [partial(packet, source)] * tries, patience_s))
            if flooding.is_over:
                raise RuntimeError("the flood ended before the knocks did")
        return took

    with pouring(lab, PORT, stream) as flooding:
        time.sleep(WARM_UP_S)
        took = lab.client.call(knock_all, flooding)
        flooding.stop()
        flooded = flooding.finished()
    return Entered(sum(tries == 1 for tries in took), sum(tries > 0 for tries in took), flooded.pps)
