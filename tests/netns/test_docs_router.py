"""docs/router.md on a router: its doors let a client that knocked through to the host behind, nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.documents import ROOT, blocks
from tests.support.routed import BEHIND, gets_in, knock

pytestmark = pytest.mark.netns("nft")

PAGE = ROOT / "docs/router.md"
ROUTED, NAT, FORWARD, _ = (block.text for block in blocks(PAGE, "toml"))
KNOCK = ("4721", "11839/udp", "7306")
KNOCK_BY_PORT = ("4722", "11840/udp", "7307")
KNOCK_TO_FORWARD = ("4723", "11841/udp", "7308")


@pytest.fixture
def router(lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    lab.server.start_greeter(22)
    with running_daemon(lab.router, tmp_path, ROUTED.replace('"wan0"', '"client", "stranger"')) as daemon:
        yield daemon


def test_a_knock_at_the_router_lets_its_sender_through(lab: Lab, router: RunningDaemon) -> None:
    assert not gets_in(lab.client, BEHIND[4])
    knock(lab.client, str(lab.router.ipv4), *KNOCK)
    router.event("opened", door="inside", address=str(lab.client.ipv4))
    assert gets_in(lab.client, BEHIND[4])
    assert not gets_in(lab.stranger, BEHIND[4])


def test_a_port_that_is_passed_on_opens_as_the_client_sees_it(lab: Lab, tmp_path: Path) -> None:
    lab.server.start_greeter(22)
    rules = f"""table ip forwarding {{ chain prerouting {{
        type nat hook prerouting priority dstnat;
        tcp dport 2222 dnat to {BEHIND[4]}:22
    }}; }}"""
    lab.router.run(["nft", "-f", "-"], stdin=rules)
    router = str(lab.router.ipv4)
    with running_daemon(lab.router, tmp_path, NAT):
        assert not gets_in(lab.client, router, 2222)
        knock(lab.client, router, *KNOCK_BY_PORT)
        assert gets_in(lab.client, router, 2222)
        assert not gets_in(lab.stranger, router, 2222)


def test_an_opening_forwards(lab: Lab, tmp_path: Path) -> None:
    lab.server.start_greeter(22)
    router = str(lab.router.ipv4)
    with running_daemon(lab.router, tmp_path, FORWARD):
        assert not gets_in(lab.client, router, 2200)
        knock(lab.client, router, *KNOCK_TO_FORWARD)
        assert gets_in(lab.client, router, 2200)
        assert not gets_in(lab.stranger, router, 2200)
