"""All figures of a report, from the sorted records; the page and the JSON show the same. Pure."""

from __future__ import annotations

from typing import NamedTuple

from doorward.json_form import iso_time
from doorward.report.events import PeriodEvents, Session
from doorward.report.opening_list import Timeline, count_people, timelines
from doorward.report.source_list import (
    LocalTime,
    RefusalMap,
    RefusedNetwork,
    build_grid,
    build_map,
    place_on_map,
    top_reasons,
    worst_networks,
)
from doorward.report.strength import GateAudit

LATEST = 100  # openings listed one by one


class Statistics(NamedTuple):
    """The figures of the page. `audit` is None without a configuration at the path `config_path`."""

    events: PeriodEvents
    people: int
    timelines: list[Timeline]
    latest: list[Session]
    open_now: int
    addresses: int
    networks: int
    sources: list[RefusedNetwork]
    reasons: list[tuple[str, int]]
    other_reasons: int
    map: RefusalMap
    audit: GateAudit | None
    config_path: str


def build_statistics(events: PeriodEvents, audit: GateAudit | None, config_path: str, local: LocalTime) -> Statistics:
    """Return the events of a period, counted and grouped."""
    grid = build_grid(events.period, local)
    mapped = place_on_map(events.refusals, grid, local)
    networks_shown, networks = worst_networks(mapped)
    common_reasons, other_reasons = top_reasons(events.refusals)
    return Statistics(
        events,
        count_people(events.sessions),
        timelines(events.sessions, events.period),
        events.sessions[: -LATEST - 1 : -1],
        sum(session.ended_by is None for session in events.sessions),
        len({refusal.address for refusal in events.refusals}),
        networks,
        networks_shown,
        common_reasons,
        other_reasons,
        build_map(mapped, grid),
        audit,
        config_path,
    )


def as_json(statistics: Statistics) -> dict[str, object]:
    """Return the figures for `--json`; times are in ISO 8601."""
    events = statistics.events
    return {
        "since": iso_time(events.period.since_s),
        "until": iso_time(events.period.until_s),
        "openings": len(events.sessions),
        "people": statistics.people,
        "open_now": statistics.open_now,
        "refusals": len(events.refusals),
        "bans": len(events.bans),
        "addresses": statistics.addresses,
        "networks": statistics.networks,
        "users": [_timeline_object(timeline) for timeline in statistics.timelines],
        "sources": [_network_object(source) for source in statistics.sources],
        "reasons": [{"reason": reason, "refusals": count} for reason, count in statistics.reasons],
        "other_reasons": statistics.other_reasons,
        "future": events.future,
        "dropped": events.dropped,
        "warnings": statistics.audit.levels["warning"] if statistics.audit else None,
        "notes": statistics.audit.levels["note"] if statistics.audit else None,
    }


def _timeline_object(timeline: Timeline) -> dict[str, object]:
    key = (None, None, None) if timeline.others else (timeline.door, timeline.person, timeline.by)
    return dict(zip(("door", "person", "by"), key, strict=True)) | {
        "others": timeline.others,
        "openings": timeline.openings,
        "open_s": timeline.open_s,
        "last": iso_time(timeline.last_s),
        "addresses": timeline.addresses,
        "open_now": timeline.open_now,
    }


def _network_object(source: RefusedNetwork) -> dict[str, object]:
    return {
        "network": source.network,
        "addresses": source.addresses,
        "refusals": source.refusals,
        "first": iso_time(source.first_s),
        "last": iso_time(source.last_s),
        "reason": source.reason,
    }
