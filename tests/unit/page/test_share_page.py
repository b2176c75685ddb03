"""The page that a browser knocks from: self-contained, and whatever is in its names is text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config.schema import Configuration, Gate, Signed
from doorward.errors import InvalidValueError, UsageError
from doorward.model import Door, Port
from doorward.page.share_page import KnockPage, PageFiles, build_page, parse_link, render
from doorward.signed.server_key import HYBRID, ServerKey
from tests.support.documents import ROOT
from tests.support.errors import raises
from tests.support.vectors import SERVER

SSH = Door("ssh", (), (Port.parse("22/tcp"),), for_ms=30_001)
ADDRESSES = (ip_address("192.0.2.7"), ip_address("2001:db8::7"))
NAMES = ("page.html", "page.css", "doorward.mjs", "qr.mjs", "sequence.mjs", "page.mjs")
TEMPLATE, STYLE, *SCRIPTS = (files("doorward.page").joinpath(name).read_text() for name in NAMES)
FILES = PageFiles(TEMPLATE, STYLE, tuple(SCRIPTS))
PIECES = [
    "</script>",
    "<script>",
    "<!--",
    "</title>",
    "<img src=x onerror=y>",
    "{}",
    "{0}",
    '"',
    "'",
    "&lt;",
    "\\",
    "\u2028",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join)


class Outline(HTMLParser):
    """The elements of a page with the names of their attributes, the attributes, and the texts of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes.append(dict(attrs))
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.texts:
            self.texts[self.cdata_elem][-1] += data


def configuration(*ports: str, gate: str | None = None) -> Configuration:
    return Configuration(Gate(name=gate), (SSH,), Signed(tuple(map(Port.parse, ports or ("62201/udp",)))))


def built(title: str | None = None, links: dict[str, str] | None = None, **options: Any) -> KnockPage:
    return build_page(configuration(**options), SERVER.public, [SSH], ADDRESSES, links or {}, title)


def test_contents() -> None:
    assert built(gate="home").as_dict() == {
        "key": str(SERVER.public),
        "gate": "home",
        "addresses": ["192.0.2.7", "2001:db8::7"],
        "ports": [62201],
        "window": 60.0,
        "doors": [{"name": "ssh", "seconds": 31, "link": "", "steps": (), "pause": 0}],
    }
    assert built(gate="home").title == "home"
    assert built().title == "192.0.2.7"


@given(TEXT, TEXT, TEXT, TEXT)
def test_names_change_no_markup(title: str, link: str, door: str, gate: str) -> None:
    """Also names of doors and gates that no configuration may have."""
    page = built(title, {"ssh": link})
    page = page._replace(gate=gate, doors=(page.doors[0]._replace(name=door),))
    plain, outline = (Outline(render(page, FILES)) for page in (built("home"), page))
    assert outline.elements == plain.elements
    data = json.loads(outline.texts["script"][0])
    assert (data["gate"], data["doors"][0]["name"], data["doors"][0]["link"]) == (gate, door, link)
    assert outline.texts["script"][1:] == plain.texts["script"][1:]


def test_policy_admits_the_pages_own_script_and_style_alone() -> None:
    page = render(built(), FILES)
    outline = Outline(page)
    (policy,) = [each["content"] for each in outline.attributes if "http-equiv" in each]
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    (style,), (_, script) = outline.texts["style"], outline.texts["script"]
    for name, text in (("style-src", style), ("script-src", script)):
        assert directives.pop(name) == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "worker-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert re.findall(r"(?:src|href)=\S+", TEMPLATE) == ['href="data:,">']
    assert not re.search(r"\b(?:eval|innerHTML|outerHTML|insertAdjacentHTML|document\.write)\b", "".join(SCRIPTS))


def test_page_uses_the_client_for_others() -> None:
    assert SCRIPTS[0] == (ROOT / "clients/js/doorward.mjs").read_text()
    assert "MIT License" in SCRIPTS[1]


def test_ports_that_browsers_refuse() -> None:
    page = build_page(
        configuration("53/udp", "443/udp", "5060/udp", "62201/udp"), SERVER.public, [SSH], ADDRESSES, {}, ""
    )
    assert page.ports == (443, 62201)
    with raises(UsageError, "page-refused-port"):
        build_page(configuration("53/udp", "10080/udp"), SERVER.public, [SSH], ADDRESSES, {}, None)


def sequence(*ports: str, within_ms: int = 15_000) -> KnockPage:
    door = SSH._replace(knock=tuple(map(Port.parse, ports)), within_ms=within_ms)
    return build_page(Configuration(Gate(), (door,)), None, [door], ADDRESSES, {}, None)


def test_sequences() -> None:
    page = sequence("7000/tcp", "8000/udp", within_ms=300)
    assert page.as_dict()["key"] is None
    assert (page.doors[0].steps, page.doors[0].pause) == ((("tcp", 7000), ("udp", 8000)), 150)
    assert "connect-src 'self' http: ws:;" in render(page, FILES)


@pytest.mark.parametrize(
    ("ports", "within_ms", "code"),
    [
        ((), 15_000, "page-needs-sequence"),
        (("7000/tcp", "6667/tcp"), 15_000, "page-refused-step"),
        (("7000/tcp", "53/udp"), 15_000, "page-refused-step"),
        (("7000/tcp", "8000/tcp"), 150, "page-short-within"),
    ],
)
def test_sequences_that_a_browser_cannot_send(ports: tuple[str, ...], within_ms: int, code: str) -> None:
    with raises(UsageError, code):
        sequence(*ports, within_ms=within_ms)


def test_key_of_another_suite() -> None:
    with raises(UsageError, "page-needs-x25519"):
        build_page(configuration(), ServerKey(HYBRID, bytes(1216)), [SSH], ADDRESSES, {}, None)


@pytest.mark.parametrize(
    "text", ["ssh=ssh://alice@192.0.2.7:2222", "a=https://a.example/?b=c&d=e#f", "a=rdp://[2001:db8::1]"]
)
def test_links(text: str) -> None:
    door, _, link = text.partition("=")
    assert parse_link(text) == (door, link)


@pytest.mark.parametrize(
    "text",
    ["ssh", "ssh=", "ssh=//a", "ssh=a.example", "ssh=javascript://%0aalert(1)", "ssh=JavaScript:alert(1)",
     "ssh=data:text/html,x", "ssh=https://a b", "ssh=https://a\"onclick=b", f"ssh=https://{'a' * 500}"],
)  # fmt: skip
def test_invalid_links(text: str) -> None:
    with raises(InvalidValueError, "invalid-page-link"):
        parse_link(text)
