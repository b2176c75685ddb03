"""Claims of signed knocks in a real etcd: each number once, and no open dated at or before a close by its signer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doorward.fleet.etcd import EtcdAccess
from doorward.fleet.etcd_records import KeySpace, OpeningKey
from doorward.fleet.protocol import MAX_PER_MESSAGE, Claim, ClaimOutcome, KnockClaim
from doorward.fleet.watcher import Watcher
from doorward.fleet.writer import EtcdWriter
from tests.support.etcd import Node, single

WINDOW_MS = 60_000
HOME = ip_address("192.0.2.7")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with single(tmp_path_factory.mktemp("etcd")) as node:
        yield node


class Gates:
    """Two gates of a fleet, and messages dated in milliseconds after a moment."""

    def __init__(self, node: Node, fleet: str) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        watcher = cast(Watcher, SimpleNamespace(endpoint=node.client))
        access = EtcdAccess((node.client,), 5.0)
        self.writers = [
            EtcdWriter(access, KeySpace(fleet), gate, gate.encode(), WINDOW_MS, watcher, lambda _: None)
            for gate in ("edge-1", "edge-2")
        ]

    def open(self, dated: int, signer: str = "ada", door: str = "ssh") -> KnockClaim:
        key = OpeningKey(door, HOME, signer.ljust(24, "0"))
        return KnockClaim(os.urandom(16).hex(), key, self.now_ms + dated, is_close=False)

    def close(self, dated: int, **of: str) -> KnockClaim:
        return self.open(dated, **of)._replace(is_close=True)

    def claim(self, *knocks: KnockClaim, gate: int = 0) -> list[ClaimOutcome]:
        outcomes = self.writers[gate]._claim(Claim(1, list(knocks))).outcomes
        assert outcomes is not None
        return outcomes

    def end(self) -> None:
        for writer in self.writers:
            writer._etcd.close()


@pytest.fixture
def gates(node: Node, request: pytest.FixtureRequest) -> Iterator[Gates]:
    gates = Gates(node, request.node.name)
    yield gates
    gates.end()


def test_each_number_is_claimed_once(gates: Gates) -> None:
    first, second, close = gates.open(1), gates.open(2), gates.close(3)
    assert gates.claim(first) == ["new"]
    assert gates.claim(first, gate=1) == ["used"]
    assert gates.claim(first, second, close, gate=1) == ["used", "new", "new"]
    assert gates.claim(second, second) == ["used", "used"]
    assert gates.claim(close) == ["used"]


def test_open_dated_at_or_before_a_close_of_its_signer_is_closed(gates: Gates) -> None:
    assert gates.claim(gates.close(5), gates.close(3)) == ["new", "new"]  # the older one changes nothing
    for knocks in [gates.open(4)], [gates.open(5), gates.open(5, signer="b0b")]:
        assert gates.claim(*knocks, gate=1) == ["closed", "new"][: len(knocks)]
    assert gates.claim(gates.open(5, door="db"), gates.open(6)) == ["new", "new"]


def test_in_a_batch_the_order_of_arrival_counts(gates: Gates) -> None:
    batch = gates.open(1), gates.close(2), gates.open(1), gates.open(3)
    assert gates.claim(*batch) == ["new", "new", "closed", "new"]


def test_closes_of_one_moment_do_not_spoil_a_batch(gates: Gates) -> None:
    """A signer may send them together with the knocks of others, which would all be left without an answer."""
    assert gates.claim(gates.open(1, signer="b0b"), gates.close(2), gates.close(2)) == ["new", "new", "new"]
    assert gates.claim(gates.open(2)) == ["closed"]


def test_largest_batch_is_one_transaction(gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates.writers[0], "_claim_one", pytest.fail)
    knocks = [gates.close(n) if n % 2 else gates.open(n) for n in range(MAX_PER_MESSAGE)]
    assert gates.claim(*knocks) == ["new"] * MAX_PER_MESSAGE


def test_claim_that_is_repeated_because_its_answer_was_lost_succeeds(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = gates.writers[0]
    txn = writer._etcd.txn

    def twice(*words: Any) -> object:
        txn(*words)
        return txn(*words)

    monkeypatch.setattr(writer._etcd, "txn", twice)
    assert gates.claim(gates.open(1)) == ["new"]
    assert gates.claim(gates.close(2)) == ["new"]
    assert gates.claim(gates.open(2)) == ["closed"]


def test_forged_close_in_the_far_future_hides_none_and_closes_nothing(gates: Gates) -> None:
    for dated in (2 * WINDOW_MS + 10_000, 1 << 52):
        gates.claim(gates.close(dated))
    assert gates.claim(gates.open(1)) == ["new"]
    assert gates.claim(gates.close(2)) == ["new"]
    assert gates.claim(gates.open(2)) == ["closed"]
