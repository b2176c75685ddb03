"""What changes beside a knockd that runs: services that begin and end to listen, files of one-time sequences."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doorward.knockd.knockd_daemon import POLL_S
from doorward.lab.topology import Lab
from tests.support.knockd import KERNEL, OURS, Program, Site, running_knockd

pytestmark = pytest.mark.netns

ONE, OTHER = "10.7.7.1", "10.7.7.2"
DOOR = "[door]\nSequence = 7000,7100\nTCPFlags = syn\nCommand = :\n"
LAST = "[last]\nSequence = 1999\nTCPFlags = syn\n"
BUSY = "ignored ports, since this host listens on them: "

engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)


@engines
def test_a_service_that_begins_and_ends_to_listen_is_followed(
    direct_lab: Lab, tmp_path: Path, program: Program
) -> None:
    server = direct_lab.server
    with running_knockd(program, server, tmp_path / "knockd", DOOR + LAST, "-D") as knockd:
        place = Site(direct_lab, knockd)
        place.send(ONE, "7000", "4444", "7100")
        place.send("10.7.8.1", "1999")
        knockd.await_line("10.7.8.1: last: OPEN SESAME")
        assert (ONE, "door") not in knockd.opened()
        greeter = server.start_greeter(4444)
        knockd.output.await_count(1, lambda line: line == f"{BUSY}4444/tcp")
        place.send(ONE, "7000", "4444", "7100")
        knockd.await_line(f"{ONE}: door: OPEN SESAME")
        greeter.terminate()
        knockd.output.await_count(1, lambda line: line == f"{BUSY}none")
        place.send(OTHER, "7000", "4444", "7100")
        place.send("10.7.8.2", "1999")
        knockd.await_line("10.7.8.2: last: OPEN SESAME")
        assert (OTHER, "door") not in knockd.opened()
        place.close()


def test_a_table_that_others_take_away_is_put_back(direct_lab: Lab, tmp_path: Path) -> None:
    server = direct_lab.server
    with running_knockd(KERNEL, server, tmp_path / "knockd", DOOR + LAST) as knockd:
        place = Site(direct_lab, knockd)
        flushes = ["flush ruleset", "delete chain inet doorward prerouting", "flush ruleset"]
        for number, change in enumerate(flushes, 1):
            server.run(["nft", change])
            knockd.log.await_count(number, lambda line: "changed the gate; put back" in line and "nft" in line)
            place.send(f"10.7.7.{number}", "7000", "7100")
            knockd.await_line(f"10.7.7.{number}: door: OPEN SESAME")
        server.run(["nft", "add table inet other; delete table inet other"])  # is nobody's business
        place.send("10.7.8.1", "1999")
        knockd.await_line("10.7.8.1: last: OPEN SESAME")
        assert sum("changed the gate" in line for line in knockd.lines()) == len(flushes)
        place.close()


def rewritten(path: Path) -> None:
    path.write_text("8000,8100\n")


def replaced(path: Path) -> None:
    """As editors and configuration management do."""
    path.with_suffix(".new").write_text("8000,8100\n")
    path.with_suffix(".new").rename(path)


def opens_at_last(place: Site, source: str) -> float:
    """Knock again and again, no faster than a scanner, until it opens; give how long that took."""
    began_s = time.monotonic()
    while (source, "once") not in place.knockd.opened():
        assert time.monotonic() - began_s < 2 * POLL_S
        place.send(source, "8000", "8100")
        time.sleep(0.12)
    return time.monotonic() - began_s


@engines
@pytest.mark.parametrize("edit", [rewritten, replaced])
def test_an_edited_file_is_noticed_at_once(
    direct_lab: Lab, tmp_path: Path, program: Program, edit: Callable[[Path], None]
) -> None:
    sequences = tmp_path / "sequences"
    sequences.write_text("7000,7100\n7001,7101\n")
    text = f"[once]\nOne_Time_Sequences = {sequences}\nTCPFlags = syn\nCommand = :\n"
    with running_knockd(program, direct_lab.server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        for source in (ONE, OTHER):  # the file that replaced the other is followed as well
            edit(sequences)
            assert opens_at_last(place, source) < POLL_S / 2
            assert sequences.read_text() == "#000,8100\n"
        place.close()


@engines
def test_a_file_that_was_not_there_is_noticed_by_looking(direct_lab: Lab, tmp_path: Path, program: Program) -> None:
    sequences = tmp_path / "sequences"
    text = f"[once]\nOne_Time_Sequences = {sequences}\nTCPFlags = syn\nCommand = :\n"
    with running_knockd(program, direct_lab.server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        rewritten(sequences)
        opens_at_last(place, ONE)
        rewritten(sequences)
        assert opens_at_last(place, OTHER) < POLL_S / 2, "and from then on at once"
        place.close()
