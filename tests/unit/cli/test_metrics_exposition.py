"""The numbers as Prometheus reads them; what the manual and the dashboard name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from doorward import __version__
from doorward.cli.metrics_server import Stats, StatsCollector
from doorward.daemon.confirmation_outcomes import Outcome
from doorward.nftables.ruleset import COUNTERS

ROOT = Path(__file__).parents[3]
NUMBERS: dict[str, Any] = {
    "doors": 3,
    "openings": 2,
    "bans": 6,
    "events": [
        ["opened", "ssh", "knock", 4],
        ["opened", "ssh", "key", 1],
        ["prolonged", "ssh", "hand", 2],
        ["closed", "ssh", "time", 3],
        ["ran", "", "knock", 7],
    ],
    "refused": {"throttled": 5},
    "counters": {"dropped_closed": 12, "open_full": 0},
    "sets": {
        "open4": {"elements": 2, "size": 65536},
        "first_knock4_ab12": {"elements": None, "size": 4096},
        "preexisting4": {"elements": 1, "size": 0},
    },
    "latency": {"bounds": [0.001, 0.01], "counts": [3, 1, 1], "sum": 0.6},
    "signed": {"takes": True, "refused": {"used": 1}, "confirmations": {"counts": {"sent": 2}}},
    "fleet": {
        "name": "f",
        "is_in_touch": True,
        "openings": 8,
        "owed": 1,
        "revision": 7,
        "without_answer": {"refused": 4},
        "rejected": {"door": 2},
    },
    "log_overflows": 1,
    "ledger_trouble": "the disk is full",
    "ledger_lost": 9,
}
EXPECTED = {
    'doorward_up{}': 1,
    f'doorward_build_info{{"version": "{__version__}"}}': 1,
    "doorward_doors{}": 3,
    "doorward_openings{}": 2,
    "doorward_bans{}": 6,
    'doorward_opened_total{"by": "knock", "door": "ssh"}': 4,
    'doorward_opened_total{"by": "key", "door": "ssh"}': 1,
    'doorward_prolonged_total{"by": "hand", "door": "ssh"}': 2,
    'doorward_closed_total{"by": "time", "door": "ssh"}': 3,
    'doorward_hook_runs_total{"by": "knock", "door": ""}': 7,
    'doorward_refusals_total{"by": "knock", "reason": "throttled"}': 5,
    'doorward_refusals_total{"by": "key", "reason": "used"}': 1,
    'doorward_packets_total{"path": "dropped_closed"}': 12,
    'doorward_packets_total{"path": "open_full"}': 0,
    'doorward_set_elements{"automaton": "", "set": "open4"}': 2,
    'doorward_set_elements{"automaton": "", "set": "preexisting4"}': 1,
    'doorward_set_size{"automaton": "", "set": "open4"}': 65536,
    'doorward_set_size{"automaton": "ab12", "set": "first_knock4"}': 4096,
    'doorward_recording_seconds_bucket{"le": "0.001"}': 3,
    'doorward_recording_seconds_bucket{"le": "0.01"}': 4,
    'doorward_recording_seconds_bucket{"le": "+Inf"}': 5,
    "doorward_recording_seconds_count{}": 5,
    "doorward_recording_seconds_sum{}": 0.6,
    "doorward_signed_ready{}": 1,
    'doorward_confirmations_total{"outcome": "sent"}': 2,
    "doorward_fleet_in_touch{}": 1,
    "doorward_fleet_openings{}": 8,
    "doorward_fleet_owed{}": 1,
    'doorward_fleet_unanswered_total{"outcome": "refused"}': 4,
    'doorward_fleet_unanswered_total{"outcome": "taken"}': 0,
    'doorward_fleet_rejected_total{"reason": "door"}': 2,
    "doorward_log_overflows_total{}": 1,
    "doorward_ledger_trouble{}": 1,
    "doorward_ledger_lost_total{}": 9,
}  # fmt: skip


def samples(stats: Stats | None, *, is_public: bool = False) -> dict[str, float]:
    """Read an exposition as Prometheus does."""
    raw, found = generate_latest(StatsCollector(lambda: stats, is_public=is_public)), {}
    for family in text_string_to_metric_families(raw.decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            found[f"{sample.name}{json.dumps(dict(sorted(sample.labels.items())))}"] = sample.value
    return found


def names() -> set[str]:
    return {key.partition("{")[0] for key in EXPECTED}


def test_every_number_has_its_name() -> None:
    assert samples(NUMBERS) == EXPECTED


def test_every_local_user_sees_nothing_that_a_knock_changes() -> None:
    assert samples(NUMBERS, is_public=True) == {
        'doorward_up{}': 1,
        f'doorward_build_info{{"version": "{__version__}"}}': 1,
        "doorward_doors{}": 3,
        'doorward_packets_total{"path": "dropped_closed"}': 12,
        "doorward_signed_ready{}": 1,
        "doorward_fleet_in_touch{}": 1,
        "doorward_ledger_trouble{}": 1,
    }  # fmt: skip


def test_without_signed_knocks_there_is_nothing_of_them() -> None:
    found = samples(NUMBERS | {"signed": None})
    assert EXPECTED.keys() - found.keys() == {
        "doorward_signed_ready{}",
        'doorward_confirmations_total{"outcome": "sent"}',
        'doorward_refusals_total{"by": "key", "reason": "used"}',
    }


def test_a_gate_that_is_alone_has_no_fleet() -> None:
    found = samples(NUMBERS | {"fleet": None})
    assert len(EXPECTED.keys() - found.keys()) == 6
    assert all(key.startswith("doorward_fleet_") for key in EXPECTED.keys() - found.keys())


def test_without_a_daemon_one_number_says_so() -> None:
    for is_public in (True, False):
        assert samples(None, is_public=is_public) == {"doorward_up{}": 0}


def test_a_door_may_be_called_anything_that_a_door_may_be_called() -> None:
    name = "A_-9" * 16
    found = samples(NUMBERS | {"events": [["opened", name, "key", 1]]})
    assert found[f'doorward_opened_total{{"by": "key", "door": "{name}"}}'] == 1


def test_the_manual_lists_all_metrics_and_no_others() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `(doorward_\w+)`", text, re.MULTILINE))
    assert listed == {re.sub(r"_(bucket|count|sum)$", "", name) for name in names()}
    assert set(re.findall(r"expr: .*?(doorward_\w+)", text)) <= names()
    public = re.findall(r"^\| `(doorward_\w+)` \|[^|]*\| (?:yes|`dropped_closed`.*?) \|", text, re.MULTILINE)
    assert set(public) == {key.partition("{")[0] for key in samples(NUMBERS, is_public=True)}
    paths = re.findall(r"`(\w+)`", re.findall(r"^\| `doorward_packets_total` \| path \|(.*?)\|", text, re.MULTILINE)[0])
    outcomes = re.findall(r"^\| `doorward_confirmations_total` \|.*", text, re.MULTILINE)[0]
    assert set(re.findall(r"`([a-z-]+)`", outcomes)) == set(get_args(Outcome))
    counted = samples(NUMBERS | {"counters": dict.fromkeys(COUNTERS, 1)}, is_public=True)
    assert {f'doorward_packets_total{{"path": "{path}"}}' for path in paths} == {
        key for key in counted if key.startswith("doorward_packets")
    }


def test_the_dashboard_shows_what_there_is() -> None:
    board = json.loads((ROOT / "contrib" / "grafana" / "doorward.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    taken: set[tuple[int, int]] = set()
    shown: set[str] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["type"] in ("stat", "timeseries")
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["expr"].count("(") == target["expr"].count(")")
            shown |= set(re.findall(r"doorward_\w+", target["expr"]))
    assert shown <= names()
    assert len(shown) > 8
