"""The daemon comes, goes, reloads and is killed; the gate stays, and the ledger has what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import (
    DOORWARD,
    LATE_S,
    PATIENCE_S,
    SLOWNESS,
    RunningDaemon,
    Visitor,
    Visitors,
    running_daemon,
    seconds_of,
    until,
)
from tests.support.effort import EFFORT
from tests.support.frames import FrameSender

pytestmark = pytest.mark.netns("knock", "nft")

CONFIG = """
[gate]
mode = "guard"
[doors.ssh]
knock = ["7001/tcp", "7002/udp", "7003/tcp"]
opens = ["22/tcp"]
for = "{for_}"
"""
SEQUENCE = ("7001", "7002:udp", "7003")
OTHER_DOOR = """
[doors.extra]
knock = ["7101/tcp", "7102/tcp"]
within = "5s"
opens = ["23/tcp"]
"""
OTHER_GATES = [  # the doors are the same in each
    'mode = "guard"',
    'mode = "stealth"\npublic = ["80/tcp"]',
    'mode = "guard"\nping = false\npublic = ["80-90/tcp", "53/udp"]',
]


@pytest.fixture
def config() -> str:
    return CONFIG.format(for_=f"{LONG_S}s")


@pytest.fixture
def daemon(direct_lab: Lab, tmp_path: Path, config: str) -> Iterator[RunningDaemon]:
    direct_lab.server.start_greeter(22)
    with running_daemon(direct_lab.server, tmp_path, config) as running:
        yield running


@pytest.fixture
def pair(direct_lab: Lab) -> list[Visitor]:
    """One visitor of each family."""
    visitors = Visitors(direct_lab)
    return [visitors.fresh(version) for version in (4, 6)]


def gate(text: str, other: str) -> str:
    return text.replace('mode = "guard"', other)


SOURCES = [ip_address(text).packed for n in range(9, 29) for text in (f"203.0.113.{n}", f"2001:db8:aa:{n}::1")]
WATCH = """
table inet watch {
    counter answers { }
    counter arrived { }
    chain out {
        type filter hook output priority 0
        ip daddr 203.0.113.0/24 counter name answers
        ip6 daddr 2001:db8:aa::/48 counter name answers
    }
    chain in {
        type filter hook prerouting priority -400
        tcp dport 22 counter name arrived
    }
}
"""

OPEN_S, LONG_S = round(3 * SLOWNESS), round(30 * SLOWNESS)
CLOSE_S = 0.1  # by which the kernel's timers and the clock differ
RELOADS = 25 * EFFORT  # a packet can slip through only in the microseconds in which one is committed


@contextmanager
def flood(lab: Lab) -> Iterator[list[int]]:
    """Send SYNs to the hidden port from many sources while the block runs; gives how many were sent."""
    frames, over, sent = FrameSender(lab.client, lab.server), threading.Event(), [0]
    packets = [Packet(source, Port.parse("22/tcp"), 2) for source in SOURCES]

    def send() -> None:
        while not over.is_set():
            for packet in packets:
                # No connection is tried twice: what slipped through once would be let through as established.
                frames.send(packet, 1024 + sent[0] // len(SOURCES) % 60_000)
                sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
        frames.close()


def watched(lab: Lab, counter: str) -> int:
    listed = lab.server.run(["nft", "list", "counter", "inet", "watch", counter]).stdout
    return int(listed.split("packets ")[1].split()[0])


def test_reloads_under_traffic_let_no_packet_through(
    direct_lab: Lab, daemon: RunningDaemon, pair: list[Visitor], config: str
) -> None:
    for visitor in pair:
        visitor.knock_and_connect(*SEQUENCE).close()
    stood = daemon.elements()
    direct_lab.server.run(["nft", "-f", "-"], stdin=WATCH)
    configurations = [gate(config, OTHER_GATES[1]), config + OTHER_DOOR, gate(config, OTHER_GATES[2]), config]
    with flood(direct_lab) as sent:
        for number in range(RELOADS):
            before = sent[0]
            daemon.reload(configurations[number % 4])
            assert sent[0] > before
    assert watched(direct_lab, "arrived") >= sent[0] > 500
    assert watched(direct_lab, "answers") == 0
    assert daemon.elements().keys() == stood.keys() == {visitor.element() for visitor in pair}
    assert all(visitor.gets_in() for visitor in pair)
    daemon.end()
    direct_lab.server.run(["nft", "delete", "table", "inet", "doorward"])
    with flood(direct_lab):  # without the gate the same packets are answered
        until(lambda: watched(direct_lab, "answers"))


def test_a_reload_keeps_a_knock_in_progress(daemon: RunningDaemon, pair: list[Visitor], config: str) -> None:
    for visitor in pair:
        for number, knock in enumerate(SEQUENCE):
            visitor.knock(knock)
            daemon.reload(gate(config, OTHER_GATES[(number + 1) % 3]))
        assert visitor.gets_in()
        daemon.event("opened", door="ssh", address=str(visitor))


def test_a_reload_takes_away_what_the_file_no_longer_has(
    daemon: RunningDaemon, pair: list[Visitor], config: str
) -> None:
    daemon.reload(config + OTHER_DOOR)
    for visitor in pair:
        visitor.knock(7101)
    daemon.reload(config)
    for visitor in pair:
        visitor.knock(7102)
        assert visitor.element("23/tcp") not in daemon.elements()
        visitor.knock_and_connect(*SEQUENCE).close()


BAD = {  # what is wrong: the file's text, and what must be said of it
    "meaning": ('[doors.ssh]\nknock = ["7001/tcp", "99999/tcp"]\nopens = ["22/tcp"]\n', "doorward.toml:2: "),
    "key": ('[gate]\nmode = "guard"\n\n[doors.ssh]\nopen = ["22/tcp"]\n', "doorward.toml:5: "),
    "syntax": ('[gate]\nmode = "guard\n', "doorward.toml:2: "),
    "missing": (None, "doorward.toml: no such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_changes_nothing_and_says_where(daemon: RunningDaemon, pair: list[Visitor], kind: str) -> None:
    before, good, (bad, said) = daemon.ruleset(), daemon.config.read_text(), BAD[kind]
    daemon.config.unlink()
    if bad is not None:
        daemon.config.write_text(bad)
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.message(f"{daemon.config.parent}/{said}")["level"] == "error"
    daemon.message("was not reloaded")
    daemon.await_notice("READY=1")
    assert daemon.ruleset() == before
    for visitor in pair:
        visitor.knock_and_connect(*SEQUENCE).close()
    daemon.reload(good)


def test_two_hangups_at_once_end_with_the_last_file(daemon: RunningDaemon, pair: list[Visitor], config: str) -> None:
    daemon.config.write_text(config + OTHER_DOOR)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.message("reloaded: 2 doors")
    daemon.config.write_text(config)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.config.write_text(config + OTHER_DOOR.replace("7102", "7103"))
    daemon.process.send_signal(signal.SIGHUP)
    while "7103" not in daemon.host.run(["nft", "list", "map", "inet", "doorward", "delta"]).stdout:
        daemon.message("reloaded: ")  # fails where no other one comes
    pair[0].knock(7101, 7103)
    daemon.event("opened", door="extra")


def test_a_reload_under_way_does_not_disturb_the_end(daemon: RunningDaemon) -> None:
    """What the loading child writes into a pipe without a reader is not printed as a fault."""
    for _ in range(4):
        daemon.process.send_signal(signal.SIGHUP)
        daemon.await_notice("RELOADING=1")
        assert daemon.end() == 0
        daemon.start()


@pytest.mark.parametrize("config", [CONFIG.format(for_=f"{OPEN_S}s")], ids=["3s"])
def test_killed_while_a_door_is_open(daemon: RunningDaemon, pair: list[Visitor]) -> None:
    early, late = pair
    began_s = time.monotonic()
    early.knock(*SEQUENCE)
    opened = daemon.event("opened", address=str(early))
    earliest_s, latest_s = began_s + OPEN_S - CLOSE_S, time.monotonic() + OPEN_S + LATE_S
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    late.knock_and_connect(*SEQUENCE).close()  # the kernel opens doors with no daemon
    assert early.gets_in()
    assert daemon.run("status", check=False).returncode == 1
    daemon.start()
    daemon.message("2 open")
    standing = {o["address"]: o for o in daemon.openings()}
    left = daemon.elements()
    assert standing.keys() == {str(early), str(late)}
    for visitor in pair:
        assert standing[str(visitor)]["until"] - time.time() == pytest.approx(
            left[visitor.element()], abs=0.2 * SLOWNESS
        )
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    for visitor in pair:
        later_s = left[visitor.element()] - left[early.element()]
        assert earliest_s < daemon.await_end(visitor.element()) - later_s < latest_s
        assert not visitor.gets_in()
    daemon.start()
    daemon.message("0 open")
    assert daemon.openings() == []
    records = daemon.log()
    assert [(r["event"], r["address"], r["by"], r["closed_by"]) for r in records] == [
        ("opened", str(visitor), "knock", "time") for visitor in pair
    ]
    assert seconds_of(records[0]["closed"]) - seconds_of(records[0]["at"]) == pytest.approx(OPEN_S, abs=0.2)
    assert opened["for_s"] == pytest.approx(OPEN_S, abs=0.1)


@pytest.mark.parametrize("config", [CONFIG.format(for_="60d")], ids=["60d"])
def test_openings_of_months_and_their_time_outlive_a_restart(daemon: RunningDaemon, pair: list[Visitor]) -> None:
    """Their ends are further away than epoll can wait at once."""
    knocker, by_hand = pair
    knocker.knock(*SEQUENCE)
    daemon.event("opened", address=str(knocker))
    daemon.run("open", "ssh", by_hand, "--for", "30d")
    before = {o["address"]: o for o in daemon.openings()}
    assert daemon.end(signal.SIGTERM) == 0
    assert not daemon.control.exists()
    daemon.message("stopping; openings expire by themselves")
    assert daemon.elements().keys() == {visitor.element() for visitor in pair}
    assert all(visitor.gets_in() for visitor in pair)
    daemon.start()
    after = {o["address"]: o for o in daemon.openings()}
    assert after.keys() == before.keys()
    for address, opening in after.items():
        assert opening["until"] == pytest.approx(before[address]["until"], abs=0.3)
        assert opening["since"] == pytest.approx(before[address]["since"], abs=0.01)
        assert opening["by"] == before[address]["by"]
    assert daemon.elements()[by_hand.element()] == pytest.approx(30 * 86_400, abs=20)
    assert daemon.elements()[knocker.element()] == pytest.approx(60 * 86_400, abs=20)
    assert [r["closed"] for r in daemon.log()] == [None, None]
    daemon.run("close", "ssh", by_hand)
    assert [r["closed_by"] for r in daemon.log("--address", by_hand)] == ["hand"]


def test_openings_come_back_where_the_table_was_taken_away(daemon: RunningDaemon, pair: list[Visitor]) -> None:
    began_s = time.monotonic()
    for visitor in pair:
        visitor.knock(*SEQUENCE)
        daemon.event("opened", address=str(visitor))
    daemon.end()
    daemon.host.run(["nft", "delete", "table", "inet", "doorward"])
    daemon.start()
    for visitor in pair:
        left_s = daemon.elements()[visitor.element()]
        assert LONG_S - (time.monotonic() - began_s) - CLOSE_S < left_s <= LONG_S
        assert visitor.gets_in()


@pytest.mark.parametrize("same_folder", [True, False], ids=["same folder", "another folder"])
def test_a_second_daemon_is_refused(
    daemon: RunningDaemon, tmp_path: Path, pair: list[Visitor], same_folder: bool
) -> None:
    before = daemon.ruleset()
    folder = tmp_path / "second"
    folder.mkdir()
    env = daemon.env | ({} if same_folder else {"RUNTIME_DIRECTORY": str(folder), "STATE_DIRECTORY": str(folder)})
    second = daemon.host.run([*DOORWARD, "run"], env=env, check=False)
    assert second.returncode == 2
    assert f"process {daemon.process.pid} " in second.stderr.replace(",", " ")
    assert len(second.stderr.splitlines()) == 1
    assert daemon.ruleset() == before
    assert not (folder / "control.sock").exists()
    pair[0].knock(*SEQUENCE)
    daemon.event("opened", address=str(pair[0]))
    assert len(daemon.openings()) == 1


@pytest.mark.parametrize("config", [CONFIG.format(for_="1500ms")], ids=["1500ms"])
def test_compiled_rules_work_with_no_daemon(direct_lab: Lab, tmp_path: Path, pair: list[Visitor], config: str) -> None:
    direct_lab.server.start_greeter(22)
    daemon = RunningDaemon(direct_lab.server, tmp_path, config)
    for _ in range(2):  # the second replaces the table whole
        rules = daemon.run("compile", "-c", daemon.config).stdout
        direct_lab.server.run(["nft", "-f", "-"], stdin=rules)
    assert "ssh: 7001/tcp, 7002/udp, 7003/tcp" in rules
    for visitor in pair:
        assert not visitor.gets_in()
        began_s = time.monotonic()
        with visitor.knock_and_connect(*SEQUENCE) as connection:
            latest_s = time.monotonic() + 1.5 + LATE_S
            assert began_s + 1.5 - CLOSE_S < daemon.await_end(visitor.element()) < latest_s
            assert not visitor.gets_in()
            connection.settimeout(PATIENCE_S)
            assert connection.recv(100) == f"welcome, {visitor}\n".encode()
    daemon.close()


def test_the_ledger_records_everything(daemon: RunningDaemon, pair: list[Visitor]) -> None:
    knocker, by_hand = pair
    knocker.knock(*SEQUENCE)
    opened = daemon.event("opened")
    assert {key: opened[key] for key in ("door", "address", "ports", "by")} == {
        "door": "ssh",
        "address": str(knocker),
        "ports": ["22/tcp"],
        "by": "knock",
    }
    daemon.run("open", "ssh", by_hand, "--for", "1s")
    daemon.event("closed", address=str(by_hand), by="time")
    daemon.run("close", "ssh", knocker)
    daemon.event("closed", address=str(knocker), by="hand")
    knocker.knock(*range(9001, 9061))  # a scanner
    daemon.event("refused", address=str(knocker))
    records = daemon.log()
    assert [(r["event"], r["address"], r["door"], r.get("by"), r.get("closed_by")) for r in records] == [
        ("opened", str(knocker), "ssh", "knock", "hand"),
        ("opened", str(by_hand), "ssh", "hand", "time"),
        ("refused", str(knocker), None, None, None),
    ]
    assert seconds_of(records[1]["closed"]) - seconds_of(records[1]["at"]) == pytest.approx(1, abs=0.2)
    text = daemon.run("log").stdout.splitlines()
    assert len(text) == 3
    assert "ssh: 22/tcp, by knock; closed after" in text[0]
    assert daemon.end() == 0
    assert not daemon.control.exists()
    assert daemon.log() == records  # read without a daemon


WITHOUT_NET_ADMIN = {
    "root": ["setpriv", "--bounding-set", "-net_admin"],
    "nobody": [
        "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
        "--inh-caps", "-all,+dac_override,+dac_read_search",
        "--ambient-caps", "-all,+dac_override,+dac_read_search",
    ],
}  # fmt: skip


@pytest.mark.parametrize("who", WITHOUT_NET_ADMIN)
def test_a_missing_right_is_named(direct_lab: Lab, tmp_path: Path, config: str, who: str) -> None:
    daemon = RunningDaemon(direct_lab.server, tmp_path, config)
    done = direct_lab.server.run([*WITHOUT_NET_ADMIN[who], *DOORWARD, "run"], env=daemon.env, check=False)
    assert done.returncode == 2
    assert "CAP_NET_ADMIN" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert direct_lab.server.run(["nft", "list", "ruleset"]).stdout == ""
    assert not daemon.control.exists()
    daemon.close()


@pytest.mark.parametrize("config", [CONFIG.format(for_="1500ms")], ids=["1500ms"])
def test_a_full_disk_is_said_and_nothing_is_lost(
    direct_lab: Lab, tmp_path: Path, pair: list[Visitor], config: str
) -> None:
    direct_lab.server.start_greeter(22)
    with ExitStack() as stack:
        state = tmp_path / "state"
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "doorward-test", state], check=True)
        stack.callback(lambda: subprocess.run(["umount", "-l", state], check=True))
        daemon = stack.enter_context(running_daemon(direct_lab.server, tmp_path, config))
        ballast = state / "ballast"
        fill(ballast)
        for visitor in pair:
            visitor.knock_and_connect(*SEQUENCE).close()
            daemon.event("opened", address=str(visitor))
        daemon.message("make room there")
        assert "cannot be written" in daemon.run("status").stdout
        for visitor in pair:
            daemon.event("closed", address=str(visitor), by="time")
            assert visitor.element() not in daemon.elements()
        assert daemon.log() == []
        ballast.unlink()
        wanted = [("opened", str(visitor), "knock", "time") for visitor in pair]
        # No event tells that a later try succeeded.
        until(lambda: [(r["event"], r["address"], r["by"], r["closed_by"]) for r in daemon.log()] == wanted, daemon.log)
        assert "cannot be written" not in daemon.run("status").stdout


def fill(path: Path) -> None:
    """Write until the file system has no byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"\0" * size):
                    os.fsync(file)
            except OSError:
                continue
