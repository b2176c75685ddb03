"""What the daemon's `numbers` are called in Prometheus. A metric is added in one place: a line here.

Whatever moves with a knock lets every local user who reads it follow a sequence knock by knock: they send a packet,
and look. So the public exposition has only what no knock moves, by name; a new metric is not public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from doorward import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST  # of what `exposition` gives
_Samples = dict[tuple[str, ...], float]
_PUBLIC = {
    "doorward_up",
    "doorward_build_info",
    "doorward_doors",
    "doorward_signed_ready",
    "doorward_fleet_in_touch",
    "doorward_ledger_trouble",
    "doorward_packets",
}
# Not `silent`, `fast`, `banned` or the limiter's: with wrong_port = "known" they tell ports that occur in a sequence.
_PUBLIC_PATHS = {"hidden", "signed_length", "signed_fast", "signed_over"}
_EVENTS = {
    "opened": ("doorward_opened", "Openings that began, by door and by how it was opened: knock, key or hand."),
    "prolonged": ("doorward_prolonged", "Openings that were made longer, by door and by how."),
    "closed": ("doorward_closed", "Openings that ended, by door and by how: time, hand, ban, or lost by the kernel."),
    "ran": ("doorward_ran", "Commands of doors that stay open for nobody, by door and by how they were asked for."),
}


class Exposition(NamedTuple):
    """The text that Prometheus reads: for every local user, and for those who may see what knocks do."""

    public: bytes
    full: bytes


def exposition(numbers: Mapping[str, Any] | None) -> Exposition:
    """Return both texts. None: no daemon answers."""
    found = [_gauge("doorward_up", "Whether the daemon answers.", numbers is not None)]
    if numbers is not None:
        found += families(numbers)
    return Exposition(_text([_public(each) for each in found if each.name in _PUBLIC]), _text(found))


def _public(family: Metric) -> Metric:
    if family.name == "doorward_packets":
        family = copy(family)
        family.samples = [sample for sample in family.samples if sample.labels["path"] in _PUBLIC_PATHS]
    return family


def _text(found: list[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(found))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        return self._found


def families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    """Give every metric of these numbers."""
    yield _labelled(GaugeMetricFamily("doorward_build_info", "The version.", labels=["version"]), {(__version__,): 1})
    yield _gauge("doorward_doors", "Doors of the configuration that is in force.", numbers["doors"])
    yield _gauge("doorward_openings", "Openings that stand.", numbers["openings"])
    yield _gauge("doorward_bans", "Addresses and networks that are banned.", numbers["bans"])
    yield from _events(numbers)
    yield _refusals(numbers)
    packets = CounterMetricFamily(
        "doorward_packets", "Packets counted by the kernel, by what became of them.", labels=["path"]
    )
    yield _labelled(packets, {(name,): count for name, count in numbers["counters"].items()})
    yield from _sets(numbers["sets"])
    yield _latency(numbers["latency"])
    if (signed := numbers["signed"]) is not None:
        yield _gauge("doorward_signed_ready", "Whether signed knocks are taken.", signed["takes"])
    if (fleet := numbers.get("fleet")) is not None:  # an older daemon has none
        yield from _fleet(fleet)
    yield _counter("doorward_log_overflows", "Times that the kernel's log lost messages.", numbers["log_overflows"])
    yield _gauge("doorward_ledger_trouble", "Whether the ledger cannot be written.", bool(numbers["ledger_trouble"]))
    yield _counter("doorward_ledger_lost", "Records that never reached the ledger.", numbers["ledger_lost"])


def _fleet(fleet: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("doorward_fleet_in_touch", "Whether etcd answers.", fleet["is_in_touch"])
    yield _gauge("doorward_fleet_openings", "Openings of the whole fleet, as this gate knows them.", fleet["openings"])
    yield _gauge("doorward_fleet_owed", "Changes that etcd is still to be told of.", fleet["owed"])
    rejected = CounterMetricFamily(
        "doorward_fleet_rejected", "Openings of the fleet that are not opened here.", labels=["reason"]
    )
    yield _labelled(rejected, {(reason,): count for reason, count in fleet.get("rejected", {}).items()})
    words = "Signed knocks for the fleet that it gave no answer for, by what became of them."
    unanswered = CounterMetricFamily("doorward_fleet_unanswered", words, labels=["outcome"])
    counted = dict.fromkeys(("refused", "taken"), 0) | fleet["without_answer"]
    yield _labelled(unanswered, {(outcome,): count for outcome, count in counted.items()})


def _events(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    for event, (name, words) in _EVENTS.items():
        samples: _Samples = {(door, by): count for what, door, by, count in numbers["events"] if what == event}
        yield _labelled(CounterMetricFamily(name, words, labels=["door", "by"]), samples)


def _refusals(numbers: Mapping[str, Any]) -> Metric:
    signed = (numbers["signed"] or {}).get("refused", {})
    samples: _Samples = {("knock", reason): count for reason, count in numbers["refused"].items()}
    samples |= {("key", reason): count for reason, count in signed.items()}
    words = "Knocks and signed knocks that were refused, by way and reason."
    return _labelled(CounterMetricFamily("doorward_refusals", words, labels=["by", "reason"]), samples)


def _sets(sets: Mapping[str, Any]) -> Iterator[Metric]:
    """Tell how full each set is; those of the automaton's machines have the machine's fingerprint in their name."""
    labels = ["set", "machine"]
    known = {tuple(name.partition("_")[::2]): told for name, told in sets.items()}
    full = GaugeMetricFamily("doorward_set_elements", "Elements of the kernel's sets, where it tells.", labels=labels)
    yield _labelled(full, {key: told["elements"] for key, told in known.items() if told["elements"] is not None})
    size = GaugeMetricFamily("doorward_set_size", "Elements that the kernel's sets take.", labels=labels)
    yield _labelled(size, {key: told["size"] for key, told in known.items() if told["size"]})


def _latency(told: Mapping[str, Any]) -> Metric:
    bounds = [*map(str, told["bounds"]), "+Inf"]
    buckets = list(zip(bounds, accumulate(told["counts"]), strict=True))
    words = "Seconds from the kernel's log of a complete knock to its opening in the ledger."
    return HistogramMetricFamily("doorward_recording_seconds", words, buckets=buckets, sum_value=told["sum"])


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=float(value))


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=float(value))


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, samples: _Samples) -> Metric:
    for labels, value in samples.items():
        family.add_metric(labels, float(value))
    return family
