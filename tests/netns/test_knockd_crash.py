"""knockd killed at any moment: what is owed is done by the next start, and no one-time sequence works twice."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import until
from tests.support.effort import EFFORT
from tests.support.knockd import KERNEL, OURS, Program, RunningKnockd, Site, running_knockd

pytestmark = pytest.mark.netns

SEEDS = range(4 * EFFORT)
KILLS = 5  # a seed
LONGEST_S = 0.02  # from the last knock: opening, marking, the command, and its end fall into this time
ONE = "10.7.7.1"

engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_any_moment_leaves_nothing_open_and_no_sequence_good(
    direct_lab: Lab, tmp_path: Path, seed: int
) -> None:
    """The door's state is a file an address; `used` is what the commands were run for, by sequence."""
    program, choose = OURS[seed % 2], random.Random(seed)
    doors, used, sequences = tmp_path / "open", tmp_path / "used", tmp_path / "sequences"
    doors.mkdir()
    used.touch()
    ports = [(7000 + number, 7500 + number) for number in range(KILLS + 1)]
    sequences.write_text("".join(f"{first},{second}\n" for first, second in ports))
    text = f"""
[door]
Sequence = 6000,6100
TCPFlags = syn
Start_Command = touch {doors}/%IP%
Cmd_Timeout = 0
Stop_Command = rm -f {doors}/%IP%; sync {doors}
[once]
One_Time_Sequences = {sequences}
TCPFlags = syn
Command = echo %IP% >> {used}
[last]
Sequence = 1999
TCPFlags = syn
"""
    for kill in range(KILLS):
        knockd = RunningKnockd(program, direct_lab.server, tmp_path / "knockd", text)
        place = Site(direct_lab, knockd)
        place.send(f"10.7.1.{kill}", *map(str, ports[kill]))
        place.send(f"10.7.2.{kill}", "6000", "6100")
        time.sleep(choose.random() * LONGEST_S)  # any moment
        knockd.kill()
        place.close()
    marked = sequences.read_text().splitlines()
    with running_knockd(program, direct_lab.server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        for number, pair in enumerate(ports[:KILLS]):
            for attempt in range(2):
                source = f"10.7.{3 + attempt}.{number}"
                place.send(source, *map(str, pair))
                place.send(source, "1999")
                knockd.await_line(f"{source}: last: OPEN SESAME")
        place.close()
        until(lambda: not list(doors.iterdir()), lambda: list(doors.iterdir()))
    for number, line in enumerate(marked[:KILLS]):
        runs = [who for who in used.read_text().split() if who in {f"10.7.{kind}.{number}" for kind in (1, 3, 4)}]
        assert len(runs) <= 1, f"{line} opened for {runs}"
    assert len(used.read_text().split()) <= KILLS


@engines
def test_the_last_sequences_are_counted_and_an_exhausted_file_closes_only_its_door(
    direct_lab: Lab, tmp_path: Path, program: Program
) -> None:
    sequences, other = tmp_path / "sequences", tmp_path / "other"
    sequences.write_text("".join(f"# {number}\n{7000 + number},7100\n" for number in range(12)))
    other.write_text("8000,8100\n8001,8100\n")
    text = f"""
[once]
One_Time_Sequences = {sequences}
TCPFlags = syn
Command = echo once %IP%
[other]
One_Time_Sequences = {other}
TCPFlags = syn
Command = echo other %IP%
"""
    with running_knockd(program, direct_lab.server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        for number in range(12):
            place.send(f"10.7.5.{number}", str(7000 + number), "7100")
            knockd.await_line(f"once: once 10.7.5.{number}")
        place.send("10.7.6.1", "7011", "7100")
        place.send("10.7.6.1", "8000", "8100")
        knockd.await_line("other: other 10.7.6.1")
        assert len(knockd.await_part("running command: echo once")) == 12
        left = [line for line in knockd.lines() if " left in" in line and str(sequences) in line]
        assert [line.split()[1] for line in left if line.startswith("once: ")] == ["10", "5", "1"]
        disabled = "no more sequences left in the one time sequences file for door {} --> disabling the door"
        assert disabled.format("once") in knockd.lines()
        assert disabled.format("other") not in knockd.lines()
        assert sequences.read_text() == "".join(f"# {number}\n#{str(7000 + number)[1:]},7100\n" for number in range(12))
        place.close()


def test_a_process_for_commands_that_dies_is_replaced(direct_lab: Lab, tmp_path: Path) -> None:
    text = "[door]\nSequence = 7000\nTCPFlags = syn\nCommand = kill -9 $PPID; echo %IP%\n"
    with running_knockd(KERNEL, direct_lab.server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        for number in (1, 2):
            place.send(ONE, "7000")
            knockd.await_line("error: the process that runs commands ended; starting it again", number)
            place.send(ONE, "7001")
        place.close()
