"""For any ledger, the report is one complete page that counts all records."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.daemon.ledger import LAST_MOMENT_S, Record
from doorward.report.statistics import as_json
from tests.support.report_page import Read, figures_of, page_of

moments = st.floats(0, LAST_MOMENT_S, allow_nan=False) | st.floats(1.7e9, 1.9e9)
words = st.text(max_size=30) | st.sampled_from(
    ["ssh", "key ada", "knock", "hand", "192.0.2.7", "2001:db8::1/64", "<b>"]
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    at_s = draw(moments)
    if draw(st.booleans()):
        return Record(at_s, "refused", draw(st.none() | words), draw(words), {"reason": draw(words)})
    detail = {
        "ports": draw(st.lists(words, max_size=3)),
        "until": draw(moments),
        "by": draw(words),
        "closed": draw(st.none() | moments),
        "closed_by": draw(st.none() | words),
    }
    return Record(at_s, "opened", draw(st.none() | words), draw(words), detail)


@settings(max_examples=60)
@given(st.lists(records(), max_size=25), moments, moments)
def test_any_ledger_gives_a_complete_page(kept: list[Record], one_s: float, other_s: float) -> None:
    since_s, now_s = sorted((one_s, other_s))
    statistics = figures_of(sorted(kept, key=lambda record: record.at_s), since_s, now_s)
    page = page_of(statistics)
    page.encode()
    read = Read(page)
    assert "script" not in read.tags
    assert "b" not in read.tags or "open now" in read.text

    found, answer = statistics.events, as_json(statistics)
    lanes, cells = statistics.timelines, statistics.map.counts
    assert sum(lane.openings for lane in lanes) == len(found.sessions) == answer["openings"]
    assert sum(cells.values()) == len(found.refusals) == answer["refusals"]
    assert sum(count for _, count in statistics.reasons) + statistics.other_reasons == len(found.refusals)
    assert sum(source.refusals for source in statistics.sources) <= len(found.refusals)
    assert found.period.length_s > 0
    assert all(start >= 0 and start + length <= 240 for lane in lanes for start, length in lane.runs + lane.now)
    assert all(lane.open_s >= 0 for lane in lanes)
