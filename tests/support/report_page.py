"""Parse a report page: its elements, attributes and text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html.parser import HTMLParser

from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.daemon.ledger import Record
from doorward.lint.checks import warnings
from doorward.report.events import collect_events
from doorward.report.page import PageOrigin, render_page
from doorward.report.statistics import Statistics, build_statistics
from doorward.report.strength import audit_gate

_VOID = {"meta", "link"}
_SHAPES = {"path", "rect"}


def utc(at_s: float) -> datetime:
    """Return a time in UTC."""
    return datetime.fromtimestamp(at_s, UTC)


def figures_of(records: Iterable[Record], since_s: float, now_s: float, configuration: str = "") -> Statistics:
    """Return the statistics of some records, and of a configuration if given."""
    found = collect_events(records, since_s, now_s)
    rated = None
    if configuration:
        lines, parsed = find_lines(configuration), parse(configuration, "doorward.toml")
        rated = audit_gate(parsed, warnings(parsed, lines), lines, found.sessions)
    return build_statistics(found, rated, "/etc/doorward/doorward.toml", utc)


def page_of(statistics: Statistics, host: str = "gate.example") -> str:
    """Return the page of some statistics."""
    return render_page(statistics, PageOrigin("0.1.0", host, utc))


class Read(HTMLParser):
    """The page's elements and texts. AssertionError: an element is not closed, or closed twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _SHAPES
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All visible text."""
        return " ".join(" ".join(self.texts).split())
