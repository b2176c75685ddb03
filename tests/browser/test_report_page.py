"""The report in a real browser: wide and narrow, light and dark, in print.

`PICTURES=write pytest tests/browser` updates docs/pictures/report-*.png.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.daemon.ledger import Record, read_records
from tests.support.browser import Browser
from tests.support.report_page import figures_of, page_of
from tests.support.sample_ledger import CONFIGURATION, CROWDED_CONFIGURATION, DAYS, NOW_S, write_crowd, write_sample

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
WIDTHS = {"wide": 1280, "phone": 360}
TALL = {"wide": 1660, "phone": 1200}  # height of the pictures; a phone's page is longer
GROUNDS = {"light": "rgb(251, 250, 248)", "dark": "rgb(20, 24, 27)"}
TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(each => {
  const place = each.getBoundingClientRect();
  return place.right > innerWidth + 0.5 || place.left < -0.5;
}).map(each => each.outerHTML.slice(0, 80))
"""
SMALL_TEXT = """
[...document.querySelectorAll("body *")].filter(each => {
  const style = getComputedStyle(each);
  const says = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return says && parseFloat(style.fontSize) < 10.5 && !each.closest(".map td");
}).map(each => each.outerHTML.slice(0, 80))
"""


class Shown(NamedTuple):
    browser: Browser
    address: str


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a report of two weeks on a small host."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder / "ledger.sqlite3")
    return written(folder, read_records(folder / "ledger.sqlite3", 0.0, 1_000_000), CONFIGURATION)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a report with the longest, most numerous and most hostile values."""
    folder = tmp_path_factory.mktemp("crowded")
    write_crowd(folder / "ledger.sqlite3")
    return written(folder, read_records(folder / "ledger.sqlite3", 0.0, 1_000_000), CROWDED_CONFIGURATION)


def written(folder: Path, records: Iterator[Record], configuration: str) -> str:
    page = folder / "report.html"
    page.write_text(page_of(figures_of(records, NOW_S - DAYS * 86400, NOW_S, configuration)))
    return f"file://{page}"


@pytest.mark.parametrize("name", ["sample", "crowded"])
def test_page_is_self_contained_at_any_width(name: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    address = request.getfixturevalue(name)
    browser.look(1280, "light")
    browser.open(address)
    for width in (1280, 1100, 1080, 740, 720, 360, 320):
        browser.look(width, "light", phone=width < 500)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate(TOO_WIDE) == []
        assert browser.evaluate(SMALL_TEXT) == []
    assert browser.evaluate("document.querySelectorAll('img, script, [style], [onerror]').length") == 0
    assert browser.complaints() == []
    assert browser.requests() == [address]


def test_injected_markup_does_not_run(browser: Browser, sample: str) -> None:
    page = Path(sample.removeprefix("file://"))
    evil = page.with_name("evil.html")
    injected = (
        "<script>document.title = 'run'</script><p id=bad style='color:red'>x</p><img src='http://127.0.0.1:9/x'>"
    )
    evil.write_text(page.read_text().replace("<main>", f"<main>{injected}"))
    browser.open(f"file://{evil}")
    assert browser.evaluate("document.title") != "run"
    assert browser.evaluate("getComputedStyle(document.getElementById('bad')).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in complaint for complaint in browser.complaints()) >= 3  # it reports them


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", WIDTHS)
def test_appearance(name: str, scheme: str, browser: Browser, sample: str) -> None:
    browser.look(WIDTHS[name], scheme, phone=name == "phone")
    browser.open(sample)
    assert browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") == GROUNDS[scheme]
    picture = browser.picture(TALL[name])
    width, height = struct.unpack("!II", picture[16:24])
    assert width == WIDTHS[name] * (2 if name == "phone" else 1)
    assert height > width
    assert browser.complaints() == []
    if os.environ.get("PICTURES") == "write":
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"report-{name}-{scheme}.png").write_bytes(picture)


def test_screen_reader_gets_all_content(browser: Browser, sample: str) -> None:
    browser.look(360, "light", phone=True)
    browser.open(sample)
    browser.ask("Accessibility.enable")
    nodes = [node for node in browser.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = [node["role"]["value"] for node in nodes]
    assert {"table", "rowheader", "columnheader", "cell", "main", "banner", "heading"} <= set(roles)
    unnamed = [node for node in nodes if node["role"]["value"] == "image" and not node["name"]["value"]]
    assert unnamed == []
    names = [node["name"]["value"] for node in nodes if "name" in node]
    assert any(name.startswith("67 openings, the last on 14 May") for name in names)


def test_printed_pages(browser: Browser, sample: str) -> None:
    browser.look(1280, "dark")
    browser.open(sample)
    paper = browser.paper()
    assert paper.startswith(b"%PDF-")
    assert 1 <= paper.count(b"/Type /Page\n") <= 3
