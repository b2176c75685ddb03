"""One connection through what a router opens: hosts behind it, ports that it forwards, and ranges."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import PATIENCE_S, RunningDaemon, echoes, running_daemon
from tests.support.one_connection import answers_held, reload, restart, used_by
from tests.support.routed import BEHIND, ROUTER, connect, gets_in, knock

pytestmark = pytest.mark.netns("nft")

GATE = """
[gate]
mode = "{mode}"
interfaces = ["client", "stranger"]
"""
DOOR = """
[doors.{}]
knock = ["7001/tcp", "{}/udp"]
opens = [{}]
for = "10m"
once = true
"""
KNOCKS = {"behind": 7002, "forwarded": 7003, "range": 7004, "both": 7005}
OPENS = {
    "behind": '"198.51.100.2:22/tcp", "[2001:db8:2::2]:22/tcp"',
    "forwarded": '"2222/tcp -> 198.51.100.2:23", "2222/tcp -> [2001:db8:2::2]:23"',
    "range": '"50000-50010/tcp"',
    "both": """
        "2223/tcp -> 198.51.100.2:24", "198.51.100.2:24/tcp",
        "2223/tcp -> [2001:db8:2::2]:24", "[2001:db8:2::2]:24/tcp"
    """,
}
TARGETS = {4: '"198.51.100.2:25/tcp"', 6: '"[2001:db8:2::2]:25/tcp"'}  # of doors whose knocks go to the host behind
DOORS = "".join([
    GATE,
    *(DOOR.format(name, number, OPENS[name]) for name, number in KNOCKS.items()),
    *(f'{DOOR.format(f"target{v}", 7006, opens)}target = "{BEHIND[v]}"\n' for v, opens in TARGETS.items()),
])  # fmt: skip


def places(version: int) -> dict[str, tuple[str, int]]:
    """Return where each door's connection goes to."""
    here, there = ROUTER[version], BEHIND[version]
    return {"behind": (there, 22), "forwarded": (here, 2222), "range": (here, 50005), "both": (here, 2223)}


@pytest.fixture
def mode() -> str:
    return "guard"


@pytest.fixture
def daemon(lab: Lab, tmp_path: Path, mode: str) -> Iterator[RunningDaemon]:
    for port in (22, 23, 24, 25):
        lab.server.start_greeter(port)
    for port in (2222, 50000, 50005):
        lab.router.start_greeter(port)
    with running_daemon(lab.router, tmp_path, DOORS.format(mode=mode)) as running:
        yield running


def opened(lab: Lab, daemon: RunningDaemon, door: str, version: int) -> None:
    knock(lab.client, ROUTER[version], "7001", f"{KNOCKS[door]}/udp")
    daemon.event("opened", door=door)


def use(lab: Lab, daemon: RunningDaemon, door: str, place: tuple[str, int]) -> socket.socket:
    """Connect, and wait until the daemon has recorded who did."""
    connection = connect(lab.client, *place, PATIENCE_S)
    daemon.event("closed", door=door, by=used_by(connection))
    return connection


@pytest.mark.parametrize(("mode", "version"), [("guard", 4), ("stealth", 6)])
def test_one_connection_enters(lab: Lab, daemon: RunningDaemon, version: int) -> None:
    for door, place in places(version).items():
        assert not gets_in(lab.client, *place), door
        opened(lab, daemon, door, version)
        assert not gets_in(lab.stranger, *place), door
        with use(lab, daemon, door, place) as connection:
            assert not gets_in(lab.client, *place), door
            assert echoes(connection)
        assert daemon.elements() == {}
        assert daemon.openings() == []
    knock(lab.client, BEHIND[version], "7001", "7006/udp")
    daemon.event("opened", door=f"target{version}")
    use(lab, daemon, f"target{version}", (BEHIND[version], 25)).close()
    assert not gets_in(lab.client, BEHIND[version], 25)


def test_syn_is_sent_again_until_it_is_answered(lab: Lab, daemon: RunningDaemon) -> None:
    for door in KNOCKS:
        opened(lab, daemon, door, 4)
    with ThreadPoolExecutor() as clients:
        with answers_held(lab.server, lab.router):
            coming = [clients.submit(connect, lab.client, *place, PATIENCE_S) for place in places(4).values()]
            for door in KNOCKS:
                daemon.event("closed", door=door)
        for each in coming:  # by the SYN that was sent again after a second
            with each.result() as connection:
                assert echoes(connection)


def _damage(daemon: RunningDaemon) -> None:
    daemon.host.run(["nft", "delete", "table", "inet", "doorward"])
    daemon.message("restored after")


def test_nothing_but_a_knock_brings_it_back(lab: Lab, daemon: RunningDaemon) -> None:
    """A reload and a restart keep what is unused, a repair does not; none brings back what was used."""
    happenings: tuple[Callable[[RunningDaemon], None], ...] = (reload, restart, _damage)
    for happen in happenings:
        for door in KNOCKS:
            opened(lab, daemon, door, 4)
        used = ("behind", "forwarded")
        for door in used:
            use(lab, daemon, door, places(4)[door]).close()
        happen(daemon)
        left = {opening["door"] for opening in daemon.openings()}
        assert left == (set() if happen is _damage else {"range", "both"})
        for door, place in places(4).items():
            assert gets_in(lab.client, *place) == (door in left), door
            assert not gets_in(lab.client, *place), door
        assert daemon.elements() == {}


def test_reload_without_such_doors_closes_them(lab: Lab, daemon: RunningDaemon) -> None:
    for door in KNOCKS:
        opened(lab, daemon, door, 4)
    daemon.reload(daemon.config.read_text().replace("once = true", ""))
    for door in KNOCKS:
        daemon.event("closed", door=door, by="lost")
    assert not any(gets_in(lab.client, *place) for place in places(4).values())
    assert daemon.openings() == []


def test_opening_to_a_host_outlives_the_last_door_that_names_one(lab: Lab, daemon: RunningDaemon) -> None:
    opened(lab, daemon, "behind", 4)
    head, *doors = daemon.config.read_text().split("[doors.")
    daemon.reload("[doors.".join([head, *(door for door in doors if door.startswith("range]"))]))
    daemon.reload("[doors.".join([head, *doors]))
    use(lab, daemon, "behind", places(4)["behind"]).close()
    assert not gets_in(lab.client, *places(4)["behind"])
