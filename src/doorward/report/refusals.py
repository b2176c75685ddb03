"""The section of the page about refusals. Pure."""

from __future__ import annotations

from calendar import day_abbr
from collections.abc import Iterator
from datetime import date

from doorward.report import charts
from doorward.report.markup import Html, fill, join, untrusted
from doorward.report.source_list import HOURS, HourGrid, LocalTime, RefusalMap, RefusedNetwork
from doorward.report.statistics import Statistics
from doorward.report.words import count, moment, short

SMALL_MAPS = 6
_WORTH_A_MAP = 0.01  # of all refusals
_MAP = """<p class="hint">{}</p>
<table class="map"><caption class="unseen">Refusals by day and hour</caption><thead><tr><th></th>{}</tr></thead>
<tbody>{}</tbody></table>
<p class="legend" aria-hidden="true">{}</p>
"""
_WORST = """<h3>Networks with the most refusals</h3>
{}<table class="cards"><thead><tr><th scope="col">Network</th><th scope="col" class="number">Addresses</th>\
<th scope="col" class="number">Refusals</th><th scope="col" class="barred">Compared</th>\
<th scope="col">First</th><th scope="col">Last</th><th scope="col">Main reason</th></tr></thead>
<tbody>{}</tbody></table>{}
"""
_SMALL_MAPS = """<p class="hint">Each small map shows one network: the same days and hours, with its own scale.</p>
<div class="maps">{}</div>
"""
_SOURCE = """<tr><th scope="row">{}</th><td class="number" data-is="addresses">{}</td>\
<td class="number" data-is="refusals">{}</td><td class="barred">{}</td><td data-is="first">{}</td>\
<td data-is="last">{}</td><td class="why">{}</td></tr>
"""
_REASONS = """<h3>Reasons</h3>
<table class="cards reasons"><thead><tr><th scope="col">Reason</th><th scope="col" class="number">Refusals</th>\
<th scope="col" class="barred">Compared</th></tr></thead>
<tbody>{}</tbody></table>
"""


def section(statistics: Statistics, local: LocalTime) -> Html:
    """Return the section: who was refused, when, from where, and why."""
    if statistics.events.refusals:
        body = join((_map(statistics.map), _networks(statistics, local), _reasons(statistics)))
    else:
        body = fill("<p>Nothing was refused in this period.</p>")
    return fill('<section aria-labelledby="out"><h2 id="out">Who was refused</h2>\n{}</section>\n', body)


def _map(refusals: RefusalMap) -> Html:
    low = charts.steps(max(refusals.counts.values()))
    what = "Each row is a day" if refusals.grid.dates else "Each row is a day of the week, all weeks combined"
    heads = (
        fill('<th scope="col"><span{}>{}</span></th>', Html() if hour % 3 == 0 else Html(' class="unseen"'), hour)
        for hour in range(HOURS)
    )
    rows = (
        fill(
            '<tr><th scope="row">{}</th>{}</tr>\n',
            _row_head(refusals.grid, row),
            join(_cell(refusals, low, row, hour) for hour in range(HOURS)),
        )
        for row in range(refusals.grid.rows)
    )
    return fill(_MAP, f"{what}, each column an hour.", join(heads), join(rows), join(_legend(low)))


def _cell(refusals: RefusalMap, low: list[int], row: int, hour: int) -> Html:
    number = refusals.counts.get((row, hour), 0)
    if not number:
        return Html("<td></td>")
    network, of_it = refusals.leaders[row, hour]
    where = f"{_day(refusals.grid, row)}, {hour}:00 to {hour + 1}:00"
    title = f"{where}: {count(number, 'refusal', 'refusals')}, {of_it:,} of them from {network[:64]}"
    return fill('<td class="s{}" title="{}">{}</td>', charts.shade_for(number, low), title, short(number))


def _legend(low: list[int]) -> Iterator[Html]:
    yield Html("refusals per hour: ")
    for shade, least in enumerate(low, 1):
        most = low[shade] - 1 if shade < len(low) else None
        text = f"{least:,} or more" if most is None else f"{least:,}" if least == most else f"{least:,} to {most:,}"
        yield fill('<span><i class="s{}"></i>{}</span> ', shade, text)


def _day(grid: HourGrid, row: int) -> str:
    if not grid.dates:
        return day_abbr[row]
    day: date = grid.dates[row]
    return f"{day:%a} {day.day} {day:%b}"


def _row_head(grid: HourGrid, row: int) -> Html:
    """Return the heading of a row; narrow pages hide the day of the week before a date."""
    weekday, _, day = _day(grid, row).partition(" ")
    return fill('<span class="weekday">{} </span>{}', weekday, day) if day else fill("{}", weekday)


def _networks(statistics: Statistics, local: LocalTime) -> Html:
    total = len(statistics.events.refusals)
    shown = sum(source.refusals for source in statistics.sources)
    more = statistics.networks - len(statistics.sources)
    rest = f"{count(more, 'more network has', 'more networks have')} the other {total - shown:,} refusals."
    mapped = (source for source in statistics.sources[:SMALL_MAPS] if source.refusals >= _WORTH_A_MAP * total)
    maps = [_small_map(source, statistics.map.grid) for source in mapped]
    return fill(
        _WORST,
        fill(_SMALL_MAPS, join(maps)) if maps else Html(),
        join(_network_row(source, statistics.sources[0].refusals, local) for source in statistics.sources),
        fill('<p class="hint">{}</p>', rest) if more else Html(),
    )


def _small_map(source: RefusedNetwork, grid: HourGrid) -> Html:
    row, hour = max(source.cells, key=lambda cell: (source.cells[cell], cell))
    most = source.cells[row, hour]
    label = f"Most in one hour: {most:,}, {_day(grid, row)} from {hour}:00"
    drawn = charts.small_map(source.cells, grid.rows, label)
    number = count(source.refusals, "refusal", "refusals")
    return fill(
        "<figure>{}<figcaption>{}<small>{}</small></figcaption></figure>\n", drawn, _network_name(source), number
    )


def _network_row(source: RefusedNetwork, most: int, local: LocalTime) -> Html:
    return fill(
        _SOURCE,
        _network_name(source),
        f"{source.addresses:,}",
        f"{source.refusals:,}",
        charts.bar(source.refusals / most),
        moment(local(source.first_s)),
        moment(local(source.last_s)),
        source.reason.partition(";")[0],
    )


def _network_name(source: RefusedNetwork) -> Html:
    return untrusted(source.address or source.network)


def _reasons(statistics: Statistics) -> Html:
    rows = [*statistics.reasons, *([("other reasons", statistics.other_reasons)] if statistics.other_reasons else [])]
    most = max(number for _, number in rows)
    return fill(_REASONS, join(_reason(reason, number, most) for reason, number in rows))


def _reason(reason: str, number: int, most: int) -> Html:
    return fill(
        '<tr><th scope="row">{}</th><td class="number" data-is="refusals">{}</td><td class="barred">{}</td></tr>\n',
        reason,
        f"{number:,}",
        charts.bar(number / most),
    )
