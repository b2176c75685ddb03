"""`knockd -d`: a process of its own that serves when the call returns, its pid file, its log, and its end."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from tests.support.daemon import PATIENCE_S, until
from tests.support.frames import FrameSender
from tests.support.knockd import DEBIAN, OURS, RING, SYN, Program, mounted, undated

pytestmark = pytest.mark.netns("/usr/sbin/knockd")

ONE, OTHER = "10.7.7.1", "10.7.7.2"
DOOR = "[door]\nSequence = 7000,7100\nTCPFlags = syn\nCommand = :\n"
OTHER_DOOR = DOOR.replace("[door]", "[other]").replace("7000,7100", "8000,8100")

SOCKETS = ["/proc/net/packet", "/proc/net/netfilter/nfnetlink_log"]
SOCKET_HEADINGS = 1

programs = pytest.mark.parametrize("program", [DEBIAN, *OURS], ids=lambda program: program.name)
engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


class Home:
    """A folder from which `knockd -d` is called with relative paths, on a lab's server."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.log, self.pid_file, self.state = folder / "log", folder / "pid", folder / "state"
        self._frames = FrameSender(lab.client, lab.server)
        self._source_ports = itertools.count(20_000)
        self.write(DOOR)

    def write(self, text: str, options: str = "", log: str | None = None) -> None:
        """Write the configuration; `log` is the log file as it names it, empty for none."""
        named = str(self.log) if log is None else log
        (self.folder / "knockd.conf").write_text(f"[options]\n{f'LogFile = {named}' if named else ''}\n{options}{text}")

    def call(self, program: Program, *words: object) -> subprocess.CompletedProcess[str]:
        """Call it in the folder; this returns when the call does and nobody holds its output any more."""
        env = {"STATE_DIRECTORY": str(self.state)}
        inside = ["sh", "-c", f'cd {self.folder} && exec "$@"', "sh", *program.command]
        return self.lab.server.run([*inside, "-d", *words], env=env, check=False, timeout_s=PATIENCE_S)

    def pid(self) -> int:
        """Return the number in the pid file."""
        return int(self.pid_file.read_text())

    def lines(self) -> list[str]:
        """Return the log so far."""
        return [undated(line) for line in self.log.read_text().splitlines() if line]

    def await_line(self, wanted: str) -> None:
        """Wait for a line in the log file."""
        until(lambda: self.log.exists() and wanted in self.lines())

    @contextmanager
    def daemon(self, program: Program, *words: object) -> Iterator[int]:
        """Have a daemon run for the block, its pid file where `pid_file` is; it ends by SIGTERM."""
        done = self.call(program, "-c", "knockd.conf", *(words or ("-p", self.pid_file)))
        assert (done.returncode, done.stderr) == (0, "")
        if program.name == DEBIAN.name:  # it goes on before it has written its number, and can take a signal
            self.await_line("starting up, listening on eth0")
        handle = os.pidfd_open(pid := self.pid())
        try:
            yield pid
        finally:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            assert select.select([handle], [], [], PATIENCE_S)[0], "it does not end"
            os.close(handle)

    def knock(self, source: str, *ports: str) -> None:
        for port in ports:
            self._frames.send(
                Packet(ip_address(source).packed, Port.parse(f"{port}/tcp"), SYN), next(self._source_ports)
            )

    def opens(self, source: str, *ports: str, door: str = "door") -> None:
        """Knock, and wait for the door."""
        self.knock(source, *ports)
        self.await_line(f"{source}: {door}: OPEN SESAME")

    def close(self) -> None:
        self._frames.close()


@pytest.fixture
def home(direct_lab: Lab, tmp_path: Path) -> Iterator[Home]:
    found = Home(direct_lab, tmp_path)
    yield found
    found.close()


@programs
def test_the_call_returns_when_the_daemon_serves_and_sigterm_takes_the_pid_file_away(
    home: Home, program: Program
) -> None:
    with home.daemon(program) as pid:
        home.opens(ONE, "7000", "7100")
        assert home.pid_file.read_text() == f"{pid}\n"
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
        assert {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)} == {"/dev/null"}
    assert not home.pid_file.exists()
    assert home.lines()[0] == "starting up, listening on eth0"
    assert home.lines()[-1] == "shutting down"


@engines
def test_a_signal_right_after_the_call_ends_it_in_order(home: Home, program: Program) -> None:
    """Its number is known, so its signals must be waited for: the table and the pid file must not stay."""
    for _ in range(5):
        with home.daemon(program):
            pass
        assert not home.pid_file.exists()
        assert home.lines()[-1] == "shutting down"
        assert home.lab.server.run(["nft", "list", "tables"]).stdout == ""


@programs
@pytest.mark.parametrize("where", ["default", "-p", "PidFile", "both"])
def test_the_pid_file_is_where_knockd_has_it(home: Home, program: Program, where: str) -> None:
    run = home.folder / "run"
    run.mkdir()
    named = home.folder / "named"
    if where in ("PidFile", "both"):
        home.write(DOOR, f"PidFile = {named}\n")
    home.pid_file = {"default": run / "knockd.pid", "-p": home.folder / "p"}.get(where, named)
    words = ["-p", home.folder / "p"] if where in ("-p", "both") else ["-i", "eth0"]
    with home.daemon(mounted(program, {"/run": run}), *words) as pid:
        assert f"{pid}\n" == home.pid_file.read_text()
    assert [path for path in (run / "knockd.pid", named, home.folder / "p") if path.exists()] == []


@programs
def test_stale_pid_file_is_replaced(home: Home, program: Program) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    home.pid_file.write_text(f"{ended.pid}\n")
    with home.daemon(program) as pid:
        assert pid != ended.pid
    assert not home.pid_file.exists()


@programs
def test_pid_file_that_cannot_be_written_is_reported(home: Home, program: Program) -> None:
    missing = home.folder / "missing" / "pid"
    done = home.call(program, "-c", "knockd.conf", "-p", missing)
    assert done.returncode == 0
    home.await_line("starting up, listening on eth0")
    assert home.lines()[0] == f"could not create pid file {missing}: No such file or directory"


@engines
def test_a_pid_file_with_anothers_number_stays(home: Home, program: Program) -> None:
    with home.daemon(program):
        home.pid_file.write_text("1\n")
    assert home.pid_file.read_text() == "1\n"


@engines
def test_sighup_reads_the_relative_files_again_and_reopens_the_rotated_log(home: Home, program: Program) -> None:
    once = "[once]\nOne_Time_Sequences = once\nTCPFlags = syn\nCommand = :\n"
    (home.folder / "once").write_text("6000,6100\n6200,6300\n")
    home.write(DOOR + once, log="log")
    with home.daemon(program) as pid:
        home.opens(ONE, "7000", "7100")
        home.opens(ONE, "6000", "6100", door="once")
        until(lambda: (home.folder / "once").read_text() == "#000,6100\n6200,6300\n")
        rotated = home.log.rename(home.folder / "log.1")
        home.write(OTHER_DOOR + once, log="log")
        os.kill(pid, signal.SIGHUP)
        until(home.log.exists)  # the last that a reload does
        home.opens(OTHER, "8000", "8100", door="other")
        home.opens(OTHER, "6200", "6300", door="once")
        assert f"re-reading config file: {home.folder}/knockd.conf" in map(undated, rotated.read_text().splitlines())


@engines
@pytest.mark.parametrize("text", ["[door]\nNonsense = 1\n", "[door]\n"], ids=["unknown directive", "no sequence"])
def test_a_daemon_that_cannot_start_says_so_before_the_call_returns(home: Home, program: Program, text: str) -> None:
    home.write(text)
    done = home.call(program, "-c", "knockd.conf", "-p", home.pid_file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"knockd: {home.folder}/knockd.conf:3: ")
    assert not home.pid_file.exists()


@engines
def test_a_second_daemon_on_one_host_is_refused_and_leaves_the_first_alone(home: Home, program: Program) -> None:
    with home.daemon(program) as pid:
        done = home.call(program, "-c", "knockd.conf", "-p", home.pid_file)
        assert done.returncode == 1
        assert done.stderr.startswith("knockd: another ")
        assert "stop it" in done.stderr
        assert home.pid() == pid
        home.opens(ONE, "7000", "7100")


def test_two_with_folders_of_their_own_run_side_by_side(home: Home, tmp_path: Path) -> None:
    """As people do who have a file for each interface; the kernel engine is one for the whole host."""
    with home.daemon(RING):
        first, home.pid_file, home.log = home.pid_file, tmp_path / "pid2", tmp_path / "log2"
        home.state = tmp_path / "state2"
        home.write(OTHER_DOOR)
        with home.daemon(RING):
            home.opens(ONE, "8000", "8100", door="other")
            home.await_line("other: running command: :")
        assert first.exists()


@engines
def test_it_leaves_nothing_behind(home: Home, program: Program) -> None:
    server = home.lab.server
    with home.daemon(program):
        home.opens(ONE, "7000", "7100")
        assert len(server.run(["cat", *SOCKETS]).stdout.splitlines()) > SOCKET_HEADINGS
    assert server.run(["nft", "list", "tables"]).stdout == ""
    assert len(server.run(["cat", *SOCKETS]).stdout.splitlines()) == SOCKET_HEADINGS
    until(lambda: server.pids() == set())  # who runs commands ends a moment later
    assert sorted(path.name for path in home.folder.iterdir()) == ["knockd.conf", "log", "state"]


@programs
def test_the_command_lines_interface_counts_and_the_files_log(home: Home, program: Program) -> None:
    home.write(DOOR, "Interface = nosuch0\n")
    with home.daemon(program, "-p", home.pid_file, "-i", "eth0", "-g", home.folder / "other", "-4", "-v", "-D"):
        home.opens(ONE, "7000", "7100")
        home.knock("2001:db8:7::1", "7000", "7100")
        home.opens(OTHER, "7000", "7100")
    assert home.lines()[0] == "starting up, listening on eth0"
    assert "2001:db8:7::1" not in home.log.read_text()
    assert not (home.folder / "other").exists()


@programs
def test_without_a_log_in_the_file_the_command_lines_is_taken(home: Home, program: Program) -> None:
    home.write(DOOR, log="")
    with home.daemon(program, "-p", home.pid_file, "--logfile", home.log, "--interface", "eth0", "--only-ip-v4"):
        home.opens(ONE, "7000", "7100")
