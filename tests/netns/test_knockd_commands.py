"""What knockd runs: real firewalls' commands, once an opening, owed until they ran; and where it listens."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.daemon import hook_runner as runner_module
from doorward.daemon.hook_commands import DoorCommands
from doorward.daemon.hook_runner import HookReport, HookRun, HookRunner
from doorward.kernel.event_loop import EventLoop
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.conftest import unavailable
from tests.support.daemon import LATE_S, PATIENCE_S, SLOWNESS, until
from tests.support.frames import FrameSender
from tests.support.knockd import KERNEL, OURS, SYN, Program, RunningKnockd, Site, running_knockd, site
from tests.support.processes import NOBODY

pytestmark = pytest.mark.netns("/usr/bin/knock")

ONE, OTHER, SIX = "10.7.7.1", "10.7.7.2", "2001:db8:7::1"
LAST = "[last]\nSequence = 1999\nTCPFlags = syn\n"

engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


def door(name: str = "door", ports: str = "7000,7100", **directives: object) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in directives.items())
    return f"[{name}]\nSequence = {ports}\nTCPFlags = syn\n{lines}"


def settle(place: Site) -> None:
    """Return when all that was sent before, of IPv4 and of IPv6, has been dealt with."""
    before = 1 + len(place.knockd.opened())
    for source in (f"10.7.8.{before}", f"2001:db8:8:{before:x}::1"):
        place.send(source, "1999")
        place.knockd.await_line(f"{source}: last: OPEN SESAME")


def ran(knockd: RunningKnockd, what: str) -> int:
    return sum(line.endswith(f"running command: {what}") for line in knockd.lines())


FIREWALLS = {  # -w: the old iptables has one lock for all namespaces, and 1.8.11 fails at once where another one works
    "legacy": (ONE, "iptables-legacy -w -{} INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "iptables-legacy -w -S"),
    "iptables-nft": (ONE, "iptables-nft -{} INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "iptables-nft -S"),
    "ip6tables": (SIX, "ip6tables -{} INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "ip6tables -S"),
    "nft": (ONE, "nft {} element inet mine open '{{ %IP% }}'", "nft list set inet mine open"),
}


@engines
@pytest.mark.parametrize("firewall", FIREWALLS)
def test_real_firewalls_open_and_close(tmp_path: Path, program: Program, firewall: str) -> None:
    source, command, listing = FIREWALLS[firewall]
    if shutil.which(listing.split()[0]) is None:
        unavailable(f"not installed: {listing.split()[0]}")
    add, delete = ("add", "delete") if firewall == "nft" else ("A", "D")
    text = door(Start_Command=command.format(add), Cmd_Timeout=1, Stop_Command=command.format(delete))
    with site(program, tmp_path, text) as place:
        server = place.lab.server
        server.run(["nft", "add table inet mine; add set inet mine open { type ipv4_addr; }"])
        assert source not in server.run(listing.split()).stdout
        place.send(source, "7000", "7100")
        add_line, delete_line = (command.format(word).replace("%IP%", source) for word in (add, delete))
        place.knockd.await_line(f"door: running command: {add_line}")
        place.knockd.await_line(f"{source}: door: command timeout")  # a second later
        assert source in server.run(listing.split()).stdout or ran(place.knockd, delete_line)
        place.knockd.await_line(f"door: running command: {delete_line}")
        assert place.knockd.end() == signal.SIGTERM
        await_gone(place, source, listing)
        assert not [line for line in place.knockd.lines() if "non-zero" in line]


def await_gone(place: Site, source: str, listing: str) -> None:
    """Ask a firewall, which tells no events, until an entry is gone."""
    until(lambda: source not in place.lab.server.run(listing.split()).stdout, lambda: place.knockd.lines())


@engines
def test_the_address_in_a_command_is_an_address(tmp_path: Path, program: Program) -> None:
    output = tmp_path / "output"
    text = door(Command=f"echo %IP%,%IP% >> {output}; echo done")
    with site(program, tmp_path, text) as place:
        sources = [ONE, OTHER, SIX, "203.0.113.255", "2001:db8:ffff:ffff::a"]
        for source in sources:
            place.send(source, "7000", "7100")
        place.knockd.await_line("door: done", len(sources))  # what a command writes is in the log
        written = [line.split(",") for line in output.read_text().splitlines()]
        assert sorted(first for first, _ in written) == sorted(sources)
        assert all(str(ip_address(first)) == second for first, second in written)


@engines
def test_with_a_stop_command_an_address_has_one_opening_that_a_knock_prolongs(tmp_path: Path, program: Program) -> None:
    text = door(Start_Command="echo start %IP%", Cmd_Timeout=1, Stop_Command="echo stop %IP%") + LAST
    with site(program, tmp_path, text) as place:
        place.send(ONE, "7000", "7100")
        place.knockd.await_line(f"door: start {ONE}")
        began_s = time.monotonic()
        time.sleep(0.6)  # the opening is more than half over
        place.send(ONE, "7000", "7100")
        place.knockd.await_line(f"{ONE}: door: OPEN SESAME", 2)
        place.send(OTHER, "7000", "7100")
        place.knockd.await_line(f"door: stop {ONE}")
        assert time.monotonic() - began_s > 1.4
        place.knockd.await_line(f"door: stop {OTHER}")
        assert [ran(place.knockd, f"echo {what} {who}") for what in ("start", "stop") for who in (ONE, OTHER)] == [
            1
        ] * 4
        place.send(ONE, "7000", "7100")  # closed, so this opens again
        place.knockd.await_line(f"door: start {ONE}", 2)


@engines
def test_without_a_stop_command_each_knock_runs_the_command(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, door(Command="echo ran for %IP%")) as place:
        for count in (1, 2, 3):
            place.send(ONE, "7000", "7100")
            place.knockd.await_line(f"door: ran for {ONE}", count)


def test_ipv6_commands_fall_back_and_empty_ones_are_none(tmp_path: Path) -> None:
    text = (
        door("own", "7001", Command="echo own4", Command_6="echo own6")
        + door("fallback", "7002", Command="echo fallback")
        + door("only4", "7003", Command="echo only4", Start_Command_6="")
        + door("only6", "7004", Start_Command_6="echo only6")
        + door("none", "7005", Command="")
        + door("stop6", "7006", Command="echo a", Stop_Command="echo stop4", Stop_Command_6="echo stop6", Cmd_Timeout=1)
        + door("nostop6", "7007", Command="echo b %IP%", Stop_Command="echo end4", Stop_Command_6="", Cmd_Timeout=1)
        + LAST
    )
    with site(KERNEL, tmp_path, text) as place:
        for source in (ONE, SIX):
            for port in range(7001, 7008):
                place.send(source, str(port))
                place.send(source, "9999")
            place.send(source, "7007")
        for line in ("stop6: stop4", "stop6: stop6", "nostop6: end4"):
            place.knockd.await_line(line)
        settle(place)
        commands = [line.split("running command: ")[1] for line in place.knockd.lines() if "running command" in line]
        wanted = f"""
            echo own4|echo own6|echo fallback|echo fallback|echo only4|echo only6
            |echo a|echo a|echo stop4|echo stop6|echo end4|echo b {ONE}|echo b {SIX}|echo b {SIX}"""
        # The last one twice: without a stop command it runs at every knock.
        assert sorted(commands) == sorted(word.strip() for word in wanted.split("|"))


def test_hanging_command_is_ended_with_its_children_and_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner_module, "MAX_SECONDS", 0.3)
    loop, reports = EventLoop(), list[HookReport]()

    def take(_: HookRun | None, report: HookReport) -> None:
        reports.append(report)
        if [each.event for each in reports].count("done") == 2:
            loop.stop()

    commands = {"door": DoorCommands(open4="echo begun; sleep 600 & sleep 600", close4="echo after")}
    runner = HookRunner(commands, loop, take, tmp_path / "lock", first=True)
    runner.run(HookRun("door", ip_address(ONE), "open"))
    runner.run(HookRun("door", ip_address(ONE), "close"))
    began_s = time.monotonic()
    loop.run()
    assert time.monotonic() - began_s < 5
    runner.close()
    os.waitpid(runner.pid, 0)
    loop.close()
    reported = [(report.event, report.text, report.status) for report in reports]
    assert reported == [
        ("running", "echo begun; sleep 600 & sleep 600", 0),
        ("hangs", "ended after 0s", 0),
        ("output", "begun", 0),
        ("done", "", 128 + signal.SIGKILL),
        ("running", "echo after", 0),
        ("output", "after", 0),
        ("done", "", 0),
    ]


@engines
def test_sigterm_runs_no_stop_command_early_and_the_next_start_runs_it_on_time(
    tmp_path: Path, program: Program
) -> None:
    text = door(Start_Command="echo start", Cmd_Timeout=2, Stop_Command="echo stop %IP%")
    with site(program, tmp_path, text) as place:
        began_s = time.monotonic()
        place.send(ONE, "7000", "7100")
        place.knockd.await_line("door: start")
        place.knockd.end()
        assert ran(place.knockd, f"echo stop {ONE}") == 0
        with running_knockd(program, place.lab.server, place.knockd.folder, text) as again:
            again.await_line(f"door: stop {ONE}")
            assert 1.95 < time.monotonic() - began_s < 2 + LATE_S
            assert ran(again, "echo start") == 0
            again.end()
        with running_knockd(program, place.lab.server, place.knockd.folder, text + LAST) as third:
            after = Site(place.lab, third)
            settle(after)
            after.close()
            assert ran(third, f"echo stop {ONE}") == 0, "what ran is owed no more"


def test_what_is_late_is_run_at_once(tmp_path: Path) -> None:
    text = door(Start_Command="echo start", Cmd_Timeout=2, Stop_Command="echo stop %IP%")
    with site(KERNEL, tmp_path, text) as place:
        place.send(ONE, "7000", "7100")
        place.knockd.await_line("door: start")
        place.knockd.kill()
        time.sleep(2.1)  # it ends while no daemon runs
        with running_knockd(KERNEL, place.lab.server, place.knockd.folder, text) as again:
            began_s = time.monotonic()
            again.await_line(f"door: stop {ONE}")
            assert time.monotonic() - began_s < 2


@engines
def test_a_reload_closes_the_doors_that_are_gone_and_a_bad_file_changes_nothing(
    tmp_path: Path, program: Program
) -> None:
    gone = door("gone", "7000", Start_Command="echo start", Cmd_Timeout=400, Stop_Command="echo stop gone %IP%")
    stays = door("stays", "7001", Start_Command="echo start2", Cmd_Timeout=400, Stop_Command="echo stop stays %IP%")
    with site(program, tmp_path, gone + stays + LAST) as place:
        place.send(ONE, "7000")
        place.send(OTHER, "7001")
        place.knockd.await_line("gone: start")
        place.knockd.await_line("stays: start2")
        place.knockd.reload(gone + stays + "nonsense\n")
        place.knockd.await_line("error: the configuration was not changed")
        os.chown(place.knockd.config, NOBODY, NOBODY)
        place.knockd.reload(gone + LAST + door("new", "7002", Command="echo new"))
        place.knockd.await_line("error: the configuration was not changed", 2)
        os.chown(place.knockd.config, 0, 0)
        place.send(SIX, "7000")  # the door is open as before
        place.knockd.await_line("gone: start", 2)
        place.knockd.reload(stays + LAST + door("new", "7002", Command="echo new"))
        for source in (ONE, SIX):
            place.knockd.await_part(f"running command: echo stop gone {source}")
        place.send(ONE, "7002")
        place.knockd.await_line("new: new")
        place.send(OTHER, "7000")
        place.send(OTHER, "7001")
        place.knockd.await_line(f"{OTHER}: stays: OPEN SESAME", 2)
        settle(place)
        assert ran(place.knockd, f"echo stop stays {OTHER}") == 0
        assert ran(place.knockd, "echo start") == 2
        assert ran(place.knockd, "echo start2") == 1, "open already"


@engines
def test_hundreds_of_openings_take_no_process_and_all_end(tmp_path: Path, program: Program) -> None:
    count = round(300 / SLOWNESS)
    sources = [f"10.20.{number >> 8}.{number & 255}" for number in range(count)]
    text = door("many", "7000", Start_Command=": start %IP%", Cmd_Timeout=4, Stop_Command=": stop %IP%")
    with site(program, tmp_path, text) as place:
        alone = place.lab.server.pids()
        for source in sources:
            place.send(source, "7000")
        place.knockd.log.await_count(count, lambda line: ": start 10.20." in line)
        while (now := place.lab.server.pids()) != alone:  # the last start commands end
            assert len(now) < len(alone) + 40
        readers = int(program.name == "kernel")  # the log is read apart
        assert len(alone) == 2 + readers  # itself, and who runs commands
        assert not place.knockd.await_part(": stop ", 0), "the time was too short to see all open"
        stopped = place.knockd.await_part("running command: : stop ", count)
        assert sorted(line.rpartition(" ")[2] for line in stopped) == sorted(sources)


@contextmanager
def frames_on(lab: Lab, interface: str, number: int) -> Iterator[FrameSender]:
    """Join client and server by one more wire, and send on it."""
    client, server = (
        replace(host, interface=interface, mac=f"02:00:00:00:{number:02x}:0{end}")
        for end, host in ((1, lab.client), (2, lab.server))
    )
    lab.client.ip(
        *f"link add {interface} address {client.mac} type veth peer name {interface}".split(),
        *f"netns {server.namespace} address {server.mac}".split(),
    )
    for host in (client, server):
        host.ip("link", "set", interface, "up")
    lab.server.ip("address", "add", f"10.{number}.0.2/24", "dev", interface)
    frames = FrameSender(client, server)
    yield frames
    frames.close()


@engines
def test_an_interface_that_comes_later_goes_and_comes_back(tmp_path: Path, program: Program) -> None:
    text = door("door", "7000", Command="echo %IP%") + LAST
    with late_site(program, tmp_path, text) as place:
        for number in (1, 2):
            with frames_on(place.lab, "late0", 50 + number) as frames:
                source = f"10.7.9.{number}"
                deadline_s = time.monotonic() + PATIENCE_S
                port = 30_000
                while f"door: {source}" not in place.knockd.lines():  # the wire itself takes a moment to carry
                    assert time.monotonic() < deadline_s
                    frames.send(Packet(ip_address(source).packed, Port.parse("7000/tcp"), SYN), port := port + 1)
                    time.sleep(0.06)  # slower than a scanner
                place.lab.client.ip("link", "delete", "late0")
        place.send(OTHER, "7000")  # by another interface, which nobody watches
        with frames_on(place.lab, "late0", 53):
            assert not [line for line in place.knockd.lines() if OTHER in line]


@contextmanager
def late_site(program: Program, folder: Path, text: str) -> Iterator[Site]:
    with Lab(direct=True) as lab, running_knockd(program, lab.server, folder, text, interface="late0") as knockd:
        place = Site(lab, knockd)
        yield place
        place.close()


@engines
def test_any_is_every_interface(tmp_path: Path, program: Program) -> None:
    text = door("door", "7000", Command="echo %IP%")
    with Lab(direct=True) as lab, running_knockd(program, lab.server, tmp_path, text, interface="any") as knockd:
        place = Site(lab, knockd)
        place.send(ONE, "7000")
        knockd.await_line(f"door: {ONE}")
        with frames_on(lab, "more0", 60) as frames:
            deadline_s = time.monotonic() + PATIENCE_S
            while f"door: {OTHER}" not in knockd.lines():
                assert time.monotonic() < deadline_s
                frames.send(Packet(ip_address(OTHER).packed, Port.parse("7000/tcp"), SYN))
                time.sleep(0.06)
        place.close()


@engines
def test_a_router_sees_knocks_at_an_address_behind_it(lab: Lab, tmp_path: Path, program: Program) -> None:
    target, router = lab.server.ipv4, lab.router.ipv4
    text = door("behind", "7000,7100", Target=target, Command="echo behind %IP%")
    text += door("here", "7000,7100", Command="echo here %IP%")
    with running_knockd(program, lab.router, tmp_path, text, interface="client") as knockd:
        lab.client.run(["/usr/bin/knock", target, 7000, 7100])
        knockd.await_line(f"behind: behind {lab.client.ipv4}")
        lab.client.run(["/usr/bin/knock", router, 7000, 7100])
        knockd.await_line(f"here: here {lab.client.ipv4}")
        assert len(knockd.opened()) == 2
        assert len(knockd.await_part("OPEN SESAME")) == 2


@engines
def test_port_on_which_this_host_listens_is_not_a_knock(tmp_path: Path, program: Program) -> None:
    text = door(Command="echo %IP%") + LAST
    with Lab(direct=True) as lab:
        lab.server.start_greeter(4444)
        with running_knockd(program, lab.server, tmp_path, text, "-D") as knockd:
            place = Site(lab, knockd)
            place.send(ONE, "7000", "4444", "7100")
            knockd.await_line(f"door: {ONE}")
            place.send(OTHER, "7000", "4445", "7100")
            settle(place)
            assert (OTHER, "door") not in knockd.opened()
            said = knockd.output.await_count(1, lambda line: "this host listens on them" in line)
            assert said == [f"engine: {program.name}; ignored ports, since this host listens on them: 4444/tcp"]
            place.close()


@engines
def test_with_4_there_is_no_ipv6(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, door(Command="echo %IP%") + LAST, "-4") as place:
        place.send(SIX, "7000", "7100")
        place.send(ONE, "7000", "7100")
        place.knockd.await_line(f"door: {ONE}")
        assert not [line for line in place.knockd.lines() if SIX in line]


def test_commands_of_a_daemon_that_was_killed_end_before_the_next_ones_begin(tmp_path: Path) -> None:
    """A slow command to open must not come after the next daemon's command to close."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    os.mkfifo(gate)
    commands = {
        "door": DoorCommands(open4=f"read line < {gate}; echo open >> {record}", close4=f"echo close >> {record}")
    }
    loops = EventLoop(), EventLoop()
    killed = HookRunner(commands, loops[0], lambda *_: loops[0].stop(), tmp_path / "lock", first=True)
    killed.run(HookRun("door", ip_address(ONE), "open"))
    loops[0].run()  # it runs now
    following = HookRunner(
        commands, loops[1], lambda _, r: loops[1].stop() if r.event == "done" else None, tmp_path / "lock", first=True
    )
    following.run(HookRun("door", ip_address(ONE), "close"))
    killed.close()  # as by kill -9: the socket is gone, the command goes on
    gate.write_text("on\n")
    loops[1].run()
    assert record.read_text() == "open\nclose\n"
    for runner, loop in ((following, loops[1]), (killed, loops[0])):
        runner.close()
        loop.close()
        os.waitpid(runner.pid, 0)
