"""Other programs change the gate, and it comes back at once, with its openings and established connections."""

from __future__ import annotations

import itertools
import signal
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward.core.guard_states import PAUSE_S
from doorward.lab.topology import Lab
from tests.support.daemon import PATIENCE_S, SLOWNESS, RunningDaemon, Visitor, Visitors, echoes, running_daemon
from tests.support.effort import EFFORT
from tests.support.processes import repeating
from tests.support.ruleset_changes import RulesetChanges, recorded_changes

pytestmark = pytest.mark.netns("nft", "knock")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "10m"
"""
SEQUENCE = ("7001", "7002:udp", "7003")
FLUSHES = 20 * EFFORT
USUAL_S = 0.1 * SLOWNESS  # in which a usual gate is back


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path) -> Iterator[RunningDaemon]:
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, CONFIG) as running:
        yield running


@pytest.fixture
def changes(daemon: RunningDaemon) -> Iterator[RulesetChanges]:
    with recorded_changes(daemon.host) as changes:
        yield changes


def welcomed(connection: socket.socket) -> bool:
    connection.settimeout(PATIENCE_S)
    return connection.recv(100).startswith(b"welcome")


def is_flush(program: str = "nft") -> Callable[..., bool]:
    return lambda change: change.program == program and change.scope == "rules"


def test_flushes_under_knocks(direct_lab: Lab, daemon: RunningDaemon, changes: RulesetChanges) -> None:
    visitors = Visitors(direct_lab)
    guests, stranger = [visitors.fresh(4), visitors.fresh(6)], visitors.fresh(4)
    crowd = itertools.cycle(visitors.crowd(4, 200))
    with ExitStack() as stack:
        sessions = [stack.enter_context(guest.knock_and_connect(*SEQUENCE)) for guest in guests]
        for guest, session in zip(guests, sessions, strict=True):
            assert welcomed(session)
            daemon.event("opened", address=str(guest))
        stood = daemon.elements()
        with repeating(lambda: next(crowd).knock(*SEQUENCE)):
            gaps_s = list(flushed(direct_lab, changes, stranger))
        assert statistics.median(gaps_s) < USUAL_S
        left = daemon.elements()
        for guest in guests:
            assert stood[guest.element()] - 60 < left[guest.element()] <= stood[guest.element()]
            assert guest.gets_in()
        assert all(echoes(session) for session in sessions)
        known = {opening["address"] for opening in daemon.openings()}
        assert {str(element.address) for element in daemon.elements()} == known  # no knock was logged and lost


def flushed(lab: Lab, changes: RulesetChanges, stranger: Visitor) -> Iterator[float]:
    """Flush the ruleset FLUSHES times, and yield how long each repair took; the stranger stays outside."""
    place = 0
    for number in range(FLUSHES):
        lab.server.run(["nft", "flush", "ruleset"])
        place = changes.wait_for(is_flush(), place)
        back = changes.repair(place)
        yield changes.heard[back].at_s - changes.heard[place].at_s
        place = back
        if number % 10 == 0:
            assert not stranger.gets_in()


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet doorward",
        "flush table inet doorward",
        "flush chain inet doorward door",
        "flush map inet doorward ports",
        "add table inet doorward { flags dormant; }",
        "insert rule inet doorward prerouting accept",
        "flush chain inet doorward prerouting",
        "delete element inet doorward ports { tcp . 22 }",
        "flush map inet doorward delta",
    ],
)
def test_whatever_is_changed_comes_back(
    direct_lab: Lab, daemon: RunningDaemon, changes: RulesetChanges, command: str
) -> None:
    visitors = Visitors(direct_lab)
    guest, stranger = visitors.fresh(4), visitors.fresh(4)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    before = listed(daemon)
    daemon.host.run(["nft", command])
    changes.repair(changes.wait_for(is_flush()))
    daemon.message("nft (process")
    assert listed(daemon) == before
    assert daemon.elements().keys() == {guest.element()}
    assert guest.gets_in()
    assert not stranger.gets_in()
    stranger.knock_and_connect(*SEQUENCE).close()


def listed(daemon: RunningDaemon) -> list[str]:
    """List the rules, and what the maps hold in whatever order."""
    maps = [daemon.host.run(["nft", "list", "map", "inet", "doorward", name]).stdout for name in ("ports", "delta")]
    return [daemon.ruleset(), *(word for text in maps for word in sorted(text.replace(",", " ").split()))]


def test_what_others_do_to_their_own_tables_is_their_affair(daemon: RunningDaemon, changes: RulesetChanges) -> None:
    theirs = [
        "add table ip doorward",  # the same name in another family
        "add chain ip doorward c { type filter hook input priority 0; }",
        "add rule ip doorward c tcp dport 22 accept",
        "delete table ip doorward",
        "add table inet firewall",
        'add chain inet firewall c { comment "doorward"; }',
        "add set inet firewall s { type ipv4_addr; elements = { 192.0.2.1 }; }",
        "flush set inet firewall s",
        "delete table inet firewall",
    ]
    for command in theirs:
        daemon.host.run(["nft", command])
    daemon.host.run(["nft", "flush ruleset"])
    changes.repair()
    daemon.message("nft (process")
    changes.listen()
    assert len([moment for moment in changes.heard if not moment.change.program.startswith("nft")]) == 1


def test_element_deleted_by_hand_ends_its_opening(direct_lab: Lab, daemon: RunningDaemon) -> None:
    guest = Visitors(direct_lab).fresh(4)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    daemon.host.run(["nft", f"delete element inet doorward open4 {{ {guest} . tcp . 22 }}"])
    assert daemon.event("closed")["by"] == "lost"
    assert daemon.openings() == []
    assert not guest.gets_in()


def test_a_program_that_fights(direct_lab: Lab, daemon: RunningDaemon, changes: RulesetChanges) -> None:
    guest = Visitors(direct_lab).fresh(4)
    daemon.run("open", "ssh", guest)
    place, repairs_s = 0, list[float]()
    while len(repairs_s) < 20:
        for _ in range(5):
            daemon.host.run(["nft", "flush ruleset"])
            changes.listen()  # so that none is heard late
        place = changes.repair(changes.wait_for(is_flush(), place))
        repairs_s.append(changes.heard[place].at_s)
    assert "nft (process" in daemon.message("keeps changing the gate")["message"]
    assert len(repairs_s) - 1 <= (repairs_s[-1] - repairs_s[0]) / PAUSE_S + 1
    daemon.host.run(["nft", "flush ruleset"])
    changes.listen()
    last = max(place for place, moment in enumerate(changes.heard) if moment.change.program == "nft")
    changes.repair(last)
    assert guest.element() in daemon.elements()
    repairs = [event for event in daemon.events() if "the gate" in event.get("message", "")]
    assert len(repairs) == 6  # five with a line each, one for all others
    assert daemon.openings()[0]["address"] == str(guest)


def test_a_reload_and_a_flush_at_once(daemon: RunningDaemon, changes: RulesetChanges) -> None:
    place = 0
    for number in range(10):
        port = 23 + number
        daemon.config.write_text(CONFIG.replace("22/tcp", f"{port}/tcp"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.host.run(["nft", "flush ruleset"])
        place = changes.wait_for(is_flush(), place)
        daemon.message("reloaded: ")
        place = changes.repair(place)  # else the next one has nothing to flush
    daemon.host.run(["nft", "flush ruleset"])
    changes.repair(changes.wait_for(is_flush(), place))
    assert "tcp . 32 : goto door" in daemon.host.run(["nft", "list", "map", "inet", "doorward", "ports"]).stdout


def test_the_file_is_not_asked(direct_lab: Lab, daemon: RunningDaemon, changes: RulesetChanges) -> None:
    daemon.config.write_text("in the middle of an edit")
    daemon.host.run(["nft", "flush ruleset"])
    changes.repair()
    assert not Visitors(direct_lab).fresh(4).gets_in()


def test_opening_and_closing_go_on_while_the_gate_is_changed(daemon: RunningDaemon, changes: RulesetChanges) -> None:
    place = 0
    for number in range(1, 31):
        address = f"192.0.2.{number}"
        daemon.host.run(["nft", "flush ruleset"])
        daemon.ask("open", door="ssh", address=address)
        place = changes.repair(changes.wait_for(is_flush(), place))
        daemon.host.run(["nft", "delete table inet doorward"])
        if number % 2:
            daemon.ask("close", door="ssh", address=address)
        place = changes.repair(changes.wait_for(is_flush(), place))
    daemon.host.run(["nft", "flush ruleset"])
    changes.repair(changes.wait_for(is_flush(), place))
    daemon.ask("status")
    known = {opening["address"] for opening in daemon.openings()}
    assert {str(element.address) for element in daemon.elements()} == known
    assert known == {f"192.0.2.{number}" for number in range(2, 31, 2)}


# At boot


def test_the_kept_gate_hides_at_once_and_the_daemon_goes_on_from_there(direct_lab: Lab, daemon: RunningDaemon) -> None:
    server = direct_lab.server
    guest, stranger = Visitors(direct_lab).crowd(4, 2)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    daemon.end(signal.SIGKILL)
    server.run(["nft", "flush ruleset"])  # what a machine has that has just started
    kept = daemon.state / "gate.nft"
    assert kept.stat().st_mode & 0o777 == 0o600
    server.run(["nft", "-f", kept])
    assert daemon.elements() == {}
    assert not stranger.gets_in()
    answers: list[bool] = []
    with repeating(lambda: answers.append(stranger.gets_in())):
        daemon.start()
    assert set(answers) == {False}
    assert guest.gets_in()  # the ledger knows, and a table that came from a file has no word in it
    assert "from_file" not in daemon.ruleset()
    server.run(["nft", "-f", kept])  # a unit that is started again replaces the table whole
    daemon.message("nft (process")
    assert not stranger.gets_in()


def test_the_boot_unit_needs_but_one_right(daemon: RunningDaemon) -> None:
    daemon.end()
    daemon.host.run(["nft", "flush ruleset"])
    unit = (Path(__file__).parents[2] / "systemd" / "doorward-gate.service").read_text()
    (start,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    kept = daemon.state / "gate.nft"
    text, command = kept.read_text(), start.replace("${STATE_DIRECTORY}/gate.nft", "/dev/stdin").split()
    rights = ["--ambient-caps=+net_admin", "--inh-caps=+net_admin", "--bounding-set=-all,+net_admin"]
    user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    daemon.host.run(["setpriv", *user, *rights, *command], stdin=text)
    assert "chain from_file" in daemon.ruleset()


def test_without_a_boot_file_what_the_kernel_says_counts(direct_lab: Lab, daemon: RunningDaemon) -> None:
    guest = Visitors(direct_lab).fresh(4)
    guest.knock(*SEQUENCE)
    daemon.event("opened", address=str(guest))
    daemon.end()
    daemon.host.run(["nft", f"delete element inet doorward open4 {{ {guest} . tcp . 22 }}"])
    daemon.start()
    assert daemon.openings() == []
    assert not guest.gets_in()
