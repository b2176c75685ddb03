"""UseSyslog: what syslog(3) is sent, with facility, name and text, is what Debian's knockd sends."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.knockd import DEBIAN, OURS, Lines, Program, Site, site

pytestmark = pytest.mark.netns("/usr/sbin/knockd")

DOOR = "[door]\nSequence = 7000,7100\nTCPFlags = syn\nCommand = : %IP% 100%\n"
ONE, SIX = "10.7.7.1", "2001:db8:7::1"
DATED = re.compile(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (.*)", re.DOTALL)
DAEMON_NOTICE = "29"  # facility 3, severity 5 (RFC 5424, 6.2.1)


class Syslog:
    """The system's log as a datagram socket, in a /dev of its own that one program sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "log"))
        self._lines = Lines()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()  # it must be read: syslog(3) waits where ten messages wait

    def seen_by(self, program: Program) -> Program:
        """Return the program in a mount namespace where /dev has this log."""
        dev = self._folder / "dev"
        dev.mkdir()
        mounts = (
            f"mount -t tmpfs none {dev} && cd {dev} && touch null log && mount --bind /dev/null null"
            f" && mount --bind {self._folder}/log log && mount --rbind . /dev && "
        )
        return program._replace(command=("sh", "-c", mounts + 'exec "$@"', "sh", *program.command))

    def until(self, part: str) -> list[tuple[str, str]]:
        """Wait for a message that contains `part`; give priority and text of all."""
        self._lines.await_count(1, lambda line: part in line)
        matches = [DATED.fullmatch(line) for line in self._lines.all()]
        assert all(matches), self._lines.all()
        return [(match[1], match[2]) for match in matches if match]

    def close(self) -> None:
        """Go away as a syslogd does that ends."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(self._folder / "log"))
            self._thread.join()
            self._socket.close()

    def _read(self) -> None:
        while message := self._socket.recv(1 << 16):
            self._lines.add(message.decode())


@contextmanager
def logged_site(program: Program, folder: Path, text: str) -> Iterator[tuple[Site, Syslog]]:
    with closing(Syslog(folder / f"syslog-{program.name}")) as log, site(log.seen_by(program), folder, text) as place:
        yield place, log


def session(program: Program, folder: Path) -> list[tuple[str, str]]:
    """Have lines of most kinds written to syslog; give them."""
    with logged_site(program, folder, "UseSyslog\n" + DOOR) as (place, log):
        for source in (ONE, SIX):
            place.send(source, "7000", "7100")
            place.knockd.await_line(f"door: running command: : {source} 100%")
        place.knockd.send_signal(signal.SIGHUP)
        place.knockd.output.await_count(1, lambda line: line.startswith("re-opening log file"))
        log.until("re-opening log file")  # knockd shows a line before it logs it
        place.knockd.end()
        return [(priority, text.replace(str(place.knockd.folder), "")) for priority, text in log.until("shutting down")]


def test_syslog_gets_what_knockd_sends(tmp_path: Path) -> None:
    theirs = session(DEBIAN, tmp_path)
    assert (DAEMON_NOTICE, f"knockd: {ONE}: door: Stage 1") in theirs
    assert {priority for priority, _ in theirs} == {DAEMON_NOTICE}
    for program in OURS:
        ours = session(program, tmp_path)
        assert ours == [(priority, text.rstrip("\n")) for priority, text in theirs if text.strip() != "knockd:"]


@pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)
def test_a_reload_begins_and_ends_it(tmp_path: Path, program: Program) -> None:
    with logged_site(program, tmp_path, DOOR) as (place, log):
        for count, text in enumerate(("UseSyslog\n" + DOOR, DOOR, "UseSyslog\n" + DOOR), 1):
            place.knockd.reload(text)
            place.knockd.output.await_count(count, lambda line: line.startswith("re-opening log file"))
            place.send(f"10.7.7.{count}", "7000", "7100")
            place.knockd.await_part(f"running command: : 10.7.7.{count}")
        said = "\n".join(text for _, text in log.until("running command: : 10.7.7.3"))
        assert "10.7.7.1: door: OPEN SESAME" in said
        assert "10.7.7.2" not in said


@pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)
def test_a_system_log_that_is_gone_holds_nothing_up(tmp_path: Path, program: Program) -> None:
    with logged_site(program, tmp_path, "UseSyslog\n" + DOOR) as (place, log):
        log.close()
        place.send(ONE, "7000", "7100")
        place.knockd.await_part(f"running command: : {ONE}")
