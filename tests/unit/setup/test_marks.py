"""Which mark another firewall is shown, where one stands in a door's way."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from doorward.config.schema import Mark
from doorward.config.toml import parse
from doorward.doctor import iptables_rules
from doorward.doctor.host import Boot, Facts, Local, MarkRule, Network
from doorward.model import Port
from doorward.setup.marks import mark_for, names

CONFIGURATION = parse('[doors.ssh]\nopens = ["22/tcp"]\n', "f")
NETWORK = Network((Local("eth0", ip_interface("192.0.2.7/24")),), ())
ACCEPTS = "-p tcp -m tcp --dport 22 -j ACCEPT"


def facts(policy: str, *rules: str, mark_rules: tuple[MarkRule, ...] = ()) -> Facts:
    saved = "\n".join(["*filter", f":INPUT {policy} [0:0]", *(f"-A INPUT {rule}" for rule in rules), "COMMIT"])
    return Facts(
        session=None,
        network=replace_rules(mark_rules),
        listening=frozenset({Port.parse("22/tcp")}),
        filters=tuple(iptables_rules.parse(saved, "iptables-nft")),
        boot=Boot(False, frozenset()),
        daemon=None,
        table_stands=False,
        is_as_loaded=None,
        refusal="",
        memory_bytes=1 << 30,
        conntrack=None,
    )


def replace_rules(rules: tuple[MarkRule, ...]) -> Network:
    return NETWORK._replace(mark_rules=rules)


@pytest.mark.parametrize(
    ("policy", "rules", "mark_rules", "mark"),
    [
        ("ACCEPT", [], (), None),
        ("DROP", [ACCEPTS], (), None),
        ("DROP", [], (), Mark(0x1000, 0x1000)),
        ("DROP", [], (MarkRule(0x1000, 0x1000),), Mark(0x2000, 0x2000)),
        ("DROP", [], (MarkRule(0x200, 0xFF00),), Mark(1 << 20, 1 << 20)),
        ("DROP", [], (MarkRule(1, 0xFFFF_FFFF),), None),  # whatever is set, it looks at it
    ],
)
def test_the_mark(policy: str, rules: list[str], mark_rules: tuple[MarkRule, ...], mark: Mark | None) -> None:
    assert mark_for(CONFIGURATION, facts(policy, *rules, mark_rules=mark_rules)) == mark


def test_no_rule_of_routing_looks_at_what_was_chosen() -> None:
    found = facts("DROP", mark_rules=(MarkRule(0x1000, 0x3000),))
    mark = mark_for(CONFIGURATION, found)
    marked = replace(CONFIGURATION, gate=replace(CONFIGURATION.gate, accept_mark=mark))
    assert mark is not None
    assert mark_for(marked, found) == mark
    assert names(found) == ["iptables-nft -t filter"]
