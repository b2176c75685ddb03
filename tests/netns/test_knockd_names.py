"""`-l`: the names of those who knock, in the lines; a resolver that does not answer holds nothing up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.knockd import DEBIAN, OURS, Program, Site, mounted, site

pytestmark = pytest.mark.netns("/usr/sbin/knockd")

NAMED, SIX, SLOW, STRANGER = "10.7.7.1", "2001:db8:7::1", "10.7.7.2", "10.7.7.3"
HOSTS = f"127.0.0.1 localhost\n{NAMED} friend.example.net friend\n{SIX} six.example.net\n"

programs = pytest.mark.parametrize("program", [DEBIAN, *OURS], ids=lambda program: program.name)
engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


def doors(folder: Path) -> str:
    return f"""
[door]
Sequence = 7000,7100
TCPFlags = syn
Start_Command = touch {folder}/%IP%
Cmd_Timeout = 1
Stop_Command = rm {folder}/%IP%
"""


@contextmanager
def resolving_site(program: Program, folder: Path, *, silent: bool = False) -> Iterator[Site]:
    """Return a knockd with -l and a hosts file; a silent name server takes questions and gives no answer."""
    folder.mkdir(exist_ok=True)
    hosts, servers, switch = folder / "hosts", folder / "resolv.conf", folder / "nsswitch.conf"
    hosts.write_text(HOSTS)
    servers.write_text("nameserver 198.51.100.1\n")
    switch.write_text(f"hosts: files{' dns' if silent else ''}\n")
    for path in (hosts, servers, switch):
        path.chmod(0o644)
    seeing = mounted(program, {"/etc/hosts": hosts, "/etc/resolv.conf": servers, "/etc/nsswitch.conf": switch})
    with ExitStack() as stack:
        place = stack.enter_context(site(seeing, folder, doors(folder), "-l"))
        mute = stack.enter_context(place.lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        mute.bind(("", 53))
        yield place


def session(program: Program, folder: Path) -> list[str]:
    with resolving_site(program, folder) as place:
        for source in (NAMED, SIX, STRANGER):
            place.send(source, "7000", "7100")
            place.knockd.await_part(f"running command: rm {folder}/{source}")
        return [line.replace(str(folder), "") for line in place.knockd.lines() if ": door: " in line]


def test_the_lines_have_the_names_that_knockd_gives(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # they wait for the same seconds
        done = {program.name: pool.submit(session, program, tmp_path / program.name) for program in (DEBIAN, *OURS)}
    seen = {name: lines.result() for name, lines in done.items()}
    assert f"{NAMED} (friend.example.net): door: OPEN SESAME" in seen["debian"]
    assert f"{STRANGER}: door: Stage 1" in seen["debian"]
    assert seen["kernel"] == seen["ring"] == seen["debian"]


@engines
def test_a_name_server_that_is_silent_delays_lines_and_no_opening(tmp_path: Path, program: Program) -> None:
    with resolving_site(program, tmp_path, silent=True) as place:
        knockd = place.knockd
        place.send(SLOW, "7000", "7100")
        place.send(NAMED, "7000", "7100")
        until((tmp_path / SLOW).exists)
        until((tmp_path / NAMED).exists)
        assert not knockd.opened(), "the lines wait for a name, so this is before the resolver's patience is over"
        knockd.await_line(f"{NAMED} (friend.example.net): door: OPEN SESAME")
        stages = [line for line in knockd.lines() if "OPEN SESAME" in line]
        assert stages == [f"{SLOW}: door: OPEN SESAME", f"{NAMED} (friend.example.net): door: OPEN SESAME"], "in order"


@engines
def test_at_the_end_no_line_is_lost_and_no_resolver_is_left(tmp_path: Path, program: Program) -> None:
    with resolving_site(program, tmp_path, silent=True) as place:
        place.send(SLOW, "7000", "7100")
        until((tmp_path / SLOW).exists)
        place.knockd.end()
        assert place.knockd.lines()[-1] == "shutting down"
        assert f"{SLOW}: door: OPEN SESAME" in place.knockd.lines()
        until(lambda: place.lab.server.pids() == set())


def askers(place: Site) -> list[int]:
    """Return the processes that look names up: nobody else has eight threads."""
    return [pid for pid in place.lab.server.pids() if "Threads:\t8" in Path(f"/proc/{pid}/status").read_text()]


@engines
def test_a_process_for_names_that_dies_leaves_lines_without(tmp_path: Path, program: Program) -> None:
    with resolving_site(program, tmp_path) as place:
        until(lambda: len(askers(place)) == 1)  # it starts its threads when it likes
        (asker,) = askers(place)
        assert "Uid:\t65534\t65534" in Path(f"/proc/{asker}/status").read_text()
        place.lab.server.run(["kill", "-9", asker])
        place.send(NAMED, "7000", "7100")
        place.knockd.await_part("door: OPEN SESAME")
        until((tmp_path / NAMED).exists)
