"""The steps of a verification against a simulated host and clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.verify.findings import Observations, VerifyRequest, View
from doorward.verify.nmap_xml import PortAnswer, PortResult
from doorward.verify.port_set import Ports, parse_ports
from doorward.verify.run import POLL_S, QUIET_S, ROUNDS, TRY_S, Probes, quiet_s, run_probes

SSH = parse_ports("22")
NONE: Ports = frozenset()
ALL = parse_ports("20-24,80")


@dataclass
class Gate:
    """A silent host with one door, open for `for_s` after each accepted knock."""

    for_s: float = 5.0
    lost_knocks: int = 0
    public: Ports = field(default_factory=frozenset)
    look_s: float = 0.1
    lost_looks: tuple[int, ...] = ()  # indexes of scans without an answer
    limit_s: float = 0.0  # a knock sooner after a scan is ignored
    now_s: float = 1000.0
    until_s: float = 0.0
    looked_s: float = -100.0
    knocks: int = 0
    looks: int = 0

    def look(self, ports: Ports) -> View:
        self.looks += 1
        is_open = {port for port in ports if port in self.public or (port in SSH and self.now_s < self.until_s)}
        if self.looks in self.lost_looks:
            is_open = set()
        self.now_s += self.look_s
        self.looked_s = self.now_s
        return {
            port: PortResult(PortAnswer.OPEN, "syn-ack")
            if port in is_open
            else PortResult(PortAnswer.SILENT, "no-response")
            for port in ports
        }

    def knock(self) -> None:
        self.knocks += 1
        if self.knocks > self.lost_knocks and self.now_s - self.looked_s >= self.limit_s:
            self.until_s = self.now_s + self.for_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def means(self, knock: Callable[[], object] | None) -> Probes:
        return Probes(self.look, knock, lambda: self.now_s, self.sleep)


def run(gate: Gate, opens: Ports = SSH, wait_s: float = 60.0, ports: Ports = ALL) -> Observations:
    question = VerifyRequest(ports, gate.public, opens, wait_s=wait_s)
    reported: list[Observations] = []
    course = run_probes(question, gate.means(gate.knock), reported.append)
    assert reported[0] == Observations(course.before)
    assert reported[-1] == course
    return course


@pytest.mark.parametrize("opens", [SSH, frozenset()], ids=["named", "whatever changes"])
def test_complete_run(opens: Ports) -> None:
    course = run(Gate(public=parse_ports("80")), opens)
    assert course.opening is not None
    assert (frozenset(course.opening.found), course.opening.missing, course.opening.rounds) == (SSH, NONE, 1)
    assert course.closing is not None
    assert course.closing.open_s < 5 <= course.closing.shut_s
    assert not course.closing.left


def test_quiet_time_before_the_knock() -> None:
    ports = parse_ports("1-1000")
    course = run(Gate(limit_s=2.0), ports=ports)
    assert course.opening is not None
    assert course.opening.rounds == 1
    assert quiet_s(ports) == QUIET_S
    assert quiet_s(SSH) < 0.5


def test_a_lost_knock_is_sent_again() -> None:
    course = run(Gate(lost_knocks=1))
    assert course.opening is not None
    assert (frozenset(course.opening.found), course.opening.rounds) == (SSH, 2)
    assert course.closing is not None
    assert course.closing.open_s < 5 <= course.closing.shut_s  # measured from the knock that opened


def test_knock_that_never_opens_is_abandoned() -> None:
    gate = Gate(lost_knocks=99)
    course = run(gate)
    assert course.opening is not None
    assert (course.opening.found, course.opening.missing, course.opening.rounds) == ({}, SSH, ROUNDS)
    assert course.closing is None


def test_slow_scans_are_not_repeated() -> None:
    course = run(Gate(lost_knocks=99, look_s=TRY_S + 1), frozenset())
    assert course.opening is not None
    assert course.opening.rounds == 1


def test_no_knock_for_open_ports() -> None:
    gate = Gate(public=SSH)
    course = run(gate)
    assert course.opening is not None
    assert (course.opening.rounds, course.opening.missing, gate.knocks) == (0, SSH, 0)


def test_run_waits_for_a_door_that_is_open_before() -> None:
    gate = Gate(until_s=1020.0)
    waited: list[Ports] = []
    means = gate.means(gate.knock)._replace(waiting=waited.append)
    course = run_probes(VerifyRequest(ALL, opens=SSH), means, lambda _: None)
    assert waited == [SSH]
    assert {seen.answer for seen in course.before.values()} == {PortAnswer.SILENT}
    assert course.opening is not None
    assert (frozenset(course.opening.found), course.opening.rounds, gate.knocks) == (SSH, 1, 1)
    assert course.closing is not None
    assert not course.closing.left


def test_without_a_knock_there_is_one_scan() -> None:
    gate = Gate()
    course = run_probes(VerifyRequest(ALL), gate.means(None), lambda _: None)
    assert (course.opening, gate.looks, gate.knocks) == (None, 1, 0)


def test_run_waits_for_closing_up_to_the_limit() -> None:
    gate = Gate(for_s=1000)
    course = run(gate, wait_s=30)
    assert course.closing is not None
    assert course.closing.left == SSH
    assert 30 <= course.closing.open_s < 32


def test_one_lost_answer_does_not_close_a_door() -> None:
    course = run(Gate(lost_looks=(4,)))  # the second scan while waiting
    assert course.closing is not None
    assert course.closing.open_s > 3
    assert course.closing.open_s < 5 <= course.closing.shut_s


@given(st.floats(0.2, 50.0), st.floats(0.01, 2.0), st.integers(0, ROUNDS - 1))
def test_closing_time_is_between_the_two_reported(for_s: float, look_s: float, lost: int) -> None:
    course = run(Gate(for_s=for_s, look_s=look_s, lost_knocks=lost))
    assert course.closing is not None
    assert not course.closing.left
    assert course.closing.open_s <= for_s <= course.closing.shut_s + 1e-6
    assert course.closing.shut_s - course.closing.open_s <= POLL_S + 2 * look_s + 1e-6
