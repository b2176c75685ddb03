"""Runs one verification and shows it as it goes: lines on standard output, and on a terminal what is going on."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from ipaddress import ip_address

from doorward.cli import render
from doorward.cli.knocking import Knock
from doorward.client.knock import Target
from doorward.diag.course import Means, run_course
from doorward.diag.grid import kinds_of, legend_of, text_of
from doorward.diag.port_list import Ports, count_text, ports_text
from doorward.diag.scanner import Scanner, may_send_raw
from doorward.diag.verify import Course, Question, judge
from doorward.diag.verify_text import (
    Report,
    before_text,
    closing_text,
    heading_of,
    opening_text,
    values_of,
    verdict_lines,
)
from doorward.escape import visible

LINE_WIDTH = 78


class Display:
    """The terminal: lines that stay, and below them one that changes. As JSON nothing but the result is printed."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._changes = sys.stderr.isatty()
        self._doing = ""
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.colours = colour and (sys.stdout.encoding or "").lower() == "utf-8"

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._show("")
        if not self.as_json:
            render.line(text)
            sys.stdout.flush()

    def doing(self, text: str) -> None:
        """Say what is going on from now on."""
        self._doing = text
        self._show(text)

    def percent(self, percent: float) -> None:
        """Say how far it is."""
        self._show(f"{self._doing}: {percent:.0f} %" if percent else self._doing)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._show(self._doing)
        time.sleep(seconds)

    def _show(self, text: str) -> None:
        if self._changes:
            sys.stderr.write("\r\033[K" + visible(text)[:LINE_WIDTH])
            sys.stderr.flush()


def verify(
    name: str, target: Target, source: str, rate: int, question: Question, knock: Knock | None, display: Display
) -> Report:
    """Verify one address, and print what is found."""
    began_s = time.monotonic()
    took_s = 0.0

    def tell(course: Course) -> None:
        nonlocal took_s
        took_s = took_s or time.monotonic() - began_s
        _tell(course, knock is not None, took_s, display)

    def waiting(ports: Ports) -> None:
        nonlocal took_s
        took_s = time.monotonic() - began_s
        verb = "is" if len(ports) == 1 else "are"
        display.line(f"  before  {ports_text(ports)} {verb} open already; waiting {question.wait_s:.0f} s at most")
        display.doing(f"waiting until {ports_text(ports)} closes")

    scanner = Scanner(ip_address(str(target)), rate, display.percent)
    means = Means(scanner.look, knock and partial(knock, [target]), time.monotonic, display.sleep, waiting)
    scan = "SYN scan" if may_send_raw() else "connect scan"
    display.line(f"{heading_of(name, str(target))}, seen from {source}: {count_text(question.ports)}, {scan}")
    display.doing(f"looking at {count_text(question.ports)}")
    when = render.moment(time.time())
    try:
        course = run_course(question, means, tell)
    finally:
        display.doing("")
    report = Report(name, str(target), source, when, scan, took_s, question, course, judge(question, course))
    _print(report, display)
    return report


def _tell(course: Course, knocks: bool, took_s: float, display: Display) -> None:
    if course.opening is None:
        display.line(f"  before  {before_text(course.before)}, in {render.span(max(1, took_s))}")
        display.doing("waiting a moment, then knocking" if knocks else "")
    elif course.closing is None:
        display.line(f"  knock   {opening_text(course.opening)}")
        display.doing(f"waiting until {ports_text(course.opening.found)} closes" if course.opening.found else "")
    else:
        display.line(f"  after   {closing_text(course.opening, course.closing)}")
        display.doing("")


def _print(report: Report, display: Display) -> None:
    if display.as_json:
        render.as_json(values_of(report))
        return
    kinds = kinds_of(report.course, report.question.public)
    colours = display.colours
    for text in (*text_of(kinds, colours=colours), *legend_of(kinds, colours=colours)):
        render.drawing(text)
    render.line(*verdict_lines(report))
