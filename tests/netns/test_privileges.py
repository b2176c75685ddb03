"""Started by root, the daemon switches to its user; packet readers can do nothing; commands keep root's rights."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

import pytest

from doorward.daemon.bans import read_bans
from doorward.daemon.ledger import Ledger
from doorward.kernel import atomic_file
from doorward.lab.topology import Lab
from tests.support import shield_object
from tests.support.daemon import DOORWARD, PATIENCE_S, RunningDaemon, Visitor, Visitors, running_daemon, until
from tests.support.service_user import (
    AS_THE_UNIT,
    GROUP,
    METRICS,
    STAFF,
    USER,
    children_of,
    for_the_user,
    open_folder,
    service_user,
    status_of,
    wrapped,
)
from tests.support.signed import Signed, Signer, send

pytestmark = pytest.mark.netns("knock", "nft", "unshare", "setpriv")

CONFIG = """
[gate]
mode = "guard"
{more}
[doors.ssh]
knock = ["7001/tcp", "7002/tcp"]
opens = ["22/tcp"]
for = "30s"
on_open = ["/bin/sh", "-c", "echo {word} $(id -u) > {said}"]
"""
SEQUENCE = ("7001", "7002")
DOORWARD_STATUS = (*DOORWARD, "status")
NET_ADMIN = f"{1 << 12:016x}"
NONE = "0" * 16
ROOTS = status_of(os.getpid())["CapEff"]


class ServiceDaemon(RunningDaemon):
    """The daemon where there is a user `doorward`."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.said_path = folder / "said"
        os.mkfifo(self.said_path)
        self.said_path.chmod(0o666)
        self.lab = lab
        super().__init__(lab.server, folder, self.text("first"))
        for_the_user(self)
        self.wrapper = wrapped(folder / "hold")

    def text(self, word: str, more: str = "") -> str:
        return CONFIG.format(word=word, said=self.said_path, more=more)

    def status(self) -> dict[str, str]:
        return status_of(self.process.pid)

    def child(self, *, filtered: bool) -> int:
        """Return the process id of the reader, whose system calls are filtered, or of the one that runs commands."""
        (pid,) = (
            pid for pid in children_of(self.process.pid) if (status_of(pid)["Seccomp_filters"] != "0") is filtered
        )
        return pid


@pytest.fixture
def daemon(direct_lab: Lab) -> Iterator[ServiceDaemon]:
    """A daemon that is not started yet."""
    direct_lab.server.start_greeter(22)
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        stack.enter_context(service_user(direct_lab.server))
        running = ServiceDaemon(direct_lab, folder)
        stack.callback(os.close, os.open(running.said_path, os.O_RDWR))  # no command waits for a reader
        stack.callback(running.close)
        yield running


@pytest.fixture
def said(daemon: ServiceDaemon) -> Iterator[TextIO]:
    """What the commands say, line by line as they run."""
    with os.fdopen(os.open(daemon.said_path, os.O_RDWR), "r") as lines:
        yield lines


@pytest.fixture
def visitors(direct_lab: Lab) -> Visitors:
    return Visitors(direct_lab)


def gets_in_by_knocking(daemon: ServiceDaemon, visitor: Visitor) -> None:
    visitor.knock(*SEQUENCE)
    daemon.event("opened", address=str(visitor))
    assert visitor.gets_in()


def test_each_process_has_what_it_needs_and_no_more(daemon: ServiceDaemon, visitors: Visitors, said: TextIO) -> None:
    daemon.start()
    reader, runner = daemon.child(filtered=True), daemon.child(filtered=False)
    wanted = {
        daemon.process.pid: (USER, GROUP, NET_ADMIN, "1", "0"),
        reader: (USER, GROUP, NONE, "1", "1"),
        runner: (0, 0, ROOTS, "0", "0"),
    }
    for pid, (user, group, capabilities, no_new, filters) in wanted.items():
        status = status_of(pid)
        assert set(status["Uid"].split()) == {str(user)}
        assert set(status["Gid"].split()) == {str(group)}
        assert status["CapEff"] == status["CapPrm"] == capabilities
        assert status["CapBnd"] == (NET_ADMIN if user else ROOTS)
        assert status["CapInh"] == status["CapAmb"] == NONE
        assert (status["NoNewPrivs"], status["Seccomp_filters"]) == (no_new, filters)
        if user:
            assert status["Groups"].split() == [str(GROUP), str(METRICS)]
    assert len(os.listdir(f"/proc/{reader}/fd")) == 2  # noqa: PTH208 - the log and the daemon
    for version in (4, 6):
        gets_in_by_knocking(daemon, visitors.fresh(version))
        assert said.readline() == "first 0\n"
    assert daemon.events()[0]["message"] == "1 door, mode guard; 0 open"  # no word of root


def test_metrics_user_may_read_the_numbers_and_nothing_else(daemon: ServiceDaemon) -> None:
    daemon.start()
    assert stat.S_IMODE(daemon.control.stat().st_mode) == 0o660
    as_metrics = ["setpriv", "--reuid", str(METRICS), "--regid", str(METRICS), "--clear-groups"]
    command = [*daemon.wrapper, *as_metrics, *DOORWARD]
    assert "\ndoorward_doors 1.0\n" in daemon.host.run([*command, "metrics"], env=daemon.env).stdout
    for words in (["status"], ["open", "ssh", "192.0.2.7"]):
        refused = daemon.host.run([*command, *words], env=daemon.env, check=False)
        assert (refused.returncode, "only the statistics" in refused.stderr) == (2, True)
    assert daemon.openings() == []


def test_reload_and_restart(daemon: ServiceDaemon, visitors: Visitors, said: TextIO) -> None:
    knocker, late = visitors.fresh(4), visitors.fresh(6)
    daemon.start()
    runner = daemon.child(filtered=False)
    daemon.reload(daemon.text("second", 'control_group = "staff-of-doors"'))
    as_staff = ["setpriv", "--reuid", "65534", "--regid", str(STAFF), "--clear-groups"]
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    command = [*daemon.wrapper, *as_staff, *DOORWARD_STATUS]
    assert "1 door, mode guard" in daemon.host.run(command, env=daemon.env).stdout
    command = [*daemon.wrapper, *as_staff, *DOORWARD, "ban", "192.0.2.9"]
    refused = daemon.host.run(command, env=daemon.env, check=False)
    assert (refused.returncode, "ban is for root" in refused.stderr) == (2, True)
    turned = daemon.host.run([*daemon.wrapper, *as_nobody, *DOORWARD_STATUS], env=daemon.env, check=False)
    assert turned.returncode == 2
    assert "turned this call away" in turned.stderr
    gets_in_by_knocking(daemon, knocker)
    assert said.readline() == "second 0\n"
    assert daemon.child(filtered=False) == runner
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon.end(number)
        daemon.start()
        assert [opening["address"] for opening in daemon.openings()] == [str(knocker)]
    gets_in_by_knocking(daemon, late)
    assert said.readline() == "second 0\n"
    daemon.config.write_text("[doors.ssh]\nknock = 7\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.message("the loaded gate stays in force")
    assert daemon.status()["Uid"].split()[1] == str(USER)


def test_a_reader_that_ends_is_replaced_and_nothing_is_lost(daemon: ServiceDaemon, visitors: Visitors) -> None:
    daemon.start()
    for number in range(2):
        reader = daemon.child(filtered=True)
        os.kill(reader, signal.SIGSTOP)
        visitor = visitors.fresh(4)
        visitor.knock(*SEQUENCE)
        assert visitor.gets_in()  # the kernel opens by itself
        os.kill(reader, signal.SIGKILL)
        daemon.message("the process that reads packets ended by signal 9; restarting it; reading the open sets")
        daemon.event("opened", address=str(visitor))
        assert daemon.ask("status")["log_overflows"] == number + 1
        gets_in_by_knocking(daemon, visitors.fresh(6))
        following = daemon.child(filtered=True)
        assert following != reader
        assert status_of(following)["CapPrm"] == NONE


def test_the_reader_ends_with_the_daemon(daemon: ServiceDaemon) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon.start()
        handle = os.pidfd_open(daemon.child(filtered=True))
        daemon.end(number)
        assert select.select([handle], [], [], PATIENCE_S)[0]
        os.close(handle)


def test_where_the_user_cannot_do_the_work_root_goes_on_and_says_what_to_do(
    daemon: ServiceDaemon, visitors: Visitors, said: TextIO
) -> None:
    """The directories are root's own, so that nobody can put links there."""
    for path in (daemon.state, daemon.control.parent):
        os.chown(path, 0, 0)
    (daemon.state / "ledger.sqlite3").touch(0o600)
    daemon.start()
    assert daemon.status()["Uid"].split()[1] == "0"
    reader = status_of(daemon.child(filtered=True))
    assert (reader["Uid"].split()[1], reader["CapPrm"], reader["Seccomp"]) == (str(USER), NONE, "2")
    gets_in_by_knocking(daemon, visitors.fresh(4))
    assert said.readline() == "first 0\n"
    note = daemon.message("running as root: the user doorward cannot ")["message"]
    daemon.end()
    follow_remedies(daemon, note)
    daemon.start()
    assert daemon.status()["Uid"].split()[1] == str(USER)
    gets_in_by_knocking(daemon, visitors.fresh(6))


def follow_remedies(daemon: ServiceDaemon, said: str) -> None:
    """Run the commands that a message names."""
    for remedy in re.findall(r"`((?:ch|rm)[^`]+)`", said):
        daemon.host.run(["sh", "-ec", remedy])


def refuse_reading(daemon: ServiceDaemon) -> Path:
    os.chown(daemon.config, 0, 0)
    return daemon.config


def refuse_the_server_key(daemon: ServiceDaemon) -> Path:
    daemon.config.write_text(daemon.text("first") + "\n[signed]\n")
    files = Signed(daemon.config.parent, Signer())
    os.chown(files.keys_file, 0, GROUP)
    files.keys_file.chmod(0o640)
    return files.key_file


def close_the_log_of_the_ledger(daemon: ServiceDaemon) -> Path:
    path = daemon.state / "ledger.sqlite3-wal"
    path.touch()
    os.chown(path, USER, GROUP)
    path.chmod(0)
    return path


def leave_bans_to_root(daemon: ServiceDaemon) -> Path:
    path = daemon.state / "bans.json"
    path.write_text("{}")
    return path


@pytest.mark.parametrize(
    "spoil", [refuse_reading, refuse_the_server_key, close_the_log_of_the_ledger, leave_bans_to_root]
)
def test_root_does_not_go_on_where_the_user_could_put_links(
    daemon: ServiceDaemon, spoil: Callable[[ServiceDaemon], Path]
) -> None:
    place = str(spoil(daemon))
    said = refusal_of(daemon)
    assert place in said
    assert {path.stat().st_uid for path in daemon.state.iterdir() if str(path) != place} == set()
    follow_remedies(daemon, said)
    daemon.start()
    assert daemon.status()["Uid"].split()[1] == str(USER)


def refusal_of(daemon: ServiceDaemon) -> str:
    """Start the daemon, which must refuse at once, and give what it says; a trial, so that it ends in any case."""
    done = daemon.host.run([*daemon.wrapper, *DOORWARD, "run", "--trial", "1s"], env=daemon.env, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    said: str = done.stderr
    return said


def test_no_link_of_the_user_leads_root_elsewhere(daemon: ServiceDaemon) -> None:
    target = daemon.folder / "roots"
    target.mkdir()
    victim = target / "victim"
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
        (daemon.state / name).symlink_to(victim)  # a missing file: opening it would make it
        assert str(daemon.state / name) in refusal_of(daemon)
        (daemon.state / name).unlink()
    victim.write_text("of root alone")
    (daemon.state / "gate.nft").hardlink_to(victim)
    assert str(daemon.state / "gate.nft") in refusal_of(daemon)
    assert victim.read_text() == "of root alone"
    assert [path.name for path in target.iterdir()] == ["victim"]
    assert [path.name for path in daemon.state.iterdir()] == ["gate.nft"]


def read_or_refused(read: Callable[[Path], object], path: Path) -> object:
    try:
        return read(path)
    except OSError:
        return None


def test_what_root_reads_in_the_directory_of_the_user_it_reads_with_that_users_rights(daemon: ServiceDaemon) -> None:
    target = daemon.folder / "roots"
    target.mkdir(0o700)
    victim = target / "other.sqlite3"
    with closing(Ledger(victim)) as ledger:
        ledger.refused("ssh", ip_address("192.0.2.1"), 1.0, "of root alone")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    (daemon.state / "ledger.sqlite3").symlink_to(victim)
    said = daemon.run("log", check=False)
    assert (said.returncode, "of root alone" in said.stdout) == (2, False)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    other = target / "other"
    other.write_text("of root alone")
    other.chmod(0o600)
    for read in (atomic_file.read, read_bans):  # what `doctor` and `explain` read besides
        link = daemon.state / "link"
        link.unlink(missing_ok=True)
        os.mkfifo(link)
        read_or_refused(read, link)  # which ends
        link.unlink()
        link.symlink_to(other)
        assert not read_or_refused(read, link)


def test_the_folders_are_made_for_the_user(daemon: ServiceDaemon) -> None:
    for path in (daemon.state, daemon.control.parent):
        path.rmdir()
    daemon.start()
    made = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in daemon.folder.iterdir()}
    assert (made["state"], made["runtime"]) == ((USER, 0o700), (USER, 0o755))
    assert daemon.status()["Uid"].split()[1] == str(USER)


def test_root_runs_no_command_from_a_file_that_the_user_could_change(daemon: ServiceDaemon) -> None:
    os.chown(daemon.config, USER, GROUP)
    command = [*daemon.wrapper, *DOORWARD, "run"]
    done = daemon.host.run(command, env=daemon.env, check=False)
    assert done.returncode == 2
    assert f"{daemon.config}:1: this file belongs to user {USER}" in done.stderr


def test_what_verifies_signed_knocks_has_no_rights_either(daemon: ServiceDaemon, visitors: Visitors) -> None:
    laptop = Signer()
    files = Signed(daemon.config.parent, laptop)
    daemon.config.write_text(daemon.text("first") + "\n[signed]\n")
    for path in (files.key_file, files.keys_file):
        os.chown(path, 0, GROUP)
        path.chmod(0o640)
    daemon.start()
    daemon.message("accepting signed knocks")
    (verifier,) = (pid for pid in children_of(daemon.process.pid) if status_of(pid)["Name"] == "doorward-verify")
    status = status_of(verifier)
    assert set(status["Uid"].split()) == {str(USER)}
    assert status["CapEff"] == status["CapPrm"] == status["CapInh"] == status["CapAmb"] == NONE
    assert (status["NoNewPrivs"], status["Seccomp_filters"]) == ("1", "1")
    guest, other = visitors.crowd(4, 2)
    send(daemon.lab.client, guest.source, guest.server, laptop.packet(files.server))
    daemon.event("opened", address=str(guest))
    assert guest.gets_in()
    files.authorize(laptop.line)  # of root's alone, which the daemon's user cannot read
    daemon.message("no signed knock is accepted")
    send(daemon.lab.client, other.source, other.server, laptop.packet(files.server))
    os.chown(files.keys_file, 0, GROUP)
    files.keys_file.chmod(0o640)
    daemon.message("accepting signed knocks")
    daemon.event("opened", address=str(other))  # it waited in the kernel


def test_without_the_user_the_reader_still_can_do_nothing(direct_lab: Lab, tmp_path: Path, visitors: Visitors) -> None:
    direct_lab.server.start_greeter(22)
    text = CONFIG.format(word="", said="/dev/null", more="")
    with running_daemon(direct_lab.server, tmp_path, text) as daemon:
        daemon.message("running as root: there is no user doorward to switch to; `useradd ")
        (reader,) = (pid for pid in children_of(daemon.process.pid) if status_of(pid)["Seccomp_filters"] != "0")
        assert status_of(reader)["CapPrm"] == status_of(reader)["CapBnd"] == NONE
        visitor = visitors.fresh(4)
        visitor.knock(*SEQUENCE)
        daemon.event("opened", address=str(visitor))


# What the unit gives: its user, one capability, no new privileges, and a system that it cannot write.
SEALED = (
    "mount --bind {folder} {folder}",
    "mount --bind -o ro {folder}/configuration {folder}/configuration",
    "mount -o remount,bind,ro /",
    "mount -t proc -o hidepid=invisible doorward-test /proc",
)


def test_as_the_unit_starts_it(daemon: ServiceDaemon, visitors: Visitors, said: TextIO) -> None:
    sealed = [command.format(folder=daemon.folder) for command in SEALED]
    daemon.wrapper = [*wrapped(daemon.folder / "hold", *sealed), *AS_THE_UNIT]
    for visitor in (visitors.fresh(4), visitors.fresh(6)):
        daemon.start()
        gets_in_by_knocking(daemon, visitor)
        assert said.readline() == f"first {USER}\n"
        assert set(daemon.status()["Uid"].split()) == {str(USER)}
        assert daemon.status()["CapPrm"] == NET_ADMIN
        assert status_of(daemon.child(filtered=True))["CapPrm"] == NONE
        runner = status_of(daemon.child(filtered=False))
        assert runner["CapPrm"] == runner["CapAmb"] == f"{1 << 12 | 1 << 10:016x}"
        daemon.reload(daemon.text("first", 'public = ["80/tcp"]'))
        copy = daemon.config.with_name("doorward.toml.last")
        assert daemon.run("check", "--keep").stdout == ""  # as the unit's ExecStartPost and ExecReload do, as root
        assert (copy.read_text(), copy.stat().st_uid) == (daemon.config.read_text(), 0)
        daemon.config.write_text(daemon.text("other"))
        assert daemon.run("check", "--keep", check=False).returncode == 1  # it is not what is in force
        assert daemon.text("other") != copy.read_text()
        daemon.config.write_text(copy.read_text())
        copy.unlink()
        daemon.end()


@pytest.mark.parametrize("is_as_the_unit", [True, False])
def test_only_the_loader_of_the_shield_may_load_programs(
    daemon: ServiceDaemon, visitors: Visitors, is_as_the_unit: bool
) -> None:
    shield_object.compiled()
    daemon.config.write_text(daemon.text("first", 'shield = "on"').replace("guard", "stealth"))
    if is_as_the_unit:
        sealed = [command.format(folder=daemon.folder) for command in SEALED]
        daemon.wrapper = [*wrapped(daemon.folder / "hold", *sealed), *AS_THE_UNIT]
    daemon.start()
    until(lambda: daemon.ask("status")["shield"]["interfaces"], lambda: daemon.ask("status")["shield"])
    gets_in_by_knocking(daemon, visitors.fresh(4))
    children = {
        Path(f"/proc/{pid}/comm").read_text().strip(): status_of(pid) for pid in children_of(daemon.process.pid)
    }
    programs = 1 << 38 | 1 << 39
    loader = children.pop("doorward-shield")
    assert set(loader["Uid"].split()) == {str(USER)}
    assert int(loader["CapPrm"], 16) == 1 << 12 | programs
    assert not int(daemon.status()["CapPrm"], 16) & programs
    if is_as_the_unit:
        assert children
        assert not any(int(status["CapPrm"], 16) & programs for status in children.values())


def test_world_readable_sequences_are_reported(daemon: ServiceDaemon) -> None:
    daemon.config.chmod(0o644)
    daemon.start()
    said = daemon.message("every user of this host can read the sequences")
    assert said["level"] == "warning"
    assert f"run `chmod o-r {daemon.config}`" in said["message"]


def test_without_the_runner_commands_go_on_with_fewer_rights(
    daemon: ServiceDaemon, visitors: Visitors, said: TextIO
) -> None:
    daemon.start()
    os.kill(daemon.child(filtered=False), signal.SIGKILL)
    daemon.message("starting it again, with the daemon's few rights: restart it, to run as before")
    gets_in_by_knocking(daemon, visitors.fresh(4))
    assert said.readline() == f"first {USER}\n"


# What a process of the daemon's user can do to another: each line is a way and the error that it ended with, or "done".
SPY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def way(call):
    try:
        return "done" if call() is not False else os.strerror(ctypes.get_errno())
    except OSError as error:
        return error.strerror
room = ctypes.create_string_buffer(8)
pair = ctypes.c_ulong * 2
def peek(pid):
    here, there = pair(ctypes.addressof(room), 8), pair(id(libc), 8)
    return libc.process_vm_readv(pid, here, 1, there, 1, 0) >= 0 or ctypes.get_errno() == 14  # EFAULT: it looked
for pid in map(int, sys.argv[1:]):
    print(pid,
        way(lambda: open(f"/proc/{pid}/mem", "rb").close()), way(lambda: open(f"/proc/{pid}/environ", "rb").close()),
        way(lambda: os.listdir(f"/proc/{pid}/fd")), way(lambda: peek(pid)),
        way(lambda: libc.ptrace(16, pid, 0, 0) == 0), sep=";")  # PTRACE_ATTACH
"""


def test_no_process_of_the_same_user_can_read_their_memory(daemon: ServiceDaemon) -> None:
    """As the unit starts it: nothing but exec(2) has changed the user, so they would be open to each other."""
    files = Signed(daemon.config.parent, Signer())
    fleet = '\n[signed]\n[fleet]\nname = "home"\nendpoints = ["http://127.0.0.1:1"]\n'
    daemon.config.write_text(daemon.text("first", 'name = "gate"') + fleet)
    for path in (files.key_file, files.keys_file):
        os.chown(path, 0, GROUP)
        path.chmod(0o640)
    wrapper, daemon.wrapper = daemon.wrapper, [*daemon.wrapper, *AS_THE_UNIT]
    daemon.start()
    daemon.message("accepting signed knocks")
    daemon.message("this gate continues alone")
    with daemon.host.popen([*wrapper, *AS_THE_UNIT, "sleep", "60"], stdout=subprocess.DEVNULL) as other:
        until(lambda: status_of(other.pid)["Name"] == "sleep")
        pids = [other.pid, daemon.process.pid, *children_of(daemon.process.pid)]
        names = [status_of(pid)["Name"] for pid in pids]
        spy = [*wrapper, *AS_THE_UNIT, sys.executable, "-c", SPY, *map(str, pids)]
        found = [line.split(";")[1:] for line in daemon.host.run(spy).stdout.splitlines()]
        other.kill()
    assert {"doorward-reader", "doorward-verify", "doorward-fleet"} < set(names)
    assert found.pop(0) == ["done"] * 5  # of `sleep`: the spy can do it
    refused = {"Permission denied", "Operation not permitted"}
    assert all(set(ways) <= refused for ways in found), list(zip(names[1:], found, strict=True))
