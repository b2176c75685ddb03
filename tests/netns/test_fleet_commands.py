"""What an operator asks of a whole fleet, and the doors that it keeps."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorward.fleet.doors import NEW_NAME
from doorward.fleet.records import Tree
from tests.support.fleet import Fleet, running_fleet
from tests.support.knockd import until

pytestmark = pytest.mark.netns("nft")

DOORS = """
[doors.web]
knock = ["7101/udp", "7102/udp"]
opens = ["8080/tcp"]
shared = true
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(Fleet(tmp_path, gates=2, nodes=1, fleet="doors = true")) as fleet:
        yield fleet


def test_status_close_and_log_of_a_fleet(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    shown = json.loads(first.run("status", "--fleet", "--json").stdout)
    assert [(g["gate"], g["state"], g["openings"], g["doors"]) for g in shown] == [
        ("edge-1", "up", 1, 1),
        ("edge-2", "up", 1, 1),
    ]
    assert all(abs(gate["offset_ms"]) < 1000 for gate in shown)
    assert "fleet example: 2 of 2 gates up, 1 open" in first.run("status", "--fleet").stdout
    assert "fleet example: in touch; " in first.run("status").stdout
    first.end(signal.SIGKILL)
    assert "ssh is closed to" in first.run("close", "ssh", guest, "--fleet").stdout  # no daemon runs there
    second.event("closed", address=str(guest), by="fleet")
    nobody = first.run("close", "ssh", guest, "--fleet", check=False)
    assert (nobody.returncode, "at no gate" in nobody.stderr) == (1, True)
    while "edge-1  away" not in (told := second.run("status", "--fleet").stdout):
        assert "edge-1  silent" in told  # until its lease is over
    assert "1 of 2 gates up" in told
    assert second.run("fleet", "forget", "edge-2", check=False).returncode == 1
    second.run("fleet", "forget", "edge-1")
    assert "1 of 1 gates up" in second.run("status", "--fleet").stdout
    while len(rows := [json.loads(row) for row in second.run("log", "--fleet", "--json").stdout.splitlines()]) < 2:
        pass
    assert [(row["gate"], row["event"], row["address"], row["words"]) for row in rows] == [
        ("edge-1", "opened", str(guest), "knock"),
        ("edge-2", "closed", str(guest), "fleet"),
    ]
    assert second.run("log", "--fleet", "--address", "192.0.2.1").stdout == ""
    assert f"edge-1      opened   {guest}" in second.run("log", "--fleet", "--last", "5").stdout


def test_doors_that_the_fleet_keeps(fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.gates
    file, guest = tmp_path / "doors.toml", fleet.visitor(first)
    assert "keeps no doors" in first.run("fleet", "versions").stdout
    file.write_text(DOORS)
    pushed = first.run("fleet", "push", file)
    assert sorted(pushed.stdout.splitlines()[1:]) == ["edge-1: 2 doors in force", "edge-2: 2 doors in force"]
    fleet.knock(guest, 7101, 7102)
    second.event("opened", door="web", address=str(guest), by="knock at edge-1")
    file.write_text(DOORS.replace("7102", "7103"))
    assert first.run("fleet", "push", file).stdout.startswith("version 2 ")
    assert first.run("fleet", "rollback").stdout.startswith("version 1 ")
    late = fleet.visitor(second)
    fleet.knock(late, 7101, 7102)
    first.event("opened", door="web", address=str(late))
    assert [line.split()[0] for line in first.run("fleet", "versions").stdout.splitlines()] == ["version", "1", "2"]
    fleet.nodes[0].end()
    second.end()
    second._noticed.clear()
    second.start()  # without etcd
    assert second.ask("status")["summary"].startswith("2 doors")


BAD = [
    ("[doors.web\n", "doors.toml:1: "),
    ('[gate]\nmode = "observe"\n', "doors.toml:1: 'gate' is not a fleet's; leave only tables [doors.NAME]"),
    ('[doors.ssh]\nopens = ["22/tcp"]\n', "doors.toml:1: a gate has a door 'ssh' of its own"),
    ('[doors.a]\nopens = ["23/tcp"]\non_open = ["/bin/true"]\n', "doors.toml:3: door 'a' runs a command"),
    ('[doors.a]\nopens = ["23/tcp"]\nknock = ["22/tcp"]\n', "doors.toml:3: door 'a' knocks at a port that is no"),
    ('[doors.a]\nopens = "23/tcp"\n', "doors.toml:2: "),
    ("", "doors.toml:1: there is no door"),
]


def test_a_bad_file_is_refused_before_it_is_stored(fleet: Fleet, tmp_path: Path) -> None:
    (first, _), file = fleet.gates, tmp_path / "doors.toml"
    for text, fault in BAD:
        file.write_text(text)
        done = first.run("fleet", "push", file, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert fault in done.stderr
    for kind in ("versions/", "current"):
        assert fleet.etcd().prefix(f"/doorward/example/doors/{kind}").entries == []


def test_doors_that_one_gate_cannot_take(fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.gates
    second.reload(second.config.read_text() + '[doors.other]\nopens = ["8081/tcp"]\nknock = ["8080/tcp"]\n')
    file = tmp_path / "doors.toml"
    file.write_text(DOORS)
    done = first.run("fleet", "push", file, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "edge-1: 2 doors in force" in lines
    assert any(line.startswith("edge-2: not taken, those before stand: ") and "8080/tcp" in line for line in lines)
    assert second.ask("status")["summary"].startswith("2 doors")
    guest = fleet.visitor(second)
    fleet.knock(guest)
    first.event("opened", address=str(guest), by="knock at edge-2")


def test_a_rollback_that_one_gate_has_in_force(fleet: Fleet, tmp_path: Path) -> None:
    """It refused the version that is taken back: what it has stood all the time, and it says so."""
    first, second = fleet.gates
    second.reload(second.config.read_text() + '[doors.other]\nopens = ["8082/tcp"]\nknock = ["8081/tcp"]\n')
    file = tmp_path / "doors.toml"
    file.write_text(DOORS)
    first.run("fleet", "push", file)
    file.write_text(DOORS.replace("8080", "8081"))
    assert first.run("fleet", "push", file, check=False).returncode == 1
    lines = first.run("fleet", "rollback").stdout.splitlines()
    assert sorted(lines[1:]) == ["edge-1: 2 doors in force", "edge-2: 3 doors in force"]


def test_a_rollback_that_a_gate_hears_of_before_it_has_loaded(fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.gates
    file = tmp_path / "doors.toml"
    file.write_text(DOORS)
    first.run("fleet", "push", file)
    first.message("version 1 of its doors is there")
    file.write_text(DOORS.replace("7102", "7103"))
    with ThreadPoolExecutor(2) as others:
        second.process.send_signal(signal.SIGSTOP)
        pushed = others.submit(first.run, "fleet", "push", file, check=False)
        until(lambda: (second.state / NEW_NAME).exists())
        first.message("version 2 of its doors is there")
        back = others.submit(first.run, "fleet", "rollback", check=False)
        first.message("version 1 of its doors is there")
        second.process.send_signal(signal.SIGCONT)
        assert sorted(back.result().stdout.splitlines()[1:]) == ["edge-1: 2 doors in force", "edge-2: 2 doors in force"]
        pushed.result()
    guest = fleet.visitor(second)
    fleet.knock(guest, 7101, 7102)
    first.event("opened", door="web", address=str(guest))


def test_what_others_wrote_among_the_versions(fleet: Fleet, tmp_path: Path) -> None:
    """It is passed over, a gate that should load it says why not, and another version mends it."""
    first, second = fleet.gates
    file, tree = tmp_path / "doors.toml", Tree("example")
    file.write_text(DOORS)
    first.run("fleet", "push", file)
    etcd = fleet.etcd()
    etcd.put(tree.under("doors", "versions", "none"), b"{}")
    etcd.put(tree.under("doors", "versions", "00000002"), b"{}")
    etcd.put(tree.under("doors", "current"), b'{"version": 2}')
    for gate in (first, second):
        gate.message("the fleet's doors in etcd are not what doorward writes")
    assert [line.split()[:1] for line in first.run("fleet", "versions").stdout.splitlines()[1:]] == [["1"], ["2"]]
    in_force = ["edge-1: 2 doors in force", "edge-2: 2 doors in force"]
    assert sorted(first.run("fleet", "rollback").stdout.splitlines()[1:]) == in_force
    pushed = first.run("fleet", "push", file).stdout.splitlines()
    assert pushed[0].startswith("version 3 ")
    assert sorted(pushed[1:]) == in_force


def test_a_ban_closes_in_the_whole_fleet_and_keeps_out_here(fleet: Fleet) -> None:
    first, second = fleet.gates
    guest = fleet.visitor(first)
    fleet.knock(guest)
    second.event("opened", address=str(guest))
    first.run("ban", guest)
    second.event("closed", address=str(guest), by="fleet")
    second.run("open", "ssh", guest)
    other = fleet.visitor(second)
    fleet.knock(other)  # told later by the same gate
    first.event("opened", address=str(other))
    assert {opening["address"] for opening in first.openings()} == {str(other)}


def test_a_gate_whose_own_file_is_wrong_says_so(fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.gates
    second.config.write_text(second.config.read_text().replace("7001/udp", "7001/ud"))
    file = tmp_path / "doors.toml"
    file.write_text(DOORS)
    done = first.run("fleet", "push", file, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("edge-2: not taken, those before stand: ")]
    assert "doorward.toml:" in line
    assert "7001/ud" in line
