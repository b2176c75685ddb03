"""Signed knocks beside fwknop's: from packet to connection, packets a second, what many keys cost; and the siege."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

from bench import fwknop, signed_siege
from bench.datagrams import Stream, pouring
from bench.knocks import PORT, SIGNERS, FwknopKeys, Keys, garbage
from bench.reach import EACH_S, Service, reach_ms
from bench.rig import PATIENCE_S, run_s
from bench.signed_server import Refused, Server, idle, serving
from bench.table import Bound, Row, alternate
from doorward.lab.topology import Lab

KNOCKS = 4  # a run
LONGEST_PAUSE_S = 0.2  # fwknopd looks ten times a second: a knock comes at any moment of its sleep
VALID, VALID_PPS = 20_000, 6_000
COMPARED, COMPARED_PPS = 6_000, 6_000  # in a rush: the processes work without a pause, whatever else runs
MANY_KEYS = 10_000
GARBAGE_S, GARBAGE_KINDS = 5.0, 16_384
RANDOM_SOURCES = 1 << 18  # at 50,000/s one comes again after five seconds, when no limit remembers it
STANZAS = 1_000
GARBAGE_PPS = 100  # less than the gate's budget for so many stanzas
PEER_S, PEER_PPS, PEER_STANZAS_PPS = 3.0, 5_000, 30


def rows(runs: int) -> list[Row]:
    """Measure it all, in about five minutes."""
    own = [*latency(runs), *valid(), *many_keys(runs), *refusals()]
    return [*own, *peer_costs(), *fwknop_packets(runs), *signed_siege.rows()]


def latency(runs: int) -> list[Row]:
    """Knock and connect, in turn with both ways in which fwknopd can listen."""
    with ExitStack() as stack:
        ours, sniffing, listening = (stack.enter_context(Lab(direct=True)) for _ in range(3))
        server = stack.enter_context(serving(ours, Keys()))
        by_pcap = stack.enter_context(fwknop.fwknopd(sniffing, udp_server=False))
        by_udp = stack.enter_context(fwknop.fwknopd(listening, udp_server=True))

        times = alternate(
            {
                "doorward": _knocks(ours, lambda _: server.keys.packet(), runs),
                "pcap": _knocks(sniffing, by_pcap.packet, runs),
                "udp": _knocks(listening, by_udp.packet, runs),
            },
            runs,
        )
    own, pcap, udp = (median(times[name]) for name in ("doorward", "pcap", "udp"))
    figure = "signed knock sent, to connection made"
    return [
        Row(f"{figure}, against fwknopd", "ms", "lower", own, pcap, Bound("value", "<=", 2)),
        Row("the same, against fwknopd --udp-server", "ms", "lower", own, udp, Bound("ratio", ">=", 1)),
    ]


def _knocks(lab: Lab, packet: Callable[[str], bytes], runs: int) -> Callable[[], float]:
    """Return what knocks and connects from fresh addresses, and gives the median in ms."""
    lab.server.start_greeter(22)
    sources = [f"198.51.100.{n}" for n in range(10, 10 + KNOCKS * runs)]
    lab.client.add_addresses(sources)
    fresh, service = iter(sources), Service(str(lab.server.ipv4), PORT)
    return lambda: median(_took_ms(lab, service, next(fresh), packet) for _ in range(KNOCKS))


def _took_ms(lab: Lab, service: Service, source: str, packet: Callable[[str], bytes]) -> float:
    datagram = packet(source)
    time.sleep(random.uniform(0, LONGEST_PAUSE_S))
    took = lab.client.call(reach_ms, service, source, datagram, PATIENCE_S, EACH_S)
    if took is None:
        raise RuntimeError("a knock opened nothing")
    return took


def valid() -> list[Row]:
    """A stream of right packets, more than it can take."""
    with Lab(direct=True) as lab, serving(lab, Keys()) as server:
        server.pin()
        taken = server.take(server.keys.packets(VALID), VALID_PPS)
    return [
        Row(f"right packets on one core, of {taken.flooded.pps:,.0f}/s offered: openings recorded", "1/s", "higher",
            taken.opened / taken.seconds, None, Bound("value", ">=", 2500)),
        Row("the same: a second of processor time, all processes", "1/s", "higher", taken.opened / taken.cpu_s),
    ]  # fmt: skip


def many_keys(runs: int) -> list[Row]:
    """What a right packet costs where many may knock, against few; in turn. The least counts: other work only adds."""
    with ExitStack() as stack:

        def cost(authorized: int) -> Callable[[], float]:
            server = stack.enter_context(serving(stack.enter_context(Lab(direct=True)), Keys(), authorized))
            server.pin()
            return lambda: _cost_us(server)

        costs = alternate({"few": cost(SIGNERS), "many": cost(MANY_KEYS)}, runs)
    few, many = min(costs["few"]), min(costs["many"])
    return [
        Row(f"processor time a right packet, {SIGNERS} keys", "us", "lower", few),
        Row(f"the same, {MANY_KEYS:,} keys", "us", "lower", many),
        Row(f"{MANY_KEYS:,} keys against {SIGNERS}", "times", "lower", many / few, None, Bound("value", "<=", 1.1)),
    ]


def _cost_us(server: Server) -> float:
    taken = server.take(server.keys.packets(COMPARED), COMPARED_PPS)
    return taken.cpu_s / taken.opened * 1e6


def refusals() -> list[Row]:
    """Garbage at the sender's full speed, from many sources and from one."""
    many = _refused(Stream(garbage(GARBAGE_KINDS), RANDOM_SOURCES, seconds=GARBAGE_S))
    one = _refused(Stream(garbage(GARBAGE_KINDS), 1, "198.51.100.100", seconds=GARBAGE_S))
    must = Bound("value", ">=", 50_000)
    return [
        Row(f"garbage read and refused, of {many.flooded.pps:,}/s from random sources", "1/s", "higher",
            many.read / many.flooded.seconds, None, must),
        Row("the same: a second of processor time", "1/s", "higher", many.read / many.cpu_s),
        Row("garbage from one source, refused by the gate", "1/s", "higher",
            one.dropped / one.flooded.seconds, None, must),
        Row("the same: processor time of the daemon", "%", "lower", 100 * one.cpu_s / one.flooded.seconds),
    ]  # fmt: skip


def _refused(stream: Stream) -> Refused:
    with Lab(direct=True) as lab, serving(lab, Keys()) as server:
        server.pin()
        return server.refuse(stream)


def peer_costs() -> list[Row]:
    """What garbage costs fwknopd: it tries the keys of one stanza after the other."""
    one, many = _peer_cost_us(1, PEER_PPS), _peer_cost_us(STANZAS, PEER_STANZAS_PPS)
    return [
        Row("fwknopd --udp-server: processor time a packet of garbage, one stanza", "us", "lower", None, one),
        Row(f"the same, {STANZAS:,} stanzas", "us", "lower", None, many),
    ]


def fwknop_packets(runs: int) -> list[Row]:
    """What packets of fwknop's client take here, with one stanza and with a thousand, and what garbage like them costs.

    Of a thousand stanzas the last is the sender's, and the sender is new: the keys of all are tried.
    """
    with ExitStack() as stack:
        small, large, other = (stack.enter_context(Lab(direct=True)) for _ in range(3))
        one, many = fwknop.secrets_for(1), fwknop.secrets_for(STANZAS)
        stack.enter_context(serving(small, FwknopKeys(one)))
        server = stack.enter_context(serving(large, FwknopKeys(many)))
        peer = stack.enter_context(fwknop.fwknopd(other, udp_server=False))
        time.sleep(1)  # a packet has the date of its second, and those of the second of the start are rejected

        def own(lab: Lab, shared: list[fwknop.Secret]) -> Callable[[str], bytes]:
            return partial(fwknop.client_packet, shared[-1], str(lab.server.ipv4))

        times = alternate(
            {
                "one": _knocks(small, own(small, one), runs),
                "many": _knocks(large, own(large, many), runs),
                "peer": _knocks(other, peer.packet, runs),
            },
            runs,
        )
        payloads = fwknop.garbage(own(large, many)("198.51.100.9"), GARBAGE_KINDS)
        floods = [Stream(payloads, RANDOM_SOURCES, seconds=GARBAGE_S, pps=pps) for pps in (GARBAGE_PPS, 0)]
        few, flood = (server.refuse(stream, "fwknop") for stream in floods)
    cost_ms = few.cpu_s / few.read * 1000
    took_ms = {name: median(found) for name, found in times.items()}
    return [
        Row("fwknop packet sent, to connection made, against fwknopd", "ms", "lower", took_ms["one"], took_ms["peer"],
            Bound("value", "<=", 3)),
        Row(f"the same, {STANZAS:,} stanzas", "ms", "lower", took_ms["many"]),
        Row(f"processor time a packet of garbage, {STANZAS:,} stanzas", "ms", "lower", cost_ms, None,
            Bound("value", "<=", 2)),
        Row(f"garbage read and refused, of {flood.flooded.pps:,}/s offered", "1/s", "higher",
            flood.read / flood.flooded.seconds),
        Row("the same: processor time of the daemon", "%", "lower", 100 * flood.cpu_s / flood.flooded.seconds, None,
            Bound("value", "<=", 30)),
    ]  # fmt: skip


def _peer_cost_us(stanzas: int, pps: float) -> float:
    with Lab(direct=True) as lab, fwknop.fwknopd(lab, udp_server=True, stanzas=stanzas) as peer:
        payloads = fwknop.garbage(peer.packet("198.51.100.10"), GARBAGE_KINDS)
        before_s = run_s(peer.daemon.pid)
        with pouring(lab, PORT, Stream(payloads, RANDOM_SOURCES, seconds=PEER_S, pps=pps)) as flooding:
            flooded = flooding.finished()
        idle(lambda: run_s(peer.daemon.pid))
        return (run_s(peer.daemon.pid) - before_s) / flooded.sent * 1e6
