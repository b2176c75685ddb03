"""Observations to findings: each problem is reported, and nothing else."""

from __future__ import annotations

import pytest

from doorward.verify.findings import (
    Observations,
    ObservedClosing,
    ObservedOpening,
    VerifyRequest,
    View,
    find_problems,
    opened_by_knock,
    worth_knocking_for,
)
from doorward.verify.nmap_xml import PortAnswer, PortResult
from doorward.verify.port_set import Ports, parse_ports

REASONS = {PortAnswer.OPEN: "syn-ack", PortAnswer.CLOSED: "reset", PortAnswer.REJECTED: "admin-prohibited"}


def ports(text: str) -> Ports:
    return parse_ports(text) if text else frozenset()


def view(**answers: str) -> View:
    """Build a view from ports by answer; later ones win: `view(silent="1-100", open="80")`."""
    return {
        port: PortResult(PortAnswer(name), REASONS.get(PortAnswer(name), "no-response"))
        for name, text in answers.items()
        for port in parse_ports(text)
    }


def question(of: View, *, public: str = "", opens: str = "", knocks: str = "", guard: bool = False) -> VerifyRequest:
    return VerifyRequest(frozenset(of), ports(public), ports(opens), ports(knocks), guard)


def wrongs(asked: VerifyRequest, course: Observations) -> list[str]:
    return [finding.what for finding in find_problems(asked, course)]


SILENT = view(silent="1-100,8000/udp")
OPENED = ObservedOpening(view(open="22"), frozenset(), 1)
SHUT = ObservedClosing(4.5, 5.5, frozenset())


def test_silent_open_silent_has_no_findings() -> None:
    assert find_problems(question(SILENT, opens="22"), Observations(SILENT, OPENED, SHUT)) == []
    assert find_problems(question(SILENT), Observations(SILENT, OPENED, SHUT)) == []
    assert find_problems(question(SILENT), Observations(SILENT)) == []


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (view(silent="1-100", open="80"), "80/tcp is open without a knock"),
        (view(silent="1-100", open="53/udp,80"), "80/tcp, 53/udp are open without a knock"),
        (view(silent="1-100", closed="7"), "7/tcp refuses, which reveals that a host exists"),
        (view(silent="1-100", closed="1-9"), "1-9/tcp refuse, which reveals that a host exists"),
        (
            view(silent="1-100", rejected="7"),
            "7/tcp is rejected (admin-prohibited), which reveals a packet filter",
        ),
    ],
)
def test_visible_ports_are_named(before: View, says: str) -> None:
    assert wrongs(question(before), Observations(before)) == [says]


def test_rejecting_sender_is_named() -> None:
    before = {
        **SILENT,
        **{port: PortResult(PortAnswer.REJECTED, "host-prohibited", "192.0.2.1") for port in ports("5-6")},
    }
    says = "5-6/tcp are rejected by 192.0.2.1 (host-prohibited), which reveals a packet filter"
    assert wrongs(question(before), Observations(before)) == [says]


def test_expected_ports_may_be_visible() -> None:
    before = view(silent="1-100", open="80", closed="81")
    assert find_problems(question(before, public="80-81"), Observations(before)) == []


def test_each_answer_is_a_separate_finding() -> None:
    before = view(silent="1-100", open="80", closed="81", rejected="82")
    assert [finding.instead.split(";")[0] for finding in find_problems(question(before), Observations(before))] == [
        "hide it behind a door",
        'use mode = "stealth" to hide it',
        "configure that packet filter to drop instead of reject",
    ]


def test_guard_mode_allows_closed_ports_except_the_door() -> None:
    before = view(closed="1-100", silent="22")
    asked = question(before, opens="22", guard=True)
    assert find_problems(asked, Observations(before, OPENED, SHUT)) == []
    (finding,) = find_problems(
        question(view(closed="1-100"), opens="22", guard=True), Observations(view(closed="1-100"))
    )
    assert finding.what.startswith("22/tcp refuses")
    assert finding.instead.startswith("a door's port must be silent")


def test_guard_mode_allows_no_open_or_rejected_ports() -> None:
    before = view(closed="1-100", silent="22", open="80", rejected="81")
    assert len(find_problems(question(before, guard=True), Observations(before))) == 2


def test_silent_knock_port_among_closed_ports_is_a_finding() -> None:
    before = view(closed="1-100", silent="22,70,71")
    asked = question(before, opens="22", knocks="70,71,72", guard=True)
    (finding,) = find_problems(asked, Observations(before))
    assert finding.what == "70-71/tcp: a knock port that is silent among closed ports"


def test_silent_knock_port_among_silent_ports_is_not_a_finding() -> None:
    before = view(silent="1-100", closed="1-40")
    asked = question(before, public="1-40", knocks="70")
    assert find_problems(asked, Observations(before)) == []


def test_door_open_before_the_knock_is_explained() -> None:
    before = view(silent="1-100", open="22")
    found = find_problems(question(before, opens="22"), Observations(before, ObservedOpening({}, ports("22"), 0)))
    assert [finding.what for finding in found] == [
        "22/tcp is open without a knock",
        "the knock cannot be tested: every port that it may open is open already",
    ]
    assert "from an earlier knock" in found[0].instead


@pytest.mark.parametrize(
    ("opens", "opening", "says"),
    [
        ("22", ObservedOpening({}, ports("22"), 3), "the knock (sent 3 times) did not open 22/tcp for this address"),
        ("", ObservedOpening({}, frozenset(), 1), "the knock (sent once) did not open any port for this address"),
        (
            "22-23",
            ObservedOpening(view(open="22"), ports("23"), 3),
            "the knock (sent 3 times) did not open 23/tcp for this address",
        ),
        (
            "22",
            ObservedOpening(view(closed="22"), frozenset(), 1),
            "the knock lets packets to 22/tcp in, but nothing accepts a connection there",
        ),
    ],
)
def test_a_knock_that_does_not_open(opens: str, opening: ObservedOpening, says: str) -> None:
    assert wrongs(question(SILENT, opens=opens), Observations(SILENT, opening)) == [says]


def test_silent_udp_service_is_mentioned() -> None:
    (finding,) = find_problems(
        question(SILENT, opens="8000/udp"), Observations(SILENT, ObservedOpening({}, ports("8000/udp"), 3))
    )
    assert finding.instead.endswith("a UDP service that never answers looks silent")


def test_a_door_that_stays_open() -> None:
    asked = question(SILENT, opens="22")._replace(wait_s=30)
    course = Observations(SILENT, OPENED, ObservedClosing(30.2, 30.2, ports("22")))
    assert wrongs(asked, course) == ["22/tcp did not close within 30 s"]


@pytest.mark.parametrize(
    ("before", "after", "opens", "opened"),
    [
        (view(silent="22"), view(open="22"), "", "22"),
        (view(silent="22"), view(closed="22"), "", "22"),
        (view(silent="22"), view(silent="22"), "", ""),
        (view(closed="22"), view(open="22"), "", "22"),
        (view(rejected="22"), view(open="22"), "", "22"),
        (view(rejected="22"), view(closed="22"), "", ""),
        (view(open="22"), view(silent="22"), "", ""),
        (view(silent="5/udp"), view(open="5/udp"), "", "5/udp"),
        (view(silent="5/udp"), view(closed="5/udp"), "", ""),
        (view(silent="5/udp"), view(closed="5/udp"), "5/udp", "5/udp"),
    ],
)
def test_what_counts_as_opened(before: View, after: View, opens: str, opened: str) -> None:
    assert frozenset(opened_by_knock(question(before, opens=opens), before, after)) == ports(opened)


def test_only_ports_that_are_not_open_are_worth_a_knock() -> None:
    before = view(silent="1-3", open="2", closed="3")
    assert worth_knocking_for(question(before), before) == ports("1,3")
    assert worth_knocking_for(question(before, opens="2"), before) == frozenset()
