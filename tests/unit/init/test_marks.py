"""The choice of `accept_mark` when another firewall drops what a door opens."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from doorward.config.schema import Mark
from doorward.config.toml import parse
from doorward.doctor.host import (
    BaseChain,
    Block,
    Boot,
    Facts,
    LocalAddress,
    MarkRule,
    Network,
    PacketPath,
    Probe,
    Trace,
)
from doorward.doctor.rules import ForeignRuleset
from doorward.init.config_writer import accept_mark_for
from doorward.model import Port

CONFIGURATION = parse('[doors.ssh]\nopens = ["22/tcp"]\n', "f")
NETWORK = Network((LocalAddress("eth0", ip_interface("192.0.2.7/24")),), ())
SSH = Port.parse("22/tcp")
FILTER = ForeignRuleset("iptables-nft", "ip", "filter", "")
DROPS = Block(FILTER, BaseChain("INPUT", "input", 0), "iptables-nft -t filter, chain INPUT: its policy drops")


def facts(*blocks: Block, mark_rules: tuple[MarkRule, ...] = ()) -> Facts:
    here = NETWORK.locals[0].address.ip
    probe = Probe(SSH, "eth0", (ip_address("81.2.69.142"),), here, is_operator=False)
    return Facts(
        session=None,
        network=replace_rules(mark_rules),
        listening=frozenset({SSH}),
        trace=Trace((FILTER.name,), (PacketPath(probe, "new", blocks, SSH),)),
        boot=Boot(False, frozenset()),
        daemon=None,
        is_table_loaded=False,
        is_as_loaded=None,
        rejection="",
        memory_bytes=1 << 30,
        conntrack=None,
    )


def replace_rules(rules: tuple[MarkRule, ...]) -> Network:
    return NETWORK._replace(mark_rules=rules)


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
