"""The page: its content, its size, and that untrusted input in it stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest

from doorward.daemon.ledger import Record
from doorward.json_form import iso_time
from doorward.report import events as module
from doorward.report.ban_list import MOST_BANS
from doorward.report.page import MARK
from doorward.report.statistics import as_json
from doorward.report.style import STYLE
from tests.support.report_page import Read, figures_of, page_of

DAY_S = 86_400.0
MANY = 20_000
NOW_S = 1_778_772_000.0  # 14 May 2026, 15:20 UTC
TAGS = {
    "html", "head", "meta", "title", "style", "link", "body", "header", "main", "footer", "section", "h1", "h2", "h3",
    "p", "dl", "div", "dt", "dd", "small", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "b",
    "i", "ul", "li", "code", "svg", "path", "rect", "text", "figure", "figcaption", "details", "summary",
}  # fmt: skip
HOSTILE = (
    "</td><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='x", "&lt;b&gt;", "{} {0} %s",
    "]]><!--", "\u202eevil\u2066", "\x00\x1b[2J", "\ud800", "<style>*{display:none}</style>", "x" * 5000, "",
)  # fmt: skip
CONFIGURATION = """\
[doors.ssh]
knock = ["17341/tcp", "52018/udp"]
opens = ["22/tcp"]
"""


def opened(at_s: float, door: str = "ssh", by: str = "key ada", address: str = "192.0.2.7", port: str = "") -> Record:
    ports = [port or "22/tcp"]
    detail = {"ports": ports, "until": at_s + 30, "by": by, "closed": at_s + 30, "closed_by": "time"}
    return Record(at_s, "opened", door, address, detail)


def refused(at_s: float, address: str = "203.0.113.9", reason: str = "a scanner") -> Record:
    return Record(at_s, "refused", None, address, {"reason": reason})


def read(*records: Record, configuration: str = "", host: str = "gate.example") -> Read:
    return Read(page_of(figures_of(records, NOW_S - 7 * DAY_S, NOW_S, configuration), host))


def test_page_lists_openings_and_refusals() -> None:
    text = read(
        opened(NOW_S - DAY_S), opened(NOW_S - 3600), opened(NOW_S - 3500, by="knock", address="192.0.2.9"),
        refused(NOW_S - 7200), refused(NOW_S - 7100, "203.0.113.10"), refused(NOW_S - 7000, "2001:db8::1", "full"),
        configuration=CONFIGURATION,
    ).text  # fmt: skip
    for expected in (
        "doorward at gate.example",
        "13 May 2026, 15:20 to 14 May 2026, 15:20: 1d (times in UTC)",
        "Openings 3 by 2 people or addresses",
        "Open now 0",
        "Refusals 3 of 3 addresses",
        "Networks refused 2",
        "ada signed knock from 1 address 2 1m 14 May 14:20",
        "192.0.2.9 knock 1 30s 14 May 14:21",
        "203.0.113.0/24 2 refusals",
        "2001:db8::1 1 1 14 May 13:23 14 May 13:23 full",
        "a scanner 2",
        "door 'ssh' has 2 knocks",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("closed_by", "shown"),
    [
        ("ban", "by a ban"),
        ("fleet", "at another gate"),
        ("lost", "lost: no longer in the kernel"),
        ("key <b>ada</b>", "by key <b>ada</b>"),
    ],
)
def test_page_shows_how_an_opening_ended(closed_by: str, shown: str) -> None:
    record = opened(NOW_S - 3600)
    ended = record._replace(detail={**record.detail, "closed_by": closed_by})
    assert shown in read(ended).text


def test_empty_page() -> None:
    text = read().text
    assert "No door was opened in this period." in text
    assert "Nothing was refused in this period." in text
    assert "There is no configuration at /etc/doorward/doorward.toml ." in text


def test_page_remarks_on_missing_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 100)
    many = (refused(NOW_S - DAY_S + number) for number in range(100))
    text = read(opened(NOW_S - 9 * DAY_S), *many, refused(NOW_S + 1e6)).text
    assert "The ledger has no refusals before 13 May 15:20: it keeps only the newest." in text
    assert "1 record was skipped: timestamps in the future. Was the clock set back?" in text


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_untrusted_input_never_becomes_markup(bad: str) -> None:
    found = read(
        opened(NOW_S - 50, bad, f"key {bad}", bad, bad), opened(NOW_S - 40, bad, bad, bad, bad),
        refused(NOW_S - 30, bad, bad), refused(NOW_S - 20, bad + "1", f"signed knock: {bad}"),
        configuration=CONFIGURATION, host=bad,
    )  # fmt: skip
    assert found.tags <= TAGS
    assert not {name for name in found.attributes if name.startswith("on") or name in ("style", "src")}
    assert all(letter.isprintable() or letter == "\n" for text in found.texts for letter in text)
    assert len(found.text) < 10_000


def test_content_security_policy() -> None:
    page = page_of(figures_of([refused(NOW_S - 5)], 0.0, NOW_S))
    assert page.startswith(MARK)
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy == [
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
    assert re.findall(r"(?:https?:)?//|url\(|@import|javascript:", page) == []


def test_shared_keys_and_openings_for_one_connection() -> None:
    used = opened(NOW_S - 3600, by="fwknop laptop")
    used.detail["closed_by"] = "use from port 50211"
    text = read(used).text
    assert "laptop fwknop packet from 1 address 1 30s" in text
    assert "ssh laptop 192.0.2.7 22/tcp 30s by its one connection" in text


def many_records() -> Iterator[Record]:
    """Yield refusals from many networks with distinct reasons, and as many openings: more than the page shows."""
    for number in range(MANY):
        at_s = NOW_S - 31 * DAY_S * (1 - number / MANY)
        source = f"{number % 211}.{number // 211 % 256}.{number // 7 % 256}.9"
        yield refused(at_s, source, f"signed knock: {number} {'long ' * 200}")
        yield opened(at_s, f"door{number % 5000}", f"key {number % 70_000}{'y' * 500}", source, "22/tcp" * 100)


def test_page_stays_small() -> None:
    doors = "".join(f'[doors.d{number}]\nknock = ["{number}/tcp"]\nopens = ["1/udp"]\n' for number in range(2, 3000))
    statistics = figures_of(many_records(), NOW_S - 40 * DAY_S, NOW_S, doors)
    page = page_of(statistics)
    assert len(page.encode()) < 500_000
    assert Read(page).tags <= TAGS
    answer = as_json(statistics)
    assert (answer["openings"], answer["refusals"]) == (MANY, MANY)


def test_bans_have_a_section_of_their_own() -> None:
    records = [
        Record(NOW_S - 7200, "banned", None, f"203.0.113.{number}", {"until": NOW_S + 3600, "ended": None})
        for number in range(MOST_BANS + 1)
    ]
    records.append(Record(NOW_S - 600, "banned", None, "<b>", {"until": NOW_S + 3600, "ended": NOW_S - 60}))
    text = read(refused(NOW_S - 7200), *records).text
    section = text[text.index("Who was banned") :]
    assert "<b> 14 May 15:10 14 May 15:19, by hand 203.0.113.50" in section
    assert section.count("14 May 16:20 in force") == MOST_BANS - 1
    assert "2 older bans" in section
    assert "Refusals 1 of 1 address" in text
    assert "banned" not in read(refused(NOW_S - 7200)).text


def test_json_figures() -> None:
    records = [opened(NOW_S - 50), *(refused(NOW_S - 40 + number) for number in range(3)), refused(NOW_S - 5, "::1")]
    answer = as_json(figures_of(records, NOW_S - 90, NOW_S, CONFIGURATION))
    assert answer == {
        "since": iso_time(NOW_S - 60),
        "until": iso_time(NOW_S),
        "openings": 1,
        "people": 1,
        "open_now": 0,
        "refusals": 4,
        "bans": 0,
        "addresses": 2,
        "networks": 2,
        "users": [
            {
                "door": "ssh", "person": "ada", "by": "key", "others": 0, "openings": 1, "open_s": 30.0,
                "last": iso_time(NOW_S - 50), "addresses": 1, "open_now": 0,
            }
        ],
        "sources": [
            {
                "network": "203.0.113.0/24", "addresses": 1, "refusals": 3, "first": iso_time(NOW_S - 40),
                "last": iso_time(NOW_S - 38),
                "reason": "a scanner",
            },
            {
                "network": "::/64", "addresses": 1, "refusals": 1, "first": iso_time(NOW_S - 5),
                "last": iso_time(NOW_S - 5),
                "reason": "a scanner",
            },
        ],
        "reasons": [{"reason": "a scanner", "refusals": 4}],
        "other_reasons": 0,
        "future": 0,
        "dropped": {},
        "warnings": answer["warnings"],
        "notes": answer["notes"],
    }  # fmt: skip
    assert isinstance(answer["warnings"], int)
    assert answer["warnings"] >= 1
    assert as_json(figures_of(records, NOW_S - 90, NOW_S))["warnings"] is None


def variables(scheme: str) -> dict[str, str]:
    """Return the colors of "light" or "dark"."""
    blocks = re.findall(r":root\{(--.*?)\}", STYLE, re.DOTALL)
    light, dark = (dict(re.findall(r"--(\w+):(#\w+)", block)) for block in blocks)
    return light if scheme == "light" else light | dark


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.1, which requires 4.5 for text and 3 for graphics."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_color_contrast(scheme: str) -> None:
    colors = variables(scheme)
    for text in ("ink", "soft", "open", "now", "warn", "note", "fine"):
        for ground in ("page", "card"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for shade in range(1, 6):
        assert contrast(colors[f"t{shade}"], colors[f"s{shade}"]) >= 4.5, shade
    for drawn, ground in (("open", "s0"), ("now", "s0"), ("s4", "page"), ("s5", "s0")):
        assert contrast(colors[drawn], colors[ground]) >= 3, (drawn, ground)
    ramp = [luminance(colors[f"s{shade}"]) for shade in range(6)]
    assert ramp == sorted(ramp, reverse=scheme == "light")
