"""What other clients of etcd may write, and an operator's command reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from doorward.cli import fleet
from doorward.fleet.admin import FleetAdmin, GateStatus
from doorward.fleet.etcd import Etcd
from doorward.fleet.etcd_codec import KeyValue, RangeResult

RECORD = {"event": "opened", "door": "ssh", "address": "192.0.2.7", "words": "key a", "at_ms": 1_000, "gate": "edge-1"}


class Store:
    """An etcd with these values below every prefix."""

    def __init__(self, *values: bytes) -> None:
        self.result = RangeResult([KeyValue(f"/{n}", value, 1) for n, value in enumerate(values)], 1)

    def prefix(self, _: str) -> RangeResult:
        return self.result


def admin(*values: bytes) -> FleetAdmin:
    return FleetAdmin(cast(Etcd, Store(*values)), "shop")


@pytest.mark.parametrize(
    "change",
    [
        {"at_ms": "now"},
        {"at_ms": [1]},
        {"at_ms": True},
        {"at_ms": 1e300},
        {"at_ms": 1 << 52},
        {"at_ms": -1},
        {"door": None},
        {"words": {}},
        {"gate": 7},
        {"event": None},
        {"address": ["192.0.2.7"]},
    ],
)
def test_a_malformed_record_hides_no_other(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = json.dumps(RECORD).encode(), json.dumps(RECORD | change).encode()

    @contextmanager
    def store(_: object) -> Iterator[FleetAdmin]:
        yield admin(bad, b"[]", b"{}", good)

    monkeypatch.setattr(fleet, "open_admin", store)
    args = argparse.Namespace(door=None, address="192.0.2.7", last=100, json=False)
    assert fleet.log(args, 0.0) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("edge-1      opened   192.0.2.7        ssh: key a")


def test_an_answer_does_not_replace_the_name_of_its_gate() -> None:
    answer: dict[str, Any] = {"gate": "edge-2", "state": "up", "took_ms": 0, "openings": 3, "behind": 2, "wall_ms": 9}
    assert fleet._gate_dict(GateStatus("edge-1", "silent", answer, 7)) == {
        "gate": "edge-1",
        "state": "silent",
        "took_ms": 7,
        "offset_ms": 0,
        "openings": 3,
        "behind": 2,
    }
