"""All figures of a report, from the sorted records; the page and the JSON show the same. Pure."""

from __future__ import annotations

from typing import NamedTuple

from doorward.report.events import PeriodEvents, Session
from doorward.report.opening_list import Timeline, lanes, people
from doorward.report.source_list import (
    LocalTime,
    RefusalMap,
    RefusedNetwork,
    build_grid,
    build_map,
    placed,
    reasons,
    sources,
)
from doorward.report.strength import GateAudit

LATEST = 100  # openings listed one by one


class Statistics(NamedTuple):
    """The figures of the page. `strengths` is None without a configuration at the path `missing`."""

    found: PeriodEvents
    people: int
    lanes: list[Timeline]
    latest: list[Session]
    standing: int
    addresses: int
    networks: int
    sources: list[RefusedNetwork]
    reasons: list[tuple[str, int]]
    rare: int
    map: RefusalMap
    strengths: GateAudit | None
    missing: str


def figures(found: PeriodEvents, strengths: GateAudit | None, missing: str, local: LocalTime) -> Statistics:
    """Return the events of a period, counted and grouped."""
    grid = build_grid(found.period, local)
    where = placed(found.refusals, grid, local)
    worst, networks = sources(where)
    common, rare = reasons(found.refusals)
    return Statistics(
        found,
        people(found.visits),
        lanes(found.visits, found.period),
        found.visits[: -LATEST - 1 : -1],
        sum(visit.ended_by is None for visit in found.visits),
        len({refusal.address for refusal in found.refusals}),
        networks,
        worst,
        common,
        rare,
        build_map(where, grid),
        strengths,
        missing,
    )


def as_json(told: Statistics) -> dict[str, object]:
    """Return the figures for `--json`; times are seconds since the epoch."""
    found = told.found
    return {
        "since": found.period.since_s,
        "until": found.period.until_s,
        "openings": len(found.visits),
        "people": told.people,
        "standing": told.standing,
        "refusals": len(found.refusals),
        "addresses": told.addresses,
        "networks": told.networks,
        "who": [_lane(lane) for lane in told.lanes],
        "sources": [_source(source) for source in told.sources],
        "reasons": [{"reason": reason, "refusals": count} for reason, count in told.reasons],
        "other_reasons": told.rare,
        "ahead": found.ahead,
        "forgotten": found.forgotten,
        "warnings": told.strengths.levels["warning"] if told.strengths else None,
        "notes": told.strengths.levels["note"] if told.strengths else None,
    }


def _lane(lane: Timeline) -> dict[str, object]:
    who = (None, None, None) if lane.others else (lane.door, lane.person, lane.by)
    return dict(zip(("door", "person", "by"), who, strict=True)) | {
        "others": lane.others,
        "openings": lane.visits,
        "open_s": lane.open_s,
        "last": lane.last_s,
        "addresses": lane.addresses,
        "standing": lane.standing,
    }


def _source(source: RefusedNetwork) -> dict[str, object]:
    return {
        "network": source.network,
        "addresses": source.addresses,
        "refusals": source.refusals,
        "first": source.first_s,
        "last": source.last_s,
        "reason": source.reason,
    }
