"""A fleet of two gates and one etcd: knock at one, be let in at both; close at one, be closed at both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, running_fleet

pytestmark = pytest.mark.netns("nft")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(Fleet(tmp_path, gates=2, nodes=1)) as fleet:
        yield fleet


def test_a_knock_at_one_gate_opens_both(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    there = fleet.visitor(second, guest.source)
    assert not there.gets_in()
    fleet.knock(guest)
    second.event("opened", address=str(guest), by="knock at edge-1")
    assert there.gets_in()
    assert guest.gets_in()
    assert 590 < second.elements()[there.element()] <= 600
    assert second.elements()[there.element()] <= first.elements()[guest.element()] + 0.1
