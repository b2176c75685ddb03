"""The choice of `accept_mark` when another firewall drops what a door opens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorward.config.schema import Mark
from doorward.config.toml import parse
from doorward.doctor.host import BaseChain, Block, Facts, MarkRule, PacketPath, Trace
from doorward.init.config_writer import accept_mark_for
from tests.support.doctor_facts import FILTER, NETWORK, SSH, TO_SSH, WELL

CONFIGURATION = parse('[doors.ssh]\nopens = ["22/tcp"]\n', "f")
DROPS = Block(FILTER, BaseChain("INPUT", "input", 0), "iptables-nft -t filter, chain INPUT: its policy drops")


def facts(*blocks: Block, mark_rules: tuple[MarkRule, ...] = ()) -> Facts:
    trace = Trace((FILTER.name,), (PacketPath(TO_SSH, "new", blocks, SSH),))
    return replace(WELL, network=NETWORK._replace(mark_rules=mark_rules), trace=trace)


@pytest.mark.parametrize(
    ("blocks", "mark_rules", "mark"),
    [
        ([], (), None),
        ([DROPS], (), Mark(0x1000, 0x1000)),
        ([DROPS], (MarkRule(0x1000, 0x1000),), Mark(0x2000, 0x2000)),
        ([DROPS], (MarkRule(0x200, 0xFF00),), Mark(1 << 20, 1 << 20)),
        ([DROPS], (MarkRule(1, 0xFFFF_FFFF),), None),  # whatever is set, it looks at it
    ],
)
def test_mark_for_blocking_rules(blocks: list[Block], mark_rules: tuple[MarkRule, ...], mark: Mark | None) -> None:
    assert accept_mark_for(CONFIGURATION, facts(*blocks, mark_rules=mark_rules)) == mark


def test_chosen_mark_conflicts_with_no_routing_rule() -> None:
    found = facts(DROPS, mark_rules=(MarkRule(0x1000, 0x3000),))
    mark = accept_mark_for(CONFIGURATION, found)
    marked = replace(CONFIGURATION, gate=replace(CONFIGURATION.gate, accept_mark=mark))
    assert mark is not None
    assert accept_mark_for(marked, found) == mark
    assert found.trace.tables == ("iptables-nft -t filter",)
