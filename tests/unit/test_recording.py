"""The moving picture of `doorward lab`: paced so that it can be read, and drawn without a request to anybody."""

from __future__ import annotations

import re
import sys
from html import unescape

from manual.recording import COLUMNS, Line, cast, draw, paced, record
from tests.support.documents import ROOT

PICTURE = ROOT / "docs/pictures/lab.svg"
STEPS = 9
LINES = [
    Line(0, ""),
    Line(0, "1. A scan"),
    Line(0, "   stranger$ nmap <host>"),
    Line(90, "2. A knock"),
    Line(90, "x" * 200),
]


def test_lines_are_recorded_as_they_come() -> None:
    lines = list(record([sys.executable, "-c", "print('one'); print('two')"]))
    assert [line.text for line in lines] == ["one", "two"]
    assert lines[0].at_s <= lines[1].at_s


def test_a_cast_is_an_asciicast() -> None:
    header, *events = cast(LINES).splitlines()
    assert '"version": 2' in header
    assert events[3] == '[90, "o", "2. A knock\\r\\n"]'


def test_long_pauses_are_cut_and_steps_can_be_read() -> None:
    first, _, second, _ = paced(LINES)
    assert (first.text, first.at_s) == ("1. A scan", 0)
    assert 1 < second.at_s < 2


def test_the_picture_escapes_and_cuts_lines() -> None:
    text = unescape(re.sub("<.*?>", "", draw(LINES)))
    assert "stranger$ nmap <host>" in text
    assert f"{'x' * (COLUMNS - 1)}…" in text


def test_readmes_picture_shows_every_step_and_loads_nothing() -> None:
    source = PICTURE.read_text()
    shown = [int(step) for step in re.findall(r"class=\"step\">(\d+)\. ", source)]
    assert shown == list(range(1, STEPS + 1))
    assert not re.search(r"href|url\(|@import|<script|<image|<foreignObject", source)
