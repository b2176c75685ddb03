"""Set sizes and attempts in progress, read from the kernel, quickly even where a flood filled the sets."""

from __future__ import annotations

import re
import time
from ipaddress import ip_address

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.lab.topology import Lab
from doorward.model import Door, Packet, Port
from doorward.nftables import nfnetlink
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nfnetlink import ProgressEntry, SetUsage
from doorward.nftables.ruleset import compile_ruleset
from tests.support.daemon import SLOWNESS
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns("nft")

KNOCK = tuple(map(Port.parse, ("7001/tcp", "7002/tcp", "7003/tcp")))
DOORS = [Door("ssh", KNOCK, (Port.parse("22/tcp"),), within_ms=3_600_000)]
AUTOMATON = compile_doors(DOORS)
STATES = [AUTOMATON.machines[0].root + n for n in range(4)]
SOURCES = [ip_address(text) for text in ("198.51.100.9", "198.51.100.10", "2001:db8:c::9")]
CAPACITY = 200_000


@pytest.fixture
def gate(direct_lab: Lab) -> Lab:
    ruleset = compile_ruleset(DOORS, AUTOMATON, Gate(mode=Mode.GUARD), CAPACITY)
    direct_lab.server.call(NftFirewall().run, ruleset.full_text())
    return direct_lab


def filled(lab: Lab) -> dict[str, SetUsage]:
    """Return the sets that hold something, without what their names end with."""
    found: list[SetUsage] = lab.server.call(nfnetlink.read_set_usage)
    return {re.split(r"(?<=[46])_", fill.name)[0]: fill for fill in found if fill.elements != 0}


def maps(lab: Lab) -> list[str]:
    return [thing.name for thing in lab.server.call(NftFirewall().existing) if thing.kind == "map"]


def test_progress_of_each_source(gate: Lab) -> None:
    frames = FrameSender(gate.client, gate.server)
    for source, knocks in zip(SOURCES, (1, 2, 2), strict=True):
        for port in KNOCK[:knocks]:
            frames.send(Packet(source.packed, port, 2))
    frames.close()
    found = gate.server.call(nfnetlink.read_attempts, maps(gate), 10)
    assert {(each.source, each.state) for each in found} == set(
        zip(SOURCES, (STATES[1], STATES[2], STATES[2]), strict=True)
    )
    assert all(3_500_000 < each.left_ms <= 3_600_000 for each in found)
    counts = {name: (fill.elements, fill.size) for name, fill in filled(gate).items()}
    if counts["first_knock4"][0] is None:  # before Linux 6.16
        return
    assert {name: counts[name] for name in ("first_knock4", "first_knock6", "progress4", "progress6")} == {
        "first_knock4": (2, CAPACITY),
        "first_knock6": (1, CAPACITY),
        "progress4": (1, CAPACITY),
        "progress6": (1, CAPACITY),
    }
    assert "open4" not in counts


def test_a_full_map_costs_no_more_than_an_empty_one(gate: Lab) -> None:
    (window,) = [name for name in maps(gate) if name.startswith("first_knock4")]
    for first in range(0, CAPACITY, 50_000):
        keys = ", ".join(f"{ip_address(0x0A000000 + n)} timeout 1h : 0:2" for n in range(first, first + 50_000))
        gate.server.call(NftFirewall().run, f"add element inet doorward {window} {{ {keys} }}")

    def measured() -> tuple[list[SetUsage], list[ProgressEntry], float]:
        begun_s = time.perf_counter()
        fills, attempts = nfnetlink.read_set_usage(), nfnetlink.read_attempts([window], 50)
        return fills, attempts, time.perf_counter() - begun_s

    fills, attempts, took_s = gate.server.call(measured)
    (fill,) = [fill for fill in fills if fill.name == window]
    assert fill.size == CAPACITY
    assert fill.elements in (CAPACITY, None)
    assert len(attempts) == len({each.source for each in attempts}) == 50
    assert took_s < 0.5 * SLOWNESS  # a list of them all takes more than a second; measured: 2 ms


def test_without_a_table_there_is_nothing(direct_lab: Lab) -> None:
    assert direct_lab.server.call(nfnetlink.read_set_usage) == []
    assert direct_lab.server.call(nfnetlink.read_attempts, ["first_knock4_x"], 10) == []
