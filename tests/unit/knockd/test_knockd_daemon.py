"""The daemon of knockd with an engine that is told its events: what it logs, in which order, and what it owes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.config.knockd import parse
from doorward.core.automaton import compile_doors, split_edge
from doorward.daemon import openings_service
from doorward.daemon.ledger import Ledger
from doorward.knockd import knockd_daemon
from doorward.knockd.engine import EngineEvent
from doorward.knockd.knockd_daemon import Knockd, KnockdSettings
from doorward.knockd.knockd_log import KnockdLog
from doorward.knockd.stages import Stages
from doorward.model import Door, Port
from tests.support.knockd import undated

ONE, TWO = "192.0.2.1", "2001:db8::2"
OPENING = """
[{name}]
 Sequence = 7000,7001
 Start_Command = echo start %IP%
 Cmd_Timeout = {timeout}
 Stop_Command = echo stop %IP%
"""
ONCE = """
[once]
 One_Time_Sequences = once
 Command = true
"""


class ToldEngine:
    """An engine whose events the test makes; `end` is called when they were read."""

    name, culprit = "told", None

    def __init__(self, knocks: Sequence[tuple[str, tuple[int, ...]]], end: Callable[[], object]) -> None:
        self._knocks, self._end = knocks, end
        self._readable, self._writable = os.pipe()
        os.write(self._writable, b"\n")

    def load(self, doors: Sequence[Door], interfaces: Sequence[str], busy: frozenset[Port]) -> None:
        self._automaton = compile_doors(doors)
        self._stages = Stages(doors, self._automaton)

    def lost(self) -> int:
        return 0

    def descriptors(self) -> Sequence[int]:
        return (self._readable,)

    def read(self) -> list[EngineEvent]:
        os.read(self._readable, 1)
        self._end()
        return [event for source, ports in self._knocks for event in self._events(source, ports)]

    def close(self) -> None:
        os.close(self._readable)
        os.close(self._writable)

    def _events(self, source: str, ports: tuple[int, ...]) -> list[EngineEvent]:
        events = []
        for machine in self._automaton.machines:
            edges = {split_edge(key): state for key, state in machine.edges.items()}
            state = machine.root
            for port in ports:
                state = edges[state, Port.parse(f"{port}/tcp")]
                events.append(EngineEvent("step", ip_address(source), state, self._stages))
        return events


def logged(folder: Path, text: str, *knocks: tuple[str, tuple[int, ...]], run_s: float = 0.0) -> list[str]:
    """Run a daemon that reads these knocks at once, for `run_s` longer; return the lines of its log."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    output = KnockdLog(verbose=False, debug=False)
    output.open_log(str(log), use_syslog=False)
    settings = KnockdSettings(folder / "knockd.conf", folder, interface="any")
    engine = ToldEngine(knocks, lambda: daemon._loop.at(daemon._loop.now_s() + run_s, daemon._loop.stop))
    daemon = Knockd(settings, parse(text, "knockd.conf"), engine, output, Ledger(folder / "ledger.sqlite3"))
    try:
        daemon.run(lambda: None)
    finally:
        daemon.close()
        output.open_log(None, use_syslog=False)  # closes the file
    lines = [undated(line) for line in log.read_text().splitlines()]
    assert (lines[0], lines[-1]) == ("starting up, listening on any", "shutting down")
    return lines[1:-1]


def test_the_lines_of_one_batch_are_in_the_order_of_its_packets(tmp_path: Path) -> None:
    text = OPENING.format(name="door", timeout=600)
    both = (7000, 7001)
    assert logged(tmp_path, text, (ONE, both), (TWO, (7000,)), (ONE, both))[:9] == [
        f"{ONE}: door: Stage 1",
        f"{ONE}: door: Stage 2",
        f"{ONE}: door: OPEN SESAME",
        f"{TWO}: door: Stage 1",
        f"{ONE}: door: Stage 1",
        f"{ONE}: door: Stage 2",
        f"{ONE}: door: OPEN SESAME",
        f"{ONE}: door: open already; open for longer now",
        f"door: running command: echo start {ONE}",
    ]


def test_lines_about_a_one_time_file_come_after_those_of_the_knock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "once").write_text("7500\n")
    exhausted = "no more sequences left in the one time sequences file for door once --> disabling the door"
    assert logged(tmp_path, ONCE, (ONE, (7500,))) == [
        f"{ONE}: once: Stage 1",
        f"{ONE}: once: OPEN SESAME",
        exhausted,
        "once: running command: true",
    ]
    assert capsys.readouterr().err == f"{exhausted}\n"
    assert (tmp_path / "once").read_text() == "#500\n"


def test_what_an_earlier_run_owes(tmp_path: Path) -> None:
    text = OPENING.format(name="door", timeout=600)
    logged(tmp_path, text, (ONE, (7000, 7001)))
    assert logged(tmp_path, OPENING.format(name="other", timeout=600)) == [
        f"door: no longer in {tmp_path}/knockd.conf, and its stop command for {ONE} was not run; run it by hand"
    ]
    assert logged(tmp_path, text) == []  # and is reported once
    logged(tmp_path, OPENING.format(name="door", timeout=1), (TWO, (7000, 7001)))
    assert logged(tmp_path, text, run_s=1.0) == [
        f"{TWO}: door: command timeout",
        f"door: running command: echo stop {TWO}",
        f"door: stop {TWO}",
    ]


def test_a_ledger_that_cannot_be_written_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ledger: Ledger) -> bool:
        ledger.trouble = "no space left"
        return False

    monkeypatch.setattr(Ledger, "flush", fail)
    monkeypatch.setattr(openings_service, "_RETRY_S", 0.1)
    monkeypatch.setattr(knockd_daemon, "POLL_S", 0.1)
    lines = logged(tmp_path, OPENING.format(name="door", timeout=600), (ONE, (7000, 7001)), run_s=0.5)
    assert [line for line in lines if "no space" in line] == [
        "error: no space left; make room there, doors still open and close"
    ]
