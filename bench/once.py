"""A neighbor behind the same NAT address, who connects as soon as the owner of an opening for one connection does."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from bench.rig import doorward
from bench.table import Bound, Row
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import PATIENCE_S
from tests.support.frames import FrameSender, ip_packet

TRIES = 1000
LEAD_NS = 50_000  # by which both know the moment at which they send
READY_AT, SENT_AT, MOMENT_AT = 4, 8, 16  # offsets in the memory that both share
OWNER, NEIGHBOR = 40_000, 50_000  # their ports at the NAT address
CONFIGURATION = """[gate]
mode = "stealth"
[doors.ssh]
knock = ["7000/udp"]
opens = ["22/tcp"]
once = true
"""
# Answers are held back, so that conntrack knows none of the connections.
COUNTING = f"""table inet entered {{
    counter owner {{ }}
    counter neighbor {{ }}
    chain input {{
        type filter hook input priority 0; policy accept;
        tcp dport 22 tcp sport {OWNER} counter name owner drop
        tcp dport 22 tcp sport {NEIGHBOR} counter name neighbor drop
    }}
}}"""
_OUTGOING, _PORTS_AT = 4, 34  # PACKET_OUTGOING; offset of the ports in a frame with IPv4 and TCP


def rows(_: int) -> list[Row]:
    """Count who gets in, of a thousand tries each."""
    with Lab(direct=True) as lab, doorward(lab, CONFIGURATION):
        lab.server.run(["nft", "-f", "-"], stdin=COUNTING)
        _, seen = entered(lab, _after_seeing, range(1, TRIES + 1))
        owners, neighbors = entered(lab, _together, range(TRIES + 1, 2 * TRIES + 1))  # a knock again would be a repeat
    few, none = Bound("value", "<=", TRIES / 100), Bound("value", "<=", 0)
    return [
        Row(f"of {TRIES:,} neighbors who connect as soon as they see the owner's SYN, let in", "", "lower",
            seen, None, few),  # instead of the owner, by overtaking
        Row("openings that let both in, who connect at the same moment from two processors", "", "lower",
            owners + neighbors - TRIES, None, none),
    ]  # fmt: skip


def entered(lab: Lab, neighbor: Callable[[Lab, mmap.mmap, range], None], numbers: range) -> list[int]:
    """Let owner and neighbor connect from these sources; return how often each was let in."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.sched_setaffinity(0, {1})
            neighbor(lab, shared, numbers)
        os._exit(0)
    frames, before = FrameSender(lab.client, lab.server), _counts(lab)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    try:
        for number in numbers:
            frames.send(Packet(_source(number), Port.parse("7000/udp")))
            syn = _syn(lab, number, OWNER)
            _await(shared, READY_AT, number)
            at_ns = time.perf_counter_ns() + LEAD_NS
            struct.pack_into("=Q", shared, MOMENT_AT, at_ns)
            while time.perf_counter_ns() < at_ns:
                pass
            frames.send_raw(syn)
            _await(shared, SENT_AT, number)
    finally:
        os.sched_setaffinity(0, everywhere)
        os.kill(child, signal.SIGKILL)  # it has ended, unless something failed
        os.waitpid(child, 0)
        frames.close()
    counted = [after - old for after, old in zip(_counts(lab), before, strict=True)]
    if sum(counted) < TRIES:
        raise RuntimeError(f"{TRIES - sum(counted)} openings let nobody in")
    return counted


def _await(shared: mmap.mmap, offset: int, number: int) -> None:
    """Wait until the neighbor is ready for this try, or has sent."""
    deadline_s = time.monotonic() + PATIENCE_S
    while struct.unpack_from("=I", shared, offset)[0] != number:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the neighbor has failed")


def _after_seeing(lab: Lab, shared: mmap.mmap, numbers: range) -> None:
    """Send when the owner's SYN is on the wire, which it has in common with the neighbor."""
    frames = FrameSender(lab.client, lab.server)
    sniffer = lab.client.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffer.bind((lab.client.interface, 3))
    sniffer.setblocking(False)
    for number in numbers:
        syn = _syn(lab, number, NEIGHBOR)
        struct.pack_into("=I", shared, READY_AT, number)
        while True:
            with suppress(BlockingIOError):
                frame, (_, _, kind, *_) = sniffer.recvfrom(100)
                if kind == _OUTGOING and frame[_PORTS_AT : _PORTS_AT + 4] == struct.pack("!HH", OWNER, 22):
                    break
        frames.send_raw(syn)
        struct.pack_into("=I", shared, SENT_AT, number)


def _together(lab: Lab, shared: mmap.mmap, numbers: range) -> None:
    """Send at the moment at which the owner sends."""
    frames = FrameSender(lab.client, lab.server)
    for number in numbers:
        syn = _syn(lab, number, NEIGHBOR)
        struct.pack_into("=I", shared, READY_AT, number)
        while not (at_ns := struct.unpack_from("=Q", shared, MOMENT_AT)[0]):
            pass
        while time.perf_counter_ns() < at_ns:
            pass
        frames.send_raw(syn)
        struct.pack_into("=Q", shared, MOMENT_AT, 0)
        struct.pack_into("=I", shared, SENT_AT, number)


def _syn(lab: Lab, number: int, source_port: int) -> bytes:
    return ip_packet(Packet(_source(number), Port.parse("22/tcp"), 2), lab.server.ipv4, source_port)


def _source(number: int) -> bytes:
    return ip_address((10 << 24) + number).packed


def _counts(lab: Lab) -> list[int]:
    text = lab.server.run(["nft", "list", "counters", "table", "inet", "entered"]).stdout
    return [int(word) for before, word in zip(text.split(), text.split()[1:], strict=False) if before == "packets"]
