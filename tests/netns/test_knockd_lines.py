"""Every line that knockd writes: people's fail2ban filters and alerts read them. Debian's are the pattern."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE_S
from tests.support.knockd import DEBIAN, KERNEL, OURS, Program, Site, site, undated

pytestmark = pytest.mark.netns("/usr/sbin/knockd")

DOORS = """
[opening]
 Sequence = 7000,7100:udp
 Seq_Timeout = 1
 TCPFlags = syn
 Start_Command = /bin/true start %IP%
 Cmd_Timeout = 1
 Stop_Command = /bin/true stop %IP%
[failing]
 Sequence = 7200,7300,7400
 TCPFlags = syn
 Command = exit 3
[quiet]
 Sequence = 7500
 TCPFlags = syn
"""
ONE, OTHER, SIX = "10.7.7.1", "10.7.7.2", "2001:db8:7::1"
DATED = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d\] \S.*")


def session(place: Site, ending: signal.Signals) -> int:
    """Have every kind of line written, one after the other; give the exit status."""
    knockd = place.knockd
    for source in (ONE, SIX):
        place.send(source, "7000", "7100/udp")
        knockd.await_line(f"opening: running command: /bin/true start {source}")
        knockd.await_line(f"{source}: opening: command timeout")
        knockd.await_line(f"opening: running command: /bin/true stop {source}")
    place.send(ONE, "7200", "7300", "7400")
    knockd.await_line("failing: command returned non-zero status code (3)")
    place.send(OTHER, "7000")
    knockd.await_line(f"{OTHER}: opening: Stage 1")
    time.sleep(2.1)  # the deadline of a second passes, however knockd rounds it
    place.send(ONE, "7500")  # knockd looks for what is over time when a packet comes
    knockd.await_line(f"{ONE}: quiet: OPEN SESAME")
    knockd.send_signal(signal.SIGHUP)
    knockd.await_line(f"re-reading config file: {knockd.config}")
    knockd.output.await_count(1, lambda line: line.startswith("re-opening log file"))
    place.send(OTHER, "7500")
    knockd.await_line(f"{OTHER}: quiet: OPEN SESAME")
    status = knockd.end(ending)
    knockd.output.await_count(1, lambda line: line == "closing...")
    knockd.errors.await_count(1, lambda line: line.endswith("(3)"))
    return status


def without_its_echo(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Take out what knockd says twice: after SIGHUP, on a busy machine, it handles a packet a second time."""
    reread = next(place for place, line in enumerate(lines) if line.startswith("re-reading"))
    return (*lines[:reread], *(line for line, _ in groupby(lines[reread:])))


def test_the_log_and_the_output_are_knockds_character_by_character(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # they wait for the same seconds
        done = [pool.submit(written_by, program, tmp_path) for program in (DEBIAN, *OURS)]
    theirs, *each_of_ours = (future.result() for future in done)
    for ours in each_of_ours:
        for our_lines, their_lines in zip(ours, theirs, strict=True):
            assert our_lines == their_lines


def written_by(program: Program, folder: Path) -> tuple[object, ...]:
    """Return the exit status of a session, its log, its output and its errors."""
    with site(program, folder, DOORS) as place:
        status = session(place, signal.SIGTERM)
        raw = place.knockd.log.all()
        assert all(DATED.fullmatch(line) for line in raw if line), raw
        assert program is DEBIAN or all(raw), "an empty line"
        texts = (*map(undated, filter(None, raw)),), tuple(filter(None, place.knockd.output.all()))
        if program is DEBIAN:
            texts = without_its_echo(texts[0]), without_its_echo(texts[1])
        names = [tuple(line.replace(str(place.knockd.folder), "") for line in lines) for lines in texts]
        return status, *names, tuple(place.knockd.errors.all())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_exit_status_after_a_signal_is_knockds(tmp_path: Path, number: signal.Signals) -> None:
    ends = {}
    for program in (DEBIAN, *OURS):
        with site(program, tmp_path, DOORS) as place:
            ends[program.name] = place.knockd.end(number), place.knockd.lines()[-1]
    assert ends["kernel"] == ends["ring"] == ends["debian"]


@pytest.mark.parametrize(
    ("words", "theirs", "ours"),
    [
        (["-h"], 0, 0),
        (["--help"], 0, 0),
        (["-V"], 0, 0),
        (["--version"], 0, 0),
        (["--bogus"], 0, 1),  # knockd says that all is well, and a script goes on without a daemon
        (["-i"], 0, 1),
        (["-c", "missing.conf"], 1, 1),
        (["-c", "bad.conf"], 1, 1),
        (["-c", "empty.conf"], 1, 1),
        (["-c", "nonsense.conf"], 1, 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(tmp_path: Path, words: list[str], theirs: int, ours: int) -> None:
    (tmp_path / "bad.conf").write_text("[a]\nNo_Such_Thing = 1\n")
    (tmp_path / "empty.conf").write_text("[a]\nCommand = true\n")
    (tmp_path / "nonsense.conf").write_text("nonsense\n")
    for program, expected in ((DEBIAN, theirs), (KERNEL, ours)):
        done = called(program, tmp_path, *words)
        assert done.returncode == expected, (program.name, done)
        assert "Traceback" not in done.stderr


def called(program: Program, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*program.command, *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


def test_the_help_is_knockds_with_one_option_more(tmp_path: Path) -> None:
    theirs, ours = (called(program, tmp_path, "-h").stdout.splitlines() for program in (DEBIAN, KERNEL))
    assert [line for line in ours if "--engine" not in line] == theirs
    assert called(KERNEL, tmp_path, "-V").stdout.startswith("knockd 0.8 (doorward ")
