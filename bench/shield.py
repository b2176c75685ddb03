"""Floods with and without the shield, beside a rule that only drops: packets a second of processor time.

The sender's processor runs the receiving path too. The rule is measured right before and after each of the others,
since the machine's speed changes.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from ipaddress import IPv4Address
from pathlib import Path as File
from random import Random
from statistics import median
from typing import NamedTuple, TypeVar

from bench.flood import Traffic, flood, from_one, traffic
from bench.frames import SYN, UDP, Kind, Path
from bench.path import dropping
from bench.rig import attached, doors_toml, doorward_in, family, resident_mib
from bench.table import Bound, Row
from doorward.lab.topology import Lab
from doorward.shield.libbpf import UDP_BUSY_S
from doorward.shield.loader import NAME

SECONDS = 0.25
WARM_UP_S = 0.1
SENDER_CPU = 0
HIGHEST = -20  # priority: others on the sender's processor would empty its cache, which the shield depends on
DOORS = 1, 100_000
READY_S = 600  # until 100,000 doors are loaded, on a busy machine
ONE_SOURCE = int(IPv4Address("198.18.0.1"))
ANY_PORT = Random(1).sample(range(1, 1 << 16), 60_000)
SYN_V6 = Kind(version=6)
K = TypeVar("K")


class Flood(NamedTuple):
    kind: Kind
    sources: int
    ports: tuple[int, ...]


FLOODS = {
    "1 source, first knock port and another in turn": Flood(SYN, 1, (7000, 5)),
    "1 source, first knock port": Flood(SYN, 1, (7000,)),
    "65,536 sources, first knock port": Flood(SYN, 1 << 16, (7000,)),
    "1 M sources, first knock port": Flood(SYN, 1 << 20, (7000,)),
    "4 M sources, first knock port": Flood(SYN, 1 << 22, (7000,)),
    "1 M sources, another port": Flood(SYN, 1 << 20, (5,)),
    "4 M sources, any port": Flood(SYN, 1 << 22, tuple(ANY_PORT)),
    "1 M sources, a door's port": Flood(SYN, 1 << 20, (22,)),
    "1 M sources, ACK to another port": Flood(Kind(flags=0x10), 1 << 20, (5,)),
    "IPv6, 1 source, first knock port and another in turn": Flood(SYN_V6, 1, (7000, 5)),
    "IPv6, 1 M networks, first knock port": Flood(SYN_V6, 1 << 20, (7000,)),
    "IPv6, 1 M networks, another port": Flood(SYN_V6, 1 << 20, (5,)),
    "1 M sources, another UDP port": Flood(Kind(UDP), 1 << 20, (5,)),
    "1 M sources, a UDP knock port": Flood(Kind(UDP), 1 << 20, (8000,)),
}


class Gate(NamedTuple):
    """A server behind a gate in mode stealth. Of the shield: when it was attached, after how long, its memory."""

    lab: Lab
    attached_s: float = 0
    loading_s: float = 0
    process_mib: float = 0
    maps_mib: float = 0


@contextmanager
def guarding(doors: int, *, shield: str) -> Iterator[Gate]:
    """A gate of so many doors, with a shield or without."""
    with Lab(direct=True) as lab, tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        File(folder, "doorward.toml").write_text(doors_toml(doors, "stealth", shield=shield))
        with doorward_in(lab, File(folder), READY_S) as daemon:
            if shield == "off":
                yield Gate(lab)
                return
            ready_s = time.monotonic()
            attached(File(folder))
            now_s = time.monotonic()
            loader = named(NAME, family(daemon.pid))
            yield Gate(lab, now_s, now_s - ready_s, resident_mib(loader), maps_mib(loader))


def maps_mib(pid: int) -> float:
    """Return the memory of the BPF maps that a process has open."""
    texts = (file.read_text() for file in File(f"/proc/{pid}/fdinfo").iterdir())
    found = (re.search(r"^memlock:\t(\d+)\nmap_id:\t(\d+)$", text, re.MULTILINE) for text in texts)
    return sum({match[2]: int(match[1]) for match in found if match}.values()) / (1 << 20)


def rows(runs: int) -> list[Row]:
    """Measure each flood with 1 door and with 100,000."""
    ratios: dict[tuple[str, int, str], float] = {}
    with ExitStack() as stack:
        drop = stack.enter_context(dropping())
        gates = {
            (doors, shield): stack.enter_context(guarding(doors, shield=shield))
            for doors in DOORS
            for shield in ("off", "on")
        }
        for name, each in FLOODS.items():
            if each.kind.protocol == UDP:  # until then, packets to any UDP port may be answers
                wait_until(max(gate.attached_s for gate in gates.values()) + UDP_BUSY_S + 1)
            found = beside(drop, {key: gate.lab for key, gate in gates.items()}, partial(rate, each), runs)
            ratios |= {(name, *key): ratio for key, ratio in found.items()}
    medians = {key: median(ratios[name, *key] for name in FLOODS) for key in gates}
    return [
        *(row for name in FLOODS for row in beside_the_rule(name, {key: ratios[name, *key] for key in gates}, 0.75)),
        *beside_the_rule("median of these", medians, 0.8),
        *(row for doors in DOORS for row in costs(doors, gates[doors, "on"])),
    ]


def beside_the_rule(name: str, ratios: dict[tuple[int, str], float], least: float) -> list[Row]:
    """Return what the shield reaches of the rule's rate; its peer is the gate alone."""
    return [
        Row(f"{name}, {number_of(doors)} (peer: no shield)", "of a drop rule", "higher",
            ratios[doors, "on"], ratios[doors, "off"], Bound("value", ">=", least))
        for doors in DOORS
    ]  # fmt: skip


def costs(doors: int, gate: Gate) -> list[Row]:
    """Return what the shield takes."""
    what = f"the shield of {number_of(doors)}"
    return [
        Row(f"{what}: attached after the gate is ready", "s", "lower", gate.loading_s),
        Row(f"{what}: its tables in the kernel", "MiB", "lower", gate.maps_mib),
        Row(f"{what}: its process, resident", "MiB", "lower", gate.process_mib),
    ]


def number_of(doors: int) -> str:
    return f"{doors:,} door{'s' * (doors > 1)}"


def beside(drop: Lab, labs: Mapping[K, Lab], measure: Callable[[Lab, float], float], runs: int) -> dict[K, float]:
    """Return the median of what each reaches of the mean of the rule's rates right before and after it.

    `measure` floods a lab for so many seconds, and returns the rate.
    """
    for lab in (drop, *labs.values()):
        measure(lab, WARM_UP_S)
    ratios: dict[K, list[float]] = {key: [] for key in labs}
    before = measure(drop, SECONDS)
    for _ in range(runs):
        for key, lab in labs.items():
            own, after = measure(lab, SECONDS), measure(drop, SECONDS)
            ratios[key].append(2 * own / (before + after))
            before = after
    return {key: median(values) for key, values in ratios.items()}


def rate(what: Flood, lab: Lab, seconds: float) -> float:
    """Send from the lab's client to its server; return the packets per second of processor time."""
    packets = packets_of(path_of(lab, what.kind.version), what)
    sent, spent_s = sending(lab, lambda: flood(lab.client.interface, packets, seconds=seconds).sent)
    return sent / spent_s


def path_of(lab: Lab, version: int) -> Path:
    to_mac, from_mac = (bytes.fromhex(host.mac.replace(":", "")) for host in (lab.server, lab.client))
    return Path(to_mac, from_mac, lab.server.ipv6 if version == 6 else lab.server.ipv4)


def sending(lab: Lab, send: Callable[[], int]) -> tuple[int, float]:
    """Call `send` on the lab's client; return the number of packets that it returns, and the processor time in s."""

    def inside() -> tuple[int, float]:
        os.sched_setaffinity(0, {SENDER_CPU})  # this thread, which ends with the call
        os.setpriority(os.PRIO_PROCESS, 0, HIGHEST)
        with session_priority(HIGHEST):
            began_ns = spent_ns()
            sent = send()
            return sent, (spent_ns() - began_ns) / 1e9

    return lab.client.call(inside)


@cache
def packets_of(path: Path, what: Flood) -> Traffic:
    if what.sources == 1:
        return from_one(path, what.kind, ONE_SOURCE, what.ports, 1)
    return traffic(path, what.kind, what.sources, what.ports, 1)


@contextmanager
def session_priority(nice: int) -> Iterator[None]:
    """Change the priority of the processes of this session (sched(7), autogroup), and restore it: a shell began it."""
    group = File("/proc/self/autogroup")
    try:
        before = group.read_text().split()[-1]
    except OSError:  # a kernel without
        yield
        return
    group.write_text(f"{nice}\n")
    try:
        yield
    finally:
        group.write_text(f"{before}\n")


def spent_ns() -> int:
    """Return the processor time of this thread, and of the kernel's that receives where the sender was interrupted."""
    return time.thread_time_ns() + int(File(f"/proc/{receiver()}/schedstat").read_text().split()[0])


@cache
def receiver() -> int:
    return named(f"ksoftirqd/{SENDER_CPU}", (int(process.name) for process in File("/proc").glob("[0-9]*")))


def named(name: str, pids: Iterable[int]) -> int:
    """Return the one of these processes that has a name."""
    found = []
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            found += [pid] * (File(f"/proc/{pid}/comm").read_text() == f"{name}\n")
    [pid] = found
    return pid


def wait_until(time_s: float) -> None:
    if (left_s := time_s - time.monotonic()) > 0:
        print(f"waiting for {left_s:.0f} s …", file=sys.stderr, flush=True)
        time.sleep(left_s)
