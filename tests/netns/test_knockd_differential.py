"""The same configuration and the same packets to Debian's knockd and to doorward's: what opens, and what does not."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from doorward.config.knockd import parse
from doorward.knockd.stages import to_door
from doorward.model import Packet, Port, Protocol
from tests.support.daemon import PATIENCE_S
from tests.support.effort import EFFORT
from tests.support.knockd import DEBIAN, OURS, SYN, Program, Site, site, sites
from tests.support.reference import Reference

pytestmark = pytest.mark.netns("/usr/sbin/knockd", "nmap")

SEEDS = range(2 * EFFORT)
CASES = 40  # a seed
SHORT_S, LONG_PAUSE_MS = 1, 2100  # a Seq_Timeout that a pause is surely longer than, however knockd rounds
PORTS = (1001, 1002, 1003, 1004, 1005, 1006)
FLAGS = {"syn": (SYN,), "syn,!ack": (SYN,), "fin": (1, 17), "ack,!syn": (16, 24), "": (SYN, 16, 1)}
OTHER_FLAGS = (SYN, 18, 1, 16, 17, 4, 0, 41)
KINDS = ("clean", "clean", "repeats", "wrong", "cut", "shuffled", "flags", "pause", "several", "noise")
LAST = ("1999", "1998")


class Sent(NamedTuple):
    """One packet of a case; `late`: after the pause."""

    source: str
    port: Port
    flags: int
    late: bool


class Case(NamedTuple):
    """What some sources send. `clean`: the door whose whole sequence its one source sends, and nothing else."""

    packets: tuple[Sent, ...]
    clean: str | None


class Generated(NamedTuple):
    """A configuration and what comes to it."""

    text: str
    cases: tuple[Case, ...]


def generated(seed: int) -> Generated:
    """Return a configuration of eight doors and its cases, each with sources of its own."""
    choose = random.Random(seed)
    text, ways = "", {}
    for number in range(8):
        name = f"door{number}"
        word = [
            Port(choose.choice([Protocol.TCP, Protocol.TCP, Protocol.UDP]), choose.choice(PORTS))
            for _ in range(choose.randint(1, 5))
        ]
        flags, short = choose.choice(list(FLAGS)), choose.random() < 0.3
        ways[name] = (word, flags)
        text += f"[{name}]\nSequence = {','.join(f'{p.number}:{p.protocol.name.lower()}' for p in word)}\n"
        text += f"TCPFlags = {flags}\n" if flags else ""
        text += f"Seq_Timeout = {SHORT_S}\n" if short else ""
        text += "Command = :\n"
    text += f"[last]\nSequence = {','.join(LAST)}\nTCPFlags = syn\n"
    return Generated(text, tuple(_case(choose, number, ways) for number in range(CASES)))


def _case(choose: random.Random, number: int, ways: dict[str, tuple[list[Port], str]]) -> Case:
    door = choose.choice(list(ways))
    sources = [_source(choose, 4 * number + each) for each in range(3)]
    word, flags = ways[door]
    clean = [Sent(sources[0], port, choose.choice(FLAGS[flags]), False) for port in word]
    kind = choose.choice(
        ["clean", "clean", "repeats", "wrong", "cut", "shuffled", "flags", "pause", "several", "noise"]
    )
    if kind == "clean":
        return Case(tuple(clean), door)
    packets = list(clean)
    if kind == "repeats":
        at = choose.randrange(len(packets))
        packets[at:at] = [packets[at]] * choose.randint(1, 2)
    elif kind == "wrong":
        wrong = Sent(sources[0], Port(choose.choice(list(Protocol)), choose.choice([*PORTS, 4444])), SYN, False)
        packets.insert(choose.randrange(len(packets) + 1), wrong)
    elif kind == "cut":
        packets = packets[: choose.randrange(len(packets) + 1)] * choose.randint(1, 2)
    elif kind == "shuffled":
        choose.shuffle(packets)
    elif kind == "flags":
        at = choose.randrange(len(packets))
        packets[at] = packets[at]._replace(flags=choose.choice(OTHER_FLAGS))
    elif kind == "pause":
        at = choose.randrange(len(packets) + 1)
        packets[at:] = [packet._replace(late=True) for packet in packets[at:]]
    elif kind == "several":
        others = [packet._replace(source=choose.choice(sources)) for packet in clean * 2]
        packets = sorted(packets + others, key=lambda _: choose.random())
    else:
        packets = [
            Sent(
                sources[0], Port(choose.choice(list(Protocol)), choose.choice(PORTS)), choose.choice(OTHER_FLAGS), False
            )
            for _ in range(choose.randint(1, 16))
        ]
    return Case(tuple(packets), None)


def _source(choose: random.Random, number: int) -> str:
    return f"10.2.{number >> 8}.{number & 255}" if choose.random() < 0.6 else f"2001:db8:e:{number:x}::7"


def play(places: Sequence[Site], cases: Sequence[Case]) -> list[set[tuple[str, str]]]:
    """Send every case's packets to each, then those after its pause; give who opened what."""
    for late in (False, True):
        if late:
            time.sleep(LONG_PAUSE_MS / 1000)  # the case itself: this much time passes between two packets
        for place in places:
            for packet in (packet for case in cases for packet in case.packets if packet.late == late):
                place.send(packet.source, str(packet.port), flags=packet.flags)
            # Both families' last packets are through: a family's order is kept from the wire to the log.
            for source in ("10.9.9.9", "2001:db8:9::9") if late else ("10.9.9.8", "2001:db8:9::8"):
                place.send(source, *LAST)
                place.knockd.await_line(f"{source}: last: OPEN SESAME")
    return [{(source, door) for source, door in place.knockd.opened() if door != "last"} for place in places]


def expected(made: Generated) -> set[tuple[str, str]]:
    """Ask the written meaning of a knock what opens; a source hears of no other."""
    configuration = parse(made.text, "knockd.conf")
    doors = [to_door(door.name, door, door.knock) for door in configuration.doors]
    opened = set()
    for case in made.cases:
        reference = Reference(doors, frozenset(), known_only=False)
        now_ms = 1_000_000
        for packet in sorted(case.packets, key=lambda packet: packet.late):
            now_ms += 1
            flags = packet.flags if packet.port.protocol is Protocol.TCP else 0
            seen = Packet(ip_address(packet.source).packed, packet.port, flags)
            for index in reference.see(seen, (now_ms + LONG_PAUSE_MS * packet.late) * 1_000_000):
                opened.add((str(ip_address(packet.source)), doors[index].name))
    return opened


@pytest.mark.parametrize("seed", SEEDS)
def test_what_knockd_opens_for_a_clean_knock_opens_and_nothing_else(tmp_path: Path, seed: int) -> None:
    made = generated(seed)
    right = expected(made)
    clean = {(str(ip_address(case.packets[0].source)), case.clean) for case in made.cases if case.clean}
    assert clean <= right, "the specification refuses a clean knock"
    with sites([DEBIAN, *OURS], tmp_path, made.text) as places:
        theirs, by_kernel, by_ring = play(places, made.cases)
    assert len(theirs & clean) > len(clean) / 2, "knockd itself opened little: nothing is compared"
    assert theirs & clean <= by_kernel
    assert by_kernel == right
    assert by_ring == right


# What differs, and is meant to: each row is in docs/from-knockd.md.

PAIR = "[pair]\nSequence = 7000,7100\nTCPFlags = syn\nCommand = :\n"
LAST_DOOR = f"[last]\nSequence = {','.join(LAST)}\nTCPFlags = syn\n"
ONE, OTHER = "10.7.7.1", "10.7.7.2"

programs = pytest.mark.parametrize("program", [DEBIAN, *OURS], ids=lambda program: program.name)


def opens(place: Site, source: str = ONE) -> bool:
    """Tell whether the source has opened a door, once everything before is dealt with."""
    place.send("10.7.7.9", *LAST)
    place.knockd.await_line("10.7.7.9: last: OPEN SESAME")
    return any(address == source for address, _ in place.knockd.opened())


@programs
def test_a_sweep_opens_a_door_of_knockds_and_none_of_ours(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, PAIR + LAST_DOOR) as place:
        server = place.lab.server.ipv4
        place.lab.client.run(["nmap", "-n", "-Pn", "-sS", "-r", "--max-retries", "0", "-p", "6990-7110", server])
        assert opens(place, str(place.lab.client.ipv4)) == (program is DEBIAN)


@programs
def test_a_syn_that_comes_twice_fails_with_knockd_and_opens_with_ours(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, PAIR + LAST_DOOR) as place:
        place.retransmit(ONE, "7000")
        place.send(ONE, "7100")
        assert opens(place) == (program is not DEBIAN)


@programs
def test_the_end_of_anothers_attempt_loses_an_attempt_with_knockd_only(tmp_path: Path, program: Program) -> None:
    hasty = "[hasty]\nSequence = 8000,8100\nTCPFlags = syn\nSeq_Timeout = 1\n"
    with site(program, tmp_path, PAIR + hasty + LAST_DOOR) as place:
        place.send(OTHER, "8000")  # the oldest attempt, and the first to be over time
        place.send(ONE, "7000")
        place.knockd.await_line(f"{ONE}: pair: Stage 1")
        time.sleep(LONG_PAUSE_MS / 1000)
        place.send("10.7.7.3", "7000")  # knockd looks for what is over time when a packet comes
        place.send(ONE, "7100")
        assert opens(place) == (program is not DEBIAN)


@programs
def test_a_wrong_port_in_no_sequence_resets_with_ours_only(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, PAIR + LAST_DOOR) as place:
        place.send(ONE, "7000", "4444", "7100")
        assert opens(place) == (program is DEBIAN)


@programs
def test_a_timeout_is_whole_seconds_of_the_clock_with_knockd_and_milliseconds_with_ours(
    tmp_path: Path, program: Program
) -> None:
    with site(program, tmp_path, PAIR + "Seq_Timeout = 1\n" + LAST_DOOR) as place:
        time.sleep(1.85 - time.time() % 1)  # near the end of a second of the clock
        place.send(ONE, "7000")
        time.sleep(0.3)  # three tenths of a second later, and in the next one
        place.send(ONE, "7100")
        assert opens(place) == (program is not DEBIAN)


@programs
def test_the_last_one_time_sequence_ends_knockd_and_only_its_door_with_ours(tmp_path: Path, program: Program) -> None:
    sequences = tmp_path / "sequences"
    sequences.write_text("7000,7100\n")
    once = f"[once]\nOne_Time_Sequences = {sequences}\nTCPFlags = syn\nCommand = :\n"
    with site(program, tmp_path, once + LAST_DOOR) as place:
        place.send(ONE, "7000", "7100")
        place.knockd.await_line("once: running command: :")
        assert sequences.read_text() == "#000,7100\n"
        if program is DEBIAN:
            assert place.knockd.process.wait(PATIENCE_S) != 0
        else:
            assert opens(place)
            place.send(OTHER, "7000", "7100")
            assert not opens(place, OTHER)
