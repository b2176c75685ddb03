"""The objects of the table, read from the kernel: the same as nft lists, of this table only."""

from __future__ import annotations

import json

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.lab.topology import Lab
from doorward.model import Door, Packet, Port
from doorward.nftables import nfnetlink
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.ruleset import COUNTERS, Existing, compile_ruleset
from tests.support.frames import FrameSender
from tests.support.processes import as_nobody

pytestmark = pytest.mark.netns("nft")

KNOCK = (Port.parse("7001/tcp"), Port.parse("7002/tcp"))
DOORS = [Door("ssh", KNOCK, (Port.parse("22/tcp"),))]
BESIDE = """
table inet doorwards {
    set open4 { type ipv4_addr; size 5; }
    chain c { }
    counter knocked { packets 7 bytes 7 }
}"""


def listed(lab: Lab) -> set[Existing]:
    """Return what nft prints."""
    found = json.loads(lab.server.run(["nft", "-j", "-t", "list", "table", "inet", "doorward"]).stdout)["nftables"]
    return {
        Existing(kind, thing["name"], thing.get("size", 0))
        for item in found
        for kind, thing in item.items()
        if kind in ("chain", "set", "map", "counter")
    }


@pytest.fixture
def gate(direct_lab: Lab) -> Lab:
    ruleset = compile_ruleset(DOORS, compile_doors(DOORS), Gate(mode=Mode.GUARD), 4096)
    direct_lab.server.run(["nft", BESIDE])
    direct_lab.server.call(NftFirewall().run, ruleset.full_text())
    return direct_lab


def test_everything_is_listed_that_nft_lists(gate: Lab) -> None:
    found = gate.server.call(nfnetlink.existing)
    assert set(found) == listed(gate)
    assert len(found) == len(set(found)) > len(COUNTERS)


def test_counters_count(gate: Lab) -> None:
    frames = FrameSender(gate.client, gate.server)
    for port in (*KNOCK, Port.parse("22/tcp")):
        frames.send(Packet(bytes([198, 51, 100, 9]), port, 2))
    frames.close()
    counted = gate.server.call(nfnetlink.read_counters)
    assert counted.keys() == set(COUNTERS)
    assert counted["knocked"] == 1
    assert gate.server.call(NftFirewall().counters) == {name: counted[name] for name in COUNTERS}


def test_without_a_table_there_is_nothing(direct_lab: Lab) -> None:
    assert direct_lab.server.call(nfnetlink.existing) == []
    assert direct_lab.server.call(nfnetlink.read_counters) == {}
    direct_lab.server.run(["nft", BESIDE])
    assert direct_lab.server.call(nfnetlink.existing) == []
    assert direct_lab.server.call(nfnetlink.read_counters) == {}


def test_a_missing_right_is_named() -> None:
    with pytest.raises(Exception, match="CAP_NET_ADMIN"):
        as_nobody(nfnetlink.existing)
